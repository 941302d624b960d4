"""The state of a chip: one level per cell."""

from __future__ import annotations

import zlib

import numpy as np

from ir.arrays import Array
from ir.faulty import FaultyCells
from ir.target import Target
from xbc.backend.walk import check_cells


class Chip:
    """Crossbars of memristor cells, blank (level 0) except for faulty cells, which never change.

    Fields:
        levels: ``[crossbars, rows, columns]`` uint8.
        faulty: ``[crossbars, rows, columns]`` bool.
    """

    def __init__(
        self,
        crossbars: int,
        rows: int,
        columns: int,
        bits_per_cell: int,
        faulty: FaultyCells | None = None,
    ) -> None:
        """A blank chip.

        Args:
            faulty: cells that hold their level for ever.
        Raises: XbcError when it has more cells than can be simulated.
        """
        check_cells(crossbars, rows, columns)
        self.bits_per_cell = bits_per_cell
        cells = FaultyCells() if faulty is None else faulty
        self.levels: Array = cells.stamp(np.zeros((crossbars, rows, columns), np.uint8))
        self.faulty: Array = cells.mask((crossbars, rows, columns))

    @classmethod
    def of(cls, target: Target) -> Chip:
        """The blank chip of a target."""
        return cls(target.crossbars, target.rows, target.columns, target.bits_per_cell, target.faulty)

    def apply(self, crossbar: Array, row: Array, column: Array, before: Array, after: Array) -> Array:
        """Writes cells (no cell twice); arrays ``[writes]``.

        Returns: ``[writes]`` bool, True where the cell held another level than ``before`` or is faulty.
            Faulty cells keep their level, all others take ``after``.
        """
        faulty = self.faulty[crossbar, row, column]
        wrong = (self.levels[crossbar, row, column] != before) | faulty
        keep = ~faulty
        self.levels[crossbar[keep], row[keep], column[keep]] = after[keep]
        return np.asarray(wrong)

    def crc(self, crossbar: int) -> int:
        """CRC-32 (as of zlib) of a crossbar: one byte per cell, row by row."""
        return zlib.crc32(self.levels[crossbar])
