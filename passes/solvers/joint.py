"""Row matching for a crossbar whose content will not be rewritten exactly.

The cost of a weight w in a row that holds u is what partial reprogramming would pay there:
``min over v of writes(u -> v) + weight * (v - w)**2``, a look-up table for each penalty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from passes.solvers.matching import assign_exact, pair_equal

SCALE = 4096
"""Cost units of one write in the tables."""


@njit(cache=True, nogil=True)
def cost_tables(
    weight: float, width: int, bits: int, up: float, down: float, values: Any, cost: Any, best: Any
) -> None:
    """Fills ``cost [2**width, 2**width]`` int32 (row: state held, column: state wanted) and ``best``, the state
    to go to.  ``up``/``down``: writes a SET and a RESET count as."""
    states = 1 << width
    levels = 1 << bits
    f = np.empty(states)
    origin = np.empty(states, np.int64)
    g = np.empty(states)
    held = np.empty(states, np.int64)
    for w in range(states):
        for v in range(states):
            d = values[v] - values[w]
            f[v] = weight * d * d
            origin[v] = v
        stride = 1
        while stride < states:
            for u in range(states):
                level = (u // stride) % levels
                low = f[u]
                at = origin[u]
                base = u - level * stride
                for x in range(levels):
                    if x == level:
                        continue
                    v = base + x * stride
                    c = f[v] + (up if x > level else down)
                    if c < low:
                        low = c
                        at = origin[v]
                g[u] = low
                held[u] = at
            for u in range(states):
                f[u] = g[u]
                origin[u] = held[u]
            stride *= levels
        for u in range(states):
            cost[u, w] = np.int32(min(f[u], 1000.0) * SCALE)
            best[u, w] = origin[u]


@njit(cache=True, nogil=True)
def match_joint(
    order: Any, crossbar: Any, closing: Any, words: Any, counts: Any, cost: Any, best: Any, low: int, high: int,
    state: Any, first: Any, place: Any,
) -> None:  # fmt: skip
    """As ``matching.match_loads`` under the joint cost; ``state [crossbars, rows]`` uint8 becomes what is held."""
    rows = state.shape[1]
    spots = np.empty(rows, np.int64)
    by_state = np.empty(rows, np.int64)
    by_word = np.empty(rows, np.int64)
    rest = np.empty(rows, np.int64)
    open_places = np.empty(rows, np.int64)
    part = np.empty(rows, np.int64)
    part_item = np.empty(rows, np.int64)
    matrix = np.empty((rows, rows), np.int32)
    for k in range(order.shape[0]):
        s = order[k]
        c = crossbar[s]
        if c < low or c >= high:
            continue
        n = counts[s]
        held = state[c]
        mine = words[s]
        if closing[s]:
            items, places = n, rows
            for i in range(rows):
                rest[i] = i
                open_places[i] = i
        else:
            items, places = pair_equal(held, mine, n, spots, rest, open_places, by_state, by_word)
        for i in range(items):
            w = mine[rest[i]]
            for j in range(places):
                u = held[open_places[j]]
                matrix[i, j] = cost[u, w]
                if closing[s] and first[c, open_places[j]] >= 0:
                    matrix[i, j] += cost[best[u, w], first[c, open_places[j]]]
        if items > 0:
            assign_exact(matrix, items, places, part, part_item)
        for i in range(items):
            spots[rest[i]] = open_places[part[i]]
        for i in range(n):
            row = spots[i]
            place[s, i] = row
            held[row] = best[held[row], mine[i]]
            if first[c, row] < 0:
                first[c, row] = mine[i]
