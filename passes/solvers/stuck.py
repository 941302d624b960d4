"""Words beside stuck cells: the nearest number that they leave, and which row of a section takes which weight."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ir.arrays import Array
from passes.solvers.matching import assign_exact
from passes.solvers.planes import changed

NONE = 1 << 40
"""Error where the stuck cells leave no number within the limits."""


@njit(cache=True, nogil=True)
def nearest(
    value: Any, mask: Any, held: Any, cells: Any, shifts: Any, bits: int, low: int, high: int
) -> tuple[Any, Any]:
    """(distance, word) of a word with the stuck digits whose number is nearest to ``value``; (NONE, 0) without one.

    Branch and bound over the cells, largest weight first; of equally near words the first one found.

    Args:
        mask, held: stuck digits (all ones) and their levels, in the word.
        cells: ``[columns]`` int64 what a level of each cell counts, in descending order of its size.
        shifts: ``[columns]`` int64 place of its digit in the word.
        low, high: numbers allowed.
    """
    n = cells.shape[0]
    top = (1 << bits) - 1
    least = np.zeros(n + 1, np.int64)  # of the cells from k on
    most = np.zeros(n + 1, np.int64)
    for k in range(n - 1, -1, -1):
        a, b = 0, top
        if (mask >> shifts[k]) & top:
            a = b = (held >> shifts[k]) & top
        x, y = cells[k] * a, cells[k] * b
        least[k] = least[k + 1] + min(x, y)
        most[k] = most[k + 1] + max(x, y)
    best, found = NONE, 0
    rest = np.zeros(n + 1, np.int64)
    word = np.zeros(n + 1, np.int64)
    centre = np.zeros(n, np.int64)
    turn = np.zeros(n, np.int64)
    rest[0] = value
    k = 0
    fresh = True
    while k >= 0:
        if k == n:
            number = value - rest[n]
            if abs(rest[n]) < best and low <= number <= high:
                best, found = abs(rest[n]), word[n]
                if best == 0:
                    break
            k -= 1
            fresh = False
            continue
        if fresh:
            turn[k] = 0
            wish = (2 * rest[k] - least[k + 1] - most[k + 1]) / (2.0 * cells[k])
            centre[k] = min(max(int(np.floor(wish + 0.5)), 0), top)
        if (mask >> shifts[k]) & top:
            if not fresh:
                k -= 1
                continue
            level = (held >> shifts[k]) & top
        else:
            level = -1
            while turn[k] <= 2 * top:
                step = (turn[k] + 1) // 2
                tried = centre[k] + (step if turn[k] % 2 else -step)
                turn[k] += 1
                if 0 <= tried <= top:
                    level = tried
                    break
            if level < 0:
                k -= 1
                fresh = False
                continue
        left = rest[k] - cells[k] * level
        away = max(0, max(least[k + 1] - left, left - most[k + 1]))
        done = value - left
        if away >= best or done + most[k + 1] < low or done + least[k + 1] > high:
            fresh = False
            if (mask >> shifts[k]) & top:
                k -= 1
            continue
        rest[k + 1] = left
        word[k + 1] = word[k] | (level << shifts[k])
        k += 1
        fresh = True
    return best, found


@njit(cache=True, nogil=True)
def fill_tables(
    masks: Any, levels: Any, cells: Any, shifts: Any, bits: int, lowest: int, low: int, high: int,
    errors: Any, words: Any,
) -> None:  # fmt: skip
    """``nearest`` of every pattern and number ``lowest + v``; ``errors``, ``words`` ``[patterns, numbers]``."""
    for p in range(masks.shape[0]):
        for v in range(errors.shape[1]):
            error, word = nearest(lowest + v, masks[p], levels[p], cells, shifts, bits, low, high)
            errors[p, v] = min(error, 1 << 30)
            words[p, v] = word


@njit(cache=True, nogil=True, inline="always")
def _look(
    p: Any, value: Any, stored: Any, flip: Any, masks: Any, levels: Any, cells: Any, shifts: Any, bits: int,
    lowest: int, low: int, high: int, errors: Any, words: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """(error, word) of a number in a stuck place: its own word when the stuck cells agree with it (error 0)."""
    mask, held = masks[p], levels[p]
    word = np.int64(stored)
    if mask == 0:
        return NONE, word
    if (word & mask) == held:
        return 0, word
    turned = np.int64(flip) & mask
    error: Any
    number = np.int64(value)
    if turned == 0 and errors.shape[1]:
        error, word = np.int64(errors[p, number - lowest]), np.int64(words[p, number - lowest])
    else:
        error, word = nearest(number, mask, held ^ turned, cells, shifts, bits, low, high)
    return (NONE if error >= 1 << 30 else error), word ^ np.int64(flip)


@njit(cache=True, nogil=True)
def arrange(
    crossbar: Any, inputs: Any, outputs: Any, stored: Any, values: Any, flip: Any, lanes: Any,
    of_outputs: Any, of_inputs: Any, word_at: Any, word_row: Any, word_group: Any, word_pattern: Any,
    masks: Any, levels: Any, cells: Any, shifts: Any, bits: int, digits: Any, lowest: int, low: int, high: int,
    errors: Any, words: Any, worth: float, most: int, move: bool,
    content: Any, held: Any, row_error: Any, group_error: Any, tally: Any,
) -> None:  # fmt: skip
    """Rows of sections on ``crossbar[i]`` exchanged, and the nearest numbers where none fits.

    The rows with stuck cells choose among all contents of the section (those without a weight fit anywhere) by an
    assignment of least  worth * s * error**2 + cells that differ from what stood there; what they displace takes the
    rows that they emptied.

    Args:
        inputs ``[n, rows]``, outputs ``[n, G]``, stored, values ``[n, rows, G]``, flip ``[n, G]``,
        lanes ``[n, rows, lanes]``: of the sections, in this order; values as ``CellFormat.decode`` has them.
        of_outputs ``[n, G]``, of_inputs ``[n, rows]``: how much a squared error of a weight matters.
        word_at: ``[crossbars + 1]`` bounds in word_row, word_group, word_pattern: places with stuck cells by crossbar.
        masks, levels: ``[patterns]`` stuck digits, their levels.
        most: largest cost of one weight, in cells.
        move: whether rows may be exchanged.
    Results: content ``[n, rows]`` which content every row takes, held ``[n, rows, G]`` words in the new rows,
        row_error, group_error: sums of s * error**2 of the new rows, of the groups, infinite where no number within
        the limits fits; tally ``[n, 4]``: rows with faulty cells that take another content, of these without a weight,
        weights whose number is another, sum of error**2.
    """
    rows, groups = inputs.shape[1], outputs.shape[1]
    cost = np.zeros((rows, rows), np.int64)
    chosen = np.zeros(rows, np.int64)
    taker = np.zeros(rows, np.int64)
    faulty = np.zeros(rows, np.int64)
    index = np.zeros(rows, np.int64)
    gap = np.zeros(rows, np.int64)
    lost = np.zeros(rows, np.int64)
    small = np.zeros((rows, rows), np.int64)
    for i in range(crossbar.shape[0]):
        a, b = word_at[crossbar[i]], word_at[crossbar[i] + 1]
        for r in range(rows):
            content[i, r] = r
            index[r] = -1
        clash = False
        count = 0
        for w in range(a, b):
            r, g = word_row[w], word_group[w]
            if r >= rows or g >= groups or outputs[i, g] < 0:
                continue
            if index[r] < 0:
                index[r] = count
                faulty[count] = r
                count += 1
            p = word_pattern[w]
            clash |= inputs[i, r] >= 0 and (np.int64(stored[i, r, g]) & masks[p]) != levels[p]
        if not clash:
            for r in range(rows):
                for g in range(groups):
                    held[i, r, g] = stored[i, r, g]
            continue
        if move:
            for f in range(count):
                for j in range(rows):
                    apart: Any = 0
                    for q in range(lanes.shape[2]):
                        apart += np.int64(changed(lanes[i, faulty[f], q] ^ lanes[i, j, q], bits, digits))
                    cost[f, j] = apart
            for w in range(a, b):
                r, g = word_row[w], word_group[w]
                if r >= rows or g >= groups or outputs[i, g] < 0:
                    continue
                f, p = index[r], word_pattern[w]
                for j in range(rows):
                    if inputs[i, j] < 0:
                        continue
                    error, _ = _look(
                        p, values[i, j, g], stored[i, j, g], flip[i, g], masks, levels, cells, shifts, bits, lowest,
                        low, high, errors, words,
                    )  # fmt: skip
                    if error >= NONE:
                        cost[f, j] += 2 * most * groups
                    elif error > 0:
                        price = worth * of_outputs[i, g] * of_inputs[i, j] * float(error) * float(error)
                        cost[f, j] += 1 + np.int64(min(price, float(most)))
            assign_exact(cost, count, rows, chosen, taker)
            holes = 0
            left = 0
            for f in range(count):
                content[i, faulty[f]] = chosen[f]
                if taker[faulty[f]] < 0:  # its own content is taken by no faulty row
                    lost[left] = faulty[f]
                    left += 1
                if index[chosen[f]] < 0:  # the row of what it takes is no faulty one
                    gap[holes] = chosen[f]
                    holes += 1
            for x in range(left):
                for y in range(holes):
                    apart = 0
                    for q in range(lanes.shape[2]):
                        apart += np.int64(changed(lanes[i, lost[x], q] ^ lanes[i, gap[y], q], bits, digits))
                    small[x, y] = apart
            if left:
                assign_exact(small, left, holes, chosen, taker)
                for x in range(left):
                    content[i, gap[chosen[x]]] = lost[x]
        for f in range(count):
            r = faulty[f]
            if content[i, r] != r:
                tally[i, 0] += 1
                if inputs[i, content[i, r]] < 0:
                    tally[i, 1] += 1
        for r in range(rows):
            for g in range(groups):
                held[i, r, g] = stored[i, content[i, r], g]
        for w in range(a, b):
            r, g = word_row[w], word_group[w]
            if r >= rows or g >= groups or outputs[i, g] < 0 or inputs[i, content[i, r]] < 0:
                continue
            j = content[i, r]
            error, word = _look(
                word_pattern[w], values[i, j, g], stored[i, j, g], flip[i, g], masks, levels, cells, shifts, bits,
                lowest, low, high, errors, words,
            )  # fmt: skip
            if error >= NONE:
                row_error[i, r] = np.inf
                group_error[i, g] = np.inf
                continue
            held[i, r, g] = word
            if error > 0:
                tally[i, 2] += 1
                tally[i, 3] += float(error) * float(error)
            price = of_outputs[i, g] * of_inputs[i, j] * float(error) * float(error)
            row_error[i, r] += price
            group_error[i, g] += price


def cell_order(weights: Array, bits: int) -> tuple[Array, Array]:
    """(cells, shifts) as ``nearest`` takes them, from the cell weights of a format."""
    order = np.argsort(-np.abs(weights), kind="stable")
    return weights[order].astype(np.int64), (bits * (len(weights) - 1 - order)).astype(np.int64)
