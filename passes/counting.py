"""Counts of writes (design: what is counted), from the arrays of a placed module.

The chip is walked load by load.  A cell's first touch in an inference is special: from blank cells it is
compared with level 0, in steady state with what the previous inference left there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit

from ir.arrays import Array
from ir.module import Layer, Module
from ir.stages import Placed, Programmed, Sliced
from ir.target import Target
from ir.verify_cells import check_fits
from passes.place import contiguous

UNTOUCHED = 255
FAULTY = 254
"""First level of a cell that cannot be written: it never is."""


@dataclass(frozen=True)
class Writes:
    """Cell writes of one inference, split by direction."""

    set: int = 0
    reset: int = 0

    @property
    def total(self) -> int:
        """Writes of either direction."""
        return self.set + self.reset


@dataclass(frozen=True)
class Counts:
    """What one inference of a module writes.

    Fields:
        steady: when inferences follow each other.
        first: from blank cells.
        full: cells of every load (every driven cell rewritten).
        loads: sections loaded.
        wear: ``[crossbars, rows, columns]`` uint32 writes per cell and steady inference.
        layer_writes: steady writes by layer name; the wrap counts for the layer that is loaded.
    """

    steady: Writes
    first: Writes
    full: int
    loads: int
    wear: Array = field(repr=False)
    layer_writes: dict[str, int] = field(repr=False)

    def wear_summary(self) -> dict[str, float]:
        """max, p99 and mean writes per cell of the chip and inference."""
        return wear_summary(self.wear)


def wear_summary(wear: Array) -> dict[str, float]:
    """Writes per cell of a chip and steady inference: maximum, 99th percentile, mean."""
    return {
        "max": int(wear.max(initial=0)),
        "p99": float(np.percentile(wear, 99)),
        "mean": float(wear.mean()),
    }


@njit(cache=True, nogil=True)
def walk_loads(
    order: Any, crossbar: Any, stored: Any, inputs: Any, outputs: Any, columns: int, bits: int,
    state: Any, first: Any, wear: Any, totals: Any,
) -> int:  # fmt: skip
    """Loads sections ``order`` one after the other; returns the writes that are the same in every inference.

    ``state``/``first``/``wear`` are ``[crossbars, rows, columns]``: level now, level at first touch
    (``UNTOUCHED``, ``FAULTY``), writes.  ``totals`` collects set, reset (every inference), set (first touch from
    blank).
    """
    mask = (1 << bits) - 1
    before = totals[0] + totals[1]
    for i in range(order.shape[0]):
        s = order[i]
        c = crossbar[s]
        for r in range(inputs.shape[1]):
            if inputs[s, r] < 0:
                continue
            for g in range(outputs.shape[1]):
                if outputs[s, g] < 0:
                    continue
                word = np.uint32(stored[s, r, g])
                for d in range(columns):
                    level = np.uint8((word >> np.uint32(bits * (columns - 1 - d))) & np.uint32(mask))
                    k = g * columns + d
                    if first[c, r, k] == FAULTY:
                        continue
                    if first[c, r, k] == UNTOUCHED:
                        first[c, r, k] = level
                        if level != 0:
                            totals[2] += 1
                    else:
                        old = state[c, r, k]
                        if level != old:
                            wear[c, r, k] += 1
                            if level > old:
                                totals[0] += 1
                            else:
                                totals[1] += 1
                    state[c, r, k] = level
    return int(totals[0] + totals[1] - before)


def load_runs(layers: list[tuple[Layer, Placed]]) -> Iterator[tuple[int, Array]]:
    """(layer index, section indices) in load order: ascending step, then crossbar."""
    spans = [(int(b.step.min()), int(b.step.max())) if b.sections else (0, -1) for _, b in layers]
    ordered = sorted(range(len(layers)), key=lambda i: spans[i])
    if all(spans[a][1] < spans[b][0] or not layers[b][1].sections for a, b in pairwise(ordered)):
        for i in ordered:
            body = layers[i][1]
            yield i, np.lexsort((body.crossbar, body.step))
        return
    which = np.concatenate([np.full(b.sections, i, np.int32) for i, (_, b) in enumerate(layers)])
    section = np.concatenate([np.arange(b.sections) for _, b in layers])
    step = np.concatenate([b.step for _, b in layers])
    crossbar = np.concatenate([b.crossbar for _, b in layers])
    order = np.lexsort((crossbar, step))
    which, section = which[order], section[order]
    for run in np.split(np.arange(len(which)), np.flatnonzero(np.diff(which)) + 1):
        yield int(which[run[0]]), section[run]


class ChipWalk:
    """A chip that takes the loads of one layer after the other; it holds one layer's words at a time.

    Args:
        target: its size.
    Fields:
        first: ``[crossbars, rows, columns]`` level at each cell's first touch (``UNTOUCHED`` before it) or
            ``FAULTY``.
        wear: ``[crossbars, rows, columns]`` uint32 writes per cell.
        full, loads: cells of all loads, number of loads.
    """

    def __init__(self, target: Target) -> None:
        """A blank chip, whose faulty cells are not written."""
        shape = (target.crossbars, target.rows, target.columns)
        self.first = np.full(shape, UNTOUCHED, np.uint8)
        self.first[target.faulty.index()] = FAULTY
        self.wear = np.zeros(shape, np.uint32)
        self.full = self.loads = 0
        self._state = np.zeros(shape, np.uint8)
        self._totals = np.zeros(3, np.int64)

    def add(self, body: Placed, words: Array, order: Array) -> int:
        """Loads the sections ``order``; returns the writes that are the same in every inference.

        Args:
            words: ``[sections, rows, G]`` of the whole body.
        """
        writes = walk_loads(
            order, body.crossbar, words, body.inputs, body.outputs, body.cells.columns, body.bits_per_cell,
            self._state, self.first, self.wear, self._totals,
        )  # fmt: skip
        self.loads += len(order)
        cells = (body.inputs[order] >= 0).sum(1) * (body.outputs[order] >= 0).sum(1)
        self.full += int(cells.sum()) * body.cells.columns
        return writes

    def finish(self) -> tuple[Writes, Writes, Array]:
        """(steady, first) writes, and which cells the next inference puts back (now part of ``wear``)."""
        touched = self.first < FAULTY
        up = touched & (self.first > self._state)
        down = touched & (self.first < self._state)
        self.wear += up | down
        raised, lowered, from_blank = (int(n) for n in self._totals)
        steady = Writes(raised + int(up.sum()), lowered + int(down.sum()))
        return steady, Writes(raised + from_blank, lowered), up | down


def count_module(module: Module) -> Counts:
    """Counts of a module whose layers are all placed; unprogrammed layers count their exact words.

    Raises: XbcError when a layer is not placed, or its sections do not fit the target.
    """
    check_fits(module)
    layers = [(layer, layer.at(Placed)) for layer in module.layers]
    chip = ChipWalk(module.target)
    by_layer = {layer.name: 0 for layer in module.layers}
    words: tuple[int, Array] | None = None
    first_by = np.full(chip.wear.shape, -1, np.int32)  # layer of a cell's first touch: it pays for the wrap
    for index, order in load_runs(layers):
        layer, body = layers[index]
        if words is None or words[0] != index:
            words = (index, body.stored if isinstance(body, Programmed) else body.wanted_words())
        fresh = chip.first == UNTOUCHED
        by_layer[layer.name] += chip.add(body, words[1], order)
        first_by[fresh & (chip.first != UNTOUCHED)] = index
    steady, from_blank, wrap = chip.finish()
    for index, n in zip(*np.unique(first_by[wrap], return_counts=True), strict=True):
        by_layer[layers[index][0].name] += int(n)
    return Counts(
        steady=steady,
        first=from_blank,
        full=chip.full,
        loads=chip.loads,
        wear=chip.wear,
        layer_writes=by_layer,
    )


def natural_module(module: Module) -> Module:
    """The baseline of every ratio: natural sections of the same codes, dealt contiguously over the same crossbars.

    Where columns have weights of their own, it is what the target's encoding would have stored in as many cells.
    """
    from passes.sections import natural_sections

    layers = [
        layer.with_body(natural_sections(_in_words_of(layer, module.target), module.target))
        for layer in module.layers
    ]
    return contiguous(module.with_layers(layers))


def _in_words_of(layer: Layer, target: Target) -> Layer:
    """The layer in the target's encoding if it has digits of its own, else as it is."""
    from passes.encode_signs import encode

    body = layer.at(Sliced)
    if not body.digits:
        return layer
    plain = layer.with_body(body.lower(Sliced, encoding=target.encoding, digits=None))
    encoded = encode(plain, target.encoding)
    return layer.with_body(encoded.lower(Sliced, bits_per_cell=body.bits_per_cell))
