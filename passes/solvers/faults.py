"""Keeping faulty cells out of the way: rows are exchanged in a section, else a weight moves to a new one.

A faulty cell holds its level for ever, so a row with one can only take a weight whose digit there is that
level, or no weight.  Which weight takes which row is free under gather and block routing; what fits nowhere
is loaded again on rows without faults, in a section of its own that is added up with the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Layer, Module
from ir.stages import UNUSED, Programmed, lowest_outputs
from ir.target import Target

_FORBIDDEN = 1e6
_PER_ROW = ("inputs", "stored", "verify", "row_outputs")


@dataclass
class _Table:
    """A layer's section table while it is changed."""

    layer: Layer
    body: Programmed
    inputs: Array
    stored: Array
    verify: Array | None
    row_outputs: Array | None
    moved: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, layer: Layer) -> _Table:
        body = layer.at(Programmed)
        verify = None if body.verify is None else body.verify.copy()
        of_rows = None if body.row_outputs is None else body.row_outputs.copy()
        return cls(layer, body, body.inputs.copy(), body.stored.copy(), verify, of_rows)


def avoid_faulty(module: Module) -> tuple[Module, dict[str, int]]:
    """The module with no section that stores another level in a faulty cell than the cell holds.

    Returns: (module, figures: sections with rows exchanged, sections added, weights moved to them).
    Raises: XbcError when a weight fits nowhere on the chip.
    """
    target = module.target
    figures = {"sections_rearranged": 0, "sections_added": 0, "weights_moved": 0}
    if not target.faulty:
        return module, figures
    tables = [_Table.of(layer) for layer in module.layers]
    by_bar: dict[int, list[tuple[int, int, int]]] = {}
    for bar, row, column, level in target.faulty:
        by_bar.setdefault(bar, []).append((row, column, level))
    for table in tables:
        for bar, faults in by_bar.items():
            for s in _conflicts(table, bar, faults):
                figures["sections_rearranged"] += 1
                figures["weights_moved"] += _rearrange(table, s, bar, by_bar, target)
        figures["sections_added"] += len(table.moved)
    return _rebuilt(module, tables), figures


def _digit(words: Array, table: _Table, column: int) -> Array:
    """Digit of ``[..., G]`` words in a physical column."""
    cells = table.body.cells
    group, digit = divmod(column, cells.columns)
    shift = cells.bits_per_cell * (cells.columns - 1 - digit)
    return np.asarray((words[..., group].astype(np.int64) >> shift) & ((1 << cells.bits_per_cell) - 1))


def _used(table: _Table, s: int, column: int) -> bool:
    group = column // table.body.cells.columns
    return group < table.body.group_width and bool(table.body.outputs[s, group] >= 0)


def _conflicts(table: _Table, bar: int, faults: list[tuple[int, int, int]]) -> list[int]:
    """Sections on crossbar ``bar`` that store another level than a faulty cell holds."""
    body = table.body
    here = np.flatnonzero(body.crossbar == bar)
    wrong = np.zeros(len(here), np.bool_)
    for row, column, level in faults:
        group = column // body.cells.columns
        if row >= body.rows or group >= body.group_width or not len(here):
            continue
        active = (table.inputs[here, row] >= 0) & (body.outputs[here, group] >= 0)
        wrong |= active & (_digit(table.stored[here, row], table, column) != level)
    return [int(s) for s in here[wrong]]


def _fits(table: _Table, s: int, row: int, faults: list[tuple[int, int, int]]) -> Array:
    """``[rows]`` bool: contents of section ``s`` that may stand in a row."""
    fits = np.ones(table.body.rows, np.bool_)
    for r, column, level in faults:
        if r == row and _used(table, s, column):
            fits &= (table.inputs[s] < 0) | (_digit(table.stored[s], table, column) == level)
    return fits


def _rearrange(
    table: _Table, s: int, bar: int, by_bar: dict[int, list[tuple[int, int, int]]], target: Target
) -> int:
    """Exchanges rows of a section until no faulty cell is in the way; returns how many weights had to move
    out.
    """
    rows = sorted({row for row, _, _ in by_bar[bar] if row < table.body.rows})
    fits = np.stack([_fits(table, s, row, by_bar[bar]) for row in rows])
    if target.routing == "fixed":
        own = fits[np.arange(len(rows)), rows]
        return _move_out(
            table, s, [row for row, good in zip(rows, own, strict=True) if not good], by_bar, target
        )
    driven = table.inputs[s] >= 0
    distance = _distance(table, s, rows)
    cost = np.where(fits, distance, _FORBIDDEN)
    chosen = linear_sum_assignment(cost)[1]
    hopeless = np.flatnonzero(cost[np.arange(len(rows)), chosen] >= _FORBIDDEN)
    moved = 0
    if len(hopeless):  # as many weights leave as rows stay without one that fits; an empty row fits anywhere
        if target.routing == "block":
            inputs = np.where(driven, table.inputs[s], -1)
            leaving = np.argsort(inputs)[-len(hopeless) :].tolist()
        else:
            leaving = [int(rows[i]) for i in hopeless]
        moved = _move_out(table, s, leaving, by_bar, target)
        fits = np.stack([_fits(table, s, row, by_bar[bar]) for row in rows])
        cost = np.where(fits, _distance(table, s, rows), _FORBIDDEN)
        chosen = linear_sum_assignment(cost)[1]
        if np.any(cost[np.arange(len(rows)), chosen] >= _FORBIDDEN):
            moved += _rearrange(table, s, bar, by_bar, target)
            return moved
    content = np.arange(table.body.rows)  # row -> the content it takes
    spare = sorted(set(rows) - set(chosen.tolist()))
    content[rows] = chosen
    for row, c in zip(sorted(set(chosen.tolist()) - set(rows)), spare, strict=True):
        content[row] = c
    for name in _PER_ROW:
        array = getattr(table, name)
        if array is not None:
            array[s] = array[s][content]
    return moved


def _distance(table: _Table, s: int, rows: list[int]) -> Array:
    """``[len(rows), rows]``: cells that differ between what a row holds and another content; 0 for its
    own.
    """
    words = table.stored[s].astype(np.uint32)
    xor = words[rows][:, None, :] ^ words[None, :, :]
    return np.asarray(np.bitwise_count(xor).sum(2), np.float64)


def _move_out(
    table: _Table, s: int, leaving: list[int], by_bar: dict[int, list[tuple[int, int, int]]], target: Target
) -> int:
    """Takes contents out of a section and into a new one; returns their number of weights."""
    leaving = [row for row in leaving if table.inputs[s, row] >= 0]
    if not leaving:
        return 0
    body = table.body
    bar, rows = _place(table, s, leaving, by_bar, target)
    moved: dict[str, Any] = {"of": s, "crossbar": bar}
    for name in _PER_ROW:
        array = getattr(table, name)
        if array is not None:
            blank = UNUSED if name in ("inputs", "row_outputs") else 0
            moved[name] = np.full_like(array[s], blank)
            moved[name][rows] = array[s, leaving]
            array[s, leaving] = blank
    table.moved.append(moved)
    return len(leaving) * int(np.count_nonzero(body.outputs[s] >= 0))


def _place(
    table: _Table, s: int, leaving: list[int], by_bar: dict[int, list[tuple[int, int, int]]], target: Target
) -> tuple[int, list[int]]:
    """Crossbar and rows for contents that move: rows without faults, on the section's own crossbar if it has
    them.
    """
    own = int(table.body.crossbar[s])
    others = sorted(range(target.crossbars), key=lambda bar: (bar != own, len(by_bar.get(bar, [])), bar))
    for bar in others[:64]:
        bad = {row for row, column, _ in by_bar.get(bar, []) if _used(table, s, column)}
        if target.routing == "fixed":
            if not bad.intersection(leaving):
                return bar, leaving
            continue
        free = [row for row in range(table.body.rows) if row not in bad]
        if len(free) >= len(leaving):
            return bar, free[: len(leaving)]
    raise XbcError(
        f"layer {table.layer.name!r}, section {s}: the weights in rows {leaving} fit no row of target "
        f"{target.name!r} "
        f"beside its faulty cells: use a chip with fewer of them or gather routing"
    )


def _rebuilt(module: Module, tables: list[_Table]) -> Module:
    """The module with the changed tables; added sections get steps of their own after their layer's last
    one.
    """
    extra = sorted(
        (int(t.body.step.max()), len(t.moved)) for t in tables if t.moved
    )  # (last step of a layer, how many steps follow it now)

    def shifted(steps: Array) -> Array:
        out = steps.copy()
        for last, count in extra:
            out += np.where(steps > last, count, 0)
        return out

    taken: dict[int, int] = {}
    layers = []
    for table in tables:
        body = table.body
        step = shifted(body.step)
        changes: dict[str, Any] = {name: getattr(table, name) for name in _PER_ROW} | {"step": step}
        if table.moved:
            of = np.array([m["of"] for m in table.moved])
            last = int(body.step.max())
            first = int(step.max()) + 1 + taken.get(last, 0)
            taken[last] = taken.get(last, 0) + len(of)
            changes |= {
                name: np.concatenate([getattr(table, name), np.stack([m[name] for m in table.moved])])
                for name in _PER_ROW
                if getattr(table, name) is not None
            }
            changes["outputs"] = np.concatenate([body.outputs, body.outputs[of]])
            changes["polarity"] = np.concatenate([body.polarity, body.polarity[of]])
            top = int(body.rank.max()) + 1
            changes["rank"] = np.concatenate([body.rank, top + np.arange(len(of), dtype=body.rank.dtype)])
            changes["step"] = np.concatenate([step, first + np.arange(len(of))])
            bars = np.array([m["crossbar"] for m in table.moved], body.crossbar.dtype)
            changes["crossbar"] = np.concatenate([body.crossbar, bars])
            if body.flip is not None:
                changes["flip"] = np.concatenate([body.flip, body.flip[of]])
        if changes["row_outputs"] is not None:
            changes["outputs"] = lowest_outputs(changes["row_outputs"])
        layers.append(table.layer.with_body(replace(body, **changes)))
    return module.with_layers(layers)
