"""What levels mean, written from docs/program-format.md and not from the compiler's code.

A weight is the sum of its cells' levels times the cells' weights, minus the column group's offset, times the
row's sign or the section's polarity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SIGNED_ROWS: Final = "driver"
SIGNED_SECTIONS: Final = "split"
WITH_OFFSET: Final = "offset"
ENCODINGS: Final = ("driver", "split", "differential", "offset", "twos-complement", "unipolar")
OWN_WEIGHTS: Final = "digits"


def cell_weights(encoding: str, bits: int, bits_per_cell: int, listed: Sequence[int] = ()) -> list[int]:
    """Weight of each cell of a weight, most significant first.

    Args:
        listed: the weights that the layer names; only the digits encoding has its own.
    Raises: ValueError for an unknown encoding or sizes that no program has.
    """
    if encoding not in (*ENCODINGS, OWN_WEIGHTS) or not 1 <= bits <= 17 or not 1 <= bits_per_cell <= 4:
        raise ValueError(f"no such cells: {encoding!r}, {bits} bits, {bits_per_cell} bits per cell")
    if encoding == OWN_WEIGHTS:
        if len(listed) * bits_per_cell != bits or any(not 0 < abs(weight) <= 2**15 for weight in listed):
            raise ValueError(f"no such digits: {list(listed)} in {bits} bits, {bits_per_cell} bits per cell")
        return list(listed)
    if encoding == "twos-complement":
        return [-(2 ** (bits - 1)), *_digits(bits - 1, bits_per_cell)]
    digits = _digits(bits, bits_per_cell)
    return digits + [-weight for weight in digits] if encoding == "differential" else digits


def _digits(bits: int, bits_per_cell: int) -> list[int]:
    count = (bits + bits_per_cell - 1) // bits_per_cell
    return [2 ** (bits_per_cell * (count - 1 - i)) for i in range(count)]
