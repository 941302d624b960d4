"""Row matching for rows of several numbers whose content will not be rewritten exactly (see ``joint``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from passes.solvers.matching import assign_exact


@njit(cache=True, nogil=True)
def match_joint_rows(
    order: Any, crossbar: Any, closing: Any, words: Any, counts: Any, outputs: Any, cost: Any, best: Any, low: int,
    high: int, state: Any, first: Any, place: Any,
) -> None:  # fmt: skip
    """Matches the loads ``order`` of crossbars ``low <= c < high``; a row costs what all its numbers pay.

    Args:
        words: ``[sections, rows, G]`` uint8 items of each section first, ``counts [sections]`` how many.
        outputs: ``[sections, G]``, negative where a group is empty.
        closing: ``[sections]`` bool, see ``matching.match_loads``.
        cost: ``[2**width, 2**width]`` int32, from state held to state wanted (the transposed ``joint.cost_tables``);
            ``best`` uint8, the state to go to.
        state: ``[crossbars, rows, groups]`` uint8 held; updated.
        first: ``[crossbars, rows, groups]`` int32 held after the first load, -1 before it; updated.
        place: ``[sections, rows]`` int32, receives the row of each item.
    """
    rows, groups = state.shape[1], outputs.shape[1]
    part = np.empty(rows, np.int64)
    part_item = np.empty(rows, np.int64)
    matrix = np.empty((rows, rows), np.int32)
    for k in range(order.shape[0]):
        s = order[k]
        c = crossbar[s]
        if c < low or c >= high:
            continue
        n = counts[s]
        matrix[:n] = 0
        for g in range(groups):
            if outputs[s, g] < 0:
                continue
            for j in range(rows):
                held = state[c, j, g]
                costs = cost[held]
                for i in range(n):
                    matrix[i, j] += costs[words[s, i, g]]
                if closing[s] and first[c, j, g] >= 0:
                    for i in range(n):
                        matrix[i, j] += cost[best[held, words[s, i, g]], first[c, j, g]]
        assign_exact(matrix, n, rows, part, part_item)
        for i in range(n):
            j = part[i]
            place[s, i] = j
            for g in range(groups):
                if outputs[s, g] >= 0:
                    state[c, j, g] = best[state[c, j, g], words[s, i, g]]
                    if first[c, j, g] < 0:
                        first[c, j, g] = state[c, j, g]
