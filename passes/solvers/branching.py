"""Shortest open paths of small groups: branch and bound over 1-trees (Held and Karp 1971, Volgenant and Jonker 1982).

A dummy node at distance 0 from all closes the open path to a tour.  A branch requires or forbids edges; its bound
is the 1-tree bound with subgradient steps that go on from the node weights of the branch above.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ir.arrays import Array

FREE, REQUIRED, FORBIDDEN = 0, 1, 2
HUGE = 1e7
"""More than any path of a small group costs; what a required edge is cheaper and a forbidden one dearer by."""
ROOT_STEPS, BRANCH_STEPS = 500, 40


def branch_path(cost: Array, path: Array, bound: int, trees: int) -> tuple[Array, int, bool]:
    """Shortest open path with free ends.

    Args:
        cost: ``[n, n]`` symmetric, n > 2, no entry above ``HUGE / n``.
        path: a known path.
        bound: a known lower bound.
        trees: limit of work, in 1-trees.
    Returns: path, lower bound, whether they meet.
    """
    n = len(cost)
    closed = np.zeros((n + 1, n + 1))
    closed[:n, :n] = cost
    tour = np.append(path, n).astype(np.int64)
    length = float(cost[path[:-1], path[1:]].sum(dtype=np.int64))
    depth = n * n // 2 + 2
    states = np.zeros((depth, n + 1, n + 1), np.int8)
    weights = np.zeros((depth, n + 1))
    reached, root, done = _search(closed, length, float(bound), trees, states, weights, tour)
    at = int(np.flatnonzero(tour == n)[0])
    best = np.roll(tour, -at)[1:]
    low = max(bound, int(np.ceil(root - 1e-6)))
    return best, int(reached) if done else min(int(reached), low), bool(done)


@njit(cache=True, nogil=True)
def _tree(cost: Any, state: Any, pi: Any, degree: Any, ends: Any) -> float:
    """Weight of the minimum 1-tree around the last node; fills degrees and edges ``ends [n, 2]``."""
    n = cost.shape[0]
    special = n - 1
    best = np.full(n, 1e18)
    parent = np.zeros(n, np.int64)
    inside = np.zeros(n, np.bool_)
    degree[:] = 0
    total, current = 0.0, 0
    inside[0] = True
    for e in range(special - 1):
        following, lowest = -1, 1e18
        shift = pi[current]
        for j in range(special):
            if inside[j]:
                continue
            w = cost[current, j] + shift + pi[j]
            if state[current, j] == REQUIRED:
                w -= HUGE
            elif state[current, j] == FORBIDDEN:
                w += HUGE
            if w < best[j]:
                best[j] = w
                parent[j] = current
            if best[j] < lowest:
                lowest, following = best[j], j
        total += lowest
        ends[e, 0], ends[e, 1] = parent[following], following
        degree[following] += 1
        degree[parent[following]] += 1
        inside[following] = True
        current = following
    a, b, ia, ib = 1e18, 1e18, 0, 0
    for j in range(special):
        w = cost[special, j] + pi[special] + pi[j]
        if state[special, j] == REQUIRED:
            w -= HUGE
        elif state[special, j] == FORBIDDEN:
            w += HUGE
        if w < a:
            b, ib = a, ia
            a, ia = w, j
        elif w < b:
            b, ib = w, j
    ends[special - 1, 0], ends[special - 1, 1] = special, ia
    ends[special, 0], ends[special, 1] = special, ib
    degree[ia] += 1
    degree[ib] += 1
    degree[special] = 2
    return total + a + b


@njit(cache=True, nogil=True)
def _narrow(state: Any) -> bool:
    """Draws conclusions at nodes with two required edges or two edges left; False when none can be a tour."""
    n = state.shape[0]
    again = True
    while again:
        again = False
        for i in range(n):
            required, left = 0, 0
            for j in range(n):
                if j != i:
                    required += state[i, j] == REQUIRED
                    left += state[i, j] != FORBIDDEN
            if required > 2 or left < 2:
                return False
            if (required == 2 and left > 2) or (left == 2 and required < 2):
                kind = FORBIDDEN if required == 2 else REQUIRED
                for j in range(n):
                    if j != i and state[i, j] == FREE:
                        state[i, j] = kind
                        state[j, i] = kind
                again = True
    return True


@njit(cache=True, nogil=True)
def _search(
    cost: Any, upper: float, known: float, trees: int, states: Any, weights: Any, tour: Any
) -> tuple[float, float, bool]:
    """Depth first.  Returns the shortest length, the bound of the root, and whether the search is complete."""
    n = cost.shape[0]
    degree, previous = np.zeros(n, np.int64), np.zeros(n, np.int64)
    ends, kept_ends = np.zeros((n, 2), np.int64), np.zeros((n, 2), np.int64)
    kept_degree = np.zeros(n, np.int64)
    pi, kept = np.zeros(n), np.zeros(n)
    root = known
    top = 0  # states[top] waits to be looked at
    used = 0
    while top >= 0:
        state = states[top]
        if not _narrow(state):
            top -= 1
            continue
        required = 0
        for i in range(n):
            for j in range(i):
                required += state[i, j] == REQUIRED
        pi[:] = weights[top]
        best, scale, since = -1e18, 1.0, 0
        first = used == 0
        pruned = False
        for step in range(ROOT_STEPS if first else BRANCH_STEPS):
            if used >= trees:
                return upper, root, False
            used += 1
            value = _tree(cost, state, pi, degree, ends) + HUGE * required
            for j in range(n):
                value -= 2.0 * pi[j]
            norm = 0
            for j in range(n):
                norm += (degree[j] - 2) ** 2
            if value > best:
                best, since = value, 0
                kept[:] = pi
                kept_ends[:] = ends
                kept_degree[:] = degree
            else:
                since += 1
                if since >= (8 if first else 4):
                    scale, since = scale * 0.6, 0
            if best > upper - 1 + 1e-6:
                pruned = True
                break
            if norm == 0:
                upper = _follow(ends, tour, cost)
                pruned = True
                break
            if scale < 1e-3:
                break
            size = scale * max(upper - value, 0.5) / norm
            for j in range(n):
                pi[j] += size * (0.7 * (degree[j] - 2) + (0.3 * (previous[j] - 2) if step else 0.0))
                previous[j] = degree[j]
        if first:
            root = max(root, min(best, upper))
        if pruned:
            top -= 1
            continue
        # the edge at a node of high degree whose loss costs most
        a, b, worst = -1, -1, -1e18
        for e in range(n):
            i, j = kept_ends[e, 0], kept_ends[e, 1]
            if state[i, j] != FREE or (kept_degree[i] < 3 and kept_degree[j] < 3):
                continue
            score = max(kept_degree[i], kept_degree[j]) * 1e6 + cost[i, j] + kept[i] + kept[j]
            if score > worst:
                a, b, worst = i, j, score
        if a < 0:  # all edges of crowded nodes are required: no tour
            top -= 1
            continue
        # the branch without the edge is looked at first
        states[top + 1] = state
        state[a, b] = REQUIRED
        state[b, a] = REQUIRED
        states[top + 1, a, b] = FORBIDDEN
        states[top + 1, b, a] = FORBIDDEN
        weights[top] = kept
        weights[top + 1] = kept
        top += 1
    return upper, upper, True


@njit(cache=True, nogil=True)
def _follow(ends: Any, tour: Any, cost: Any) -> float:
    """Writes the tour whose edges are ``ends`` and returns its length."""
    n = ends.shape[0]
    near = np.full((n, 2), -1, np.int64)
    for e in range(n):
        for i, j in ((ends[e, 0], ends[e, 1]), (ends[e, 1], ends[e, 0])):
            near[i, 0 if near[i, 0] < 0 else 1] = j
    before, at, total = -1, 0, 0.0
    for k in range(n):
        tour[k] = at
        following = near[at, 0] if near[at, 0] != before else near[at, 1]
        total += cost[at, following]
        before, at = at, following
    return total
