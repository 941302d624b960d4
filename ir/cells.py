"""How a weight code stands in cells: the sign encoding and the digits (bit slices).

A weight occupies ``columns`` neighbouring cells of one row.  Their levels, most significant first, are the
base-``2**bits_per_cell`` digits of one unsigned **word**; passes work on words (a changed cell is a changed
digit of the XOR), the emitted program and the virtual chip on levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ir.arrays import Array, word_dtype
from ir.errors import XbcError

I64 = npt.NDArray[np.int64]

ENCODINGS: Final = {
    "driver": "sign in the row driver (one output per section), magnitude in the cells",
    "split": "a section holds weights of one sign, magnitude in the cells; the adder adds or subtracts",
    "differential": "positive magnitude and negative magnitude side by side, read as their difference",
    "offset": "code + offset in the cells, offset times the sum of inputs subtracted digitally",
    "twos-complement": "sign bit in a slice of its own with weight -2**(bits-1), then the lower bits",
    "unipolar": "codes are never negative, stored as they are",
}
DIGITS: Final = "digits"
"""Encoding of a layer whose columns count for signed weights of its own, where the target's adders have them."""
MAGNITUDE_ENCODINGS: Final = frozenset({"driver", "split", "differential"})
LARGEST_DIGIT: Final = 1 << 15
"""Of a column's own weight, as magnitude."""


@dataclass(frozen=True)
class CellFormat:
    """Encoding and slicing of one layer.

    Fields:
        encoding: a key of ``ENCODINGS``, or ``DIGITS``.
        bits: stored bits: of the magnitude for driver, split, differential and unipolar; of the whole
            code (sign included) for offset and twos-complement; of the word for digits.
        bits_per_cell: 1..4; a cell has ``2**bits_per_cell`` levels.
        digits: what one level of each column counts for, most significant cell first (digits encoding only).
    """

    encoding: str
    bits: int
    bits_per_cell: int
    digits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS and self.encoding != DIGITS:
            raise XbcError(f"unknown encoding {self.encoding!r}; known: {', '.join(ENCODINGS)}")
        if not 1 <= self.bits <= 17:
            raise XbcError(f"bits = {self.bits} is outside 1..17")
        if not 1 <= self.bits_per_cell <= 4:
            raise XbcError(f"bits_per_cell = {self.bits_per_cell} is outside 1..4")
        if (self.encoding == DIGITS) != bool(self.digits):
            raise XbcError(
                f"encoding {self.encoding!r} with digits {list(self.digits)}: digits belong to that encoding"
            )
        if self.digits and self.bits != len(self.digits) * self.bits_per_cell:
            raise XbcError(
                f"{len(self.digits)} digits of {self.bits_per_cell} bits are no words of {self.bits} bits"
            )
        if any(not 0 < abs(digit) <= LARGEST_DIGIT for digit in self.digits):
            raise XbcError(f"digits {list(self.digits)} are not all within 1..{LARGEST_DIGIT} in magnitude")
        if self.columns * self.bits_per_cell > 32:
            raise XbcError(
                f"{self.encoding} weights of {self.bits} bits with {self.bits_per_cell} bits per cell need "
                f"words of {self.columns * self.bits_per_cell} bits; at most 32 are supported: lower the bits"
            )

    @property
    def slices(self) -> int:
        """Cells per stored number: digits of one polarity (the sign slice of twos-complement included)."""
        if self.encoding == "twos-complement":
            return 1 + -(-(self.bits - 1) // self.bits_per_cell)
        return -(-self.bits // self.bits_per_cell)

    @property
    def columns(self) -> int:
        """Cells per weight."""
        return self.slices * (2 if self.encoding == "differential" else 1)

    @property
    def word_bits(self) -> int:
        """Bits of a word: digits of all its cells."""
        return self.columns * self.bits_per_cell

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a word: the smallest unsigned one."""
        return word_dtype(self.word_bits)

    @property
    def cell_weights(self) -> I64:
        """[columns] integer weight of each cell's level in the decoded code (before sign and offset)."""
        if self.digits:
            return np.array(self.digits, np.int64)
        powers = np.left_shift(np.int64(1), self.bits_per_cell * np.arange(self.slices - 1, -1, -1))
        if self.encoding == "differential":
            return np.concatenate([powers, -powers])
        if self.encoding == "twos-complement":
            low = np.left_shift(np.int64(1), self.bits_per_cell * np.arange(self.slices - 2, -1, -1))
            return np.concatenate([[-(np.int64(1) << (self.bits - 1))], low])
        return powers

    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code (before an offset is added, for offset: of the stored number)."""
        if self.encoding in MAGNITUDE_ENCODINGS:
            top = (1 << self.bits) - 1
            return -top, top
        if self.encoding == "twos-complement":
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        if self.digits:
            top = (1 << self.bits_per_cell) - 1
            return top * sum(d for d in self.digits if d < 0), top * sum(d for d in self.digits if d > 0)
        return 0, (1 << self.bits) - 1

    def encode(self, codes: Array, offset: Array | int = 0) -> Array:
        """Words of integer codes.

        Args:
            codes: any shape, integer.
            offset: broadcastable to ``codes``; only the offset encoding uses it.
        Returns: same shape, dtype ``self.dtype``.  Driver and split words hold the magnitude; the sign
            stays with the section (see ``Sectioned``).  Digits need not spell every code: of the words that stand
            for the nearest number, the one with the fewest cells above level 0 is taken.
        """
        if self.digits:
            return np.asarray(nearest_words(self)[np.clip(codes, *self.code_range()) - self.code_range()[0]])
        wide: Array = codes.astype(np.int64 if self.word_bits > 16 else np.int32, copy=False)
        if self.encoding in ("driver", "split"):
            return np.abs(wide).astype(self.dtype)
        if self.encoding == "differential":
            shift = self.slices * self.bits_per_cell
            positive, negative = np.maximum(wide, 0), np.maximum(-wide, 0)
            return ((positive << shift) | negative).astype(self.dtype)
        if self.encoding == "offset":
            return (wide + offset).astype(self.dtype)
        if self.encoding == "twos-complement":
            low_bits = self.bits - 1
            low = wide & ((1 << low_bits) - 1)
            return (((wide < 0).astype(wide.dtype) << (self.bits_per_cell * (self.slices - 1))) | low).astype(
                self.dtype
            )
        return wide.astype(self.dtype)

    def decode(self, words: Array, offset: Array | int = 0) -> Array:
        """Codes (int32) of words: the sum of level times cell weight, minus the offset.

        Driver and split words decode to the magnitude; the caller applies the sign.
        """
        wide = words.astype(np.int64)
        if self.digits:
            return np.asarray(spelled(self)[wide])
        if self.encoding == "differential":
            shift = self.slices * self.bits_per_cell
            code = (wide >> shift) - (wide & ((1 << shift) - 1))
        elif self.encoding == "twos-complement":
            shift = self.bits_per_cell * (self.slices - 1)
            code = (wide & ((1 << shift) - 1)) - ((wide >> shift) << (self.bits - 1))
        else:
            code = wide
        if self.encoding == "offset":
            code = code - offset
        return code.astype(np.int32)

    def levels(self, words: Array) -> Array:
        """Cell levels, uint8, shape ``words.shape + (columns,)``, most significant digit first."""
        mask = np.uint32((1 << self.bits_per_cell) - 1)
        return ((words[..., None].astype(np.uint32) >> self._shifts) & mask).astype(np.uint8)

    def words(self, levels: Array) -> Array:
        """Inverse of ``levels``: ``[..., columns]`` uint8 to words ``[...]``."""
        placed = levels.astype(np.uint32) << self._shifts
        return np.asarray(np.bitwise_or.reduce(placed, axis=-1), self.dtype)

    @property
    def _shifts(self) -> Array:
        """[columns] uint32: how far the digit of each cell stands from the word's lowest bit."""
        return (self.bits_per_cell * np.arange(self.columns - 1, -1, -1)).astype(np.uint32)


@cache
def spelled(cells: CellFormat) -> Array:
    """``[2**word_bits]`` int32: the number that each word of a digits encoding stands for."""
    levels = cells.levels(np.arange(1 << cells.word_bits, dtype=np.uint32))
    out = (levels @ cells.cell_weights).astype(np.int32)
    out.flags.writeable = False
    return out


@cache
def nearest_words(cells: CellFormat) -> Array:
    """``[high - low + 1]`` word of each number of ``code_range`` under a digits encoding (see ``encode``)."""
    low, high = cells.code_range()
    values = spelled(cells)
    used = np.count_nonzero(cells.levels(np.arange(len(values), dtype=np.uint32)), axis=1)
    order = np.lexsort((np.arange(len(values)), used, values))
    distinct, first = np.unique(values[order], return_index=True)
    wanted = np.arange(low, high + 1)
    above = np.clip(np.searchsorted(distinct, wanted), 1, max(1, len(distinct) - 1))
    below = above - 1
    nearer = np.where(wanted - distinct[below] <= distinct[above] - wanted, below, above)
    out = order[first[nearer]].astype(cells.dtype)
    out.flags.writeable = False
    return np.asarray(out)
