"""Lower bounds on open paths; for large groups by subgradient steps on a few edges per node, then whole 1-trees.

Any node potentials give a valid bound once the minimum 1-tree over *all* edges is built with them.  Good potentials
are found on a sparse graph, where a tree costs a thirtieth: the nearest neighbours of every node and a known path.
What the whole tree uses beyond these edges joins the graph, and the ascent goes on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ir.arrays import Array
from passes.solvers.bounds import held_karp_bound, one_tree, special_edges, step_along
from passes.solvers.tour import nearest_lists, path_length

SPARSE = 128
"""Sections from which on a group's potentials are sought on a sparse graph."""
NEIGHBOURS = 8
ROUNDS = 3
CLOSE = 1.002
"""A sparse tree at most that much longer than the whole one needs no further edges."""
INSIDE = -2
"""Marks in ``where`` a node that is in the tree; -1: not in the heap yet."""


def path_bound(cost: Array, path: Array, iterations: int = 80, gap: float = 0.02) -> int:
    """Integer lower bound on any open path (costs are integers, so the bound rounds up); ``path`` is a known one."""
    if len(cost) < 3:
        return int(cost[0, -1]) if len(cost) else 0
    upper = path_length(cost, path)
    if len(cost) >= SPARSE:
        found = sparse_bound(cost, path, upper, iterations, gap)
    else:
        found = held_karp_bound(cost, float(upper), iterations, gap, np.zeros(len(cost)))
    return min(upper, int(np.ceil(found - 1e-6)))


def sparse_bound(cost: Array, path: Array, upper: int, iterations: int, gap: float) -> float:
    """Lower bound on every open path through ``cost [n, n]``, from about ``iterations`` sparse 1-trees.

    ``path`` is any path, ``upper`` its length.  Stops early within the share ``gap`` of ``upper``.
    """
    n = len(cost)
    near = nearest_lists(cost, NEIGHBOURS)
    a = np.concatenate([np.repeat(np.arange(n), near.shape[1]), path[:-1]])
    b = np.concatenate([near.reshape(-1), path[1:]])
    potentials, parent = np.zeros(n), np.full(n, -1, np.int64)
    best = 0.0
    for turn in range(ROUNDS):
        starts, ends = adjacency(a, b, n)
        lengths = cost[np.repeat(np.arange(n), np.diff(starts)), ends].astype(np.float64)
        steps = iterations if turn == 0 else max(1, iterations // 4)
        sparse = climb(starts, ends, lengths, float(upper), steps, gap / 2, potentials)
        whole = one_tree(cost, potentials, np.zeros(n, np.int64), parent) - 2.0 * potentials.sum()
        best = max(best, whole)
        if best >= upper * (1 - gap) or sparse <= whole * CLOSE:
            break
        a = np.concatenate([a, np.flatnonzero(parent >= 0)])
        b = np.concatenate([b, parent[parent >= 0]])
    return best


def adjacency(a: Array, b: Array, n: int) -> tuple[Array, Array]:
    """Edges ``a[i] - b[i]`` of ``n`` nodes, both ways and each once: ends of node k are ``ends[starts[k] :
    starts[k + 1]]``."""
    keys = np.unique(np.concatenate([a * n + b, b * n + a]))
    return np.searchsorted(keys, np.arange(n + 1) * n), (keys % n).astype(np.int32)


@njit(cache=True, nogil=True)
def climb(
    starts: Any, ends: Any, lengths: Any, upper: float, iterations: int, gap: float, potentials: Any
) -> float:
    """Subgradient steps from ``potentials [n]``, which receives the best ones; returns the sparse bound there."""
    n = potentials.shape[0]
    pi = potentials.copy()
    degree, previous = np.zeros(n, np.int64), np.zeros(n, np.int64)
    nearest, parent = np.empty(n), np.zeros(n, np.int64)
    heap, where = np.zeros(n, np.int64), np.zeros(n, np.int64)
    best, scale, since = 0.0, 1.0, 0
    for step in range(iterations):
        value = sparse_tree(starts, ends, lengths, pi, degree, nearest, parent, heap, where) - 2.0 * pi.sum()
        if value > best:
            best, since = value, 0
            potentials[:] = pi
        else:
            since += 1
            if since >= 5:
                scale, since = scale * 0.6, 0
        if best >= upper * (1.0 - gap) or not step_along(pi, degree, previous, scale, upper - value, step):
            break
    return best


@njit(cache=True, nogil=True)
def sparse_tree(
    starts: Any,
    ends: Any,
    lengths: Any,
    pi: Any,
    degree: Any,
    nearest: Any,
    parent: Any,
    heap: Any,
    where: Any,
) -> float:
    """As ``one_tree`` over the edges of a connected graph: Prim's algorithm on a binary heap of nodes.

    ``nearest``, ``parent``, ``heap`` and ``where [n]`` are room to work in.
    """
    n = pi.shape[0]
    nearest[:] = 1e18
    where[:] = -1
    degree[:] = 0
    size, current, total = 0, 0, 0.0
    where[0] = INSIDE
    for _ in range(n - 1):
        for e in range(starts[current], starts[current + 1]):
            j = ends[e]
            if where[j] == INSIDE:
                continue
            c = lengths[e] + pi[current] + pi[j]
            if c >= nearest[j]:
                continue
            nearest[j], parent[j] = c, current
            at = where[j]
            if at < 0:
                at = size
                size += 1
            while at > 0 and nearest[heap[(at - 1) >> 1]] > c:
                heap[at] = heap[(at - 1) >> 1]
                where[heap[at]] = at
                at = (at - 1) >> 1
            heap[at], where[j] = j, at
        current = heap[0]
        where[current] = INSIDE
        total += nearest[current]
        degree[current] += 1
        degree[parent[current]] += 1
        size -= 1
        last, at = heap[size], 0
        while 2 * at + 1 < size:
            down = 2 * at + 1
            if down + 1 < size and nearest[heap[down + 1]] < nearest[heap[down]]:
                down += 1
            if nearest[heap[down]] >= nearest[last]:
                break
            heap[at] = heap[down]
            where[heap[at]] = at
            at = down
        if size > 0:
            heap[at], where[last] = last, at
    return total + special_edges(pi, degree)
