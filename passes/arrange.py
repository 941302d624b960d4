"""Tables of sections arranged around stuck cells: ``passes.solvers.stuck`` over whole layers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ir.arrays import Array
from ir.stages import Programmed, lowest_outputs
from ir.target import Target
from passes.inputs import Grade, uniform
from passes.solvers.planes import fold_mask, pack
from passes.solvers.stuck import arrange
from passes.stuck_words import StuckWords

MOST_COST = 1 << 36
"""Of one weight; all weights of a row and all rows of a section stay below 2**63."""
CHUNK = 1 << 20
"""Words that are arranged together."""


@dataclass(frozen=True)
class Fit:
    """A layer's table beside the stuck cells.

    Fields:
        body: rows exchanged, stored words as the cells hold them.
        grade: how much errors matter.
        row_error ``[sections, rows]``, group_error ``[sections, G]``, tally ``[sections, 4]``: see ``arrange``.
        own: ``[sections, rows, G]`` words that would stand there if nothing were stuck.
    """

    body: Programmed
    grade: Grade
    row_error: Array
    group_error: Array
    tally: Array
    own: Array

    @property
    def unheld(self) -> Programmed:
        """The table with its own words, to be arranged again."""
        return replace(self.body, stored=self.own)

    def joined(self, other: Fit) -> Fit:
        """Both tables, this one first."""
        pairs: dict[str, Any] = {
            name: np.concatenate([getattr(self.body, name), getattr(other.body, name)])
            for name in ROWS
            if getattr(self.body, name) is not None
        }
        figures: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in FIGURES
        }
        return replace(self, body=replace(self.body, **pairs), **figures)

    def taken(self, rows: Array) -> Fit:
        """Some sections of the table."""
        figures: dict[str, Any] = {name: getattr(self, name)[rows] for name in FIGURES}
        return replace(self, body=taken(self.body, rows), **figures)


ROWS = (
    "outputs", "inputs", "rank", "polarity", "row_outputs", "crossbar", "step", "stored", "flip", "verify"
)  # fmt: skip
"""Fields of a programmed body with an entry for each section."""


FIGURES = ("row_error", "group_error", "tally", "own")


def taken(body: Programmed, rows: Array) -> Programmed:
    """Some sections of a table."""
    parts: dict[str, Any] = {name: getattr(body, name) for name in ROWS}
    changes: dict[str, Any] = {name: None if x is None else x[rows] for name, x in parts.items()}
    return replace(body, **changes)


class Arranger:
    """Arranges layers on one chip."""

    def __init__(self, target: Target, worth: float, threads: int) -> None:
        """``worth``: see ``arrange``."""
        self.target, self.worth, self.threads = target, worth, max(1, threads)
        self._words: dict[object, StuckWords] = {}
        self._tables: dict[object, tuple[Array, Array]] = {}

    def fit(self, body: Programmed, grade: Grade | None = None) -> Fit:
        """The table around the cells that are stuck on its crossbars."""
        grade = grade or uniform()
        n, rows, groups = body.sections, body.rows, body.group_width
        fit = Fit(
            body, grade, np.zeros((n, rows)), np.zeros((n, groups)), np.zeros((n, 4)),
            np.zeros((n, rows, groups), body.stored.dtype),
        )  # fmt: skip
        content = np.zeros((n, rows), np.int64)
        held = np.zeros((n, rows, groups), body.stored.dtype)
        step = max(1, CHUNK // max(1, rows * groups))
        parts = [slice(start, start + step) for start in range(0, n, step)]
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(lambda part: self._part(fit, part, content, held), parts))
        moved: dict[str, Any] = {"stored": held}
        if (content != np.arange(rows)).any():
            for name in ("inputs", "row_outputs", "verify"):
                array = getattr(body, name)
                if array is not None:
                    at = content.reshape(content.shape + (1,) * (array.ndim - 2))
                    moved[name] = np.take_along_axis(array, at, axis=1)
            if body.row_outputs is not None:
                moved["outputs"] = lowest_outputs(moved["row_outputs"])
        return replace(fit, body=replace(body, **moved))

    def _part(self, fit: Fit, part: slice, content: Array, held: Array) -> None:
        body, grade = fit.body, fit.grade
        words, (low, high), tables = self._stuck(body)
        bits = body.bits_per_cell
        stored, outputs, inputs = body.stored[part], body.outputs[part], body.inputs[part]
        if not np.any(words.at[body.crossbar[part] + 1] > words.at[body.crossbar[part]]):
            content[part], held[part], fit.own[part] = np.arange(body.rows), stored, stored
            return
        values = body.cells.decode(body.wanted_words(part))
        flip = np.zeros(outputs.shape, np.int64) if body.flip is None else body.flip[part].astype(np.int64)
        lanes = pack(stored.reshape(-1, body.group_width), bits, body.cells.columns)
        new = np.zeros(stored.shape, np.int64)
        share = np.broadcast_to(grade.outputs, body.shape[:1])[np.maximum(body.weight_outputs(part), 0)]
        inner = np.broadcast_to(grade.inputs, body.shape[1:])[np.maximum(inputs, 0)].astype(np.float64)
        of_outputs = np.ones(outputs.shape)
        if body.row_outputs is None:
            of_outputs[:] = share[:, 0, :]
        else:
            inner = inner * share[:, :, 0]
        arrange(
            body.crossbar[part], inputs, outputs, stored.astype(np.int64), values, flip,
            lanes.reshape(len(stored), body.rows, -1), of_outputs, inner, words.at, words.row, words.group,
            words.pattern, words.masks, words.levels, words.cells, words.shifts, bits, np.uint64(fold_mask(bits)),
            words.lowest, low, high, *tables, self.worth, MOST_COST // body.group_width, self.target.routing != "fixed",
            content[part], new, fit.row_error[part], fit.group_error[part], fit.tally[part],
        )  # fmt: skip
        held[part] = new
        fit.own[part] = np.take_along_axis(stored, content[part][:, :, None], axis=1)

    def _stuck(self, body: Programmed) -> tuple[StuckWords, tuple[int, int], tuple[Array, Array]]:
        cells = body.cells
        if cells not in self._words:
            self._words[cells] = StuckWords.of(self.target.faulty, cells, self.target)
        words = self._words[cells]
        bounds = number_limits(body, words)
        key = (cells, bounds)
        if key not in self._tables:
            self._tables[key] = words.tables(body.bits_per_cell, *bounds)
        return words, bounds, self._tables[key]


def number_limits(body: Programmed, words: StuckWords) -> tuple[int, int]:
    """Numbers in the cells that the host can take back; all of the format where the model holds floats."""
    lowest, highest = words.lowest, words.lowest + words.numbers - 1
    if not body.given:
        return lowest, highest
    low, high = int((body.limits[:, 0] + body.offset).max()), int((body.limits[:, 1] + body.offset).min())
    if body.encoding in ("driver", "split"):
        return 0, min(highest, high, -low)
    return max(lowest, low), min(highest, high)
