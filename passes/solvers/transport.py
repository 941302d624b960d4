"""Minimum-cost transport between kinds of items and kinds of places: what joint matching solves once per load.

Items of one kind are interchangeable, and so are places; a load of 128 rows has some 60 different words and 50
different states.  A packed cost is ``cost << shift | kind of place``, so that the smallest of a row names its
place too and the inner loops are plain minima over vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

FAR = np.int64(2**63 - 1)


@njit(cache=True, nogil=True)
def put(flow: Any, members: Any, count: Any, b: Any, a: Any, units: Any) -> None:
    """Adds ``units`` (which may be negative) to ``flow[b, a]`` and keeps the list of the kinds that stand in b."""
    if flow[b, a] == 0:
        members[b, count[b]] = a
        count[b] += 1
    flow[b, a] += units
    if flow[b, a] == 0:
        count[b] -= 1
        for i in range(count[b]):
            if members[b, i] == a:
                members[b, i] = members[b, count[b]]
                break


@njit(cache=True, nogil=True)
def transport(
    matrix: Any, supply: Any, room: Any, items: int, places: int, shift: int, flow: Any, members: Any, count: Any,
    scratch: Any,
) -> None:  # fmt: skip
    """Sends every item to a place at the least total cost (successive shortest paths, potentials kept).

    Args:
        matrix: ``[at least items, at least places]`` int64 packed costs of kinds, none negative.
        supply: ``[items]`` how many items of each kind have no place yet; becomes 0.
        room: ``[places]`` how many more items each kind of place can take; the sum is not below the supply.
        flow: ``[places, items]`` how many stand where; on entry only where the cost is 0.
        members, count: ``[places, items]`` and ``[places]``, the kinds of item that stand in each place (``put``).
        scratch: ``[6, at least places and items]`` int64.
    """
    v, key, closed, origin = (
        scratch[0, :places],
        scratch[1, :places],
        scratch[2, :places],
        scratch[3, :places],
    )
    via, seen = scratch[4], scratch[5]
    low = np.int64((1 << shift) - 1)
    v[:] = 0
    seen[:items] = -1
    turn = 0
    for start in range(items):
        while supply[start] > 0:
            turn += 1
            row = matrix[start, :places]
            for b in range(places):
                key[b] = row[b] - v[b]
                closed[b] = -FAR
                origin[b] = start
            seen[start] = turn
            while True:
                best = FAR
                for b in range(places):
                    best = min(best, max(key[b], closed[b]))
                end = best & low
                if room[end] > 0:
                    break
                closed[end] = FAR
                for i in range(count[end]):
                    a = members[end, i]
                    if seen[a] == turn:
                        continue
                    seen[a] = turn
                    via[a] = end
                    row = matrix[a, :places]
                    base = best - (row[end] - v[end])
                    for b in range(places):
                        x = base + row[b] - v[b]
                        if x < key[b]:
                            key[b] = x
                            origin[b] = a
            for b in range(places):
                if closed[b] == FAR:
                    v[b] += ((key[b] >> shift) - (best >> shift)) << shift
            units = min(supply[start], room[end])
            a = origin[end]
            while a != start:
                units = min(units, flow[via[a], a])
                a = origin[via[a]]
            supply[start] -= units
            room[end] -= units
            a = origin[end]
            put(flow, members, count, end, a, units)
            while a != start:
                b = via[a]
                put(flow, members, count, b, a, -units)
                a = origin[b]
                put(flow, members, count, b, a, units)
