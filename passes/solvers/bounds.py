"""Lower bounds on open paths: minimum spanning 1-tree with subgradient steps (Held and Karp 1970, 1971)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from scipy.sparse import csgraph

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
def held_karp_bound(cost: Any, upper: float, iterations: int, gap: float, potentials: Any) -> float:
    """Lower bound on every open path through ``cost [n, n]``, n > 2.

    ``upper``: length of a known path, steers the step size.  Stops after ``iterations`` steps or when the
    bound is within the share ``gap`` of ``upper``.  ``potentials [n]`` receives the node weights of the bound.
    """
    n = cost.shape[0]
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
            potentials[:] = pi
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
    if len(cost) < 3:
        return int(cost[0, -1]) if len(cost) else 0
    found = held_karp_bound(cost, float(upper), iterations, gap, np.zeros(len(cost)))
    return min(int(upper), int(np.ceil(found - 1e-6)))


def useful_edges(cost: Array, upper: int, iterations: int = 400) -> tuple[int, Array, Array]:
    """Edges that a path shorter than ``upper`` may use, by reduced costs of the Held-Karp bound.

    Returns: the bound; ``[n, n]`` bool edges; ``[n]`` bool nodes at which such a path may end.  An edge is out
    when the cheapest 1-tree that contains it is already as long as ``upper``.
    """
    n = len(cost)
    potentials = np.zeros(n)
    bound = held_karp_bound(cost, float(upper), iterations, 0.0, potentials)
    reduced = cost + potentials[:, None] + potentials[None, :]
    tree = csgraph.minimum_spanning_tree(reduced - reduced.min() + 1.0).toarray()
    widest = np.zeros((n, n))  # longest edge on the tree path between two nodes
    joined = [0]
    linked = (tree + tree.T) > 0
    waiting = [(0, int(k)) for k in np.flatnonzero(linked[0])]
    while waiting:
        parent, node = waiting.pop()
        edge = reduced[parent, node]
        widest[node, joined] = widest[joined, node] = np.maximum(widest[parent, joined], edge)
        widest[node, parent] = widest[parent, node] = edge
        joined.append(node)
        waiting += [(node, int(k)) for k in np.flatnonzero(linked[node]) if int(k) != parent]
    room = upper - 1 - bound + 1e-6
    edges = reduced - widest <= room
    np.fill_diagonal(edges, False)
    second = np.partition(potentials, 1)[1]
    ends = potentials - second <= room
    return min(int(upper), int(np.ceil(bound - 1e-6))), edges, ends
