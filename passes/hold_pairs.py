"""choose-pairs and hold-pairs: which differential pair stands for a code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ir.arrays import Array
from ir.module import Module
from ir.stages import Placed, Programmed
from passes.base import Context, Outcome, Pass, check
from passes.counting import load_runs
from passes.inputs import Grade
from passes.limits import programmed
from passes.pairs import PairCosts, check_pairs, empty_pairs, shifted_codes
from passes.penalty import check_grades, grades
from passes.solvers.pairs import hold_pairs


@dataclass(frozen=True)
class ChoosePairs(Pass):
    """Exact codes, but of all differential pairs with the wanted difference the one that changes the fewest cells.

    One-bit cells, numbers of at most 8 bits, load after load.
    """

    name: ClassVar[str] = "choose-pairs"
    requires = Placed
    ensures = Programmed
    back_to = Placed

    def run(self, module: Module, context: Context) -> Outcome:
        """Programs every layer."""
        bodies = [layer.at(Placed) for layer in module.layers]
        return Outcome(programmed(module, bodies, pair_words(self.name, module, bodies, 0.0, {})))


@dataclass(frozen=True)
class HoldPairs(Pass):
    """Of all differential pairs the one of least  writes + lambda * s (v - w)**2, load after load.

    One-bit cells, numbers of at most 8 bits; w is the wanted code, v that of the pair, s as in hold-codes.

    Options:
        lambda: writes that a squared error of one code unit is worth.
        grades: s of each layer in the module's order, separated by colons, in the place of what sensitivities say.
    """

    name: ClassVar[str] = "hold-pairs"
    requires = Placed
    ensures = Programmed
    back_to = Placed

    lambda_: float = 0.1
    grades: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check(self.lambda_ > 0, f"hold-pairs: lambda = {self.lambda_} must be positive")
        check_grades(self)

    def weighs(self) -> bool:
        """Where no grades are given."""
        return not self.grades

    def run(self, module: Module, context: Context) -> Outcome:
        """Programs every layer."""
        bodies = [layer.at(Placed) for layer in module.layers]
        graded = grades(module, context, "layer", self.grades)
        return Outcome(
            programmed(module, bodies, pair_words(self.name, module, bodies, self.lambda_, graded))
        )


def pair_words(
    who: str, module: Module, bodies: list[Placed], lambda_: float, graded: dict[str, Grade]
) -> list[Array]:
    """Words of the cheapest pairs, load after load; the first load of a crossbar finds it blank."""
    pairs = list(zip(module.layers, bodies, strict=True))
    check_pairs(who, pairs)
    stored = [np.zeros((b.sections, b.rows, b.group_width), np.uint16) for b in bodies]
    if not pairs:
        return stored
    costs = PairCosts(pairs, lambda_, graded)
    state = empty_pairs(module.target, pairs)
    codes: tuple[int, Array] | None = None
    for index, order in load_runs(pairs):
        body = bodies[index]
        if codes is None or codes[0] != index:
            codes = (index, shifted_codes(body))
        errors, limits = costs.of(index)
        hold_pairs(
            order, body.crossbar, codes[1], body.inputs, body.outputs, costs.cost, costs.best, errors, limits, state,
            stored[index],
        )  # fmt: skip
    return [words.astype(body.cells.dtype) for words, body in zip(stored, bodies, strict=True)]
