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
"""Cost units of one write where nearby differences may be held."""


def error_costs(bits: int, weight: float) -> Array:
    """``[2**(bits + 1) - 1]`` int64: ``weight * d**2`` writes of the distances d, in units of 1 / ``PAIR_SCALE``."""
    distance = np.arange((1 << bits + 1) - 1, dtype=np.float64)
    return np.minimum(weight * distance**2 * PAIR_SCALE, 30.0 * PAIR_SCALE).astype(np.int64)


@njit(cache=True, nogil=True)
def nearest(here: Any, wanted: int, errors: Any, low: int, high: int) -> Any:
    """(column to hold, its cost): least writes and error among the wanted column and those of ``low..high``.

    ``here``: row of the cost table of the pair held.  No column farther away than all writes are worth is looked at.
    """
    least = np.int64(here[wanted]) * PAIR_SCALE
    at = wanted
    for d in range(1, errors.shape[0]):
        if errors[d] >= least:
            break
        for other in (wanted - d, wanted + d):
            if low <= other <= high:
                c = np.int64(here[other]) * PAIR_SCALE + errors[d]
                if c < least:
                    least = c
                    at = other
    return at, least


@njit(cache=True, nogil=True)
def match_pairs(
    order: Any, crossbar: Any, closing: Any, codes: Any, counts: Any, outputs: Any, cost: Any, best: Any, errors: Any,
    limits: Any, near: Any, known: Any, low: int, high: int, state: Any, first: Any, place: Any,
) -> None:  # fmt: skip
    """Rows of the loads ``order`` of crossbars ``low <= c < high``, each matched to the pairs its crossbar holds.

    Args:
        codes: ``[sections, rows, G]`` signed codes plus ``2**bits - 1``, items first; ``counts [sections]`` items.
        outputs: ``[sections, G]``, negative where a group is empty.
        cost, best: of ``pair_tables``.
        errors: of ``error_costs``; empty: codes are held exactly.  ``limits`` [2]: columns that may be held instead.
        near, known: int16 like ``cost`` and bool ``[4**bits]``: costs with errors, filled here where they are needed.
        state: ``[crossbars, rows, G]`` uint16 pairs held; updated.
        first: ``[crossbars, rows, G]`` int32 pair of the first load, -1 before it; updated.
        place: ``[sections, rows]`` int32, receives the row of each item.
    """
    rows, groups = state.shape[1], outputs.shape[1]
    exact = errors.shape[0] == 0
    unit = 1 if exact else PAIR_SCALE
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
                held = state[c, j, g]
                if exact:
                    for i in range(n):
                        matrix[i, j] += cost[held, codes[s, i, g]]
                else:
                    if not known[held]:
                        for wanted in range(cost.shape[1]):
                            near[held, wanted] = nearest(cost[held], wanted, errors, limits[0], limits[1])[1]
                        known[held] = True
                    for i in range(n):
                        matrix[i, j] += near[held, codes[s, i, g]]
                if closing[s] and first[c, j, g] >= 0:
                    for i in range(n):
                        at, _ = nearest(cost[held], codes[s, i, g], errors, limits[0], limits[1])
                        matrix[i, j] += unit * _ones(best[held, at] ^ first[c, j, g])
        assign_exact(matrix, n, rows, part, part_item)
        for i in range(n):
            j = part[i]
            place[s, i] = j
            for g in range(groups):
                if outputs[s, g] < 0:
                    continue
                held = state[c, j, g]
                at, _ = nearest(cost[held], codes[s, i, g], errors, limits[0], limits[1])
                state[c, j, g] = best[held, at]
                if first[c, j, g] < 0:
                    first[c, j, g] = state[c, j, g]


@njit(cache=True, nogil=True)
def hold_pairs(
    order: Any, crossbar: Any, codes: Any, inputs: Any, outputs: Any, cost: Any, best: Any, errors: Any, limits: Any,
    state: Any, stored: Any,
) -> None:  # fmt: skip
    """The pairs that the loads ``order`` leave, rows fixed: ``stored [sections, rows, G]``; others as above."""
    for k in range(order.shape[0]):
        s = order[k]
        c = crossbar[s]
        for j in range(inputs.shape[1]):
            if inputs[s, j] < 0:
                continue
            for g in range(outputs.shape[1]):
                if outputs[s, g] < 0:
                    continue
                held = state[c, j, g]
                at, _ = nearest(cost[held], codes[s, j, g], errors, limits[0], limits[1])
                state[c, j, g] = best[held, at]
                stored[s, j, g] = state[c, j, g]


@njit(cache=True, nogil=True, inline="always")
def _ones(word: Any) -> int:
    n = 0
    while word:
        word &= word - 1
        n += 1
    return n
