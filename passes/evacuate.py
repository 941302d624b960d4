"""What fits badly beside stuck cells moves to sections of its own on better crossbars."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ir.arrays import Array
from ir.module import Module
from ir.stages import UNUSED, Programmed, lowest_outputs
from passes.arrange import FIGURES, Arranger, Fit, taken
from passes.place import steps_on

CANDIDATES = 4
"""Crossbars that are tried for every section that is added."""
GAIN = 0.5
"""An added section stays when it leaves at most that share of the error."""
NEVER = 1e30
"""Mean squared error that no number has."""
LATER = -1
"""Step of a section whose time is not known yet."""


@dataclass
class Pieces:
    """Sections to add: a table in the making.

    Fields:
        body: of the original sections.
        source: original section of each piece (the first one, where several were joined).
        inputs, outputs, stored, verify, row_outputs: lists of rows of the new table.
        free: rows that are still empty, by piece.
        error: what the originals held there.
        joined: originals of each piece.
    """

    body: Programmed

    def __post_init__(self) -> None:
        self.source: list[int] = []
        self.outputs: list[Array] = []
        self.rows: list[dict[str, Array]] = []
        self.filled: list[int] = []
        self.error: list[float] = []
        self.joined: list[list[int]] = []
        self._open: dict[tuple[bytes, int], int] = {}

    def add(self, s: int, contents: Array, groups: Array, error: float, join: bool) -> None:
        """The contents in rows ``contents`` of section ``s``, of the column groups ``groups`` (bool)."""
        body = self.body
        outputs = np.where(groups, body.outputs[s], UNUSED)
        gated = body.row_outputs is not None
        key = (b"" if gated else outputs.tobytes(), int(body.polarity[s]))
        at = self._open.get(key, -1) if join else -1
        if at < 0 or self.filled[at] + len(contents) > body.rows:
            at = len(self.source)
            self.source.append(s)
            self.outputs.append(outputs)
            self.rows.append({name: np.zeros_like(getattr(body, name)[s]) for name in self._per_row()})
            for name in ("inputs", "row_outputs"):
                if name in self.rows[at]:
                    self.rows[at][name][:] = UNUSED
            self.filled.append(0)
            self.error.append(0.0)
            self.joined.append([])
            if join:
                self._open[key] = at
        places = np.arange(self.filled[at], self.filled[at] + len(contents)) if join else contents
        for name, array in self.rows[at].items():
            array[places] = getattr(body, name)[s][contents]
            if array.ndim == 2:
                array[:, ~groups] = 0
        self.filled[at] += len(contents)
        self.error[at] += error
        self.joined[at].append(s)

    def _per_row(self) -> list[str]:
        return [n for n in ("inputs", "stored", "verify", "row_outputs") if getattr(self.body, n) is not None]

    def table(self) -> Programmed:
        """The pieces as sections, on no crossbar yet."""
        base = taken(self.body, np.array(self.source))
        columns: dict[str, Any] = {
            name: np.stack([row[name] for row in self.rows]) for name in self._per_row()
        }
        columns["outputs"] = (
            np.stack(self.outputs) if base.row_outputs is None else lowest_outputs(columns["row_outputs"])
        )
        top = int(self.body.rank.max()) + 1
        rank = (top + np.arange(len(self.source))).astype(self.body.rank.dtype)
        return replace(base, **columns, rank=rank, step=np.full(len(self.source), LATER, np.int64))


def evacuate(arranger: Arranger, fit: Fit, most_error: float) -> tuple[Fit, int]:
    """The table without contents of too large an error, and the sections added for them (steps ``LATER``).

    A row, or an output of a section, leaves when the mean of its squared errors is above ``most_error**2`` times that
    of the layer's codes, and whatever no number fits.  Under block routing the highest inputs leave in place of
    those that fit badly, so that runs stay runs.
    """
    codes = fit.body.codes
    limit = most_error**2 * float(np.square(codes, dtype=np.float64).mean()) if codes.size else 0.0
    limit *= fit.grade.mean
    limit = limit if most_error else NEVER
    fit = _spare_groups(arranger, fit, limit)
    keep: set[int] = set()
    for _ in range(3):
        changed, pieces = _leave(arranger, fit, limit, keep)
        if not pieces.source:
            return fit, 0
        added = _settle(arranger, pieces.table(), fit)
        errors = added.row_error.sum(axis=1)
        poor = [
            p for p in range(len(pieces.source)) if errors[p] > GAIN * pieces.error[p] and pieces.error[p] < np.inf
        ]  # fmt: skip
        if not poor:
            break
        keep |= {s for p in poor for s in pieces.joined[p]}
    else:
        return fit, 0
    used = (changed.body.inputs >= 0).any(axis=1) & (changed.body.outputs >= 0).any(axis=1)
    return changed.taken(np.flatnonzero(used)).joined(added), len(pieces.source)


def squared_errors(fit: Fit, part: Array) -> Array:
    """``[sections, rows, G]`` s * error**2 that the stuck cells cause, infinite in rows where no number fits."""
    body = taken(fit.body, part)
    difference = (body.stored_codes() - body.section_codes()).astype(np.float64)
    outputs, inputs = body.shape
    share = np.broadcast_to(fit.grade.outputs, (outputs,))[np.maximum(body.weight_outputs(), 0)]
    inner = np.broadcast_to(fit.grade.inputs, (inputs,))[np.maximum(body.inputs, 0)]
    errors = np.where(body.stored != fit.own[part], difference**2 * share * inner[:, :, None], 0.0)
    errors[np.isinf(fit.row_error[part])] = np.inf
    return np.asarray(errors)


def _suspects(fit: Fit, limit: float) -> Array:
    """Sections with a row or a group above the limit."""
    groups = np.maximum(1, (fit.body.outputs >= 0).sum(axis=1))
    rows = np.maximum(1, (fit.body.inputs >= 0).sum(axis=1))
    bad = (fit.row_error > limit * groups[:, None]).any(axis=1)
    return np.flatnonzero(bad | (fit.group_error > limit * rows[:, None]).any(axis=1))


def _leave(arranger: Arranger, fit: Fit, limit: float, keep: set[int]) -> tuple[Fit, Pieces]:
    """The table after the departures, arranged anew, and the pieces that left."""
    body, routing = fit.unheld, arranger.target.routing
    pieces = Pieces(body)
    suspects = np.array([s for s in _suspects(fit, limit).tolist() if s not in keep], np.int64)
    if not len(suspects):
        return fit, pieces
    inputs, outputs = body.inputs.copy(), body.outputs.copy()
    errors = squared_errors(fit, suspects)
    join = routing == "gather" and body.flip is None
    for e, s in zip(errors, suspects.tolist(), strict=True):
        rows, groups = bad_lines(e, body.inputs[s] >= 0, body.outputs[s] >= 0, limit)
        driven = np.flatnonzero(body.inputs[s] >= 0)
        here = body.outputs[s] >= 0
        if 2 * rows.sum() > len(driven) or 2 * groups.sum() > here.sum():
            pieces.add(s, driven, here, float(e.sum()), False)
            inputs[s] = UNUSED
            continue
        if groups.any():
            pieces.add(s, driven, groups, float(e[:, groups].sum()), False)
            outputs[s, groups] = UNUSED
        if rows.any():
            leaving = np.flatnonzero(rows)
            if routing == "block":  # whatever is left can take the good rows
                leaving = np.argsort(body.inputs[s], kind="stable")[-len(leaving) :]
            pieces.add(s, leaving, here & ~groups, float(e[rows][:, ~groups].sum()), join)
            inputs[s, leaving] = UNUSED
    gone = (inputs < 0)[:, :, None] | (outputs < 0)[:, None, :]
    changes: dict[str, Any] = {"inputs": inputs, "outputs": outputs, "stored": np.where(gone, 0, body.stored)}
    if body.verify is not None:
        changes["verify"] = np.where(gone, 0, body.verify)
    if body.row_outputs is not None:
        changes["row_outputs"] = np.where(inputs < 0, UNUSED, body.row_outputs)
        changes["outputs"] = lowest_outputs(changes["row_outputs"])
    changed = replace(body, **{k: v.astype(getattr(body, k).dtype) for k, v in changes.items()})
    again = arranger.fit(taken(changed, suspects), fit.grade)
    return _put(fit, suspects, again), pieces


def bad_lines(errors: Array, driven: Array, used: Array, limit: float) -> tuple[Array, Array]:
    """(rows, groups) bool that have to leave a section of ``errors [rows, G]``.

    A row that is bad in most groups says nothing about the groups, so those are judged without such rows.
    """
    bad = errors > limit
    dead = bad[:, used].mean(axis=1) >= 0.5 if used.sum() > 1 else np.zeros(len(driven), np.bool_)
    alive = driven & ~dead
    groups = used & (errors[alive].sum(axis=0) > limit * max(1, alive.sum()))
    if used.sum() == 1:
        groups = np.zeros(len(used), np.bool_)
    rest = used & ~groups
    rows = driven & (errors[:, rest].sum(axis=1) > limit * max(1, rest.sum()))
    return rows, groups


def _put(fit: Fit, at: Array, part: Fit) -> Fit:
    """The table with some sections replaced by those of another fit."""
    changes: dict[str, Any] = {}
    for name in ("inputs", "outputs", "stored", "verify", "row_outputs"):
        array = getattr(fit.body, name)
        if array is not None:
            array = array.copy()
            array[at] = getattr(part.body, name)
            changes[name] = array
    figures: dict[str, Any] = {}
    for name in FIGURES:
        figures[name] = getattr(fit, name).copy()
        figures[name][at] = getattr(part, name)
    return replace(fit, body=replace(fit.body, **changes), **figures)


def _spare_groups(arranger: Arranger, fit: Fit, limit: float) -> Fit:
    """Outputs of bad column groups take the empty groups of their section where that lessens the error."""
    body = fit.unheld
    some = _suspects(fit, limit)
    some = some[(body.outputs[some] < 0).any(axis=1)] if body.row_outputs is None else some[:0]
    if not len(some) or body.flip is not None:
        return fit
    part = taken(body, some)
    order = np.tile(np.arange(body.group_width), (len(some), 1))
    for i, s in enumerate(some.tolist()):
        spare = np.flatnonzero(body.outputs[s] < 0)
        worst = np.argsort(-fit.group_error[s], kind="stable")[: len(spare)]
        worst = worst[fit.group_error[s, worst] > 0]
        order[i, spare[: len(worst)]], order[i, worst] = worst, spare[: len(worst)]
    changes: dict[str, Any] = {"outputs": np.take_along_axis(part.outputs, order, axis=1)}
    for name in ("stored", "verify"):
        if getattr(part, name) is not None:
            changes[name] = np.take_along_axis(getattr(part, name), order[:, None, :], axis=2)
    again = arranger.fit(replace(part, **changes), fit.grade)
    better = np.flatnonzero(again.row_error.sum(axis=1) < fit.row_error[some].sum(axis=1))
    return _put(fit, some[better], again.taken(better))


def _settle(arranger: Arranger, table: Programmed, fit: Fit) -> Fit:
    """The new sections, each on the best of a few crossbars with few faults."""
    target = arranger.target
    count = np.bincount(target.faulty.cells[:, 0], minlength=target.crossbars)
    healthy = np.argsort(count, kind="stable")[: max(1, target.crossbars // 2)]
    each = np.arange(table.sections)
    best: Fit | None = None
    for turn in range(min(CANDIDATES, len(healthy))):
        bars = healthy[(each + turn * max(1, len(healthy) // CANDIDATES)) % len(healthy)]
        tried = arranger.fit(replace(table, crossbar=bars.astype(np.int32)), fit.grade)
        if best is None:
            best = tried
            continue
        better = np.flatnonzero(tried.row_error.sum(axis=1) < best.row_error.sum(axis=1))
        crossbar = best.body.crossbar.copy()
        crossbar[better] = bars[better]
        best = _put(replace(best, body=replace(best.body, crossbar=crossbar)), better, tried.taken(better))
        if not best.row_error.any():
            break
    assert best is not None
    return best


def with_steps(module: Module, bodies: list[Programmed]) -> Module:
    """The module with new tables: sections ``LATER`` are loaded after the last step of their layer, before whatever
    comes behind it."""
    ends = [int(layer.at(Programmed).step.max(initial=-1)) for layer in module.layers]
    fresh = [body.step == LATER for body in bodies]
    turns = [steps_on(body.crossbar[new]) for body, new in zip(bodies, fresh, strict=True)]
    extra: dict[int, int] = {}
    starts = []
    for end, turn in zip(ends, turns, strict=True):
        starts.append(extra.get(end, 0))
        extra[end] = starts[-1] + int(turn.max(initial=-1)) + 1
    layers = []
    for layer, body, end, new, turn, start in zip(
        module.layers, bodies, ends, fresh, turns, starts, strict=True
    ):
        step = body.step.copy()
        for last, count in extra.items():
            step += np.where(body.step > last, count, 0)
        before = sum(count for last, count in extra.items() if last < end)
        step[new] = end + before + 1 + start + turn
        layers.append(layer.with_body(replace(body, step=step)))
    return module.with_layers(layers)
