"""Exact dynamic programme over time for partial reprogramming.

One cell row sees the wanted numbers w_1, w_2, ...  We look for held numbers v_t that minimise

    sum_t  writes(v_{t-1} -> v_t)  +  sum_t  penalty_t * (v_t - w_t)**2

where writes is a weighted count of changed digits.  The state space is the hypercube of all numbers of
``bits`` bits; because the transition cost is a sum over digits, one step is a min-plus sweep digit by digit
(``bits * 2**bits`` operations).  ``LANES`` rows advance together, cost and predecessor packed in one int32, so
that every inner loop is a vector operation.  Survivor paths are traced back whenever the window of back
pointers is full; what lies before the point where all of them have merged is final, so the result is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ir.arrays import Array

LANES = 16
UNIT = 1 << 16
"""Cost units of one cell write; the penalty is rounded to these."""
PACKED = UNIT << 8
"""The same in the packed form, the unit of ``hold_rows``' arguments."""
CLIP = 1 << 20
"""A state costlier than its best neighbour by all cells is never held: penalties saturate here."""
MAX_BITS = 8


@njit(cache=True, nogil=True, inline="always")
def _pair(low: Any, high: Any, raise_cost: Any, lower_cost: Any) -> Any:
    # numba adds int32 to int64; cast back so that vectors hold sixteen numbers and not eight
    return min(low, np.int32(high + lower_cost)), min(high, np.int32(low + raise_cost))


@njit(cache=True, nogil=True, inline="always")
def _octet(a: Any, b: Any, c: Any, d: Any, e: Any, g: Any, h: Any, i: Any, up: Any, down: Any) -> Any:
    """Min-plus over three one-bit digits of eight states."""
    a, b = _pair(a, b, up, down)
    c, d = _pair(c, d, up, down)
    e, g = _pair(e, g, up, down)
    h, i = _pair(h, i, up, down)
    a, c = _pair(a, c, up, down)
    b, d = _pair(b, d, up, down)
    e, h = _pair(e, h, up, down)
    g, i = _pair(g, i, up, down)
    a, e = _pair(a, e, up, down)
    b, g = _pair(b, g, up, down)
    c, h = _pair(c, h, up, down)
    d, i = _pair(d, i, up, down)
    return a, b, c, d, e, g, h, i


@njit(cache=True, nogil=True)
def _sweep_byte(f: Any, back: Any, up: Any, down: Any) -> None:
    """``_sweep`` for 256 states of one-bit digits; leaves the origins in ``back``.

    Three digits at a time in registers; the strides are literals so that the loops over lanes become vectors.
    """
    for base in range(0, 4096, 128):
        for k in range(base, base + 16):
            r = _octet(
                f[k], f[k + 16], f[k + 32], f[k + 48], f[k + 64], f[k + 80], f[k + 96], f[k + 112], up, down
            )
            f[k], f[k + 16], f[k + 32], f[k + 48], f[k + 64], f[k + 80], f[k + 96], f[k + 112] = r
    for base in range(0, 4096, 1024):
        for k in range(base, base + 128):
            r = _octet(
                f[k],
                f[k + 128],
                f[k + 256],
                f[k + 384],
                f[k + 512],
                f[k + 640],
                f[k + 768],
                f[k + 896],
                up,
                down,
            )
            f[k], f[k + 128], f[k + 256], f[k + 384], f[k + 512], f[k + 640], f[k + 768], f[k + 896] = r
    for k in range(1024):
        a, b, c, d = f[k], f[k + 1024], f[k + 2048], f[k + 3072]
        a, b = _pair(a, b, up, down)
        c, d = _pair(c, d, up, down)
        a, c = _pair(a, c, up, down)
        b, d = _pair(b, d, up, down)
        f[k], f[k + 1024], f[k + 2048], f[k + 3072] = a, b, c, d
        back[k], back[k + 1024] = np.uint8(a & 255), np.uint8(b & 255)
        back[k + 2048], back[k + 3072] = np.uint8(c & 255), np.uint8(d & 255)


@njit(cache=True, nogil=True)
def _sweep(f: Any, width: int, raise_cost: int, lower_cost: int, bits: int) -> None:
    """Min-plus sweep over all digits of ``width``-bit numbers; ``f [2**width * LANES]`` packed."""
    states = 1 << width
    if bits == 1:
        half = LANES
        while half < states * LANES:
            for base in range(0, states * LANES, 2 * half):
                low = f[base : base + half]
                high = f[base + half : base + 2 * half]
                for k in range(half):
                    a = low[k]
                    b = high[k]
                    low[k] = min(a, np.int32(b + lower_cost))
                    high[k] = min(b, np.int32(a + raise_cost))
            half *= 2
        return
    levels = 1 << bits
    lowest = np.empty(LANES, np.int32)
    stride = LANES
    kept = np.empty((levels, LANES), np.int32)
    while stride < states * LANES:
        for base in range(0, states * LANES, stride * levels):
            for k in range(0, stride, LANES):
                for x in range(levels):
                    at = base + x * stride + k
                    for lane in range(LANES):
                        kept[x, lane] = f[at + lane]
                for lane in range(LANES):
                    lowest[lane] = kept[0, lane]
                for x in range(1, levels):
                    at = base + x * stride + k
                    for lane in range(LANES):
                        f[at + lane] = min(f[at + lane], np.int32(lowest[lane] + raise_cost))
                        lowest[lane] = min(lowest[lane], kept[x, lane])
                for lane in range(LANES):
                    lowest[lane] = kept[levels - 1, lane]
                for x in range(levels - 2, -1, -1):
                    at = base + x * stride + k
                    for lane in range(LANES):
                        f[at + lane] = min(f[at + lane], np.int32(lowest[lane] + lower_cost))
                        lowest[lane] = min(lowest[lane], kept[x, lane])
        stride *= levels


@njit(cache=True, nogil=True, fastmath=True)
def _add_penalty(f: Any, values: Any, wanted: Any, weight: Any) -> None:
    """Adds the penalties and makes each state its own origin; ``weight`` is in packed units."""
    top = np.float32(CLIP << 8)
    clear = np.int32(-256)
    lanes = wanted.shape[0]  # not the constant: LLVM would unroll the loop instead of making it a vector
    for v in range(values.shape[0]):
        value = values[v]
        origin = np.int32(v)
        row = f[v * LANES : (v + 1) * LANES]
        for lane in range(lanes):
            d = np.float32(value - wanted[lane])
            penalty = np.int32(min(top, np.float32(weight[lane] * np.float32(d * d))))
            row[lane] = np.int32((row[lane] & clear) + (penalty & clear)) | origin


@njit(cache=True, nogil=True)
def _normalise(f: Any, states: int, low: Any) -> None:
    """Subtracts the smallest cost of each lane."""
    lanes = low.shape[0]
    low[:] = f[:lanes]
    for v in range(1, states):
        row = f[v * LANES : (v + 1) * LANES]
        for lane in range(lanes):
            low[lane] = min(low[lane], row[lane])
    for lane in range(lanes):
        low[lane] &= ~255
    for v in range(states):
        row = f[v * LANES : (v + 1) * LANES]
        for lane in range(lanes):
            row[lane] = np.int32(row[lane] - low[lane])


@njit(cache=True, nogil=True)
def _keep_origins(f: Any, states: int, back: Any) -> None:
    for k in range(states * LANES):
        back[k] = np.uint8(f[k] & 255)


@njit(cache=True, nogil=True)
def _merge_point(back: Any, begin: int, end: int, states: int, lane: int, alive: Any, following: Any) -> Any:
    """(time, state): the latest time in ``begin..end`` at which all survivors share one state, or (-1, 0).

    ``back[t]`` leads from a state held at time t to the one held at t - 1.
    """
    count = states
    for v in range(states):
        alive[v] = v
    for t in range(end, begin, -1):
        for v in range(states):
            following[v] = 0
        kept = 0
        for i in range(count):
            origin = back[t, alive[i] * LANES + lane]
            if following[origin] == 0:
                following[origin] = 1
                alive[kept] = origin
                kept += 1
        count = kept
        if count == 1:
            return t - 1, alive[0]
    return -1, 0


@njit(cache=True, nogil=True)
def hold_rows(
    wanted: Any, weight: Any, lengths: Any, width: int, values: Any, bits: int,
    raise_cost: int, lower_cost: int, window: int, start: Any, held: Any,
) -> int:  # fmt: skip
    """Held numbers of ``LANES`` rows.

    Args:
        wanted: ``[steps, LANES]`` float32 wanted values (in the units of ``values``).
        weight: ``[steps, LANES]`` float32 penalties in packed cost units; 0 where the weight does not matter.
        lengths: ``[LANES]`` steps of each row.
        width: bits of a number, at most ``MAX_BITS``; ``values [2**width]`` float32 what each stands for.
        bits: bits per cell (divides ``width``).
        raise_cost, lower_cost: packed cost of a SET and of a RESET (``PACKED`` per write).
        window: back pointers kept; longer means fewer traces.
        start: ``[LANES]`` state before the first step, -1 where free.
        held: ``[steps, LANES]`` uint8, receives the states.
    Returns: how often a window ended before the survivors merged (then the best one was taken; 0 = exact).
    """
    steps = wanted.shape[0]
    states = 1 << width
    f = np.zeros(states * LANES, np.int32)
    low = np.zeros(LANES, np.int32)
    alive = np.empty(states, np.int64)
    following = np.empty(states, np.uint8)
    back = np.empty((window, states * LANES), np.uint8)
    forced = 0
    origin_step = 0  # global step of back[0]
    settled = np.zeros(LANES, np.int64)  # states before this global step are final
    for v in range(states):
        for lane in range(LANES):
            cost = 0
            if start[lane] >= 0 and v != start[lane]:
                cost = CLIP
            f[v * LANES + lane] = (cost << 8) | v
    for t in range(steps):
        if states == 256 and bits == 1:
            _sweep_byte(f, back[t - origin_step], np.int32(raise_cost), np.int32(lower_cost))
        else:
            _sweep(f, width, raise_cost, lower_cost, bits)
            _keep_origins(f, states, back[t - origin_step])
        _add_penalty(f, values, wanted[t], weight[t])
        if t % 4 == 3:  # costs rise by at most 8 writes a step: 23 bits hold four steps and the clip
            _normalise(f, states, low)
        for lane in range(LANES):
            if t == lengths[lane] - 1:
                best = 0
                for v in range(1, states):
                    if f[v * LANES + lane] >> 8 < f[best * LANES + lane] >> 8:
                        best = v
                _trace(back, origin_step, t, settled[lane], lane, best, held)
                settled[lane] = t + 1
        if t - origin_step == window - 1 and t + 1 < steps:
            for lane in range(LANES):
                if settled[lane] > t or lengths[lane] <= t:
                    continue
                at, state = _merge_point(
                    back, settled[lane] - origin_step, t - origin_step, states, lane, alive, following
                )
                if at < 0:
                    continue
                _trace(back, origin_step, origin_step + at, settled[lane], lane, state, held)
                settled[lane] = origin_step + at + 1
            oldest = t + 1
            for lane in range(LANES):
                if lengths[lane] > t + 1:
                    oldest = min(oldest, settled[lane])
            if oldest - origin_step < window // 4:
                # survivors that will not merge: settle the best ones so that memory stays bounded
                for lane in range(LANES):
                    if lengths[lane] > t + 1 and settled[lane] - origin_step < window // 4:
                        best = 0
                        for v in range(1, states):
                            if f[v * LANES + lane] >> 8 < f[best * LANES + lane] >> 8:
                                best = v
                        state = best
                        upto = origin_step + window // 2
                        for back_t in range(t, upto, -1):
                            state = back[back_t - origin_step, state * LANES + lane]
                        _trace(back, origin_step, upto, settled[lane], lane, state, held)
                        settled[lane] = upto + 1
                        forced += 1
                oldest = t + 1
                for lane in range(LANES):
                    if lengths[lane] > t + 1:
                        oldest = min(oldest, settled[lane])
            keep = t + 1 - oldest
            for i in range(keep):
                back[i] = back[oldest - origin_step + i]
            origin_step = oldest
    return forced


@njit(cache=True, nogil=True)
def _trace(back: Any, origin_step: int, last: int, first: int, lane: int, state: int, held: Any) -> None:
    """Writes the states of global steps ``first..last`` of one lane, ``state`` being held at ``last``."""
    for t in range(last, first - 1, -1):
        held[t, lane] = state
        if t > first:
            state = back[t - origin_step, state * LANES + lane]


@njit(cache=True, nogil=True)
def hold_block(
    loads: Any, wanted: Any, driven: Any, share: int, weight: Any, sensitivity: Any, lane0: int, width: int,
    values: Any, bits: int, raise_cost: int, lower_cost: int, window: int, wrap: int, held: Any,
) -> int:  # fmt: skip
    """``hold_rows`` for rows ``lane0 .. lane0 + LANES - 1`` of one crossbar.

    Args:
        loads: ``[n]`` sections in load order.
        wanted: ``[sections, K]`` uint8 wanted states, K numbers per section, ``share`` of them per wordline.
        driven: ``[sections, rows]`` bool.
        weight: ``[sections]`` float32 packed cost per squared unit; times ``sensitivity [sections, K]`` unless
            that has no columns.
        wrap: steps of the neighbouring inferences run before and after, so that the cycle closes well.
        held: ``[sections, K]`` uint8, receives the states.
    """
    n = loads.shape[0]
    count = wanted.shape[1]
    lengths = np.zeros(LANES, np.int64)
    own = np.zeros(LANES, np.int64)
    index = np.empty((LANES, n), np.int64)
    for lane in range(LANES):
        k = lane0 + lane
        if k >= count:
            continue
        m = 0
        for i in range(n):
            if driven[loads[i], k // share]:
                index[lane, m] = loads[i]
                m += 1
        own[lane] = m
        lengths[lane] = m + 2 * min(m, wrap) if m > 1 else m
    steps = lengths.max()
    target = np.zeros((steps, LANES), np.float32)
    penalty = np.zeros((steps, LANES), np.float32)
    out = np.zeros((steps, LANES), np.uint8)
    for lane in range(LANES):
        m = own[lane]
        before = min(m, wrap) if m > 1 else 0
        for t in range(lengths[lane]):
            s = index[lane, (t - before) % m]
            k = lane0 + lane
            target[t, lane] = values[wanted[s, k]]
            scale = weight[s]
            if sensitivity.shape[1] > 0:
                scale *= sensitivity[s, k]
            penalty[t, lane] = scale
    start = np.full(LANES, -1, np.int64)
    forced = hold_rows(
        target, penalty, lengths, width, values, bits, raise_cost, lower_cost, window, start, out
    )  # fmt: skip
    for lane in range(LANES):
        m = own[lane]
        before = min(m, wrap) if m > 1 else 0
        for i in range(m):
            held[index[lane, i], lane0 + lane] = out[before + i, lane]
    return forced


@njit(cache=True, nogil=True)
def hold_blocks(
    loads: Any, cuts: Any, wanted: Any, driven: Any, share: int, weight: Any, sensitivity: Any, lane0: int, width: int,
    values: Any, bits: int, raise_cost: int, lower_cost: int, window: int, wrap: int, held: Any,
) -> int:  # fmt: skip
    """``hold_block`` for several crossbars: ``loads[cuts[i] : cuts[i + 1]]`` are those of the i-th."""
    forced = 0
    for i in range(cuts.shape[0] - 1):
        if cuts[i + 1] > cuts[i]:
            forced += hold_block(
                loads[cuts[i] : cuts[i + 1]], wanted, driven, share, weight, sensitivity, lane0, width, values, bits,
                raise_cost, lower_cost, window, wrap, held,
            )  # fmt: skip
    return forced


def reference(
    wanted: Array, weight: Array, width: int, values: Array, bits: int, set_cost: float, reset_cost: float
) -> tuple[Array, float]:
    """The same programme for one row in plain numpy with a full transition matrix: the oracle of the kernel.

    Args: ``wanted [steps]``, ``weight [steps]`` in writes; other arguments as for ``hold_rows``.
    Returns: held states ``[steps]`` (free start) and the cost.
    """
    states = 1 << width
    numbers = np.arange(states)
    transition = np.zeros((states, states))
    for d in range(0, width, bits):
        digit = (numbers >> d) & ((1 << bits) - 1)
        up = digit[:, None] < digit[None, :]
        down = digit[:, None] > digit[None, :]
        transition += set_cost * up + reset_cost * down
    cost = np.zeros(states)
    back = np.zeros((len(wanted), states), np.int64)
    for t in range(len(wanted)):
        through = cost[:, None] + transition
        back[t] = through.argmin(axis=0)
        cost = through.min(axis=0) + weight[t] * (values - wanted[t]) ** 2
    held = np.zeros(len(wanted), np.int64)
    held[-1] = int(cost.argmin())
    for t in range(len(wanted) - 1, 0, -1):
        held[t - 1] = back[t, held[t]]
    return held, float(cost.min())
