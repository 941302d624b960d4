"""match-rows: rows of the next section permuted to fit what the crossbar already holds."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Layer, Module
from ir.stages import UNUSED, Placed
from passes.base import Context, Outcome, Pass, check
from passes.column_groups import place_columns
from passes.counting import load_runs
from passes.pairs import PairCosts, check_pairs, empty_pairs, shifted_codes
from passes.penalty import grades, state_values
from passes.solvers.joint import cost_tables, match_joint
from passes.solvers.joint_rows import match_joint_rows
from passes.solvers.matching import digit_mask, match_loads, match_vectors
from passes.solvers.pairs import match_pairs
from passes.solvers.planes import fold_mask
from passes.solvers.viterbi import MAX_BITS

Pairs = list[tuple[Layer, Placed]]


@dataclass(frozen=True)
class MatchRows(Pass):
    """Chooses for every load which weight goes to which row, so that the fewest cells change.

    The inputs are gathered in the same order, so nothing changes in what is computed.  Each load is an
    assignment problem against the words its crossbar holds at that time; equal words are matched first, the
    last load of a crossbar also looks at the first one, which the next inference puts back.

    With ``lambda`` above 0 the state is what partial reprogramming at that penalty would leave, and the cost of
    a row is what all its numbers would pay there (joint matching, numbers of at most 8 bits of one format; other
    modules are matched exactly).  Follow it with reprogram{mode=optimal} at the same lambda.

    With ``pairs`` a row of differential pairs costs what the cheapest pairs of the wanted differences need.
    Follow it with reprogram{mode=pairs}, or with reprogram{mode=near-pairs} at the same lambda above 0.

    Options:
        lambda: writes that a squared error of one code unit is worth, as in reprogram; 0: exact codes.
        method: ``exact``: minimum-cost assignment; ``greedy``: ascending cost with pairwise exchanges, within
            about 1 % of it and several times faster on wide rows.
        columns: outputs that share rows first take the column groups whose words were likest in the load before
            (off: loads that order-sections put next to each other are alike group by group already).
        pairs: match for freely chosen differential pairs (one bit per cell, at most 8 bits; always exact).
    """

    name: ClassVar[str] = "match-rows"
    requires = Placed
    ensures = Placed

    method: Literal["exact", "greedy"] = "exact"
    lambda_: float = 0.0
    columns: bool = False
    pairs: bool = False

    def __post_init__(self) -> None:
        check(self.lambda_ >= 0, f"match-rows: lambda = {self.lambda_} must not be negative")

    def weighs(self) -> bool:
        """With a penalty on errors."""
        return self.lambda_ > 0

    def run(self, module: Module, context: Context) -> Outcome:
        """Permutes the rows of every section."""
        if module.target.routing == "fixed":
            raise XbcError(
                f"match-rows: target {module.target.name!r} has fixed routing, its rows cannot be permuted; "
                f"leave the pass out or set routing=gather"
            )
        pairs = [(layer, layer.at(Placed)) for layer in module.layers]
        if self.columns and any(body.group_width > 1 for _, body in pairs):
            bodies = place_columns(pairs, module.target.crossbars)
            pairs = [(layer, body) for (layer, _), body in zip(pairs, bodies, strict=True)]
        formats = {(b.cells.columns, b.bits_per_cell) for _, b in pairs}
        simple = len(formats) == 1 and all(b.group_width == 1 for _, b in pairs)
        joint = len(formats) == 1 and self.lambda_ > 0 and all(joint_ready(b) for _, b in pairs)
        if self.pairs:
            check_pairs(self.name, pairs)
            work = _pairs(module, pairs, self.lambda_, context)
        elif joint:
            work = (_joint if simple else _joint_rows)(module, pairs, self.lambda_, context)
        else:
            work = _words(module, pairs) if simple else _vectors(module, pairs)
        places = [np.zeros(b.inputs.shape, np.int32) for _, b in pairs]
        runs = list(load_runs(pairs))
        closing = closing_loads(pairs, runs)
        workers = max(1, min(context.threads, module.target.crossbars))
        cuts = np.linspace(0, module.target.crossbars, workers + 1).astype(int)

        def walk(worker: int) -> None:
            for done, (index, order) in enumerate(runs):
                if worker == 0:
                    context.progress("match-rows", done, len(runs))
                work(
                    index,
                    order,
                    closing[index],
                    self.method == "exact",
                    cuts[worker],
                    cuts[worker + 1],
                    places[index],
                )

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(walk, range(workers)))
        matched = zip(pairs, places, strict=True)
        return Outcome(
            module.with_layers(
                [layer.with_body(permute_rows(body, place)) for (layer, body), place in matched]
            )
        )


Work = Callable[[int, Array, Array, bool, int, int, Array], None]


def _words(module: Module, pairs: Pairs) -> Work:
    """Matching of one word per row."""
    t = module.target
    bits = pairs[0][1].bits_per_cell if pairs else 1
    state = np.zeros((t.crossbars, t.rows), np.uint32)
    first = np.full((t.crossbars, t.rows), -1, np.int64)
    ready: dict[int, tuple[Array, Array]] = {}

    def work(
        index: int, order: Array, closing: Array, exact: bool, low: int, high: int, place: Array
    ) -> None:
        body = pairs[index][1]
        if index not in ready:
            ready[index] = items_first(body, body.wanted_words())
        words, counts = ready[index]
        match_loads(
            order, body.crossbar, closing, words[:, :, 0], counts, bits, np.uint64(digit_mask(bits)), exact,
            low, high, state, first, place,
        )  # fmt: skip

    return work


def joint_ready(body: Placed) -> bool:
    """Whether a body's words are single numbers that the joint tables hold."""
    return body.cells.word_bits <= MAX_BITS and body.encoding != "differential"


def _joint(module: Module, pairs: Pairs, lambda_: float, context: Context) -> Work:
    """Matching against what partial reprogramming leaves."""
    t = module.target
    state = np.zeros((t.crossbars, t.rows), np.uint8)
    first = np.full((t.crossbars, t.rows), -1, np.int64)
    ready = [
        (np.ascontiguousarray(words[:, :, 0]), *tables)
        for words, *tables in _joint_tables(module, pairs, lambda_, context)
    ]

    def work(
        index: int, order: Array, closing: Array, exact: bool, low: int, high: int, place: Array
    ) -> None:
        words, counts, cost, best = ready[index]
        match_joint(
            order, pairs[index][1].crossbar, closing, words, counts, cost, best, low, high, state, first, place
        )  # fmt: skip

    return work


def _joint_rows(module: Module, pairs: Pairs, lambda_: float, context: Context) -> Work:
    """The same for rows of several numbers."""
    t = module.target
    widest = max(b.group_width for _, b in pairs)
    state = np.zeros((t.crossbars, t.rows, widest), np.uint8)
    first = np.full(state.shape, -1, np.int32)
    ready = [
        (words, counts, np.ascontiguousarray(cost.T.astype(np.int32)), np.ascontiguousarray(best.T))
        for words, counts, cost, best in _joint_tables(module, pairs, lambda_, context)
    ]

    def work(
        index: int, order: Array, closing: Array, exact: bool, low: int, high: int, place: Array
    ) -> None:
        words, counts, cost, best = ready[index]
        body = pairs[index][1]
        match_joint_rows(
            order, body.crossbar, closing, words, counts, body.outputs, cost, best, low, high, state, first, place
        )  # fmt: skip

    return work


def _joint_tables(
    module: Module, pairs: Pairs, lambda_: float, context: Context
) -> list[tuple[Array, Array, Array, Array]]:
    """Per layer: its items and their number, and the tables of ``cost_tables``."""
    graded = grades(module, context)

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

    with ThreadPoolExecutor(max(1, context.threads)) as pool:
        return list(pool.map(prepare, pairs))


def _pairs(module: Module, pairs: Pairs, lambda_: float, context: Context) -> Work:
    """Matching of differential pairs of free representation."""
    costs = PairCosts(module, pairs, lambda_, context)
    state = empty_pairs(module.target, pairs)
    first = np.full(state.shape, -1, np.int32)
    ready: dict[int, tuple[Array, Array]] = {}
    scratch: dict[int, tuple[Array, Array]] = {}  # by worker: no two fill the same rows

    def work(
        index: int, order: Array, closing: Array, exact: bool, low: int, high: int, place: Array
    ) -> None:
        body = pairs[index][1]
        if index not in ready:
            ready[index] = items_first(body, shifted_codes(body))
        codes, counts = ready[index]
        errors, limits = costs.of(index)
        if low not in scratch:
            shape = costs.cost.shape if lambda_ else (0, 0)
            scratch[low] = np.empty(shape, np.int16), np.empty(shape[0], np.bool_)
        near, known = scratch[low]
        known[:] = False
        match_pairs(
            order, body.crossbar, closing, codes, counts, body.outputs, costs.cost, costs.best, errors, limits, near,
            known, low, high, state, first, place,
        )  # fmt: skip

    return work


def _vectors(module: Module, pairs: Pairs) -> Work:
    """Matching of whole rows: the levels of a row packed in 64-bit lanes."""
    t = module.target
    bits = 4 if t.bits_per_cell == 3 else t.bits_per_cell
    mask = np.uint64(fold_mask(bits))
    width = -(-t.columns * bits // 64)
    state, first, touched = (np.zeros((t.crossbars, t.rows, width), np.uint64) for _ in range(3))
    ready: dict[int, tuple[Array, Array, Array]] = {}

    def work(
        index: int, order: Array, closing: Array, exact: bool, low: int, high: int, place: Array
    ) -> None:
        body = pairs[index][1]
        if index not in ready:
            words, counts = items_first(body, body.wanted_words())
            ready[index] = (*pack_rows(body, words, bits, width), counts)
        lanes, used, counts = ready[index]
        match_vectors(
            order, body.crossbar, closing, lanes, used, counts, bits, mask, exact, low, high, state, first, touched,
            place,
        )  # fmt: skip

    return work


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


def permute_rows(body: Placed, place: Array) -> Placed:
    """The table with item i of every section in row ``place[s, i]``."""
    driven = body.driven()
    order = np.argsort(~driven, axis=1, kind="stable")
    valid = np.arange(body.rows)[None, :] < driven.sum(1)[:, None]
    section = np.broadcast_to(np.arange(body.sections)[:, None], body.inputs.shape)

    def moved(array: Array) -> Array:
        out = np.full_like(array, UNUSED)
        out[section[valid], place[valid]] = np.take_along_axis(array, order, axis=1)[valid]
        return out

    of_rows = None if body.row_outputs is None else moved(body.row_outputs)
    return body.lower(Placed, inputs=moved(body.inputs), row_outputs=of_rows)


def closing_loads(pairs: Pairs, runs: list[tuple[int, Array]]) -> list[Array]:
    """Per layer ``[sections]`` bool: the load is the last one on its crossbar, and not the only one."""
    last: dict[int, tuple[int, int]] = {}
    loads: dict[int, int] = {}
    for index, order in runs:
        bars = pairs[index][1].crossbar[order]
        for c, n in zip(*np.unique(bars, return_counts=True), strict=True):
            loads[int(c)] = loads.get(int(c), 0) + int(n)
        unique, at = np.unique(bars[::-1], return_index=True)
        for c, k in zip(unique, at, strict=True):
            last[int(c)] = (index, int(order[len(order) - 1 - k]))
    out = [np.zeros(b.sections, np.bool_) for _, b in pairs]
    for c, (index, section) in last.items():
        out[index][section] = loads[c] > 1
    return out
