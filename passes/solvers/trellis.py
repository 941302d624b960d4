"""Trellis reprogramming with error feedback: one run of loads that hold the same inputs of a layer, on one crossbar.

Row by row the cells see a chain of wanted numbers, one per load; the exact dynamic programme of ``viterbi`` finds the
words of least ``writes + penalty * error**2``.  The error that a row leaves is then spread over the rows of the same
outputs that are decided later, so that the outputs' sums change as little as possible: the update of optimal brain
surgery in the sequential form of GPTQ (Frantar et al., arXiv 2210.17323), whose factors are those of the inverse
second moment of the inputs.  With infinitely dear errors it is GPTQ on the numbers that the words spell.

Rows may be matched first: load after load an assignment puts every input where the joint cost of writes and errors of
all its numbers, looked up in tables, is least for what the load before is expected to leave.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from passes.solvers.matching import assign_exact
from passes.solvers.viterbi import LANES, PACKED, hold_rows

SCALE = 256
"""Cost units of one write in the tables of ``joint_tables``."""
DEAREST = 1 << 14
"""Largest entry of those tables: no number costs more than all its cells."""
NEAREST = 2.0
"""Writes that the nearest number may cost at most: a wanted number that is further off is moved towards it, so that the
programme's saturating costs still tell the states apart."""
FORBIDDEN = 1e11
"""Values from here on are no numbers."""
FINENESS = 1.4
"""Ratio of the penalties of neighbouring tables."""


@njit(cache=True, nogil=True)
def joint_tables(penalties: Any, grid: Any, values: Any, bits: int, cost: Any, best: Any) -> None:
    """For each penalty, what a number of the grid costs a cell row that holds a word.

    Args:
        penalties: ``[p]`` writes per squared unit of ``values [2**width]``; ``grid [g]`` wanted numbers.
        cost: ``[p, 2**width, g]`` int32, from word held to number wanted, in ``1 / SCALE`` writes; ``best`` likewise
            uint8, the word to go to.
    """
    states = values.shape[0]
    levels = 1 << bits
    f, h = np.empty(states), np.empty(states)
    origin, held = np.empty(states, np.int64), np.empty(states, np.int64)
    for p in range(penalties.shape[0]):
        for w in range(grid.shape[0]):
            for v in range(states):
                d = values[v] - grid[w]
                f[v] = penalties[p] * d * d
                origin[v] = v
            stride = 1
            while stride < states:
                for u in range(states):
                    level = (u // stride) % levels
                    low, at = f[u], origin[u]
                    base = u - level * stride
                    for x in range(levels):
                        v = base + x * stride
                        if x != level and f[v] + 1.0 < low:
                            low, at = f[v] + 1.0, origin[v]
                    h[u], held[u] = low, at
                f[:], origin[:] = h, held
                stride *= levels
            for u in range(states):
                cost[p, u, w] = np.int32(min(f[u] * SCALE, DEAREST))
                best[p, u, w] = origin[u]


@njit(cache=True, nogil=True)
def match_run(
    outputs: Any, wanted: Any, table_of: Any, cost: Any, best: Any, low: int, state: Any, rows_of: Any
) -> None:
    """Rows of the inputs, load after load.

    Args:
        outputs: ``[loads, K]``, negative where a column group is empty.
        wanted: ``[outputs, inputs]`` float32; ``table_of [inputs]`` which table holds an input's costs.
        cost, best: of ``joint_tables``, for the integers from ``low`` on.
        state: ``[rows, K]`` uint8 words held before; becomes what a load-by-load programme would leave.
        rows_of: ``[loads, inputs]`` int32, receives the row of each input.
    """
    loads, groups = outputs.shape
    rows, n = state.shape[0], wanted.shape[1]
    top = cost.shape[2] - 1
    number = np.empty((n, groups), np.int64)
    matrix = np.empty((rows, rows), np.int32)
    part, part_item = np.empty(rows, np.int64), np.empty(rows, np.int64)
    for t in range(loads):
        for k in range(groups):
            for i in range(n):
                o = outputs[t, k]
                w = 0.0 if o < 0 else wanted[o, i]
                number[i, k] = min(max(int(np.rint(w)) - low, 0), top)
        matrix[:n] = 0
        for i in range(n):
            table = cost[table_of[i]]
            row = matrix[i]
            for k in range(groups):
                if outputs[t, k] < 0:
                    continue
                at = number[i, k]
                for j in range(rows):
                    row[j] += table[state[j, k], at]
        assign_exact(matrix, n, rows, part, part_item)
        for i in range(n):
            j = part[i]
            rows_of[t, i] = j
            for k in range(groups):
                if outputs[t, k] >= 0:
                    state[j, k] = best[table_of[i], state[j, k], number[i, k]]


@njit(cache=True, nogil=True)
def _factor(a: Any, order: Any, count: int) -> Any:
    """Upper ``U [count, count]`` with ``U.T @ U`` the part of ``a`` that ``order`` names, in its order."""
    part = np.empty((count, count))
    for i in range(count):
        for j in range(count):
            part[i, j] = a[order[i], order[j]]
    return np.ascontiguousarray(np.linalg.cholesky(part).T).astype(np.float32)


@njit(cache=True, nogil=True)
def _within_reach(wanted: Any, numbers: Any, reach: Any) -> Any:
    """``wanted``, or what is ``reach`` away from the nearest of the ascending ``numbers``."""
    at = np.searchsorted(numbers, wanted)
    nearest = numbers[min(at, len(numbers) - 1)]
    if at > 0 and wanted - numbers[at - 1] < abs(nearest - wanted):
        nearest = numbers[at - 1]
    return nearest + min(max(wanted - nearest, -reach), reach)


@njit(cache=True, nogil=True)
def hold_run(
    outputs: Any, inputs: Any, wanted: Any, inverse: Any, feedback: bool, weight: Any, values: Any, width: int,
    bits: int, raise_cost: int, lower_cost: int, state: Any, words: Any, held: Any,
) -> int:  # fmt: skip
    """Words of a run's loads.

    Args:
        outputs: ``[loads, K]``, negative where a column group is empty.
        inputs: ``[loads, rows]`` column of ``wanted`` that each row takes, negative: don't care.
        wanted: ``[outputs, inputs]`` float32.
        inverse: ``[inputs, inputs]`` float64 inverse of the second moment of these inputs, what can still be
            corrected by later inputs projected out.
        feedback: spread errors over the rows that follow; else an input's penalty is that of its own variance.
        weight: ``[outputs]`` float32 packed cost of a squared error in an output.
        values: ``[2**width]`` float32 the numbers that words stand for, ``bits`` per cell.
        raise_cost, lower_cost: as of ``viterbi.hold_rows``.
        state: ``[rows, K]`` int64 words held before, -1 where the first load is free; updated.
        words: ``[loads, rows, K]``, receives the words; ``held [outputs, inputs]`` float32 their numbers.
    Returns: windows that were cut short (see ``hold_rows``).
    """
    loads, groups = outputs.shape
    rows, n = inputs.shape[1], wanted.shape[1]
    place, order, count = _orders(inputs, n)
    factor = np.zeros((loads, n, n), np.float32)
    _factors(order, count, inverse, feedback, factor)
    now = np.zeros((loads, groups, n), np.float32)
    _gather(outputs, order, count, wanted, now)
    chain = np.empty(loads, np.int64)
    target, penalty = np.zeros((loads, LANES), np.float32), np.zeros((loads, LANES), np.float32)
    lengths, start = np.zeros(LANES, np.int64), np.full(LANES, -1, np.int64)
    found = np.zeros((loads, LANES), np.uint8)
    numbers = np.sort(values[values < FORBIDDEN])
    forced = 0
    for r in range(rows):
        m = 0
        for t in range(loads):
            if place[t, r] >= 0:
                chain[m] = t
                m += 1
        if m == 0:
            continue
        for k0 in range(0, groups, LANES):
            lanes = min(LANES, groups - k0)
            lengths[:lanes], lengths[lanes:] = m, 0
            start[:lanes] = state[r, k0 : k0 + lanes]
            for i in range(m):
                _wish(
                    outputs[chain[i]], k0, lanes, factor[chain[i]], place[chain[i], r], now[chain[i]], weight, numbers,
                    target[i], penalty[i],
                )  # fmt: skip
            forced += hold_rows(
                target[:m], penalty[:m], lengths, width, values, bits, raise_cost, lower_cost, min(m + 1, 256), start,
                found[:m],
            )  # fmt: skip
            for i in range(m):
                t = chain[i]
                _keep(
                    outputs[t], k0, lanes, found[i], values, place[t, r], order[t], count[t], factor[t], feedback,
                    now[t], state[r], words[t, r], held,
                )  # fmt: skip
    return forced


@njit(cache=True, nogil=True)
def _orders(inputs: Any, n: int) -> Any:
    """Of every load: the place of each row among the driven ones, the inputs in that order, and how many."""
    loads, rows = inputs.shape
    place = np.full((loads, rows), -1, np.int64)
    order = np.zeros((loads, n), np.int64)
    count = np.zeros(loads, np.int64)
    for t in range(loads):
        for r in range(rows):
            if inputs[t, r] >= 0:
                order[t, count[t]] = inputs[t, r]
                place[t, r] = count[t]
                count[t] += 1
    return place, order, count


@njit(cache=True, nogil=True)
def _factors(order: Any, count: Any, inverse: Any, feedback: bool, factor: Any) -> None:
    """The factor of every load's order; of variances alone without feedback."""
    for t in range(order.shape[0]):
        m = count[t]
        if t > 0 and m == count[t - 1] and np.array_equal(order[t], order[t - 1]):
            factor[t] = factor[t - 1]
        elif feedback:
            factor[t, :m, :m] = _factor(inverse, order[t], m)
        else:
            for i in range(m):
                factor[t, i, i] = np.float32(np.sqrt(inverse[order[t, i], order[t, i]]))


@njit(cache=True, nogil=True)
def _gather(outputs: Any, order: Any, count: Any, wanted: Any, now: Any) -> None:
    """``now [loads, K, inputs]``: the wanted numbers in every load's order."""
    for t in range(outputs.shape[0]):
        for k in range(outputs.shape[1]):
            if outputs[t, k] >= 0:
                for i in range(count[t]):
                    now[t, k, i] = wanted[outputs[t, k], order[t, i]]


@njit(cache=True, nogil=True)
def _wish(
    outputs: Any, k0: int, lanes: int, factor: Any, at: int, now: Any, weight: Any, numbers: Any, target: Any,
    penalty: Any,
) -> None:  # fmt: skip
    """Wanted number and penalty of one load's lanes, for the row at place ``at``."""
    for lane in range(lanes):
        o = outputs[k0 + lane]
        penalty[lane] = 0
        if o >= 0:
            penalty[lane] = weight[o] / factor[at, at] ** 2
            reach = np.float32(np.sqrt(NEAREST * PACKED / penalty[lane]))
            target[lane] = _within_reach(now[k0 + lane, at], numbers, reach)


@njit(cache=True, nogil=True)
def _keep(
    outputs: Any, k0: int, lanes: int, found: Any, values: Any, at: int, order: Any, count: int, factor: Any,
    feedback: bool, now: Any, state: Any, words: Any, held: Any,
) -> None:  # fmt: skip
    """Takes one load's words of a row and spreads their errors over the rows that follow."""
    for lane in range(lanes):
        k = k0 + lane
        o = outputs[k]
        if o < 0:
            continue  # an empty group's cells keep what they hold
        state[k] = found[lane]
        words[k] = found[lane]
        value = values[found[lane]]
        held[o, order[at]] = value
        if feedback:
            error = (now[k, at] - value) / factor[at, at]
            for q in range(at + 1, count):
                now[k, q] -= error * factor[at, q]
