"""Free representations of differential pairs: every (a, b) with a - b = code computes the same.

A code is written in signed digits: bit k of the pair is +1 (10), -1 (01) or 0 (00 or 11), and a carry lets one digit
stand for the next.  For the pair that a row holds now, a dynamic programme over the bits finds the pair of the wanted
difference that differs in the fewest cells; tables hold the answer for every pair and every difference.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

from ir.arrays import Array
from passes.solvers.matching import assign_exact

MAX_PAIR_BITS = 8
_FAR = 1 << 20


@lru_cache(maxsize=2)
def pair_tables(bits: int) -> tuple[Array, Array]:
    """``cost`` uint8 and ``best`` uint16, both ``[4**bits, 2**(bits + 1) - 1]``, one bit per cell.

    Row: the pair held, ``a << bits | b``; column: the wanted difference plus ``2**bits - 1``.  ``cost`` is how many
    cells have to change, ``best`` the pair to go to.
    """
    shape = (1 << 2 * bits, (1 << bits + 1) - 1)
    cost, best = np.empty(shape, np.uint8), np.empty(shape, np.uint16)
    fill_tables(bits, cost, best)
    cost.flags.writeable = best.flags.writeable = False
    return cost, best


@njit(cache=True, nogil=True)
def fill_tables(bits: int, cost: Any, best: Any) -> None:
    """Fills the arrays of ``pair_tables``.

    After bit k only two remainders of the difference are possible, ``d >> (k + 1)`` and one more: two states.
    """
    top = (1 << bits) - 1
    for held in range(cost.shape[0]):
        for column in range(cost.shape[1]):
            rest = column - top
            low = np.array([0, _FAR])  # cells changed so far with remainder rest, rest + 1
            pair = np.array([0, 0])
            for k in range(bits):
                a, b = (held >> (bits + k)) & 1, (held >> k) & 1
                following = rest >> 1
                new = np.array([_FAR, _FAR])
                made = np.array([0, 0])
                for s in range(2):
                    for x in range(2):
                        for y in range(2):
                            if (rest + s - x + y) & 1:
                                continue
                            t = ((rest + s - x + y) >> 1) - following
                            changed = low[s] + (a != x) + (b != y)
                            if changed < new[t]:
                                new[t] = changed
                                made[t] = pair[s] | (x << (bits + k)) | (y << k)
                low, pair, rest = new, made, following
            cost[held, column] = low[-rest]  # the remainder has to be 0: rest is 0 or -1
            best[held, column] = pair[-rest]


PAIR_SCALE = 1024
"""Cost units of one write in the tables of ``near_tables``."""


def near_tables(bits: int, weight: float, low: int, high: int) -> tuple[Array, Array]:
    """As ``pair_tables`` when a nearby difference may be held: int16 ``min_d cost(d) + weight * (d - wanted)**2`` in
    units of 1 / ``PAIR_SCALE`` writes, and the pair of the best d.  Differences other than the wanted one are from
    ``low..high`` (codes)."""
    cost, best = pair_tables(bits)
    near = np.empty(cost.shape, np.int16)
    pair = np.empty(cost.shape, np.uint16)
    fill_near(cost, best, weight, low + (1 << bits) - 1, high + (1 << bits) - 1, near, pair)
    return near, pair


@njit(cache=True, nogil=True)
def fill_near(cost: Any, best: Any, weight: float, low: int, high: int, near: Any, pair: Any) -> None:
    """Fills the arrays of ``near_tables``; no difference farther away than all its writes are worth is looked at."""
    columns = cost.shape[1]
    penalty = np.empty(columns, np.int64)
    for d in range(columns):
        penalty[d] = np.int64(min(weight * d * d * PAIR_SCALE, 30.0 * PAIR_SCALE))
    for held in range(cost.shape[0]):
        here = cost[held]
        for wanted in range(columns):
            least = np.int64(here[wanted]) * PAIR_SCALE
            at = wanted
            for d in range(1, columns):
                if penalty[d] >= least:
                    break
                for other in (wanted - d, wanted + d):
                    if low <= other <= high:
                        c = np.int64(here[other]) * PAIR_SCALE + penalty[d]
                        if c < least:
                            least = c
                            at = other
            near[held, wanted] = least
            pair[held, wanted] = best[held, at]


@njit(cache=True, nogil=True)
def match_pairs(
    order: Any, crossbar: Any, closing: Any, codes: Any, counts: Any, outputs: Any, cost: Any, best: Any, unit: int,
    low: int, high: int, state: Any, first: Any, place: Any,
) -> None:  # fmt: skip
    """Rows of the loads ``order`` of crossbars ``low <= c < high``, each matched to the pairs its crossbar holds.

    Args:
        codes: ``[sections, rows, G]`` signed codes plus ``2**bits - 1``, items first; ``counts [sections]`` items.
        outputs: ``[sections, G]``, negative where a group is empty.
        cost, best: of ``pair_tables`` or ``near_tables``; ``unit``: what one write counts in ``cost``.
        state: ``[crossbars, rows, G]`` uint16 pairs held; updated.
        first: ``[crossbars, rows, G]`` int32 pair of the first load, -1 before it; updated.
        place: ``[sections, rows]`` int32, receives the row of each item.
    """
    rows, groups = state.shape[1], outputs.shape[1]
    part = np.empty(rows, np.int64)
    part_item = np.empty(rows, np.int64)
    matrix = np.empty((rows, rows), np.int32)
    for k in range(order.shape[0]):
        s = order[k]
        c = crossbar[s]
        if c < low or c >= high:
            continue
        n = counts[s]
        matrix[:n] = 0
        for g in range(groups):
            if outputs[s, g] < 0:
                continue
            for j in range(rows):
                now = cost[state[c, j, g]]
                for i in range(n):
                    matrix[i, j] += now[codes[s, i, g]]
                if closing[s] and first[c, j, g] >= 0:
                    for i in range(n):
                        matrix[i, j] += unit * _ones(best[state[c, j, g], codes[s, i, g]] ^ first[c, j, g])
        assign_exact(matrix, n, rows, part, part_item)
        for i in range(n):
            j = part[i]
            place[s, i] = j
            for g in range(groups):
                if outputs[s, g] < 0:
                    continue
                state[c, j, g] = best[state[c, j, g], codes[s, i, g]]
                if first[c, j, g] < 0:
                    first[c, j, g] = state[c, j, g]


@njit(cache=True, nogil=True)
def hold_pairs(
    order: Any, crossbar: Any, codes: Any, inputs: Any, outputs: Any, best: Any, state: Any, stored: Any
) -> None:
    """The pairs that the loads ``order`` leave, rows fixed: ``stored [sections, rows, G]``; ``state`` as above."""
    for k in range(order.shape[0]):
        s = order[k]
        c = crossbar[s]
        for j in range(inputs.shape[1]):
            if inputs[s, j] < 0:
                continue
            for g in range(outputs.shape[1]):
                if outputs[s, g] < 0:
                    continue
                state[c, j, g] = best[state[c, j, g], codes[s, j, g]]
                stored[s, j, g] = state[c, j, g]


@njit(cache=True, nogil=True, inline="always")
def _ones(word: Any) -> int:
    n = 0
    while word:
        word &= word - 1
        n += 1
    return n
