"""Distances between sections for the ordering problem.

``cells``: cells in which two sections differ, row by row.  ``multiset``: rows may still be permuted
(match-rows), so only the multiset of words counts: L1 distance of the histograms of words plus that of the
ones per bit column.  Half the first and the whole of the second are lower bounds on the writes that the best
row matching leaves; their sum orders sections about 10 % better than either.  Where several outputs share the rows,
the distances of the column groups add up (of many groups only those of the columns: the same orders at less memory).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ir.arrays import Array
from ir.cells import CellFormat
from passes.solvers.planes import distance, fold_mask, pack

HISTOGRAM_BITS = 8
HISTOGRAM_GROUPS = 4
"""Column groups of a section up to which the words themselves are counted, not only the levels of the columns."""


def multiset_features(words: Array, driven: Array, cells: CellFormat) -> Array:
    """``[sections, 256 + columns * (2**bits_per_cell - 1)]`` uint8 counts.

    Args:
        words: ``[sections, rows]``; of wider words the upper ``HISTOGRAM_BITS`` count.
        driven: ``[sections, rows]`` bool; don't-care rows count nothing.
    """
    levels = (1 << cells.bits_per_cell) - 1
    out = np.zeros((words.shape[0], (1 << HISTOGRAM_BITS) + cells.columns * levels), np.uint8)
    shift = max(0, cells.word_bits - HISTOGRAM_BITS)
    count_words(words, driven, shift, cells.columns, cells.bits_per_cell, out)
    return out


def _group_features(words: Array, driven: Array, cells: CellFormat) -> Array:
    """``multiset_features`` of the column groups of ``words [sections, rows, G]`` side by side."""
    groups = words.shape[2]
    skipped = 0 if groups <= HISTOGRAM_GROUPS else 1 << HISTOGRAM_BITS
    parts = [multiset_features(words[:, :, g], driven, cells)[:, skipped:] for g in range(groups)]
    return np.concatenate(parts, axis=1)


@njit(cache=True, nogil=True)
def count_words(words: Any, driven: Any, shift: int, columns: int, bits: int, out: Any) -> None:
    """Fills the histogram and, per column, how many digits reach each level (saturating at 255)."""
    levels = (1 << bits) - 1
    for s in range(words.shape[0]):
        for r in range(words.shape[1]):
            if not driven[s, r]:
                continue
            word = np.uint32(words[s, r])
            bin_ = word >> np.uint32(shift)
            if out[s, bin_] < 255:
                out[s, bin_] += 1
            for d in range(columns):
                digit = (word >> np.uint32(bits * d)) & np.uint32(levels)
                for level in range(digit):
                    k = (1 << 8) + d * levels + level
                    if out[s, k] < 255:
                        out[s, k] += 1


@njit(cache=True, nogil=True)
def _l1_to(x: Any, rows: Any, n: int, out: Any) -> None:
    """L1 distances of ``x`` to ``rows[:n]``; four rows at a time and differences in 8 bits, which vectorises."""
    width = x.shape[0]
    whole = n - n % 4
    for j in range(0, whole, 4):
        r0, r1, r2, r3 = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
        d0, d1, d2, d3 = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
        for k in range(width):
            v = x[k]
            d0 += np.int32(np.uint8(max(v, r0[k]) - min(v, r0[k])))
            d1 += np.int32(np.uint8(max(v, r1[k]) - min(v, r1[k])))
            d2 += np.int32(np.uint8(max(v, r2[k]) - min(v, r2[k])))
            d3 += np.int32(np.uint8(max(v, r3[k]) - min(v, r3[k])))
        out[j], out[j + 1], out[j + 2], out[j + 3] = d0, d1, d2, d3
    for j in range(whole, n):
        r0, d0 = rows[j], np.int32(0)
        for k in range(width):
            d0 += np.int32(np.uint8(max(x[k], r0[k]) - min(x[k], r0[k])))
        out[j] = d0


@njit(cache=True, nogil=True)
def l1_matrix(features: Any, members: Any) -> Any:
    """``[n, n]`` uint16 L1 distances between the listed rows of ``features``."""
    n = members.shape[0]
    rows = features[members]
    out = np.zeros((n, n), np.uint16)
    line = np.zeros(n, np.int32)
    for i in range(n):
        _l1_to(rows[i], rows, i, line)
        for j in range(i):
            out[i, j] = line[j]
            out[j, i] = line[j]
    return out


@njit(cache=True, nogil=True)
def l1_between(a: Any, b: Any) -> Any:
    """``[n, m]`` int32 L1 distances between the rows of ``a`` and of ``b``."""
    out = np.zeros((a.shape[0], b.shape[0]), np.int32)
    for i in range(a.shape[0]):
        _l1_to(a[i], b, b.shape[0], out[i])
    return out


@njit(cache=True, nogil=True)
def l1_steps(rows: Any) -> Any:
    """``[n - 1]`` int32 L1 distances of neighbouring rows."""
    out = np.zeros(max(0, rows.shape[0] - 1), np.int32)
    for i in range(out.shape[0]):
        _l1_to(rows[i], rows[i + 1 : i + 2], 1, out[i : i + 1])
    return out


@njit(cache=True, nogil=True)
def cell_steps(rows: Any, bits: int, mask: Any) -> Any:
    """``[n - 1]`` int32 cell distances of neighbouring packed rows."""
    out = np.zeros(max(0, rows.shape[0] - 1), np.int32)
    for i in range(out.shape[0]):
        out[i] = distance(rows[i], rows[i + 1], bits, mask)
    return out


@njit(cache=True, nogil=True)
def cell_matrix(planes: Any, members: Any, bits: int, mask: Any) -> Any:
    """``[n, n]`` uint16 cell distances between the listed rows of packed ``planes`` (saturating)."""
    n = members.shape[0]
    out = np.zeros((n, n), np.uint16)
    for i in range(n):
        for j in range(i):
            d = min(distance(planes[members[i]], planes[members[j]], bits, mask), 65535)
            out[i, j] = d
            out[j, i] = d
    return out


@njit(cache=True, nogil=True)
def cells_between(a: Any, b: Any, bits: int, mask: Any) -> Any:
    """``[n, m]`` int32 cell distances between the packed rows of ``a`` and of ``b``."""
    out = np.zeros((a.shape[0], b.shape[0]), np.int32)
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            out[i, j] = distance(a[i], b[j], bits, mask)
    return out


@njit(cache=True, nogil=True)
def _lacking(x: Any, rows: Any, words: int, out: Any) -> None:
    """Twice the words of ``x`` that each of ``rows`` lacks, plus the digits it lacks (entries from ``words`` on);
    four rows at a time, as ``_l1_to``."""
    width, n = x.shape[0], rows.shape[0]
    whole = n - n % 4
    for j in range(0, whole, 4):
        r0, r1, r2, r3 = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
        d0, d1, d2, d3 = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
        e0, e1, e2, e3 = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
        for k in range(words):
            v = x[k]
            d0 += np.int32(np.uint8(max(v, r0[k]) - r0[k]))
            d1 += np.int32(np.uint8(max(v, r1[k]) - r1[k]))
            d2 += np.int32(np.uint8(max(v, r2[k]) - r2[k]))
            d3 += np.int32(np.uint8(max(v, r3[k]) - r3[k]))
        for k in range(words, width):
            v = x[k]
            e0 += np.int32(np.uint8(max(v, r0[k]) - r0[k]))
            e1 += np.int32(np.uint8(max(v, r1[k]) - r1[k]))
            e2 += np.int32(np.uint8(max(v, r2[k]) - r2[k]))
            e3 += np.int32(np.uint8(max(v, r3[k]) - r3[k]))
        out[j], out[j + 1] = 2 * d0 + e0, 2 * d1 + e1
        out[j + 2], out[j + 3] = 2 * d2 + e2, 2 * d3 + e3
    for j in range(whole, n):
        r0 = rows[j]
        d0, e0 = np.int32(0), np.int32(0)
        for k in range(words):
            d0 += np.int32(np.uint8(max(x[k], r0[k]) - r0[k]))
        for k in range(words, width):
            e0 += np.int32(np.uint8(max(x[k], r0[k]) - r0[k]))
        out[j] = 2 * d0 + e0


@njit(cache=True, nogil=True)
def lacking_between(a: Any, b: Any, words: int) -> Any:
    """``[n, m]`` int32 cost of loading each of ``a`` where each of ``b`` stands."""
    out = np.zeros((a.shape[0], b.shape[0]), np.int32)
    for i in range(a.shape[0]):
        _lacking(a[i], b, words, out[i])
    return out


@njit(cache=True, nogil=True)
def left_behind(a: Any, b: Any, rows_a: Any, rows_b: Any, words: int, out: Any) -> None:
    """What stands in a crossbar that held ``b[i]`` once ``a[i]`` is loaded: rows that it does not need stay."""
    for i in range(a.shape[0]):
        out[i] = a[i]
        stay, rows = rows_b[i] - rows_a[i], rows_b[i]
        if stay <= 0:
            continue
        seen = np.int64(0)
        for k in range(words):  # rounded so that the rows that stay add up
            before = seen * stay // rows
            seen += np.int64(b[i, k])
            out[i, k] = min(255, np.int64(out[i, k]) + seen * stay // rows - before)
        for k in range(words, a.shape[1]):
            out[i, k] = min(255, np.int64(out[i, k]) + np.int64(b[i, k]) * stay // rows)


class Metric:
    """Distances between the sections of one layer under one of the two measures."""

    def __init__(self, kind: str, words: Array, driven: Array, cells: CellFormat) -> None:
        """``words [sections, rows, G]``, ``driven [sections, rows]``; kind ``cells`` or ``multiset``."""
        self.kind = kind
        self.bits = cells.bits_per_cell
        self.mask = np.uint64(fold_mask(self.bits))
        self.rows = (
            _group_features(words, driven, cells)
            if kind == "multiset"
            else pack(words, self.bits, cells.columns)
        )

        self.groups = words.shape[2]
        self.driven = driven.sum(1)

    def contents(self, sections: Array) -> Array:
        """``[n, width]`` what ``sections`` leave in a blank crossbar, as ``entering`` and ``after`` compare it."""
        rows = self.rows[sections]
        if self.kind != "multiset":
            return np.asarray(rows)
        parts = rows.reshape(
            len(rows), self.groups, -1
        )  # of each column group: words, if counted, and levels
        words = self.counted // self.groups
        reached = parts[:, :, words:].reshape(len(rows), -1)
        count = np.minimum(self.driven[sections], 255).astype(np.uint8)[:, None]
        left = count - np.minimum(reached, count)
        return np.concatenate([parts[:, :, :words].reshape(len(rows), -1), reached, left], axis=1)

    @property
    def counted(self) -> int:
        """Entries of the contents that count words."""
        return self.groups << HISTOGRAM_BITS if self.groups <= HISTOGRAM_GROUPS else 0

    def entering(self, sections: Array, contents: Array) -> Array:
        """``[n, m]`` int32 cost of loading sections over contents; rows that a section does not need may stay.

        Between sections of equally many rows it is the distance.
        """
        if self.kind != "multiset":
            return np.asarray(cells_between(self.rows[sections], contents, self.bits, self.mask))
        return np.asarray(lacking_between(self.contents(sections), contents, self.counted))

    def after(self, sections: Array, contents: Array) -> Array:
        """``[n, width]`` contents after section i was loaded over ``contents[i]``."""
        loaded = self.contents(sections)
        if self.kind != "multiset":
            return loaded
        words = self.counted
        # rows that hold something: the words of one column group, or its cells at and below the lowest level
        counts = contents[:, : words // self.groups] if words else contents[:, [0, contents.shape[1] // 2]]
        rows = counts.sum(axis=1, dtype=np.int64)
        out = np.empty_like(loaded)
        left_behind(loaded, contents, self.driven[sections].astype(np.int64), rows, words, out)
        return out

    def along(self) -> Array:
        """``[sections - 1]`` distances of neighbours in table order."""
        if self.kind == "multiset":
            return np.asarray(l1_steps(self.rows))
        return np.asarray(cell_steps(self.rows, self.bits, self.mask))

    def matrix(self, members: Array) -> Array:
        """``[n, n]`` uint16 distances between sections ``members``."""
        if self.kind == "multiset":
            return np.asarray(l1_matrix(self.rows, members))
        return np.asarray(cell_matrix(self.rows, members, self.bits, self.mask))

    def between(self, a: Array, b: Array) -> Array:
        """``[n, m]`` int32 distances between two sets of feature rows (``rows`` of metrics of equal kind)."""
        if self.kind == "multiset":
            return np.asarray(l1_between(a, b))
        return np.asarray(cells_between(a, b, self.bits, self.mask))
