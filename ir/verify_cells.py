"""Invariants of loads and of what stands in the cells after them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ir.arrays import Array
from ir.cells import CellFormat
from ir.errors import XbcError
from ir.invariants import Findings, first_hit
from ir.module import Module
from ir.stages import Placed, Programmed
from ir.target import Target

_PAIRS = 2**20
"""Pairs of section and faulty cell that are looked at together."""


def check_fits(module: Module) -> None:
    """What kernels that walk the loads of a module rely on: they index without looking again.

    Raises: XbcError for a layer that is not placed, or whose sections do not fit the target's crossbars.
    """
    target = module.target
    for layer in module.layers:
        body = layer.at(Placed)
        if body.rows > target.rows or body.group_width * body.cells.columns > target.columns:
            raise XbcError(
                f"layer {layer.name!r}: sections of {body.rows} x {body.group_width * body.cells.columns} "
                f"cells do not fit the {target.rows} x {target.columns} crossbars of target {target.name!r}: "
                f"form them again"
            )
        if body.bits_per_cell > target.bits_per_cell:
            raise XbcError(
                f"layer {layer.name!r} is sliced for {body.bits_per_cell} bits per cell, target "
                f"{target.name!r} has {target.bits_per_cell}: slice it again"
            )
        if body.sections and not 0 <= body.crossbar.min() <= body.crossbar.max() < target.crossbars:
            raise XbcError(
                f"layer {layer.name!r} uses crossbar {int(body.crossbar.max())}, target {target.name!r} has "
                f"{target.crossbars}: deal the sections again"
            )


def check_placed(body: Placed, target: Target, found: Findings) -> None:
    """Crossbars, steps, and their order within the table."""
    crossbar, step = body.crossbar, body.step
    bad = np.flatnonzero((crossbar < 0) | (crossbar >= target.crossbars))
    if bad.size:
        found.add(
            "crossbar-range",
            f"section {bad[0]} is on crossbar {crossbar[bad[0]]}, the target has {target.crossbars}",
        )
    bad = np.flatnonzero(step < 0)
    if bad.size:
        found.add("step-range", f"section {bad[0]} is loaded in step {step[bad[0]]}")
    order = np.argsort(crossbar, kind="stable")
    same = crossbar[order][1:] == crossbar[order][:-1]
    bad = np.flatnonzero(same & (step[order][1:] < step[order][:-1]))
    if bad.size:
        early, late = order[bad[0]], order[bad[0] + 1]
        found.add(
            "load-order",
            f"section {late} (step {step[late]}) stands behind section {early} (step {step[early]}), which "
            f"crossbar {crossbar[late]} loads later",
        )


def check_programmed(body: Programmed, target: Target, found: Findings) -> None:
    """Stored words, flips, write-verify marks, faulty cells."""
    _check_bits(body.stored, body.cells, "stored-bits", "stores word", found)
    if body.verify is not None:
        _check_bits(body.verify, body.cells, "verify-bits", "has write-verify marks", found)
    _check_undriven(body, found)
    if body.flip is not None:
        _check_flips(body, body.flip, found)
    if not found:
        _check_limits(body, found)
    if target.faulty:
        _check_faulty(body, target, found)


def _check_bits(words: Array, cells: CellFormat, code: str, does: str, found: Findings) -> None:
    top = (1 << cells.word_bits) - 1
    if not words.size or words.max() <= top:
        return
    hit = first_hit(len(words), words[0].size, lambda part: words[part] > top)
    assert hit is not None
    s, r, g = hit.index
    where = f"section {s}, row {r}, group {g}"
    found.add(code, f"{where} {does} {words[hit.index]}, words have {cells.word_bits} bits{hit.more}")


def _check_undriven(body: Programmed, found: Findings) -> None:
    empty = bool((body.outputs < 0).any())

    def violated(part: slice) -> Array:
        idle = (body.inputs[part] < 0)[:, :, None]
        if empty:
            idle = idle | (body.outputs[part] < 0)[:, None, :]
        return np.asarray(idle & (body.stored[part] != 0))

    hit = first_hit(body.sections, body.rows * body.group_width, violated)
    if hit:
        s, r, g = hit.index
        what = "an empty group" if body.outputs[s, g] < 0 else "a don't-care row"
        found.add(
            "stored-undriven",
            f"section {s}, row {r}, group {g} is {what} and stores word {body.stored[s, r, g]}{hit.more}",
        )


def _check_flips(body: Programmed, flip: Array, found: Findings) -> None:
    full = (1 << body.bits_per_cell) - 1

    def violated(part: slice) -> Array:
        digits = body.cells.levels(flip[part])
        beyond = flip[part] > (1 << body.cells.word_bits) - 1
        return np.asarray(((digits != 0) & (digits != full)).any(axis=-1) | beyond)

    hit = first_hit(body.sections, body.group_width * body.cells.columns, violated)
    if hit:
        s, g = hit.index
        digits = body.cells.levels(flip[s, g]).tolist()
        found.add(
            "flip-digits",
            f"section {s}, group {g} has flip digits {digits}, each must be 0 or {full}{hit.more}",
        )


def _check_limits(body: Programmed, found: Findings) -> None:
    """Codes as computed, within limits; skipped where no word can decode to a code beyond them."""
    weights = body.cells.cell_weights * ((1 << body.bits_per_cell) - 1)
    low, high = int(weights[weights < 0].sum()), int(weights[weights > 0].sum())
    if body.encoding in ("driver", "split"):
        low = -high
    offset = body.offset.astype(np.int64)
    lower, upper = body.limits[:, 0], body.limits[:, 1]
    if np.all(lower <= low - offset) and np.all(upper >= high - offset):
        return
    outputs, inputs = body.shape
    lower, upper = (np.broadcast_to(bound, (outputs,)) for bound in (lower, upper))
    if body.encoding == "split":  # a weight may stand in a section of either sign: their sum counts
        codes = body.effective_codes()
        hit = first_hit(
            outputs,
            inputs,
            lambda part: (codes[part] < lower[part, None]) | (codes[part] > upper[part, None]),
        )
        if hit:
            o, i = hit.index
            _outside(found, o, i, int(codes[o, i]), lower[o], upper[o], hit.more)
        return

    def violated(part: slice) -> Array:
        codes = body.stored_codes(part)
        column = np.maximum(body.weight_outputs(part), 0)
        beyond = (codes < lower[column]) | (codes > upper[column])
        beyond &= (body.inputs[part] >= 0)[:, :, None] & (body.outputs[part] >= 0)[:, None, :]
        return np.asarray(beyond)

    hit = first_hit(body.sections, body.rows * body.group_width, violated)
    if hit:
        s, r, g = hit.index
        o, i = (
            int(body.weight_outputs()[s, r if body.row_outputs is not None else 0, g]),
            int(body.inputs[s, r]),
        )
        code = int(body.stored_codes(slice(s, s + 1))[0, r, g])
        _outside(found, o, i, code, lower[o], upper[o], f" in section {s}, row {r}{hit.more}")


def _outside(found: Findings, output: int, value: int, code: int, low: int, high: int, rest: str) -> None:
    found.add(
        "stored-limits", f"weight [{output}, {value}] is stored as code {code}, outside {low}..{high}{rest}"
    )


def _check_faulty(body: Programmed, target: Target, found: Findings) -> None:
    """Every faulty cell that a section drives stores the level the cell is stuck at."""
    faulty = target.faulty.cells
    columns, bits = body.cells.columns, body.bits_per_cell
    faulty = faulty[(faulty[:, 1] < body.rows) & (faulty[:, 2] < columns * body.group_width)]
    first = np.searchsorted(faulty[:, 0], body.crossbar, side="left")
    count = np.searchsorted(faulty[:, 0], body.crossbar, side="right") - first
    for section, cell in _pairs(first, count):
        row, column, level = faulty[cell, 1], faulty[cell, 2], faulty[cell, 3]
        group, digit = column // columns, column % columns
        used = (body.inputs[section, row] >= 0) & (body.outputs[section, group] >= 0)
        word = body.stored[section, row, group].astype(np.int64)
        held = (word >> (bits * (columns - 1 - digit))) & ((1 << bits) - 1)
        bad = np.flatnonzero(used & (held != level))
        if bad.size:
            i = bad[0]
            found.add(
                "faulty-cell",
                f"section {section[i]} stores level {held[i]} in row {row[i]}, column {column[i]} of "
                f"crossbar {body.crossbar[section[i]]}, which is stuck at {level[i]}",
            )
            return


def _pairs(first: Array, count: Array) -> Iterator[tuple[Array, Array]]:
    """(section, faulty cell) pairs, in portions; section s meets ``count[s]`` cells from ``first[s]`` on."""
    total = np.concatenate([[0], np.cumsum(count)])
    for start in range(0, int(total[-1]), _PAIRS):
        pair = np.arange(start, min(start + _PAIRS, int(total[-1])))
        section = np.searchsorted(total, pair, side="right") - 1
        yield section, first[section] + pair - total[section]
