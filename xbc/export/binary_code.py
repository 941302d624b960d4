"""Bits of the compact stream: Rice-coded gaps between written cells.  docs/exports.md describes every
byte.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from ir.arrays import Array

DAMAGED: Final = -1
_VERIFY_NONE, _VERIFY_ALL, _VERIFY_MIXED = 0, 1, 2


@njit(cache=True, nogil=True)
def _varint(out: Any, at: int, value: int) -> int:
    while value >= 128:
        out[at] = (value & 127) | 128
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


@njit(cache=True, nogil=True)
def _u32(out: Any, at: int, value: int) -> int:
    for i in range(4):
        out[at + i] = (value >> (8 * i)) & 255
    return at + 4


@njit(cache=True, nogil=True)
def _rice_parameter(cell: Any, phase: Any, a: int, b: int, which: int) -> tuple[int, int]:
    """(writes of a phase, the Rice parameter that costs the fewest bits)."""
    best, best_bits, count = 0, -1, 0
    for k in range(32):
        bits, last, count = 0, -1, 0
        for w in range(a, b):
            if phase[w] == which:
                bits += ((cell[w] - last - 1) >> k) + 1 + k
                last = cell[w]
                count += 1
        if best_bits >= 0 and bits >= best_bits:
            break
        best, best_bits = k, bits
    return count, best


@njit(cache=True, nogil=True)
def _bits(out: Any, at: int, value: int, count: int) -> int:
    """Appends ``count`` bits, most significant first; ``at`` counts bits."""
    for i in range(count - 1, -1, -1):
        if (value >> i) & 1:
            out[at >> 3] |= 128 >> (at & 7)
        at += 1
    return at


@njit(cache=True, nogil=True)
def _encode(
    crossbar: Any, steps: Any, crc_first: Any, crc_steady: Any, write_at: Any, cell: Any, after: Any,
    phase: Any,
    verify: Any, level_bits: int, record: Any, out: Any,
) -> int:  # fmt: skip
    at = 0
    for i in range(crossbar.shape[0]):
        a, b = write_at[i], write_at[i + 1]
        verified = 0
        for w in range(a, b):
            verified += verify[w]
        mode = _VERIFY_NONE if verified == 0 else _VERIFY_ALL if verified == b - a else _VERIFY_MIXED
        flags = mode << 4
        same = crc_first[i] == crc_steady[i]
        if not same:
            flags |= 8
        end = 1
        end = _varint(record, end, crossbar[i])
        end = _varint(record, end, steps[i])
        end = _u32(record, end, crc_first[i])
        if not same:
            end = _u32(record, end, crc_steady[i])
        ks = np.zeros(3, np.int64)
        for which in range(3):
            count, k = _rice_parameter(cell, phase, a, b, which)
            ks[which] = k
            if count:
                flags |= 1 << which
                end = _varint(record, end, count)
                record[end] = k
                end += 1
        record[0] = flags
        bit = end * 8
        room = record.shape[0]
        record[end:room] = 0
        for which in range(3):
            last = -1
            for w in range(a, b):
                if phase[w] != which:
                    continue
                gap = cell[w] - last - 1
                last = cell[w]
                for _ in range(gap >> ks[which]):
                    bit = _bits(record, bit, 1, 1)
                bit = _bits(record, bit, 0, 1)
                bit = _bits(record, bit, gap & ((1 << ks[which]) - 1), ks[which])
                bit = _bits(record, bit, after[w], level_bits)
                if mode == _VERIFY_MIXED:
                    bit = _bits(record, bit, verify[w], 1)
        size = (bit + 7) >> 3
        at = _varint(out, at, size)
        out[at : at + size] = record[:size]
        at += size
    return at


def encode(
    crossbar: Array, steps: Array, crc_first: Array, crc_steady: Array, write_at: Array, cell: Array,
    after: Array,
    phase: Array, verify: Array, level_bits: int,
) -> Array:  # fmt: skip
    """Records of loads as bytes; arguments as the columns of ``Loads``, ``cell`` = row * columns + column."""
    most = int(np.diff(write_at).max(initial=0))
    # a Rice code with the best parameter takes at most log2(cells) + 3 bits on average: 8 bytes with level
    # and flag
    record = np.zeros(64 + 8 * most, np.uint8)
    out = np.empty(80 * len(crossbar) + 8 * len(cell), np.uint8)
    used = _encode(
        crossbar.astype(np.int64), steps.astype(np.int64), crc_first.astype(np.int64),
        crc_steady.astype(np.int64),
        write_at, cell, after.astype(np.int64), phase, verify, level_bits, record, out,
    )  # fmt: skip
    return out[:used]


@njit(cache=True, nogil=True)
def _varint_bytes(value: int) -> int:
    size = 1
    while value >= 128:
        value >>= 7
        size += 1
    return size


@njit(cache=True, nogil=True)
def _steady_bytes(
    crossbar: Any, steps: Any, write_at: Any, cell: Any, phase: Any, verify: Any, level_bits: int, sizes: Any
) -> None:
    for i in range(crossbar.shape[0]):
        a, b = write_at[i], write_at[i + 1]
        verified = writes = 0
        for w in range(a, b):
            if phase[w] != 1:
                writes += 1
                verified += verify[w]
        tail = level_bits + (1 if 0 < verified < writes else 0)
        size, bits = 1 + 4 + _varint_bytes(crossbar[i]) + _varint_bytes(steps[i]), 0
        for which in (0, 2):
            count, k = _rice_parameter(cell, phase, a, b, which)
            if not count:
                continue
            size += _varint_bytes(count) + 1
            last = -1
            for w in range(a, b):
                if phase[w] == which:
                    bits += ((cell[w] - last - 1) >> k) + 1 + k + tail
                    last = cell[w]
        size += (bits + 7) >> 3
        sizes[i] = size + _varint_bytes(size)


def steady_bytes(
    crossbar: Array, steps: Array, write_at: Array, cell: Array, phase: Array, verify: Array, level_bits: int
) -> Array:
    """``[n]`` int64 sizes of the records that a controller reads in a steady inference.

    They are those of ``encode`` without writes of the first inference only, and with the CRC-32 of the steady one.
    Arguments as for ``encode``.
    """
    sizes = np.zeros(len(crossbar), np.int64)
    _steady_bytes(
        crossbar.astype(np.int64), steps.astype(np.int64), write_at.astype(np.int64), cell, phase, verify, level_bits,
        sizes,
    )  # fmt: skip
    return sizes


@njit(cache=True, nogil=True)
def _get_varint(raw: Any, at: int, end: int) -> tuple[int, int]:
    value, shift = 0, 0
    while at < end and shift < 63:
        value |= (int(raw[at]) & 127) << shift
        at += 1
        if raw[at - 1] < 128:
            return value, at
        shift += 7
    return -1, end


@njit(cache=True, nogil=True)
def _count_writes(raw: Any, at: int, loads: int) -> int:
    total, end_all = 0, raw.shape[0]
    for _ in range(loads):
        size, start = _get_varint(raw, at, end_all)
        if size < 1 or size > end_all - start:
            return DAMAGED
        at = start + size
        flags = raw[start]
        p = start + 1
        for _skip in range(2):
            value, p = _get_varint(raw, p, at)
            if value < 0:
                return DAMAGED
        p += 8 if flags & 8 else 4
        for which in range(3):
            if flags & (1 << which):
                count, p = _get_varint(raw, p, at)
                if count < 1 or count > 8 * size:
                    return DAMAGED
                p += 1
                total += count
        if p > at:
            return DAMAGED
    return total


@njit(cache=True, nogil=True)
def _decode(
    raw: Any, at: int, first: Any, later: Any, level_bits: int, head: Any, owner: Any, cells: Any,
    before: Any,
    after: Any, phases: Any, verify: Any,
) -> int:  # fmt: skip
    columns = first.shape[2]
    chip_cells = first.shape[1] * columns
    n = 0
    for i in range(head.shape[0]):
        size, start = _get_varint(raw, at, raw.shape[0])
        at = start + size
        flags = raw[start]
        mode = (flags >> 4) & 3
        crossbar, p = _get_varint(raw, start + 1, at)
        step, p = _get_varint(raw, p, at)
        if crossbar >= first.shape[0] or flags & 0xC0 or mode == 3:
            return DAMAGED
        head[i, 0], head[i, 1] = crossbar, step
        for c in range(2 if flags & 8 else 1):
            value = 0
            for j in range(4):
                value |= int(raw[p + j]) << (8 * j)
            p += 4
            head[i, 2 + c] = value
        if not flags & 8:
            head[i, 3] = head[i, 2]
        counts, ks = np.zeros(3, np.int64), np.zeros(3, np.int64)
        for which in range(3):
            if flags & (1 << which):
                counts[which], p = _get_varint(raw, p, at)
                ks[which] = raw[p]
                p += 1
                if ks[which] > 31:
                    return DAMAGED
        bit, end = p * 8, at * 8
        begin = n
        for which in range(3):
            last = -1
            for _ in range(counts[which]):
                gap = 0
                while bit < end and (raw[bit >> 3] >> (7 - (bit & 7))) & 1:
                    gap += 1
                    bit += 1
                bit += 1
                tail = ks[which] + level_bits + (1 if mode == _VERIFY_MIXED else 0)
                if bit + tail > end or gap > chip_cells:
                    return DAMAGED
                value = 0
                for _bit in range(tail):
                    value = (value << 1) | ((raw[bit >> 3] >> (7 - (bit & 7))) & 1)
                    bit += 1
                checked = mode == _VERIFY_ALL
                if mode == _VERIFY_MIXED:
                    checked = (value & 1) == 1
                    value >>= 1
                level = value & ((1 << level_bits) - 1)
                last += 1 + ((gap << ks[which]) | (value >> level_bits))
                if last >= chip_cells:
                    return DAMAGED
                owner[n], cells[n], phases[n], after[n], verify[n] = i, last, which, level, checked
                r, k = last // columns, last % columns
                before[n] = later[crossbar, r, k] if which == 2 else first[crossbar, r, k]
                n += 1
        if (bit + 7) >> 3 != at:
            return DAMAGED
        for w in range(begin, n):
            r, k = cells[w] // columns, cells[w] % columns
            if phases[w] != 2:
                first[crossbar, r, k] = after[w]
            if phases[w] != 1:
                later[crossbar, r, k] = after[w]
    return at


def decode(
    raw: Array, at: int, loads: int, first: Array, later: Array, level_bits: int
) -> tuple[int, Array, Array, Array, Array, Array, Array, Array]:
    """The next ``loads`` records from byte ``at``.

    ``first`` and ``later`` ``[crossbars, rows, columns]`` are kept up to date: the chip in the first and in
    a steady inference.
    Returns: (byte after them or ``DAMAGED``, head ``[loads, 4]`` of crossbar, step difference and both CRCs,
        then load index, cell, before, after, phase and verify of every write, ascending by cell and phase in a
        load).
    """
    count = _count_writes(raw, at, loads)
    if count == DAMAGED:
        none = np.zeros(0, np.int64)
        return DAMAGED, np.zeros((0, 4), np.int64), none, none, none, none, none, none
    head = np.zeros((loads, 4), np.int64)
    owner, cells = np.zeros(count, np.int64), np.zeros(count, np.int64)
    before, after, phases = (np.zeros(count, np.uint8) for _ in range(3))
    verify = np.zeros(count, np.bool_)
    used = _decode(raw, at, first, later, level_bits, head, owner, cells, before, after, phases, verify)
    order = np.lexsort((phases, cells, owner))
    columns = (column[order] for column in (owner, cells, before, after, phases, verify))
    return (int(used), head, *columns)  # type: ignore[return-value]
