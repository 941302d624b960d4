"""hold-codes: partial reprogramming by the exact dynamic programme.

A stored number of up to 8 bits is one state of the programme; of a wider one the upper digits are kept exact
and the lower 8 bits (a window of codes) are.  The two numbers of a differential pair are held separately.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ir.arrays import Array
from ir.module import Layer, Module
from ir.stages import Placed, Programmed
from passes.base import Context, Outcome, Pass, check
from passes.counting import load_runs
from passes.inputs import Grade
from passes.limits import programmed, within_limits
from passes.penalty import FORBIDDEN, Detail, check_grades, grades, state_values
from passes.solvers.viterbi import LANES, MAX_BITS, PACKED, hold_blocks

WINDOW = 256
WRAP = 32
RUNS = 64
"""Tasks for the threads, times the blocks of lanes; at most one per crossbar."""


@dataclass(frozen=True)
class HoldCodes(Pass):
    """Keeps stale codes in the cells where an error costs less than the writes it saves.

    Per row of each crossbar the held codes v_t of least  writes + lambda * sum s_t (v_t - w_t)**2  over the whole
    sequence of loads w_t: an exact dynamic programme.  How much the loss feels an error, s, is from ``grades``, else
    from sensitivities, else 1.

    Options:
        lambda: writes that a squared error of one code unit is worth.
        set-cost, reset-cost: what a SET and a RESET count as.
        detail: how far the sensitivities tell weights apart.  ``layer``: s is a layer's mean; ``weight``: an own s
            for every weight, from the means over the outputs and over the inputs.  A few samples tell layers apart
            well and weights badly.
        grades: s of each layer in the module's order, separated by colons (``1.5:0.2``), in the place of what
            sensitivities say.
    """

    name: ClassVar[str] = "hold-codes"
    requires = Placed
    ensures = Programmed
    back_to = Placed

    lambda_: float = 0.1
    set_cost: float = 1.0
    reset_cost: float = 1.0
    detail: Detail = "layer"
    grades: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check(self.lambda_ > 0, f"hold-codes: lambda = {self.lambda_} must be positive")
        for key, cost in (("set-cost", self.set_cost), ("reset-cost", self.reset_cost)):
            check(0 < cost <= 1e6, f"hold-codes: {key} = {cost} is outside 0..1e6")
        self.only_if(not self.grades, "without grades, which are one for each layer", "detail")
        check_grades(self)

    def weighs(self) -> bool:
        """Where no grades are given."""
        return not self.grades

    def run(self, module: Module, context: Context) -> Outcome:
        """Programs every layer."""
        bodies = [layer.at(Placed) for layer in module.layers]
        graded = grades(module, context, self.detail, self.grades)
        stored, forced = hold(module, graded, self.lambda_, self.set_cost, self.reset_cost, context)
        stored = [within_limits(body, words) for body, words in zip(bodies, stored, strict=True)]
        return Outcome(programmed(module, bodies, stored), {"survivor_windows_cut_short": forced})


@dataclass(frozen=True)
class Numbers:
    """How words split into numbers the programme can hold.

    Fields:
        shifts: bit position of each number's window in the word.
        width: bits of the window.
        values: ``[2**width]`` what each state stands for.
    """

    shifts: tuple[int, ...]
    width: int
    values: Array


def numbers_of(body: Placed) -> Numbers:
    """Windows of a body's words."""
    cells = body.cells
    width = cells.slices * cells.bits_per_cell
    if cells.encoding == "differential":
        shifts: tuple[int, ...] = (width, 0)
    else:
        shifts = (0,)
        if width <= MAX_BITS:
            return Numbers(shifts, width, state_values(cells))
    window = min(width, MAX_BITS // cells.bits_per_cell * cells.bits_per_cell)
    values = np.arange(1 << window, dtype=np.float32)
    if window == width:
        values[1 << cells.bits :] = FORBIDDEN
    return Numbers(shifts, window, values)


def hold(
    module: Module,
    graded: dict[str, Grade],
    lambda_: float,
    set_cost: float,
    reset_cost: float,
    context: Context,
) -> tuple[list[Array], int]:
    """Held words of every layer, ``[sections, rows, G]``, and how many survivor windows were cut short.

    Layers of different cell formats do not carry over into each other; their runs are held separately.
    """
    pairs = [(layer, layer.at(Placed)) for layer in module.layers]
    held: list[Array] = [np.zeros(0)] * len(pairs)
    forced = 0
    formats: dict[tuple[object, ...], list[int]] = {}
    for index, (_, body) in enumerate(pairs):
        key = (body.encoding, body.cells.word_bits, body.bits_per_cell, body.group_width, body.cells.slices)
        formats.setdefault(key, []).append(index)
    for members in formats.values():
        words, cut = _hold_format(
            [pairs[i] for i in members], module, graded, lambda_, (set_cost, reset_cost), context
        )
        forced += cut
        for i, array in zip(members, words, strict=True):
            held[i] = array
    return held, forced


def _hold_format(
    pairs: list[tuple[Layer, Placed]], module: Module, graded: dict[str, Grade], lambda_: float,
    costs: tuple[float, float], context: Context,
) -> tuple[list[Array], int]:  # fmt: skip
    shape = numbers_of(pairs[0][1])
    rows, width = pairs[0][1].rows, pairs[0][1].group_width
    base = np.concatenate([[0], np.cumsum([b.sections for _, b in pairs])])
    share = width * len(shape.shifts)
    count = rows * share
    wanted = np.empty((base[-1], count), np.uint8)
    driven = np.empty((base[-1], rows), np.bool_)
    mask = (1 << shape.width) - 1
    exact = []
    fine = any(len(graded[layer.name].inputs) > 1 for layer, _ in pairs)
    weight = np.empty(base[-1], np.float32)
    care = np.empty((base[-1], count if fine else 0), np.float32)
    for k, (layer, body) in enumerate(pairs):
        part = slice(base[k], base[k + 1])
        words = body.wanted_words()
        exact.append(words)
        states = np.stack([(words >> shift) & mask for shift in shape.shifts], axis=-1)
        wanted[part] = states.reshape(body.sections, count)
        driven[part] = body.driven()
        grade = graded[layer.name]
        weight[part] = lambda_ * PACKED * (1.0 if fine else grade.mean)
        if fine:
            rows_of = np.broadcast_to(grade.outputs, body.shape[:1])[np.maximum(body.weight_outputs(), 0)]
            columns_of = np.broadcast_to(grade.inputs, body.shape[1:])[np.maximum(body.inputs, 0)]
            at = rows_of * columns_of[:, :, None]
            care[part] = np.repeat(at, len(shape.shifts), axis=2).reshape(body.sections, count)
    held = wanted.copy()
    forced = _run(
        pairs, base, module.target.crossbars, wanted, driven, share, weight, care, shape, costs, held, context
    )
    out = []
    for k, words in enumerate(exact):
        states = held[base[k] : base[k + 1]].reshape(*words.shape, len(shape.shifts)).astype(words.dtype)
        result = words.copy()
        for q, shift in enumerate(shape.shifts):
            result &= words.dtype.type(~(mask << shift) & ((1 << 8 * words.dtype.itemsize) - 1))
            result |= states[..., q] << words.dtype.type(shift)
        result[pairs[k][1].inputs < 0] = 0
        result[np.broadcast_to(pairs[k][1].outputs[:, None, :] < 0, result.shape)] = 0
        out.append(result)
    return out, forced


def _run(
    pairs: list[tuple[Layer, Placed]], base: Array, crossbars: int, wanted: Array, driven: Array, share: int,
    weight: Array, care: Array, shape: Numbers, costs: tuple[float, float], held: Array, context: Context,
) -> int:  # fmt: skip
    order = np.concatenate([base[index] + sections for index, sections in load_runs(pairs)])
    bars = np.concatenate([pairs[index][1].crossbar[sections] for index, sections in load_runs(pairs)])
    by_bar = np.argsort(bars, kind="stable")
    cuts = np.searchsorted(bars[by_bar], np.arange(crossbars + 1))
    run = max(1, crossbars // RUNS)
    tasks = [(c, lane0) for c in range(0, crossbars, run) for lane0 in range(0, wanted.shape[1], LANES)]
    sorted_loads = order[by_bar]
    top = max(costs)
    up, down = (int(PACKED * cost / top) for cost in costs)
    weight = (weight / top).astype(np.float32)
    bits = pairs[0][1].bits_per_cell

    def one(task: tuple[int, int]) -> int:
        c, lane0 = task
        return int(
            hold_blocks(
                sorted_loads, cuts[c : c + run + 1], wanted, driven, share, weight, care, lane0, shape.width,
                shape.values, bits, up, down, WINDOW, WRAP, held,
            )
        )  # fmt: skip

    forced = 0
    with ThreadPoolExecutor(max(1, context.threads)) as pool:
        for done, cut in enumerate(pool.map(one, tasks)):
            forced += cut
            context.progress("hold-codes", done + 1, len(tasks))
    return forced
