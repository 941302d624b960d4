"""Row matching for a crossbar whose content will not be rewritten exactly.

The cost of a weight w in a row that holds u is what partial reprogramming would pay there:
``min over v of writes(u -> v) + weight * (v - w)**2``, a look-up table for each penalty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from passes.solvers.transport import put, transport

SCALE = 4096
"""Cost units of one write in the tables."""


@njit(cache=True, nogil=True)
def cost_tables(
    weight: float, width: int, bits: int, up: float, down: float, values: Any, cost: Any, best: Any
) -> None:
    """Fills ``cost [2**width, 2**width]`` int64 (row: state wanted, column: state held) and ``best``, the state
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
            cost[w, u] = np.int64(min(f[u], 1e6) * SCALE)
            best[w, u] = origin[u]


@njit(cache=True, nogil=True)
def match_joint(
    order: Any, crossbar: Any, closing: Any, words: Any, counts: Any, cost: Any, best: Any, low: int, high: int,
    state: Any, first: Any, place: Any,
) -> None:  # fmt: skip
    """As ``matching.match_loads`` under the joint cost; ``state [crossbars, rows]`` uint8 becomes what is held.

    Equal words start in their rows, but may be moved: two small errors can be cheaper than none and a large one.
    """
    rows = state.shape[1]
    shift = 1
    while (1 << shift) < rows:
        shift += 1
    scratch, table = np.empty((6, rows), np.int64), np.empty((11, max(rows, 256)), np.int64)
    supply, room, count, word_of, state_of = table[0], table[1], table[2], table[3], table[4]
    item_head, item_next, row_head, row_next = table[5], table[6], table[7], table[8]
    word_kind, state_kind = table[9], table[10]
    matrix = np.empty((rows, rows), np.int64)
    flow, members = np.zeros((rows, rows), np.int64), np.empty((rows, rows), np.int64)
    for k in range(order.shape[0]):
        s = order[k]
        c = crossbar[s]
        if c < low or c >= high:
            continue
        n = counts[s]
        held = state[c]
        mine = words[s]
        items = places = 0
        word_kind[:] = -1
        state_kind[:] = -1
        for i in range(n - 1, -1, -1):
            w = mine[i]
            a = word_kind[w]
            if a < 0:
                a = items
                items += 1
                word_kind[w], word_of[a], supply[a], item_head[a] = a, w, 0, -1
            supply[a] += 1
            item_next[i] = item_head[a]
            item_head[a] = i
        for r in range(rows - 1, -1, -1):
            u = held[r]
            b = state_kind[u]
            if b < 0 or closing[s]:  # the wrap tells rows of one state apart
                b = places
                places += 1
                state_kind[u], state_of[b], room[b], row_head[b], count[b] = b, u, 0, -1, 0
            room[b] += 1
            row_next[r] = row_head[b]
            row_head[b] = r
        for a in range(items):
            w = word_of[a]
            costs = cost[w]
            for b in range(places):
                price = costs[state_of[b]]
                if closing[s] and first[c, row_head[b]] >= 0:
                    price += cost[first[c, row_head[b]], best[w, state_of[b]]]
                matrix[a, b] = (price << shift) | b
            b = state_kind[w]
            if b >= 0 and not closing[s]:
                units = min(supply[a], room[b])
                supply[a] -= units
                room[b] -= units
                put(flow, members, count, b, a, units)
        transport(matrix, supply, room, items, places, shift, flow, members, count, scratch)
        for b in range(places):
            for i in range(count[b]):
                a = members[b, i]
                for _ in range(flow[b, a]):
                    item, row = item_head[a], row_head[b]
                    item_head[a], row_head[b] = item_next[item], row_next[row]
                    place[s, item] = row
                    held[row] = best[word_of[a], held[row]]
                    if first[c, row] < 0:
                        first[c, row] = word_of[a]
                flow[b, a] = 0
