"""Lower bounds on open paths: minimum spanning 1-tree with subgradient steps (Held and Karp 1970, 1971)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ir.arrays import Array


@njit(cache=True, nogil=True)
def _one_tree(cost: Any, pi: Any, degree: Any) -> float:
    """Weight of the minimum 1-tree whose special node is a dummy at distance 0 from all; fills degrees."""
    n = cost.shape[0]
    best = np.full(n, 1e18)
    parent = np.full(n, -1, np.int64)
    inside = np.zeros(n, np.bool_)
    degree[:] = 0
    total = 0.0
    current = 0
    inside[0] = True
    for _ in range(n - 1):
        row = cost[current]
        shift = pi[current]
        following = -1
        lowest = 1e18
        for j in range(n):
            if inside[j]:
                continue
            w = row[j] + shift + pi[j]
            if w < best[j]:
                best[j] = w
                parent[j] = current
            if best[j] < lowest:
                lowest = best[j]
                following = j
        total += lowest
        degree[following] += 1
        degree[parent[following]] += 1
        inside[following] = True
        current = following
    # the dummy's two cheapest edges
    a, b = 1e18, 1e18
    ia, ib = -1, -1
    for j in range(n):
        if pi[j] < a:
            b, ib = a, ia
            a, ia = pi[j], j
        elif pi[j] < b:
            b, ib = pi[j], j
    degree[ia] += 1
    degree[ib] += 1
    return total + a + b


@njit(cache=True, nogil=True)
def held_karp_bound(cost: Any, upper: float, iterations: int, gap: float) -> float:
    """Lower bound on every open path through ``cost [n, n]``.

    ``upper``: length of a known path, steers the step size.  Stops after ``iterations`` steps or when the
    bound is within the share ``gap`` of ``upper``.
    """
    n = cost.shape[0]
    if n < 2:
        return 0.0
    if n == 2:
        return float(cost[0, 1])
    pi = np.zeros(n)
    degree = np.zeros(n, np.int64)
    previous = np.zeros(n, np.int64)
    best = 0.0
    scale = 1.0
    since = 0
    for step in range(iterations):
        value = _one_tree(cost, pi, degree)
        for j in range(n):
            value -= 2.0 * pi[j]
        if value > best:
            best = value
            since = 0
        else:
            since += 1
            if since >= 5:
                scale *= 0.6
                since = 0
        norm = 0
        for j in range(n):
            norm += (degree[j] - 2) ** 2
        if norm == 0 or best >= upper * (1.0 - gap):
            break
        size = scale * max(upper - value, 1e-9) / norm
        for j in range(n):
            pi[j] += size * (0.7 * (degree[j] - 2) + (0.3 * (previous[j] - 2) if step else 0.0))
            previous[j] = degree[j]
    return best


def path_bound(cost: Array, upper: int, iterations: int = 60, gap: float = 0.02) -> int:
    """Integer lower bound on any open path (costs are integers, so the bound rounds up)."""
    return min(int(upper), int(np.ceil(held_karp_bound(cost, float(upper), iterations, gap) - 1e-6)))
