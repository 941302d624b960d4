"""Open paths of small cost through a distance matrix: greedy construction and neighbour-list local search."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ir.arrays import Array


@njit(cache=True, nogil=True)
def greedy_path(cost: Any, start: int) -> Any:
    """Nearest-neighbour path over all nodes of ``cost [n, n]``, ties to the lower index."""
    n = cost.shape[0]
    path = np.empty(n, np.int64)
    seen = np.zeros(n, np.bool_)
    current = start
    seen[current] = True
    path[0] = current
    for i in range(1, n):
        row = cost[current]
        best = -1
        lowest = 1 << 30
        for j in range(n):
            if not seen[j] and row[j] < lowest:
                lowest = row[j]
                best = j
        current = best
        seen[current] = True
        path[i] = current
    return path


@njit(cache=True, nogil=True)
def nearest_lists(cost: Any, k: int) -> Any:
    """``[n, k]`` nearest other nodes of every node, ascending (insertion into a short list)."""
    n = cost.shape[0]
    k = min(k, n - 1)
    out = np.empty((n, k), np.int32)
    low = np.empty(k, np.int64)
    for i in range(n):
        held = 0
        for j in range(n):
            if j == i:
                continue
            c = np.int64(cost[i, j])
            if held == k and c >= low[k - 1]:
                continue
            at = held if held < k else k - 1
            while at > 0 and low[at - 1] > c:
                low[at] = low[at - 1]
                out[i, at] = out[i, at - 1]
                at -= 1
            low[at] = c
            out[i, at] = j
            if held < k:
                held += 1
    return out


@njit(cache=True, nogil=True, inline="always")
def _edge(cost: Any, path: Any, i: int) -> Any:
    """Cost of the edge between positions i and i + 1; 0 beyond either end."""
    if i < 0 or i + 1 >= path.shape[0]:
        return 0
    return np.int64(cost[path[i], path[i + 1]])


@njit(cache=True, nogil=True)
def _reverse(path: Any, where: Any, i: int, j: int) -> None:
    while i < j:
        a, b = path[i], path[j]
        path[i], path[j] = b, a
        where[b], where[a] = i, j
        i += 1
        j -= 1
    if i == j:
        where[path[i]] = i


@njit(cache=True, nogil=True)
def improve(cost: Any, path: Any, near: Any, rounds: int) -> int:
    """2-opt and Or-opt (segments of up to 3, either way round) with neighbour lists, first improvement.

    ``path`` is an open path with free ends, changed in place.  At most ``rounds`` sweeps over all nodes.
    Returns the saving.
    """
    n = path.shape[0]
    where = np.empty(n, np.int64)
    for i in range(n):
        where[path[i]] = i
    quiet = np.zeros(n, np.bool_)
    saved = 0
    for _ in range(rounds):
        changed = False
        for node in range(n):
            if quiet[node]:
                continue
            gain = _improve_node(cost, path, where, near, node, quiet)
            while gain > 0:
                saved += gain
                changed = True
                gain = _improve_node(cost, path, where, near, node, quiet)
            quiet[node] = True
        if not changed:
            break
    return saved


@njit(cache=True, nogil=True)
def _wake(path: Any, quiet: Any, i: int) -> None:
    for j in range(max(0, i - 1), min(path.shape[0], i + 3)):
        quiet[path[j]] = False


@njit(cache=True, nogil=True)
def _improve_node(cost: Any, path: Any, where: Any, near: Any, node: int, quiet: Any) -> Any:
    n = path.shape[0]
    for q in range(near.shape[1]):
        other = near[node, q]
        c = np.int64(cost[node, other])
        i, j = where[node], where[other]
        # 2-opt: bring `other` beside `node` by turning what lies between them round
        if i > j:
            lo, hi = j, i
        else:
            lo, hi = i, j
        if hi - lo > 1:
            # successors: edges (lo, lo+1), (hi, hi+1) -> (lo, hi), (lo+1, hi+1)
            gain = _edge(cost, path, lo) + _edge(cost, path, hi) - c
            if hi + 1 < n:
                gain -= np.int64(cost[path[lo + 1], path[hi + 1]])
            if gain > 0:
                _reverse(path, where, lo + 1, hi)
                _wake(path, quiet, lo)
                _wake(path, quiet, hi)
                return gain
            # predecessors: edges (lo-1, lo), (hi-1, hi) -> (lo-1, hi-1), (lo, hi)
            gain = _edge(cost, path, lo - 1) + _edge(cost, path, hi - 1) - c
            if lo > 0:
                gain -= np.int64(cost[path[lo - 1], path[hi - 1]])
            if gain > 0:
                _reverse(path, where, lo, hi - 1)
                _wake(path, quiet, lo - 1)
                _wake(path, quiet, hi - 1)
                return gain
        # Or-opt: a segment that starts or ends at `node` moves next to `other`
        for length in range(1, 4):
            for side in range(2):
                a = i if side == 0 else i - length + 1
                b = a + length - 1
                if a < 0 or b >= n or a <= j <= b:
                    continue
                cut = _edge(cost, path, a - 1) + _edge(cost, path, b)
                if a > 0 and b + 1 < n:
                    cut -= np.int64(cost[path[a - 1], path[b + 1]])
                far = path[b] if side == 0 else path[a]
                for after in range(2):
                    # insert between other and its successor (after = 1) or predecessor (after = 0)
                    k = j if after == 1 else j - 1
                    if k == a - 1 or k == b:
                        continue
                    gain = cut + _edge(cost, path, k) - c
                    beyond = k + 1 if after == 1 else k
                    if 0 <= beyond < n:
                        gain -= np.int64(cost[far, path[beyond]])
                    if gain > 0:
                        # node must end up next to other: forward when it leads after other or trails before it
                        forward = (side == 0) == (after == 1)
                        _move(path, where, a, b, k, forward)
                        _wake(path, quiet, min(a, k) - 1)
                        _wake(path, quiet, max(b, k))
                        _wake(path, quiet, where[node])
                        _wake(path, quiet, where[other])
                        return gain
    return 0


@njit(cache=True, nogil=True)
def _move(path: Any, where: Any, a: int, b: int, k: int, forward: bool) -> None:
    """Moves positions a..b to the gap after position k (k outside a-1..b), reversed unless ``forward``."""
    length = b - a + 1
    segment = np.empty(length, path.dtype)
    for i in range(length):
        segment[i] = path[a + i] if forward else path[b - i]
    if k > b:
        for i in range(b + 1, k + 1):
            path[i - length] = path[i]
            where[path[i - length]] = i - length
        start = k - length + 1
    else:
        for i in range(a - 1, k, -1):
            path[i + length] = path[i]
            where[path[i + length]] = i + length
        start = k + 1
    for i in range(length):
        path[start + i] = segment[i]
        where[segment[i]] = start + i


def path_length(cost: Array, path: Array) -> int:
    """Cost of the open path."""
    return int(cost[path[:-1], path[1:]].sum(dtype=np.int64))


def short_path(cost: Array, neighbours: int = 8, rounds: int = 30) -> Array:
    """Greedy path from the node farthest from all others, then local search."""
    n = len(cost)
    if n < 3:
        return np.arange(n)
    start = int(cost.sum(axis=1, dtype=np.int64).argmax())
    path = greedy_path(cost, start)
    improve(cost, path, nearest_lists(cost, neighbours), rounds)
    return np.asarray(path)
