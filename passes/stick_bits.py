"""stick-bits: bit stucking, the published way to skip writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numba import njit

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Module
from ir.stages import Placed, Programmed
from passes.base import Context, Outcome, Pass, check
from passes.counting import load_runs
from passes.limits import outside_limits, programmed


@dataclass(frozen=True)
class StickBits(Pass):
    """Leaves a random part of the low-order cells stale (bit stucking, arXiv 2410.21730).

    Of the cells in the lowest ``columns`` of each weight that should change in a load, only ``fraction`` is
    reprogrammed; the others keep their level, which is carried on to later loads.

    Options:
        columns: low-order columns (bit slices) of each stored number that may stay stale.
        fraction: 0..1, share of those cells that is reprogrammed.
    """

    name: ClassVar[str] = "stick-bits"
    requires = Placed
    ensures = Programmed
    back_to = Placed

    columns: int = 3
    fraction: float = 0.5

    def __post_init__(self) -> None:
        check(self.columns >= 0, f"stick-bits: columns = {self.columns} must not be negative")
        check(0 <= self.fraction <= 1, f"stick-bits: fraction = {self.fraction} is outside 0..1")

    def run(self, module: Module, context: Context) -> Outcome:
        """Programs every layer."""
        bodies = [layer.at(Placed) for layer in module.layers]
        stored = [body.wanted_words() for body in bodies]
        self._stick(module, bodies, stored, context)
        return Outcome(programmed(module, bodies, stored))

    def _stick(self, module: Module, bodies: list[Placed], stored: list[Array], context: Context) -> None:
        """Replaces wanted by stale digits in place.

        One draw per cell and load is fixed for all inferences; the second round starts from what the
        first left, after which every further round repeats it: that is the steady state.  Numbers whose stale
        cells would spell a code that the host cannot take back are written exactly, and the rounds made anew.
        """
        for layer, body in zip(module.layers, bodies, strict=True):
            if self.columns > body.cells.slices:
                raise XbcError(
                    f"stick-bits: columns = {self.columns}, but layer {layer.name!r} stores a number in "
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
