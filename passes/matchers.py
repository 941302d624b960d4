"""How rows are found for a load: by single words or by whole rows, exactly, near what stays there, or by pairs.

A matcher knows the layers of a module and what each crossbar holds.  Threads share it: each asks for crossbars of
its own.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from ir.arrays import Array
from ir.module import Layer
from ir.stages import Placed
from ir.target import Target
from passes.inputs import Grade
from passes.pairs import PairCosts, empty_pairs, shifted_codes
from passes.penalty import state_values
from passes.solvers.joint import cost_tables, match_joint
from passes.solvers.joint_rows import match_joint_rows
from passes.solvers.matching import digit_mask, match_loads, match_vectors
from passes.solvers.pairs import match_pairs
from passes.solvers.planes import fold_mask
from passes.solvers.viterbi import MAX_BITS

Pairs = list[tuple[Layer, Placed]]


class Matcher(Protocol):
    """Finds the rows of loads, in the order of the loads."""

    def __call__(self, index: int, order: Array, closing: Array, bars: tuple[int, int], place: Array) -> None:
        """Fills ``place [sections, rows]``: the row of each section's item, driven rows first.

        Args:
            index: of the layer.
            order: sections of the layer that are loaded now, in this order.
            closing: ``[sections]``, the load is the last of its crossbar.
            bars: first crossbar, and the one behind the last, whose loads are matched.
        """


def exact_matcher(target: Target, pairs: Pairs, exact: bool) -> Matcher:
    """By the cells that change; ``exact``: by minimum-cost assignment."""
    formats = {(body.cells.columns, body.bits_per_cell) for _, body in pairs}
    simple = len(formats) == 1 and all(body.group_width == 1 for _, body in pairs)
    return Words(target, pairs, exact) if simple else Rows(target, pairs, exact)


def near_matcher(
    target: Target, pairs: Pairs, lambda_: float, graded: dict[str, Grade], threads: int
) -> Matcher:
    """By what every number of a row would pay where partial reprogramming holds codes."""
    tables = near_tables(pairs, lambda_, graded, threads)
    kind = NearWords if all(body.group_width == 1 for _, body in pairs) else NearRows
    return kind(target, pairs, tables)


def far_layer(pairs: Pairs) -> str | None:
    """Name of a layer whose rows cannot be matched near held codes, None when all can.

    Its words are no single numbers of at most 8 bits, or of another cell format than the first layer's.
    """
    for layer, body in pairs:
        fits = body.cells.word_bits <= MAX_BITS and body.encoding != "differential"
        first = pairs[0][1]
        if not fits or (body.cells.columns, body.bits_per_cell) != (first.cells.columns, first.bits_per_cell):
            return layer.name
    return None


class Words:
    """One word per row."""

    def __init__(self, target: Target, pairs: Pairs, exact: bool) -> None:
        self.pairs, self.exact = pairs, exact
        self.bits = pairs[0][1].bits_per_cell if pairs else 1
        self.state = np.zeros((target.crossbars, target.rows), np.uint32)
        self.first = np.full((target.crossbars, target.rows), -1, np.int64)
        self.ready: dict[int, tuple[Array, Array]] = {}

    def __call__(self, index: int, order: Array, closing: Array, bars: tuple[int, int], place: Array) -> None:
        """See ``Matcher``."""
        body = self.pairs[index][1]
        if index not in self.ready:
            self.ready[index] = items_first(body, body.wanted_words())
        words, counts = self.ready[index]
        match_loads(
            order, body.crossbar, closing, words[:, :, 0], counts, self.bits, np.uint64(digit_mask(self.bits)),
            self.exact, *bars, self.state, self.first, place,
        )  # fmt: skip


class Rows:
    """Whole rows: their levels packed in 64-bit lanes."""

    def __init__(self, target: Target, pairs: Pairs, exact: bool) -> None:
        self.pairs, self.exact = pairs, exact
        self.bits = 4 if target.bits_per_cell == 3 else target.bits_per_cell
        self.mask = np.uint64(fold_mask(self.bits))
        self.width = -(-target.columns * self.bits // 64)
        shape = (target.crossbars, target.rows, self.width)
        self.state, self.first, self.touched = (np.zeros(shape, np.uint64) for _ in range(3))
        self.ready: dict[int, tuple[Array, Array, Array]] = {}

    def __call__(self, index: int, order: Array, closing: Array, bars: tuple[int, int], place: Array) -> None:
        """See ``Matcher``."""
        body = self.pairs[index][1]
        if index not in self.ready:
            words, counts = items_first(body, body.wanted_words())
            self.ready[index] = (*pack_rows(body, words, self.bits, self.width), counts)
        lanes, used, counts = self.ready[index]
        match_vectors(
            order, body.crossbar, closing, lanes, used, counts, self.bits, self.mask, self.exact, *bars,
            self.state, self.first, self.touched, place,
        )  # fmt: skip


Tables = list[tuple[Array, Array, Array, Array]]


def near_tables(pairs: Pairs, lambda_: float, graded: dict[str, Grade], threads: int) -> Tables:
    """Per layer: its items and their number, and the tables of ``cost_tables``."""

    def prepare(pair: tuple[Layer, Placed]) -> tuple[Array, Array, Array, Array]:
        layer, body = pair
        words, counts = items_first(body, body.wanted_words())
        states = 1 << body.cells.word_bits
        cost, best = np.zeros((states, states), np.int64), np.zeros((states, states), np.uint8)
        weight = lambda_ * graded[layer.name].mean
        cost_tables(
            weight, body.cells.word_bits, body.bits_per_cell, 1.0, 1.0, state_values(body.cells), cost, best
        )
        return words, counts, cost, best

    with ThreadPoolExecutor(max(1, threads)) as pool:
        return list(pool.map(prepare, pairs))


class NearWords:
    """One word per row, against what partial reprogramming leaves there."""

    def __init__(self, target: Target, pairs: Pairs, tables: Tables) -> None:
        self.pairs = pairs
        self.state = np.zeros((target.crossbars, target.rows), np.uint8)
        self.first = np.full((target.crossbars, target.rows), -1, np.int64)
        self.ready = [(np.ascontiguousarray(words[:, :, 0]), *rest) for words, *rest in tables]

    def __call__(self, index: int, order: Array, closing: Array, bars: tuple[int, int], place: Array) -> None:
        """See ``Matcher``."""
        words, counts, cost, best = self.ready[index]
        match_joint(
            order, self.pairs[index][1].crossbar, closing, words, counts, cost, best, *bars, self.state,
            self.first, place,
        )  # fmt: skip


class NearRows:
    """The same for rows of several numbers."""

    def __init__(self, target: Target, pairs: Pairs, tables: Tables) -> None:
        self.pairs = pairs
        widest = max((body.group_width for _, body in pairs), default=1)
        self.state = np.zeros((target.crossbars, target.rows, widest), np.uint8)
        self.first = np.full(self.state.shape, -1, np.int32)
        self.ready = [
            (words, counts, np.ascontiguousarray(cost.T.astype(np.int32)), np.ascontiguousarray(best.T))
            for words, counts, cost, best in tables
        ]

    def __call__(self, index: int, order: Array, closing: Array, bars: tuple[int, int], place: Array) -> None:
        """See ``Matcher``."""
        words, counts, cost, best = self.ready[index]
        body = self.pairs[index][1]
        match_joint_rows(
            order, body.crossbar, closing, words, counts, body.outputs, cost, best, *bars, self.state, self.first,
            place,
        )  # fmt: skip


class FreePairs:
    """Differential pairs of free representation."""

    def __init__(self, target: Target, costs: PairCosts) -> None:
        self.costs = costs
        self.state = empty_pairs(target, costs.pairs)
        self.first = np.full(self.state.shape, -1, np.int32)
        self.ready: dict[int, tuple[Array, Array]] = {}
        self.scratch: dict[int, tuple[Array, Array]] = {}
        """By first crossbar: no two threads fill the same rows."""

    def __call__(self, index: int, order: Array, closing: Array, bars: tuple[int, int], place: Array) -> None:
        """See ``Matcher``."""
        costs, body = self.costs, self.costs.pairs[index][1]
        if index not in self.ready:
            self.ready[index] = items_first(body, shifted_codes(body))
        codes, counts = self.ready[index]
        errors, limits = costs.of(index)
        if bars[0] not in self.scratch:
            shape = costs.cost.shape if costs.lambda_ else (0, 0)
            self.scratch[bars[0]] = np.empty(shape, np.int16), np.empty(shape[0], np.bool_)
        near, known = self.scratch[bars[0]]
        known[:] = False
        match_pairs(
            order, body.crossbar, closing, codes, counts, body.outputs, costs.cost, costs.best, errors, limits, near,
            known, *bars, self.state, self.first, place,
        )  # fmt: skip


def pack_rows(body: Placed, words: Array, bits: int, width: int) -> tuple[Array, Array]:
    """``[sections, rows, width]`` uint64: the levels of whole rows, ``bits`` bits each; and ``[sections, width]``
    with the bits of the columns that a section occupies set."""
    levels = body.cells.levels(words)
    sections, rows = levels.shape[:2]
    columns = levels.shape[2] * levels.shape[3]
    shown = (levels.reshape(sections, rows, columns)[..., None] >> np.arange(bits, dtype=np.uint8)) & 1
    full = np.zeros((sections, rows, width * 64), np.uint8)
    full[:, :, : columns * bits] = shown.reshape(sections, rows, columns * bits)
    lanes = np.packbits(full, axis=2, bitorder="little").view(np.uint64)
    used = np.zeros((sections, width * 64), np.uint8)
    used[:, : columns * bits] = np.repeat(body.outputs >= 0, body.cells.columns * bits, axis=1)
    return lanes, np.packbits(used, axis=1, bitorder="little").view(np.uint64)


def items_first(body: Placed, words: Array) -> tuple[Array, Array]:
    """Words of each section with driven rows moved to the front, and how many there are."""
    driven = body.driven()
    counts = driven.sum(1)
    if (driven[:, 1:] > driven[:, :-1]).any():
        order = np.argsort(~driven, axis=1, kind="stable")
        words = np.take_along_axis(words, order[:, :, None], axis=1)
    return np.ascontiguousarray(words), counts
