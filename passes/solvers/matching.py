"""Row matching: which weight of the next section goes to which row of a crossbar that already holds words.

Weights are *items*, rows are *places*; there are never more items than places.  Equal words are matched
first, in linear time.  What is left is a small assignment problem over a cost matrix: greedy by ascending
cost, then exchanges until none helps, or exactly by shortest augmenting paths.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from passes.solvers.planes import changed, popcount

FREE = -1


@njit(cache=True, nogil=True, inline="always")
def word_distance(a: Any, b: Any, bits: int, mask: Any) -> Any:
    """Digits in which two words differ; ``mask`` marks the lowest bit of every digit."""
    x = np.uint64(a ^ b)
    if bits >= 2:
        x |= x >> np.uint64(1)
    if bits == 3:
        x |= x >> np.uint64(1)
    if bits == 4:
        x |= x >> np.uint64(2)
    return popcount(x & mask)


def digit_mask(bits: int) -> int:
    """Lowest bit of every ``bits``-bit digit in 64 bits (digits packed without gaps)."""
    return sum(1 << i for i in range(0, 64, bits))


@njit(cache=True, nogil=True)
def assign_greedy(cost: Any, m: int, n: int, place: Any, item: Any) -> None:
    """Near-optimal assignment of ``m`` items to ``n >= m`` places under ``cost[m, n]``.

    Fills ``place[:m]`` and ``item[:n]`` (``FREE`` where empty): pairs in ascending cost, then pairwise
    exchanges and moves to free places until no one of them lowers the sum.
    """
    for j in range(n):
        item[j] = FREE
    for i in range(m):
        place[i] = FREE
    left = m
    level = 0
    while left > 0:
        following = 1 << 30
        for i in range(m):
            if place[i] != FREE:
                continue
            for j in range(n):
                if item[j] != FREE:
                    continue
                c = cost[i, j]
                if c <= level:
                    place[i] = j
                    item[j] = i
                    left -= 1
                    break
                if c < following:
                    following = c
        level = following
    improve_exchanges(cost, m, n, place, item)


@njit(cache=True, nogil=True)
def improve_exchanges(cost: Any, m: int, n: int, place: Any, item: Any) -> None:
    """Pairwise exchanges and moves to free places until none lowers the sum of ``cost[i, place[i]]``."""
    better = True
    while better:
        better = False
        for i in range(m):
            a = place[i]
            for j in range(n):
                k = item[j]
                if k == i:
                    continue
                gain = cost[i, a] - cost[i, j]
                if k != FREE:
                    gain += cost[k, j] - cost[k, a]
                if gain > 0:
                    item[a] = k
                    if k != FREE:
                        place[k] = a
                    place[i] = j
                    item[j] = i
                    a = j
                    better = True


@njit(cache=True, nogil=True)
def assign_exact(cost: Any, m: int, n: int, place: Any, item: Any) -> None:
    """Minimum-cost assignment of ``m`` items to ``n >= m`` places (Jonker and Volgenant 1987): items take their
    cheapest places, then exchange them by augmenting row reduction, the rest is placed along shortest augmenting
    paths with potentials."""
    u = np.zeros(m + 1, np.int64)
    v = np.zeros(n + 1, np.int64)
    match = np.full(n + 1, -1, np.int64)
    way = np.zeros(n + 1, np.int64)
    low = np.empty(n + 1, np.int64)
    used = np.empty(n + 1, np.bool_)
    left = np.empty(m + 1, np.int64)
    waiting = m
    for i in range(m):
        left[i] = i
    for _ in range(
        2
    ):  # augmenting row reduction: prices of places fall, feasible because those free stay at 0
        kept = 0
        k = 0
        budget = 4 * m
        while k < waiting:
            i = left[k]
            k += 1
            first, second = 1 << 60, 1 << 60
            j1 = j2 = 0
            for j in range(n):
                reduced = cost[i, j] - v[j]
                if reduced < second:
                    if reduced < first:
                        second, j2 = first, j1
                        first, j1 = reduced, j
                    else:
                        second, j2 = reduced, j
            if n == 1:
                second = first
            if first < second:
                v[j1] -= second - first
            elif match[j1] >= 0:
                j1 = j2
            u[i] = second
            thrown = match[j1]
            match[j1] = i
            if thrown >= 0:
                budget -= 1
                if first < second and budget > 0:
                    k -= 1
                    left[k] = thrown
                else:
                    left[kept] = thrown
                    kept += 1
        waiting = kept
    for at in range(waiting):
        i = left[at]
        match[n] = i
        j0 = n
        for j in range(n + 1):
            low[j] = 1 << 60
            used[j] = False
        while match[j0] != -1:
            used[j0] = True
            i0 = match[j0]
            delta = 1 << 60
            j1 = -1
            for j in range(n):
                if not used[j]:
                    reduced = cost[i0, j] - u[i0] - v[j]
                    if reduced < low[j]:
                        low[j] = reduced
                        way[j] = j0
                    if low[j] < delta:
                        delta = low[j]
                        j1 = j
            for j in range(n + 1):
                if used[j]:
                    u[match[j]] += delta
                    v[j] -= delta
                else:
                    low[j] -= delta
            j0 = j1
        while j0 != n:
            j1 = way[j0]
            match[j0] = match[j1]
            j0 = j1
    for j in range(n):
        item[j] = match[j]
        if match[j] != -1:
            place[match[j]] = j


@njit(cache=True, nogil=True)
def sort_by(key: Any, order: Any, n: int) -> None:
    """Shell sort of ``order[:n]`` by ``key``, ties by index (deterministic, no allocation)."""
    gap = 57
    while gap > 0:
        for i in range(gap, n):
            x = order[i]
            kx = key[x]
            j = i
            while j >= gap and (
                key[order[j - gap]] > kx or (key[order[j - gap]] == kx and order[j - gap] > x)
            ):
                order[j] = order[j - gap]
                j -= gap
            order[j] = x
        if gap == 57:
            gap = 23
        elif gap == 23:
            gap = 10
        elif gap == 10:
            gap = 4
        elif gap == 4:
            gap = 1
        else:
            gap = 0


@njit(cache=True, nogil=True)
def pair_equal(
    state: Any, words: Any, n: int, place: Any, rest: Any, open_places: Any, by_state: Any, by_word: Any
) -> Any:
    """Gives every word of ``words[:n]`` that stands in ``state`` already its row; lists what is left.

    Returns (items left, places left); ``rest`` and ``open_places`` hold them, ``place`` the rows given.
    """
    rows = state.shape[0]
    for i in range(rows):
        by_state[i] = i
    for i in range(n):
        by_word[i] = i
    sort_by(state, by_state, rows)
    sort_by(words, by_word, n)
    a = 0
    items = 0
    places = 0
    for i in range(n):
        w = words[by_word[i]]
        while a < rows and state[by_state[a]] < w:
            open_places[places] = by_state[a]
            places += 1
            a += 1
        if a < rows and state[by_state[a]] == w:
            place[by_word[i]] = by_state[a]
            a += 1
        else:
            rest[items] = by_word[i]
            items += 1
    while a < rows:
        open_places[places] = by_state[a]
        places += 1
        a += 1
    return items, places


@njit(cache=True, nogil=True)
def match_loads(
    order: Any, crossbar: Any, closing: Any, words: Any, counts: Any, bits: int, mask: Any, exact: bool,
    low: int, high: int, state: Any, first: Any, place: Any,
) -> int:  # fmt: skip
    """Matches the loads ``order`` of crossbars ``low <= c < high`` one after the other.

    Args:
        closing: ``[sections]`` bool, the last load on its crossbar: matched against the first load's words too,
            because the next inference puts those back.
        words: ``[sections, rows]`` items of each section first, ``counts [sections]`` how many.
        state: ``[crossbars, rows]`` uint32 words now in the rows; updated.
        first: ``[crossbars, rows]`` int64 word of each row's first load, -1 before it; updated.
        place: ``[sections, rows]`` int32, receives the row of each item.
    Returns: the digits that change (the wrap not included).
    """
    rows = state.shape[1]
    spots = np.empty(rows, np.int64)
    by_state = np.empty(rows, np.int64)
    by_word = np.empty(rows, np.int64)
    rest = np.empty(rows, np.int64)
    open_places = np.empty(rows, np.int64)
    part = np.empty(rows, np.int64)
    part_item = np.empty(rows, np.int64)
    cost = np.empty((rows, rows), np.int32)
    total = 0
    for k in range(order.shape[0]):
        s = order[k]
        c = crossbar[s]
        if c < low or c >= high:
            continue
        n = counts[s]
        if closing[s]:
            items, places = n, rows
            for i in range(rows):
                rest[i] = i
                open_places[i] = i
        else:
            items, places = pair_equal(state[c], words[s], n, spots, rest, open_places, by_state, by_word)
        for i in range(items):
            word = np.uint32(words[s, rest[i]])
            for j in range(places):
                row = open_places[j]
                d = word_distance(word, state[c, row], bits, mask)
                if closing[s] and first[c, row] >= 0:
                    d += word_distance(word, np.uint32(first[c, row]), bits, mask)
                cost[i, j] = d
        if items > 0:
            if exact:
                assign_exact(cost, items, places, part, part_item)
            else:
                assign_greedy(cost, items, places, part, part_item)
        for i in range(items):
            spots[rest[i]] = open_places[part[i]]
        for i in range(n):
            word = np.uint32(words[s, i])
            row = spots[i]
            total += word_distance(word, state[c, row], bits, mask)
            place[s, i] = row
            state[c, row] = word
            if first[c, row] < 0:
                first[c, row] = word
    return total


@njit(cache=True, nogil=True)
def match_vectors(
    order: Any, crossbar: Any, closing: Any, lanes: Any, used: Any, counts: Any, bits: int, mask: Any, exact: bool,
    low: int, high: int, state: Any, first: Any, touched: Any, place: Any,
) -> int:  # fmt: skip
    """As ``match_loads`` for rows of several words, packed in 64-bit lanes (``planes.fold_mask``).

    ``lanes [sections, rows, lanes]``, ``used [sections, lanes]`` marks the columns a section occupies;
    ``state``, ``first`` and ``touched`` (columns with a first word) are ``[crossbars, rows, lanes]``.
    """
    rows, width = state.shape[1], state.shape[2]
    part = np.empty(rows, np.int64)
    part_item = np.empty(rows, np.int64)
    cost = np.empty((rows, rows), np.int32)
    total = 0
    for k in range(order.shape[0]):
        s = order[k]
        c = crossbar[s]
        if c < low or c >= high:
            continue
        n = counts[s]
        for i in range(n):
            for j in range(rows):
                d = 0
                for q in range(width):
                    d += changed((lanes[s, i, q] ^ state[c, j, q]) & used[s, q], bits, mask)
                    if closing[s]:
                        d += changed(
                            (lanes[s, i, q] ^ first[c, j, q]) & used[s, q] & touched[c, j, q], bits, mask
                        )
                cost[i, j] = d
        if exact:
            assign_exact(cost, n, rows, part, part_item)
        else:
            assign_greedy(cost, n, rows, part, part_item)
        for i in range(n):
            j = part[i]
            place[s, i] = j
            for q in range(width):
                mine = used[s, q]
                total += changed((lanes[s, i, q] ^ state[c, j, q]) & mine, bits, mask)
                state[c, j, q] = (state[c, j, q] & ~mine) | (lanes[s, i, q] & mine)
                fresh = mine & ~touched[c, j, q]
                first[c, j, q] |= lanes[s, i, q] & fresh
                touched[c, j, q] |= fresh
    return total
