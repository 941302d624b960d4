"""Packed bit planes: sections as rows of 64-bit lanes, and the number of cells in which two of them differ."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from ir.arrays import Array


@intrinsic  # type: ignore[misc]
def popcount(typing_context: Any, x: Any) -> Any:
    """Set bits of a uint64 (one instruction where the processor has it)."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), codegen


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


@njit(cache=True, nogil=True, inline="always")  # type: ignore[misc]
def distance(a: Any, b: Any, bits: int, mask: Any) -> int:
    """Digits in which two packed sections differ."""
    total = 0
    if bits == 1:
        for k in range(a.shape[0]):
            total += popcount(a[k] ^ b[k])
    elif bits == 2:
        for k in range(a.shape[0]):
            x = a[k] ^ b[k]
            total += popcount((x | (x >> np.uint64(1))) & mask)
    else:
        for k in range(a.shape[0]):
            x = a[k] ^ b[k]
            x |= x >> np.uint64(1)
            total += popcount((x | (x >> np.uint64(2))) & mask)
    return total


@njit(cache=True, nogil=True)  # type: ignore[misc]
def path_cost(planes: Any, order: Any, bits: int, mask: Any) -> int:
    """Cells that change along an open path."""
    total = 0
    for i in range(1, order.shape[0]):
        total += distance(planes[order[i - 1]], planes[order[i]], bits, mask)
    return total


@njit(cache=True, nogil=True)  # type: ignore[misc]
def distance_matrix(planes: Any, rows: Any, bits: int, mask: Any) -> Any:
    """``[n, n]`` int32 distances between the listed rows."""
    n = rows.shape[0]
    out = np.zeros((n, n), np.int32)
    for i in range(n):
        for j in range(i + 1, n):
            d = distance(planes[rows[i]], planes[rows[j]], bits, mask)
            out[i, j] = d
            out[j, i] = d
    return out


@njit(cache=True, nogil=True)  # type: ignore[misc]
def nearest_neighbour_path(planes: Any, members: Any, start: int, bits: int, mask: Any) -> Any:
    """Greedy path over ``members`` (rows of ``planes``).

    ``start``: row the path continues from (not a member), or -1 to begin at the first member.
    """
    left = members.copy()
    n = left.shape[0]
    path = np.empty(n, members.dtype)
    current = start
    for i in range(n):
        best = 0
        if current >= 0:
            best_distance = 1 << 62
            for j in range(n - i):
                d = distance(planes[current], planes[left[j]], bits, mask)
                if d < best_distance:
                    best_distance = d
                    best = j
        current = left[best]
        path[i] = current
        # keep the list in order: ties then fall to the earlier section whatever was taken before
        for j in range(best, n - i - 1):
            left[j] = left[j + 1]
    return path
