"""reprogram: which writes are skipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numba import njit

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Module
from ir.stages import Placed, Programmed
from passes.base import Context, Outcome, Pass, check
from passes.counting import load_runs
from passes.hold import hold
from passes.pairs import choose_pairs
from passes.penalty import Detail


@dataclass(frozen=True)
class Reprogram(Pass):
    """Decides what will really stand in the cells after each load.

    Options:
        mode: ``none``: the exact codes; ``random``: bit stucking as published (arXiv 2410.21730): of the cells
            in the lowest ``columns`` of each weight that should change in a load, only ``fraction`` is
            reprogrammed, the others keep their stale level, which is carried on to later loads; ``optimal``:
            per row the held codes v_t of least  writes + lambda * sum s_t (v_t - w_t)**2  over the whole
            sequence of loads (exact dynamic programme; s from sensitivities, else 1); ``pairs``: exact codes, but of
            all differential pairs with the wanted difference the one that changes the fewest cells; ``near-pairs``:
            of all pairs the one of least  writes + lambda * s (v - w)**2, load after load.
        lambda: writes that a squared error of one code unit is worth, for optimal and near-pairs.
        set-cost, reset-cost: what a SET and a RESET count as, for optimal.
        detail: how far the sensitivities tell weights apart, for optimal.  ``layer``: s is a layer's mean;
            ``weight``: an own s for every weight, from the means over the outputs and over the inputs.  A few
            samples tell layers apart well and weights badly.
        columns: low-order columns (bit slices) of each stored number that may stay stale, for random.
        fraction: 0..1, share of those cells that is reprogrammed, for random.
    """

    name: ClassVar[str] = "reprogram"
    requires = Placed
    ensures = Programmed

    mode: Literal["none", "random", "optimal", "pairs", "near-pairs"] = "none"
    lambda_: float = 0.1
    set_cost: float = 1.0
    reset_cost: float = 1.0
    detail: Detail = "layer"
    columns: int = 3
    fraction: float = 0.5

    def __post_init__(self) -> None:
        check(self.lambda_ > 0, f"reprogram: lambda = {self.lambda_} must be positive")
        for key, cost in (("set-cost", self.set_cost), ("reset-cost", self.reset_cost)):
            check(0 < cost <= 1e6, f"reprogram: {key} = {cost} is outside 0..1e6")
        check(self.columns >= 0, f"reprogram: columns = {self.columns} must not be negative")
        check(0 <= self.fraction <= 1, f"reprogram: fraction = {self.fraction} is outside 0..1")

    def weighs(self) -> bool:
        """Where errors have a penalty."""
        return self.mode in ("optimal", "near-pairs")

    def run(self, module: Module, context: Context) -> Outcome:
        """Programs every layer."""
        bodies = [layer.at(Placed) for layer in module.layers]
        facts = {}
        if self.mode == "optimal":
            stored, forced = hold(module, self.lambda_, self.set_cost, self.reset_cost, context, self.detail)
            facts = {"survivor_windows_cut_short": forced}
        elif self.mode in ("pairs", "near-pairs"):
            stored = choose_pairs(module, bodies, self.lambda_ if self.mode == "near-pairs" else 0.0, context)
        else:
            stored = [body.wanted_words() for body in bodies]
        if self.mode == "random":
            self._stick(module, bodies, stored, context)
        if self.mode == "optimal":
            stored = [within_limits(body, words) for body, words in zip(bodies, stored, strict=True)]
        layers = [
            layer.with_body(body.lower(Programmed, stored=words))
            for layer, body, words in zip(module.layers, bodies, stored, strict=True)
        ]
        return Outcome(module.with_layers(layers), facts)

    def _stick(self, module: Module, bodies: list[Placed], stored: list[Array], context: Context) -> None:
        """Replaces wanted by stale digits in place.

        One draw per cell and load is fixed for all inferences; the second round starts from what the
        first left, after which every further round repeats it: that is the steady state.  Numbers whose stale
        cells would spell a code that the host cannot take back are written exactly, and the rounds made anew.
        """
        for layer, body in zip(module.layers, bodies, strict=True):
            if self.columns > body.cells.slices:
                raise XbcError(
                    f"reprogram: columns = {self.columns}, but layer {layer.name!r} stores a number in "
                    f"{body.cells.slices} columns"
                )
        t = module.target
        wanted = [words.copy() for words in stored]
        pinned = [np.zeros(words.shape, np.bool_) for words in stored]
        pairs = list(zip(module.layers, bodies, strict=True))
        more = True
        while more:
            state = np.zeros((t.crossbars, t.rows, t.columns), np.uint8)
            for turn in range(2):
                for done, (index, order) in enumerate(load_runs(pairs)):
                    context.progress(f"bit stucking, round {turn + 1} of 2", done, len(pairs))
                    body = bodies[index]
                    seed = np.random.SeedSequence((context.seed, index, int(order[0]))).generate_state(
                        1, np.uint64
                    )[0]
                    stick_loads(
                        order, body.crossbar, wanted[index], stored[index], pinned[index], body.inputs, body.outputs,
                        body.cells.columns, body.cells.slices, body.bits_per_cell, self.columns,
                        np.uint64(int(self.fraction * 2**53)), seed, state,
                    )  # fmt: skip
            more = False
            for index, body in enumerate(bodies):
                outside = outside_limits(body, stored[index])
                more |= bool(outside.any())
                pinned[index] |= outside


def within_limits(body: Placed, words: Array) -> Array:
    """``words`` with those replaced by exact ones whose code the host could not take back."""
    outside = outside_limits(body, words)
    return np.where(outside, body.wanted_words(), words) if outside.any() else words


def outside_limits(body: Placed, words: Array) -> Array:
    """``[sections, rows, G]`` bool: the code of the stored word is outside the body's limits."""
    held = body.lower(Programmed, stored=words.copy())
    outside = np.zeros(words.shape, np.bool_)
    chunk = max(1, 2**22 // max(1, body.rows * body.group_width))
    for start in range(0, body.sections, chunk):
        part = slice(start, start + chunk)
        if _surely_inside(body, words[part]):
            continue
        codes = held.stored_codes(part)
        own = np.maximum(body.weight_outputs(part), 0)
        limits = body.limits[own if len(body.limits) > 1 else np.zeros_like(own)]
        outside[part] = (codes < limits[..., 0]) | (codes > limits[..., 1])
    return outside


@njit(cache=True, nogil=True)
def stick_loads(
    order: Any, crossbar: Any, wanted: Any, stored: Any, pinned: Any, inputs: Any, outputs: Any,
    columns: int, slices: int, bits: int, low: int, threshold: Any, seed: Any, state: Any,
) -> None:  # fmt: skip
    """One round of bit stucking over the loads ``order``; writes ``stored`` and ``state``.

    A cell is stale-able when its digit is among the ``low`` least significant of its number.  Its draw is a
    hash (splitmix64) of seed, section, row, group and digit: the same in every round.  Numbers marked in
    ``pinned`` (as ``stored``) have no such cell.
    """
    mask = np.uint32((1 << bits) - 1)
    for i in range(order.shape[0]):
        s = order[i]
        c = crossbar[s]
        for r in range(inputs.shape[1]):
            if inputs[s, r] < 0:
                continue
            for g in range(outputs.shape[1]):
                if outputs[s, g] < 0:
                    continue
                word = np.uint32(wanted[s, r, g])
                held = np.uint32(0)
                for d in range(columns):
                    shift = np.uint32(bits * (columns - 1 - d))
                    level = (word >> shift) & mask
                    k = g * columns + d
                    old = np.uint32(state[c, r, k])
                    if level != old and not pinned[s, r, g] and d % slices >= slices - low:
                        z = seed + np.uint64(0x9E3779B97F4A7C15) * np.uint64(
                            ((s * inputs.shape[1] + r) * outputs.shape[1] + g) * columns + d + 1
                        )
                        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                        z = z ^ (z >> np.uint64(31))
                        if (z >> np.uint64(11)) >= threshold:
                            level = old
                    held |= level << shift
                    state[c, r, k] = np.uint8(level)
                stored[s, r, g] = held


def _surely_inside(body: Placed, words: Array) -> bool:
    """Whether magnitudes alone show that no code is outside the limits."""
    if body.encoding not in ("driver", "split"):
        return False
    return bool(words.max(initial=0) <= min(body.limits[:, 1].min(), -body.limits[:, 0].max()))
