"""Lower bounds on open paths: minimum spanning 1-tree with subgradient steps (Held and Karp 1970, 1971)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from scipy.sparse import csgraph

from ir.arrays import Array


@njit(cache=True, nogil=True)
def one_tree(cost: Any, pi: Any, degree: Any, parent: Any) -> float:
    """Weight of the minimum 1-tree whose special node is a dummy at distance 0 from all.

    Fills ``degree [n]`` and ``parent [n]``, each node's neighbour towards node 0 (-1 for node 0).
    """
    n = cost.shape[0]
    best = np.full(n, 1e18)
    parent[:] = -1
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
    return total + special_edges(pi, degree)


@njit(cache=True, nogil=True)
def special_edges(pi: Any, degree: Any) -> float:
    """Weight of the dummy's two cheapest edges, counted in ``degree``."""
    a, b = 1e18, 1e18
    ia, ib = -1, -1
    for j in range(pi.shape[0]):
        if pi[j] < a:
            b, ib = a, ia
            a, ia = pi[j], j
        elif pi[j] < b:
            b, ib = pi[j], j
    degree[ia] += 1
    degree[ib] += 1
    return float(a + b)


@njit(cache=True, nogil=True)
def step_along(pi: Any, degree: Any, previous: Any, scale: float, short: float, step: int) -> bool:
    """Moves ``pi`` along the subgradient, ``short`` below the known path; False where the 1-tree is a path.

    ``previous`` holds the degrees of the step before and receives these (Volgenant and Jonker 1982).
    """
    norm = 0
    for j in range(pi.shape[0]):
        norm += (degree[j] - 2) ** 2
    if norm == 0:
        return False
    size = scale * max(short, 1e-9) / norm
    for j in range(pi.shape[0]):
        pi[j] += size * (0.7 * (degree[j] - 2) + (0.3 * (previous[j] - 2) if step else 0.0))
        previous[j] = degree[j]
    return True


@njit(cache=True, nogil=True)
def held_karp_bound(cost: Any, upper: float, iterations: int, gap: float, potentials: Any) -> float:
    """Lower bound on every open path through ``cost [n, n]``, n > 2.

    ``upper``: length of a known path, steers the step size.  Stops after ``iterations`` steps or when the
    bound is within the share ``gap`` of ``upper``.  ``potentials [n]`` receives the node weights of the bound.
    """
    n = cost.shape[0]
    pi = np.zeros(n)
    degree, previous, parent = np.zeros(n, np.int64), np.zeros(n, np.int64), np.empty(n, np.int64)
    best = 0.0
    scale = 1.0
    since = 0
    for step in range(iterations):
        value = one_tree(cost, pi, degree, parent)
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
        if best >= upper * (1.0 - gap) or not step_along(pi, degree, previous, scale, upper - value, step):
            break
    return best


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
