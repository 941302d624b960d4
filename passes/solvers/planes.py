"""Packed bit planes: sections as rows of 64-bit lanes, and the number of cells in which two of them differ."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from ir.arrays import Array


def _count_bits(typing_context: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), codegen


popcount: Any = intrinsic(_count_bits)
"""Set bits of a uint64 inside a kernel (one instruction where the processor has it)."""


def fold_mask(bits: int) -> int:
    """Mask of the lowest bit of every ``bits``-bit digit in 64 bits (3-bit digits are widened to 4 first)."""
    step = 4 if bits == 3 else bits
    return sum(1 << i for i in range(0, 64, step))


def pack(words: Array, bits: int, columns: int) -> Array:
    """``[n, ...]`` words of ``columns`` digits to ``[n, lanes]`` uint64 whose digits never straddle a lane.

    Three-bit digits are spread to four bits, so that ``distance`` can fold them.
    """
    n = words.shape[0]
    if bits == 3:
        wide = np.zeros(words.shape, np.uint64)
        for d in range(columns):
            wide |= ((words.astype(np.uint64) >> np.uint64(3 * d)) & np.uint64(7)) << np.uint64(4 * d)
        words = wide
    size = words.dtype.itemsize
    flat = np.ascontiguousarray(words.reshape(n, -1)).view(np.uint8)
    padded = -(-flat.shape[1] // 8) * 8
    if padded != flat.shape[1] or size == 0:
        out = np.zeros((n, padded), np.uint8)
        out[:, : flat.shape[1]] = flat
        flat = out
    return flat.view(np.uint64)


@njit(cache=True, nogil=True, inline="always")
def changed(x: Any, bits: int, mask: Any) -> Any:
    """Non-zero digits of an XOR of packed lanes; ``mask`` is ``fold_mask(bits)``."""
    if bits >= 2:
        x |= x >> np.uint64(1)
    if bits >= 3:
        x |= x >> np.uint64(2)
    return popcount(x & mask)


@njit(cache=True, nogil=True, inline="always")
def distance(a: Any, b: Any, bits: int, mask: Any) -> int:
    """Digits in which two packed sections differ."""
    total = 0
    for k in range(a.shape[0]):
        total += changed(a[k] ^ b[k], bits, mask)
    return total
