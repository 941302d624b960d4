"""Compiled loops of the integer engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

MANY_COLUMNS = 32
"""Columns sharing their rows from which sums over subsets of rows pay for themselves."""


@njit(cache=True, nogil=True)
def split_reads(codes: Any, shifts: Any, masks: Any, out: Any) -> None:
    """``out[i, p * T + t] = (codes[i, t] >> shifts[p]) & masks[p]`` for codes ``[inputs, T]`` int32."""
    vectors = codes.shape[1]
    for i in range(codes.shape[0]):
        for p in range(shifts.shape[0]):
            shift, mask = np.int32(shifts[p]), np.int32(masks[p])
            row = out[i, p * vectors : (p + 1) * vectors]
            for t in range(vectors):
                row[t] = (codes[i, t] >> shift) & mask


@njit(cache=True, nogil=True)
def column_levels(stored: Any, inputs: Any, signs: Any, columns: int, bits: int, out: Any) -> None:
    """Sum of levels per column and row sign: ``out[s, g, d, side]``; ``signs [0, 0]``: all rows are +."""
    mask = np.uint32((1 << bits) - 1)
    signed = signs.shape[0] > 0
    for s in range(stored.shape[0]):
        for r in range(stored.shape[1]):
            if inputs[s, r] < 0:
                continue
            side = 1 if signed and signs[s, r] < 0 else 0
            for g in range(stored.shape[2]):
                word = np.uint32(stored[s, r, g])
                for d in range(columns):
                    out[s, g, d, side] += (word >> np.uint32(bits * (columns - 1 - d))) & mask


@njit(cache=True, nogil=True)
def add_binary(x: Any, rows: Any, n: int, sums: Any) -> None:
    """``sums = x[rows[:n]].sum(0)`` in the narrow type of ``sums``."""
    m = sums.shape[0]
    for k in range(m):
        sums[k] = 0
    r = 0
    while r + 8 <= n:
        a, b, c, d = x[rows[r]], x[rows[r + 1]], x[rows[r + 2]], x[rows[r + 3]]
        e, f, g, h = x[rows[r + 4]], x[rows[r + 5]], x[rows[r + 6]], x[rows[r + 7]]
        for k in range(m):
            sums[k] = sums[k] + a[k] + b[k] + c[k] + d[k] + e[k] + f[k] + g[k] + h[k]
        r += 8
    while r < n:
        a = x[rows[r]]
        for k in range(m):
            sums[k] = sums[k] + a[k]
        r += 1


@njit(cache=True, nogil=True)
def add_levels(x: Any, rows: Any, levels: Any, n: int, sums: Any) -> None:
    """``sums = (x[rows[:n]] * levels[:n, None]).sum(0)`` in the narrow type of ``sums``."""
    m = sums.shape[0]
    for k in range(m):
        sums[k] = 0
    r = 0
    while r + 4 <= n:
        a, b, c, d = x[rows[r]], x[rows[r + 1]], x[rows[r + 2]], x[rows[r + 3]]
        u, v, w, z = levels[r], levels[r + 1], levels[r + 2], levels[r + 3]
        for k in range(m):
            sums[k] = sums[k] + a[k] * u + b[k] * v + c[k] * w + d[k] * z
        r += 4
    while r < n:
        a, u = x[rows[r]], levels[r]
        for k in range(m):
            sums[k] = sums[k] + a[k] * u
        r += 1


@njit(cache=True, nogil=True)
def list_column(words: Any, source: Any, driven: int, shift: int, mask: int, rows: Any, levels: Any) -> int:
    """Rows of x whose cell in the column at ``shift`` is above level 0, and its level; returns how many."""
    n = 0
    for r in range(driven):
        level = (words[r] >> np.uint32(shift)) & np.uint32(mask)
        rows[n] = source[r]
        levels[n] = level
        n += 1 if level != 0 else 0
    return n


@njit(cache=True, nogil=True)
def sum_subsets(x: Any, source: Any, driven: int, together: int, bits: int, subsets: Any) -> None:
    """What every combination of levels of ``together`` neighbouring rows adds to a column (Four Russians).

    ``subsets[16 * q + m]`` is the sum over the q-th run of rows of level x row, the levels being the digits
    of m, first row most significant.  ``together * bits`` is 4.
    """
    width = subsets.shape[1]
    for q in range((driven + together - 1) // together):
        for k in range(width):
            subsets[16 * q, k] = 0
        for m in range(1, 16):
            digit, unit = together - 1, 1
            while (m // unit) % (1 << bits) == 0:
                unit <<= bits
                digit -= 1
            row = q * together + digit
            out, before = subsets[16 * q + m], subsets[16 * q + m - unit]
            if row < driven:
                extra = x[source[row]]
                for k in range(width):
                    out[k] = before[k] + extra[k]


@njit(cache=True, nogil=True)
def list_subsets(words: Any, driven: int, together: int, bits: int, shift: int, rows: Any) -> int:
    """Rows of ``subsets`` that make up the column at ``shift``; returns how many."""
    n = 0
    mask = np.uint32((1 << bits) - 1)
    for q in range((driven + together - 1) // together):
        m = np.uint32(0)
        for r in range(q * together, (q + 1) * together):
            level = (words[r] >> np.uint32(shift)) & mask if r < driven else np.uint32(0)
            m = (m << np.uint32(bits)) | level
        rows[n] = 16 * q + np.int64(m)
        n += 1 if m != 0 else 0
    return n


@njit(cache=True, nogil=True)
def convert_columns(
    x: Any, vectors: int, stored: Any, inputs: Any, signs: Any, outputs: Any, factor: Any, bits: int,
    binary: bool, outputs_per_group: int, inputs_per_group: int, converter_of: Any, transfer: Any,
    wide: bool, clip_above: Any, may_clip: bool, read_weight: Any, sums: Any, levels: Any, part: Any,
    out: Any, clipped: Any,
) -> None:  # fmt: skip
    """Column sums of all sections, through the ADC, shifted and added into ``out``.

    Args:
        x: ``[groups * inputs, reads * vectors]`` DAC codes, in the type of ``sums`` (it must hold any sum).
        stored, inputs, signs, outputs: the section table; ``signs [0, 0]`` when rows have no sign.
        factor: ``[sections, G, columns, 2]`` int32, what a code of the column counts (0: not simulated
            here); last axis: rows of sign +, rows of sign -.
        binary: no level is above 1.
        converter_of: ``[columns]`` which converter class reads the column of each digit.
        transfer: ``[classes, 4]`` int64: multiplier, addend, shift, top code of each converter class.
        wide: whether the transfer needs 64-bit products.
        clip_above: ``[classes]`` sums above count as clipped; ``may_clip``: whether there can be any.
        read_weight: ``[reads]``, what a code of each read counts.
        sums, levels, part: scratch: ``[reads * vectors]``, ``[rows]`` of the same type, and
            ``[classes, reads * vectors]`` int32 or int64.
        out: ``[classes, outputs, vectors]`` int64, added to.
        clipped: ``[classes]`` int64, added to.
    """
    rows_in_section, columns = stored.shape[1], factor.shape[2]
    reads = read_weight.shape[0]
    mask = (1 << bits) - 1
    words = np.empty(rows_in_section, np.uint32)
    source = np.empty(rows_in_section, np.int64)
    rows = np.empty(rows_in_section, np.int64)
    sides = 2 if signs.shape[0] > 0 else 1
    together = 4 // bits
    tables = sides == 1 and bits <= 2
    subsets = np.empty((4 * (rows_in_section * bits + 4) if tables else 0, sums.shape[0]), sums.dtype)
    for s in range(stored.shape[0]):
        simulated = 0
        for g in range(stored.shape[2]):
            for d in range(columns):
                simulated += 1 if factor[s, g, d, 0] != 0 else 0
        shared = tables and simulated >= MANY_COLUMNS
        filled = False
        for g in range(stored.shape[2]):
            output = outputs[s, g]
            if output < 0:
                continue
            base = (output // outputs_per_group) * inputs_per_group
            started = False
            for side in range(sides):
                used = False
                for d in range(columns):
                    used |= factor[s, g, d, side] != 0
                if not used:
                    continue
                driven = 0
                for r in range(rows_in_section):
                    if inputs[s, r] >= 0 and (sides == 1 or (signs[s, r] < 0) == (side == 1)):
                        words[driven] = stored[s, r, g]
                        source[driven] = base + inputs[s, r]
                        driven += 1
                if shared and not filled:
                    sum_subsets(x, source, driven, together, bits, subsets)
                    filled = True
                for d in range(columns):
                    weight = factor[s, g, d, side]
                    if weight == 0:
                        continue
                    if not started:
                        part[:, :] = 0
                        started = True
                    shift_d = bits * (columns - 1 - d)
                    if shared:
                        n = list_subsets(words, driven, together, bits, shift_d, rows)
                        add_binary(subsets, rows, n, sums)
                    elif binary:
                        n = list_column(words, source, driven, shift_d, mask, rows, levels)
                        add_binary(x, rows, n, sums)
                    else:
                        n = list_column(words, source, driven, shift_d, mask, rows, levels)
                        add_levels(x, rows, levels, n, sums)
                    c = converter_of[d]
                    limit = clip_above[c]
                    if may_clip:
                        over = 0
                        for k in range(sums.shape[0]):
                            over += 1 if sums[k] > limit else 0
                        clipped[c] += over
                    target = part[c]
                    if wide:
                        for k in range(sums.shape[0]):
                            code = (np.int64(sums[k]) * transfer[c, 0] + transfer[c, 1]) >> transfer[c, 2]
                            target[k] += min(code, transfer[c, 3]) * weight
                    else:
                        m, a = np.int32(transfer[c, 0]), np.int32(transfer[c, 1])
                        shift, top = np.int32(transfer[c, 2]), np.int32(transfer[c, 3])
                        for k in range(sums.shape[0]):
                            code32 = (np.int32(sums[k]) * m + a) >> shift
                            target[k] += min(code32, top) * weight
            if started:
                for c in range(part.shape[0]):
                    for p in range(reads):
                        w = read_weight[p]
                        for t in range(vectors):
                            out[c, output, t] += w * part[c, p * vectors + t]


@njit(cache=True, nogil=True)
def count_sums(
    x: Any, stored: Any, inputs: Any, signs: Any, outputs: Any, bits: int, binary: bool,
    outputs_per_group: int, inputs_per_group: int, converter_of: Any, columns: int, sums: Any, levels: Any,
    histogram: Any,
) -> None:  # fmt: skip
    """``histogram[class, sum]`` of all column sums (calibration); arguments as in ``convert_columns``."""
    rows_in_section = stored.shape[1]
    mask = (1 << bits) - 1
    words = np.empty(rows_in_section, np.uint32)
    source = np.empty(rows_in_section, np.int64)
    rows = np.empty(rows_in_section, np.int64)
    sides = 2 if signs.shape[0] > 0 else 1
    for s in range(stored.shape[0]):
        for g in range(stored.shape[2]):
            output = outputs[s, g]
            if output < 0:
                continue
            base = (output // outputs_per_group) * inputs_per_group
            for side in range(sides):
                driven = 0
                for r in range(rows_in_section):
                    if inputs[s, r] >= 0 and (sides == 1 or (signs[s, r] < 0) == (side == 1)):
                        words[driven] = stored[s, r, g]
                        source[driven] = base + inputs[s, r]
                        driven += 1
                for d in range(columns):
                    n = list_column(words, source, driven, bits * (columns - 1 - d), mask, rows, levels)
                    if binary:
                        add_binary(x, rows, n, sums)
                    else:
                        add_levels(x, rows, levels, n, sums)
                    counts = histogram[converter_of[d]]
                    for k in range(sums.shape[0]):
                        counts[sums[k]] += 1


@njit(cache=True, nogil=True)
def subtract_columns(
    dense: Any, stored: Any, inputs: Any, signs: Any, outputs: Any, factor: Any, bits: int
) -> None:
    """Takes the linear weight of every column with a factor out of ``dense [outputs, inputs]``."""
    columns = factor.shape[2]
    mask = np.uint32((1 << bits) - 1)
    signed = signs.shape[0] > 0
    for s in range(stored.shape[0]):
        for r in range(stored.shape[1]):
            i = inputs[s, r]
            if i < 0:
                continue
            side = 1 if signed and signs[s, r] < 0 else 0
            for g in range(stored.shape[2]):
                output = outputs[s, g]
                if output < 0:
                    continue
                word = np.uint32(stored[s, r, g])
                taken = 0
                for d in range(columns):
                    level = (word >> np.uint32(bits * (columns - 1 - d))) & mask
                    taken += factor[s, g, d, side] * np.int64(level)
                dense[output, i] -= taken
