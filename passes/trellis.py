"""trellis: partial reprogramming of shared rows, with matched rows and error feedback over an output's inputs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from scipy.linalg import solve_triangular

from ir.arrays import Array
from ir.cells import CellFormat
from ir.errors import XbcError
from ir.module import Layer, Module
from ir.stages import UNUSED, Placed, Programmed, Sliced
from passes.base import Context, Outcome, Pass, check
from passes.counting import load_runs
from passes.inputs import Moments
from passes.penalty import FORBIDDEN, grades, state_values
from passes.solvers.trellis import FINENESS, hold_run, joint_tables, match_run
from passes.solvers.viterbi import MAX_BITS, PACKED


@dataclass(frozen=True)
class Trellis(Pass):
    """Decides which words stand in rows that several outputs share, so that few cells change and sums stay close.

    Every layer is decided block of inputs by block of inputs, over all its outputs.  Along the loads of a block on a
    crossbar the rows are matched to what stands there, then the exact dynamic programme over the loads finds every
    row's words of least  writes + penalty * error**2, row after row; the error that a row leaves is spread over the
    inputs of the same output that are decided later (GPTQ's update, from second moments of the layer's inputs), and
    the next block begins with what the last one left in the cells.  Words stand for whatever the layer's columns count
    (see choose-digits); without second moments nothing is spread.

    Every crossbar must take the blocks of a layer one after the other: put order-sections{method=rank} before.

    Options:
        lambda: writes that a squared error of one code unit is worth, as in hold-codes; sensitivities divide it over
            the layers.
        feedback: spread errors over inputs that follow.
        match: match rows (targets whose routing lets them move).
        match-ratio: penalty of matching over that of the programme.
    """

    name: ClassVar[str] = "trellis"
    requires = Placed
    ensures = Programmed
    back_to = Placed

    lambda_: float = 0.1
    feedback: bool = True
    match: bool = True
    match_ratio: float = 0.7

    def __post_init__(self) -> None:
        check(self.lambda_ > 0, f"trellis: lambda = {self.lambda_} must be positive")
        check(self.match_ratio > 0, f"trellis: match-ratio = {self.match_ratio} must be positive")
        self.only_if(self.match, "with match=true", "match_ratio")

    def weighs(self) -> bool:
        """Always."""
        return True

    def run(self, module: Module, context: Context) -> Outcome:
        """Programs every layer, in load order."""
        pairs = [(layer, layer.at(Placed)) for layer in module.layers]
        runs = list(load_runs(pairs))
        if len({index for index, _ in runs}) != len(runs):
            raise XbcError("trellis: layers take turns on the crossbars; deal them one after the other")
        graded = grades(module, context)
        t = module.target
        chip = np.full((t.crossbars, t.rows, t.columns), UNKNOWN, np.uint8)
        bodies: list[Placed] = [body for _, body in pairs]
        forced = 0
        with ThreadPoolExecutor(max(1, context.threads)) as pool:
            for done, (index, order) in enumerate(runs):
                context.progress("trellis", done, len(runs))
                layer, body = pairs[index]
                moments = None if context.moments is None else context.moments.get(layer.name)
                work = _Layer(layer, body, moments, self, graded[layer.name].mean, t.routing != "fixed")
                bodies[index] = work.run(order, chip, pool)
                forced += work.forced
        layers = [layer.with_body(body) for (layer, _), body in zip(pairs, bodies, strict=True)]
        return Outcome(module.with_layers(layers), {"survivor_windows_cut_short": forced})


UNKNOWN = 255
"""Level of a cell that no load has touched yet: the first one is free."""


def values_of(body: Placed) -> Array:
    """``[2**word_bits]`` float32 what each word stands for, before an offset; ``FORBIDDEN`` where the host could not
    take the code back from every output."""
    values = state_values(body.cells)
    offset = body.offset.astype(np.int64)
    low, high = (body.limits + offset.reshape(-1, 1)).T
    return np.where((values < low.max()) | (values > high.min()), np.float32(FORBIDDEN), values)


def supported(body: Sliced) -> str | None:
    """Why the programme cannot decide a layer, or None."""
    if body.cells.word_bits > MAX_BITS:
        return f"its words have {body.cells.word_bits} bits, at most {MAX_BITS} are decided together"
    if body.encoding in ("driver", "split") or getattr(body, "row_outputs", None) is not None:
        return "its signs or outputs belong to rows and sections, not to weights"
    return None


class _Layer:
    """One layer while it is decided.

    Fields:
        forced: see ``hold_run``.
    """

    def __init__(
        self,
        layer: Layer,
        body: Placed,
        moments: Moments | None,
        options: Trellis,
        grade: float,
        movable: bool,
    ) -> None:
        """``grade``: mean second derivative by a code, over the network's; ``movable``: rows may be permuted."""
        reason = supported(body)
        if reason is not None:
            raise XbcError(f"trellis: layer {layer.name!r}: {reason}")
        self.name, self.body, self.options = layer.name, body, options
        self.groups = layer.origin.groups
        self.movable = movable and options.match
        self.values = values_of(body)
        self.wanted = (body.codes + body.offset.reshape(-1, 1)).astype(np.float32)
        self.held = np.zeros_like(self.wanted)
        self.forced = 0
        inputs = body.shape[1]
        if moments is None:
            self.factor, mean = None, 1.0
        else:
            self.factor, mean = moments.factor, float(moments.power.mean(dtype=np.float64)) or 1.0
            if self.factor.shape != (self.groups, inputs, inputs):
                raise XbcError(
                    f"trellis: the second moments of layer {layer.name!r} are those of another model"
                )
        self.scale = options.lambda_ * grade / mean
        self.inputs, self.stored = (
            body.inputs.copy(),
            np.zeros((*body.inputs.shape, body.group_width), body.cells.dtype),
        )

    def run(self, order: Array, chip: Array, pool: ThreadPoolExecutor) -> Programmed:
        """The decided body; ``chip`` takes the levels that its loads leave."""
        rank = self.body.rank[order]
        for bar in np.unique(self.body.crossbar[order]):
            here = rank[self.body.crossbar[order] == bar]
            if (np.diff(here) < 0).any():
                raise XbcError(
                    f"trellis: crossbar {bar} returns to a block of inputs of layer {self.name!r}; put "
                    f"order-sections{{method=rank}} and deal-sections{{method=contiguous}} before"
                )
        for block in np.unique(rank):
            sections = order[rank == block]
            group = self.body.outputs[sections].max(axis=1) // (self.body.shape[0] // self.groups)
            spans = {int(g): self._span(sections[group == g]) for g in np.unique(group)}
            inverses = {g: self._inverse(g, *span) for g, span in spans.items()}

            def bar(
                number: int, sections: Array = sections, group: Array = group,
                spans: dict[int, tuple[int, int]] = spans, inverses: dict[int, Array] = inverses,
            ) -> int:  # fmt: skip
                there = self.body.crossbar[sections] == number
                mine, of = sections[there], group[there]
                parts = np.split(np.arange(len(mine)), np.flatnonzero(np.diff(of)) + 1)
                return sum(
                    self._hold(mine[part], *spans[int(of[part[0]])], inverses[int(of[part[0]])], chip[number])
                    for part in parts
                )

            self.forced += sum(pool.map(bar, np.unique(self.body.crossbar[sections]).tolist()))
            for g, span in spans.items():
                self._feed(g, *span)
        return self.body.lower(Programmed, inputs=self.inputs, stored=self.stored)

    def _span(self, sections: Array) -> tuple[int, int]:
        """First input, and the one behind the last, of sections that hold one run.  Raises XbcError unless they do."""
        lists = self.body.inputs[sections]
        low = np.where(lists >= 0, lists, np.iinfo(np.int32).max).min(axis=1)
        high, count = lists.max(axis=1) + 1, (lists >= 0).sum(axis=1)
        if (low != low[0]).any() or (high != high[0]).any() or (count != high[0] - low[0]).any():
            raise XbcError(
                f"trellis: the sections of rank {self.body.rank[sections[0]]} of layer {self.name!r} do not hold the "
                f"same run of inputs; cut them as they lie (block routing, no sort-sections)"
            )
        return int(low[0]), int(high[0])

    def _inverse(self, group: int, low: int, high: int) -> Array:
        """Inverse second moment of a block's inputs; what later inputs can correct is projected out."""
        if self.factor is None:
            return np.eye(high - low)
        part = self.factor[group, low:high, low:high].astype(np.float64)
        return np.asarray(part.T @ part)

    def _hold(self, sections: Array, low: int, high: int, inverse: Array, levels: Array) -> int:
        body, cells = self.body, self.body.cells
        width, n = body.group_width, high - low
        outputs = body.outputs[sections].astype(np.int64)
        there = levels[: body.rows, : width * cells.columns].reshape(body.rows, width, cells.columns)
        known = (there != UNKNOWN).all(axis=2)
        before = cells.words(np.where(known[:, :, None], there, 0).astype(np.uint8))
        wanted, held = (
            np.ascontiguousarray(self.wanted[:, low:high]),
            np.zeros((body.shape[0], n), np.float32),
        )
        inputs = body.inputs[sections].astype(np.int64) - low
        inputs[inputs < 0] = UNUSED
        if self.movable:
            rows_of = self._match(outputs, wanted, inverse, before)
            inputs = np.full((len(sections), body.rows), UNUSED, np.int64)
            np.put_along_axis(
                inputs, rows_of.astype(np.int64), np.arange(n)[None, :].repeat(len(sections), 0), 1
            )
        state = np.where(known, before.astype(np.int64), -1)
        words = np.zeros((len(sections), body.rows, width), cells.dtype)
        weight = np.full(body.shape[0], self.scale * PACKED, np.float32)
        feedback = self.options.feedback and self.factor is not None
        forced = hold_run(
            outputs, inputs, wanted, inverse, feedback, weight, self.values, cells.word_bits, cells.bits_per_cell,
            PACKED, PACKED, state, words, held,
        )  # fmt: skip
        self.inputs[sections] = np.where(inputs >= 0, inputs + low, UNUSED)
        self.stored[sections] = words
        mine = outputs[outputs >= 0]
        self.held[mine, low:high] = held[mine]
        there[state >= 0] = cells.levels(state[state >= 0].astype(cells.dtype))
        return int(forced)

    def _match(self, outputs: Array, wanted: Array, inverse: Array, before: Array) -> Array:
        """``[loads, inputs]`` int32 row of each input."""
        penalty = self.options.match_ratio * self.scale / np.diagonal(inverse)
        step = np.rint(np.log(penalty) / np.log(FINENESS)).astype(np.int64)
        steps, table_of = np.unique(step, return_inverse=True)
        tables = [_tables(self.body.cells, self.values.tobytes(), int(k)) for k in steps]
        low = tables[0][2]
        rows_of = np.zeros((len(outputs), wanted.shape[1]), np.int32)
        match_run(
            outputs, wanted, table_of, np.stack([t[0] for t in tables]), np.stack([t[1] for t in tables]), low,
            before.astype(np.uint8), rows_of,
        )  # fmt: skip
        return rows_of

    def _feed(self, group: int, low: int, high: int) -> None:
        """Spreads the errors of a decided block over the inputs behind it."""
        if self.factor is None or not self.options.feedback or high == self.wanted.shape[1]:
            return
        per_group = self.body.shape[0] // self.groups
        mine = slice(group * per_group, (group + 1) * per_group)
        factor = self.factor[group]
        error = (self.wanted[mine, low:high] - self.held[mine, low:high]).T.astype(np.float64)
        scaled = solve_triangular(factor[low:high, low:high].astype(np.float64), error, trans="T")
        self.wanted[mine, high:] -= scaled.T.astype(np.float32) @ factor[low:high, high:]


@cache
def _tables(cells: CellFormat, values: bytes, step: int) -> tuple[Array, Array, int]:
    """``joint_tables`` at penalty ``FINENESS**step``, and the first number of their grid."""
    numbers = np.frombuffer(values, np.float32).astype(np.float64)
    allowed = numbers[numbers < FORBIDDEN / 2]
    grid = np.arange(allowed.min(), allowed.max() + 1)
    cost = np.zeros((1, len(numbers), len(grid)), np.int32)
    best = np.zeros(cost.shape, np.uint8)
    joint_tables(np.array([FINENESS**step]), grid, numbers, cells.bits_per_cell, cost, best)
    return cost[0], best[0], int(grid[0])
