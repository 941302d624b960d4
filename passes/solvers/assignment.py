"""Rectangular assignment of a thousand rows and more: an auction (Bertsekas 1988, 1992).

Rows bid for columns; a bid raises a column's price by what it is better than the second choice, plus ``epsilon``.
Where there are as many columns as rows, epsilon falls in phases that keep the prices, which ends the price wars
of nearly equal columns early.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ir.arrays import Array
from ir.errors import XbcError

GRAIN = 4
"""Bids per unit of cost: the assignment costs at most ``rows / GRAIN`` more than the cheapest one."""
START = 16
"""The first phase's epsilon is the largest cost divided by this."""
FALL = 4
"""Epsilon of a phase by that of the next one."""


def assign(cost: Array) -> Array:
    """``[n]`` column of every row, all different, at nearly the lowest sum of ``cost``.

    Args:
        cost: ``[n, m]`` integers from 0, ``n <= m``.
    Returns: columns whose cost is at most ``n / GRAIN`` above the minimum.
    """
    n, m = cost.shape
    largest = int(cost.max(initial=0)) * GRAIN
    # no price passes the largest cost times the rows
    narrow = (largest + 1) * (n + 2) < 2**30
    kind = np.dtype(np.int32 if narrow else np.int64)
    scaled = cost.astype(kind)
    scaled *= GRAIN
    start = max(1, largest // START) if n == m else 1
    column = np.full(n, -1, np.int64)
    _auction(scaled, kind.type(start), kind.type(2**30 if narrow else 2**62), column)
    return column


def assign_ortools(cost: Array) -> Array:
    """As ``assign``, exactly: OR-Tools' cost-scaling push-relabel method (``SimpleLinearSumAssignment``)."""
    from ortools.graph.python import linear_sum_assignment

    n, m = cost.shape
    square = np.zeros((m, m), np.int64)  # the solver wants as many rows as columns
    square[:n] = cost
    rows, columns = np.divmod(np.arange(m * m), m)
    solver = linear_sum_assignment.SimpleLinearSumAssignment()
    solver.add_arcs_with_cost(rows, columns, square.ravel())
    status = solver.solve()
    if status != solver.OPTIMAL:
        raise XbcError(
            f"OR-Tools found no assignment of {n} runs to {m} crossbars ({status}): use solver=auction"
        )
    return np.array([solver.right_mate(i) for i in range(n)], np.int64)


@njit(cache=True, nogil=True)
def _auction(cost: Any, start: Any, big: Any, column: Any) -> None:
    """Fills ``column [n]``; epsilon falls from ``start`` to 1; ``big`` is above every value."""
    n, m = cost.shape
    price = np.zeros(m, cost.dtype)
    value = np.empty(m, cost.dtype)
    owner = np.empty(m, np.int64)
    waiting = np.empty(n, np.int64)
    one = cost.dtype.type(1)
    fall = cost.dtype.type(FALL)
    epsilon = start
    while True:
        owner[:] = -1
        for i in range(n):
            waiting[i] = n - 1 - i
        left = n
        while left > 0:
            left -= 1
            i = waiting[left]
            row = cost[i]
            lowest = big
            for j in range(m):
                x = row[j] + price[j]
                value[j] = x
                lowest = min(lowest, x)
            best = 0
            while value[best] != lowest:
                best += 1
            value[best] = big
            second = big
            for j in range(m):
                second = min(second, value[j])
            if m > 1:
                price[best] += second - lowest + epsilon
            column[i] = best
            if owner[best] >= 0:
                waiting[left] = owner[best]
                left += 1
            owner[best] = i
        if epsilon == one:
            return
        epsilon = max(one, epsilon // fall)
