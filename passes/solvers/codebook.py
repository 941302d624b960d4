"""Weights choose levels that stand in the cells for good: exact assignment along a line, and the fit of the levels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

ROUNDS = 6
"""Most times that assignment and scale of an output take turns; either only lowers the error."""


@njit(cache=True, nogil=True)
def _assign(values: Any, levels: Any, copies: int, scale: float, cost: Any, step: Any, place: Any) -> Any:
    """Least squared error of giving each value a level of its own; ``place [n]`` takes the level's index.

    ``values [n]`` and ``levels`` descend, every level is there ``copies`` times.  On a line some best assignment keeps
    the order, so a slot is either taken by the next value or left empty: dynamic programme over (values placed,
    slots left empty).  ``cost [empty + 1]`` and ``step [n, empty + 1]`` are scratch.
    """
    n = values.shape[0]
    empty = levels.shape[0] * copies - n
    if empty == 0:
        total = 0.0
        for i in range(n):
            place[i] = i // copies
            error = values[i] - scale * levels[i // copies]
            total += error * error
        return total
    for j in range(empty + 1):
        cost[j] = 0.0
    for i in range(n):
        best = np.inf
        for j in range(empty + 1):  # value i in slot i + j
            error = values[i] - scale * levels[(i + j) // copies]
            taken = cost[j] + error * error
            if taken < best:
                best = taken
                step[i, j] = 1
            else:
                step[i, j] = 0  # an earlier slot is as good
            cost[j] = best
    j = empty
    total = cost[j]
    for i in range(n - 1, -1, -1):
        while step[i, j] == 0:
            j -= 1
        place[i] = (i + j) // copies
    return total


@njit(cache=True, nogil=True)
def fit_outputs(values: Any, levels: Any, copies: int, scale: Any, place: Any, error: Any) -> None:
    """Level and scale of every output.

    Args:
        values: ``[outputs, n]`` float64 magnitudes, each row descending.
        levels: ``[rows]`` float64, descending.
        copies: sections of an output: how often each level is there; ``rows * copies >= n``.
        scale: ``[outputs]`` float64, where to begin; takes the scale of least error.
        place: ``[outputs, n]`` int16, takes the index of each value's level.
        error: ``[outputs]`` float64, takes the squared error.
    """
    n = values.shape[1]
    empty = levels.shape[0] * copies - n
    cost, step = np.empty(empty + 1), np.empty((n if empty else 0, empty + 1), np.uint8)
    for o in range(values.shape[0]):
        last = np.inf
        for _ in range(ROUNDS):
            _assign(values[o], levels, copies, scale[o], cost, step, place[o])
            above = below = square = 0.0
            for i in range(n):
                level = levels[place[o, i]]
                above += values[o, i] * level
                below += level * level
                square += values[o, i] * values[o, i]
            if below > 0:
                scale[o] = above / below
            error[o] = max(0.0, square - (above * above / below if below > 0 else 0.0))
            if not error[o] < last * (1 - 1e-4) or empty == 0:
                break
            last = error[o]


@njit(cache=True, nogil=True)
def add_targets(values: Any, place: Any, scale: Any, weight: Any, above: Any, below: Any) -> None:
    """Adds to numerator and denominator of the least-squares level of every index, ``[rows]`` each."""
    for o in range(values.shape[0]):
        for i in range(values.shape[1]):
            above[place[o, i]] += weight[o] * scale[o] * values[o, i]
            below[place[o, i]] += weight[o] * scale[o] * scale[o]
