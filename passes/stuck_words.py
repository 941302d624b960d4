"""Where a chip's stuck cells lie under the words of a cell format."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ir.arrays import Array
from ir.cells import CellFormat
from ir.faulty import FaultyCells
from ir.target import Target
from passes.solvers.stuck import cell_order, fill_tables

MOST_NEAREST = 1 << 22
"""Entries of the tables of nearest words; wider formats search for each weight."""


@dataclass(frozen=True)
class StuckWords:
    """Places (crossbar, row, column group) with stuck cells.

    Fields:
        at: ``[crossbars + 1]`` bounds of each crossbar's places in row, group and pattern.
        row, group, pattern: ``[places]``.
        masks, levels: ``[patterns]`` int64 stuck digits (all ones) and their levels; mask 0: a level that the
            format does not have.
        cells, shifts: of the format, see ``passes.solvers.stuck.nearest``.
        lowest: smallest number of the format.
        numbers: how many there are.
    """

    at: Array
    row: Array
    group: Array
    pattern: Array
    masks: Array
    levels: Array
    cells: Array
    shifts: Array
    lowest: int
    numbers: int

    @classmethod
    def of(cls, faulty: FaultyCells, cells: CellFormat, target: Target) -> StuckWords:
        """The places on a chip, for words of that format side by side."""
        width, bits = cells.columns, cells.bits_per_cell
        groups, top = target.columns // width, (1 << bits) - 1
        crossbar, row, column, level = faulty.cells[faulty.cells[:, 2] < groups * width].T.astype(np.int64)
        shift = bits * (width - 1 - column % width)
        key = (crossbar * target.rows + row) * max(1, groups) + column // width
        first = np.flatnonzero(np.diff(key, prepend=-1))
        mask, held, unknown = (
            np.bitwise_or.reduceat(x, first) if len(first) else np.zeros(0, np.int64)
            for x in (top << shift, np.minimum(level, top) << shift, (level > top).astype(np.int64))
        )
        mask, held = np.where(unknown, 0, mask), np.where(unknown, 1, held)
        kinds, pattern = np.unique(mask << 32 | held, return_inverse=True)
        weights = cells.cell_weights
        ordered, shifts = cell_order(weights, bits)
        lowest, highest = (int(top * weights[sign * weights > 0].sum()) for sign in (-1, 1))
        return cls(
            at=np.searchsorted(crossbar[first], np.arange(target.crossbars + 1)),
            row=row[first],
            group=column[first] // width,
            pattern=pattern.reshape(-1).astype(np.int64),
            masks=kinds >> 32,
            levels=kinds & 0xFFFFFFFF,
            cells=ordered,
            shifts=shifts,
            lowest=lowest,
            numbers=highest - lowest + 1,
        )

    def tables(self, bits: int, low: int, high: int) -> tuple[Array, Array]:
        """(errors, words) of ``fill_tables`` for numbers within ``low .. high``; of width 0 when they were large."""
        size = self.numbers if len(self.masks) * self.numbers <= MOST_NEAREST else 0
        errors = np.zeros((len(self.masks), size), np.int32)
        words = np.zeros((len(self.masks), size), np.uint32)
        if size:
            fill_tables(
                self.masks, self.levels, self.cells, self.shifts, bits, self.lowest, low, high, errors, words
            )
        return errors, words
