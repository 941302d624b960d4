"""Cells that cannot be written: the fault map of a chip, as one array."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from ir.arrays import Array, frozen
from ir.errors import XbcError

MOST_LISTED: Final = 256
"""Maps of more cells are written as one text or one array: a list of lists is slow to read."""
_TEXT: Final = re.compile(r"[\d\s]*")


class FaultyCells:
    """A fault map.

    Fields:
        cells: ``[cells, 4]`` int32, rows of (crossbar, row, column, level), ascending, each cell once.
    """

    __slots__ = ("cells",)

    def __init__(self, cells: Any = ()) -> None:
        """From anything that numpy takes for ``[cells, 4]`` integers, in any order.

        Raises: XbcError for an entry of another shape, and for a cell that is stuck at two levels.
        """
        try:
            array = np.asarray(cells)
        except ValueError:  # lists of different lengths
            array = np.zeros((1, 0), np.int64)
        if array.size == 0 and array.ndim == 1:
            array = np.zeros((0, 4), np.int64)
        if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "iu":
            wrong = next((list(cell) for cell in cells if len(cell) != 4), None) if array.ndim == 2 else None
            entry = "" if wrong is None else f"entry {wrong} "
            raise XbcError(f"faulty {entry}is no [crossbar, row, column, level] of this chip")
        array = array.astype(np.int64)
        array = array[np.lexsort(array.T[::-1])]
        same = np.all(array[1:, :3] == array[:-1, :3], axis=1)
        twice = np.flatnonzero(same & (array[1:, 3] != array[:-1, 3]))
        if len(twice):
            *cell, level = array[twice[0]].tolist()
            raise XbcError(f"faulty cell {cell} is stuck at two levels, {level} and {array[twice[0] + 1, 3]}")
        array = array[np.concatenate([[True], ~same])[: len(array)]]
        self.cells: Array = frozen(np.clip(array, -1, np.iinfo(np.int32).max).astype(np.int32))

    @classmethod
    def from_plain(cls, plain: Any) -> FaultyCells:
        """The inverse of ``to_plain``.  Raises: XbcError for anything else."""
        if isinstance(plain, str):
            if not _TEXT.fullmatch(plain):
                raise XbcError("faulty must be a text of whole numbers, four for a cell")
            numbers = np.array(plain.split(), np.float64)  # numbers too long for an integer are refused below
            if len(numbers) % 4 or np.any(numbers >= 1 << 31):
                raise XbcError("faulty is a text, but not of four numbers below 2**31 for each cell")
            return cls(numbers.astype(np.int64).reshape(-1, 4))
        if not isinstance(plain, (list, tuple)) or not all(
            isinstance(c, (list, tuple)) and all(type(x) is int for x in c) for c in plain
        ):
            raise XbcError("faulty must be a list of integer lists")
        return cls([[min(max(x, -1), 1 << 31) for x in cell] for cell in plain])

    def to_plain(self) -> list[list[int]] | str:
        """For JSON and TOML: a list of [crossbar, row, column, level], or the same numbers as one text."""
        if len(self.cells) <= MOST_LISTED:
            return [list(cell) for cell in self]
        return " ".join(map(str, self.cells.ravel().tolist()))

    def outside(self, crossbars: int, rows: int, columns: int, levels: int) -> list[int] | None:
        """The first entry that is no cell or level of such a chip."""
        limits = (crossbars, rows, columns, levels)
        bad = np.flatnonzero(np.any((self.cells < 0) | (self.cells >= limits), axis=1))
        return None if not len(bad) else [int(x) for x in self.cells[bad[0]]]

    def crossbars(self) -> tuple[int, ...]:
        """Crossbars with faulty cells, ascending."""
        return tuple(np.unique(self.cells[:, 0]).tolist())

    def index(self) -> tuple[Array, Array, Array]:
        """(crossbar, row, column) of the cells: an index of ``[crossbars, rows, columns]`` arrays."""
        return self.cells[:, 0], self.cells[:, 1], self.cells[:, 2]

    def stamp(self, levels: Array) -> Array:
        """``levels [crossbars, rows, columns]`` with the level of every faulty cell, changed in place."""
        levels[self.index()] = self.cells[:, 3]
        return levels

    def mask(self, shape: tuple[int, int, int]) -> Array:
        """``[crossbars, rows, columns]`` bool."""
        mask = np.zeros(shape, np.bool_)
        mask[self.index()] = True
        return mask

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        """(crossbar, row, column, level) of each cell."""
        return iter([(c, r, k, level) for c, r, k, level in self.cells.tolist()])

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.cells)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FaultyCells) and np.array_equal(self.cells, other.cells)

    def __hash__(self) -> int:
        return hash(self.cells.tobytes())

    def __repr__(self) -> str:
        return (
            f"FaultyCells({self.cells.tolist()})" if len(self) <= 8 else f"FaultyCells(<{len(self)} cells>)"
        )
