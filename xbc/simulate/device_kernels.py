"""Compiled loops of the device models: random numbers by cell and load, programming of cells load by load."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB


@njit(cache=True, nogil=True)
def mix(key: Any) -> Any:
    """SplitMix64 (Steele, Lea and Flood 2014): a well-mixed 64-bit word of a counter."""
    z = np.uint64(key) + np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_2)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def key_of(seed: Any, a: Any, b: Any) -> Any:
    """One key from a seed and two counters."""
    return mix(mix(mix(np.uint64(seed)) ^ np.uint64(a)) ^ np.uint64(b))


@njit(cache=True, nogil=True)
def uniform(key: Any) -> float:
    """In (0, 1)."""
    return (float(mix(key) >> np.uint64(11)) + 0.5) * 2.0**-53


@njit(cache=True, nogil=True)
def normal(key: Any) -> float:
    """Standard normal (Box-Muller)."""
    u = uniform(key)
    v = uniform(key ^ np.uint64(MIX_1))
    return math.sqrt(-2.0 * math.log(u)) * math.cos(2.0 * math.pi * v)


@njit(cache=True, nogil=True)
def normal_within(key: Any, limit: float) -> float:
    """Standard normal given that its absolute value is at most ``limit`` (0: no limit)."""
    if limit <= 0.0:
        return normal(key)
    step = np.uint64(key)
    if limit > 1.0:
        while True:
            step = mix(step)
            x = normal(step)
            if abs(x) <= limit:
                return x
    while True:  # a narrow window: uniform proposals are accepted more often
        step = mix(step)
        x = limit * (2.0 * uniform(step) - 1.0)
        if uniform(step ^ np.uint64(MIX_2)) <= math.exp(-0.5 * x * x):
            return x


@njit(cache=True, nogil=True)
def programmed(
    key: Any, level: int, top: int, upward: bool, verified: bool, law: int, low: float, window: float,
    sigma: float, sigma_verified: float, low_factor: float, verify_window: float, set_factor: float,
    reset_factor: float,
) -> float:  # fmt: skip
    """Conductance of a cell right after a write to ``level``.

    Args:
        law: 0 normal, 1 lognormal.
        low, window: conductance of the lowest level, and of the highest minus that.
    """
    wanted = low + window * level / top
    spread = sigma_verified if verified else sigma
    spread *= low_factor + (1.0 - low_factor) * level / top
    spread *= set_factor if upward else reset_factor
    if spread == 0.0:
        return wanted
    if law == 1:
        limit = 0.0
        if verified and verify_window > 0.0:
            limit = math.log1p(verify_window * window / wanted) / spread
        return wanted * math.exp(spread * normal_within(key, limit))
    limit = verify_window / spread if verified and verify_window > 0.0 else 0.0
    return max(0.0, wanted + window * spread * normal_within(key, limit))


@njit(cache=True, nogil=True)
def start_chip(
    seed: Any, top: int, law: int, low: float, window: float, sigma: float, sigma_verified: float,
    low_factor: float, verify_window: float, set_factor: float, reset_factor: float, stuck_low: float,
    stuck_high: float, level: Any, fixed: Any, conductance: Any,
) -> None:  # fmt: skip
    """Blank cells at the lowest level, some of them stuck.

    ``level``, ``fixed``, ``conductance``: ``[crossbars, rows, columns]``; ``fixed`` marks stuck cells and
    may come with cells that the target lists as faulty (their level is kept).
    """
    cells = level.size
    flat_level, flat_fixed, flat_g = level.reshape(-1), fixed.reshape(-1), conductance.reshape(-1)
    for i in range(cells):
        if not flat_fixed[i]:
            flat_level[i] = 0
            draw = uniform(key_of(seed, i, 1))
            if draw < stuck_low:
                flat_fixed[i] = True
            elif draw < stuck_low + stuck_high:
                flat_fixed[i] = True
                flat_level[i] = top
        flat_g[i] = programmed(
            key_of(seed, i, 2), flat_level[i], top, False, True, law, low, window, sigma, sigma_verified,
            low_factor, verify_window, set_factor, reset_factor,
        )  # fmt: skip


@njit(cache=True, nogil=True)
def program_sections(
    seed: Any, order: Any, first_load: int, crossbar: Any, stored: Any, inputs: Any, outputs: Any,
    verify: Any,
    columns: int, bits: int, law: int, low: float, window: float, sigma: float, sigma_verified: float,
    low_factor: float, verify_window: float, set_factor: float, reset_factor: float, drift: float,
    drift_spread: float, log_time: float, level: Any, fixed: Any, conductance: Any, values: Any,
) -> None:  # fmt: skip
    """Loads sections one after the other: a cell whose level changes is written and draws a new error.

    ``values [sections, rows, G, columns]`` gets the conductances at read time (drift included) of driven
    rows; ``verify`` has no sections when every write is verified.
    """
    mask = np.uint32((1 << bits) - 1)
    top = (1 << bits) - 1
    all_verified = verify.shape[0] == 0
    rows, width = level.shape[1], level.shape[2]
    for n in range(order.shape[0]):
        s = order[n]
        c = crossbar[s]
        for r in range(inputs.shape[1]):
            if inputs[s, r] < 0:
                continue
            for g in range(outputs.shape[1]):
                if outputs[s, g] < 0:
                    continue
                word = np.uint32(stored[s, r, g])
                for d in range(columns):
                    shift = np.uint32(bits * (columns - 1 - d))
                    wanted = np.int64((word >> shift) & mask)
                    k = g * columns + d
                    old = np.int64(level[c, r, k])
                    cell = (np.int64(c) * rows + r) * width + k
                    if wanted != old and not fixed[c, r, k]:
                        upward: Any = wanted > old
                        checked: Any = all_verified or ((np.uint32(verify[s, r, g]) >> shift) & mask) != 0
                        conductance[c, r, k] = programmed(
                            key_of(seed, cell, 16 + first_load + n), int(wanted), top, upward,
                            checked, law, low, window, sigma, sigma_verified, low_factor, verify_window, set_factor,
                            reset_factor,
                        )  # fmt: skip
                        level[c, r, k] = wanted
                    held = conductance[c, r, k]
                    if log_time > 0.0:
                        exponent = drift
                        if drift_spread > 0.0:
                            exponent += drift_spread * normal(key_of(seed, cell, 3))
                        held *= math.exp(-exponent * log_time)
                    values[s, r, g, d] = held


@njit(cache=True, nogil=True)
def convert_analog(
    sums: Any, factor: Any, converter_of: Any, inverse_step: Any, half: float, top: Any, read_weight: Any,
    vectors: int, out: Any, clipped: Any,
) -> None:  # fmt: skip
    """Analog column sums of one section to ADC codes, shifted and added.

    Args:
        sums: ``[G, columns, reads * vectors]`` float32, in level units.
        factor: ``[G, columns]`` what a code counts (0: no such column).
        inverse_step, top: ``[classes]`` codes per unit, top code.
        half: 0.5 to round to nearest, 0 to round down.
        out: ``[classes, G, vectors]`` float64 (integers), added to.
        clipped: ``[classes]`` int64: sums above the range.
    """
    part = np.empty(sums.shape[2], np.float64)
    for g in range(sums.shape[0]):
        for c in range(top.shape[0]):
            part[:] = 0.0
            highest, scale, over = top[c], inverse_step[c], 0
            for d in range(sums.shape[1]):
                weight = float(factor[g, d])
                if weight == 0.0 or converter_of[d] != c:
                    continue
                column = sums[g, d]
                for k in range(column.shape[0]):
                    code = np.floor(column[k] * scale + half)
                    over += 1 if code > highest else 0
                    part[k] += weight * min(max(code, 0.0), highest)
            clipped[c] += over
            for p in range(read_weight.shape[0]):
                gain = float(read_weight[p])
                for t in range(vectors):
                    out[c, g, t] += gain * part[p * vectors + t]
