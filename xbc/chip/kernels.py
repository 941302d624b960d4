"""The inner loops of the replay: writes applied, levels compared, weights decoded, load by load."""

from __future__ import annotations

from typing import Any, Final

from numba import njit

(
    OUTSIDE,
    UNORDERED,
    BEFORE_FIRST,
    BEFORE_LATER,
    NO_CHANGE,
    FAULTY,
    UNUSED_CELL,
    STORED_FIRST,
    STORED_LATER,
    TWICE,
) = range(10)
"""Kinds of findings: columns of a finding are (kind, load, crossbar, row, column, expected, found)."""

FINDING_COLUMNS: Final = 7
COUNTS: Final = (
    "set",
    "reset",
    "unchanged",
    "stuck",
    "dont_care",
    "faulty",
    "set_first",
    "reset_first",
    "verified",
)


@njit(cache=True, nogil=True)
def settle(levels: Any, faulty: Any, crossbar: Any, row: Any, column: Any, after: Any, phase: Any) -> None:
    """First inference, unchecked: ``levels [crossbars, rows, columns]`` take the writes of phases 0 and 1."""
    for w in range(row.shape[0]):
        c, r, k = crossbar[w], row[w], column[w]
        if phase[w] > 1 or r < 0 or k < 0 or r >= levels.shape[1] or k >= levels.shape[2] or faulty[c, r, k]:
            continue
        levels[c, r, k] = after[w]


@njit(cache=True, nogil=True)
def _note(
    findings: Any, used: Any, kind: int, load: int, crossbar: int, row: int, column: int, a: int, b: int
) -> None:
    n = used[0]
    used[0] += 1
    if n < findings.shape[0]:
        findings[n, 0], findings[n, 1], findings[n, 2], findings[n, 3] = kind, load, crossbar, row
        findings[n, 4], findings[n, 5], findings[n, 6] = column, a, b


@njit(cache=True, nogil=True)
def run_loads(
    load: int, crossbar: Any, write_at: Any, row: Any, column: Any, before: Any, after: Any, phase: Any,
    verify: Any, layer: Any, polarity: Any, inputs: Any, inputs_at: Any, outputs: Any, outputs_at: Any,
    signs: Any, signs_at: Any, stored: Any, stored_at: Any, wanted: Any, wanted_at: Any, flip: Any,
    flip_at: Any, offset: Any,
    columns_of: Any, bits_of: Any, weights_of: Any, inputs_of: Any, base_of: Any, gated_of: Any,
    top: int, faulty: Any, first: Any, later: Any, wear: Any, stamp: Any, codes: Any, placed: Any,
    counts: Any, image_first: Any, image_later: Any, findings: Any, used: Any,
) -> None:  # fmt: skip
    """Replays loads ``load ..`` on two chips at once: in the first inference and in a later one.

    Per load ``i``: ``crossbar[i]``, writes ``write_at[i] .. write_at[i + 1]`` of ``row .. verify``, and its
    section: ``layer[i]``, ``polarity[i]`` and entries ``x_at[i] .. x_at[i + 1]`` of its lists ``x``.
    Per layer: cells per weight, bits per cell, ``[layers, 32]`` cell weights, inputs, start in ``codes``,
    whether its sections list an output for each row.
    ``first``, ``later``, ``wear``, ``faulty``: ``[crossbars, rows, columns]``.  ``stamp [rows, columns]``
    marks the cells that a load wrote; ``codes`` and ``placed`` collect all layers' weights;
    ``counts [n, len(COUNTS)]``; ``image_* [n, rows, columns]`` take the crossbar after each load.
    """
    rows, columns = first.shape[1], first.shape[2]
    for i in range(crossbar.shape[0]):
        c, this = crossbar[i], load + i
        n_rows = inputs_at[i + 1] - inputs_at[i]
        gated = gated_of[layer[i]]
        groups = 1 if gated else outputs_at[i + 1] - outputs_at[i]
        per_weight, bits = columns_of[layer[i]], bits_of[layer[i]]
        last_cell, last_phase = -1, -1
        for w in range(write_at[i], write_at[i + 1]):
            r, k, old, new, when = row[w], column[w], before[w], after[w], phase[w]
            if r < 0 or k < 0 or r >= rows or k >= columns or old > top or new > top or when > 2:
                _note(findings, used, OUTSIDE, this, c, r, k, top, max(old, new))
                continue
            cell = r * columns + k
            if cell < last_cell or (cell == last_cell and not (last_phase == 1 and when == 2)):
                _note(findings, used, UNORDERED, this, c, r, k, last_phase, when)
            last_cell, last_phase = cell, when
            group = k // per_weight
            if (
                r >= n_rows
                or inputs[inputs_at[i] + r] < 0
                or group >= groups
                or (not gated and outputs[outputs_at[i] + group] < 0)
            ):
                _note(findings, used, UNUSED_CELL, this, c, r, k, 0, 0)
            if old == new:
                _note(findings, used, NO_CHANGE, this, c, r, k, old, new)
            counts[i, 8] += verify[w]
            if faulty[c, r, k]:
                _note(findings, used, FAULTY, this, c, r, k, first[c, r, k], new)
                continue
            if when != 2:
                if first[c, r, k] != old:
                    _note(findings, used, BEFORE_FIRST, this, c, r, k, old, first[c, r, k])
                first[c, r, k] = new
                counts[i, 6 if new > old else 7] += 1
            if when != 1:
                if later[c, r, k] != old:
                    _note(findings, used, BEFORE_LATER, this, c, r, k, old, later[c, r, k])
                later[c, r, k] = new
                counts[i, 0 if new > old else 1] += 1
                wear[c, r, k] += 1
                stamp[r, k] = this

        exact = wanted_at[i + 1] == wanted_at[i]
        flips = flip_at[i + 1] > flip_at[i]
        signed = signs_at[i + 1] > signs_at[i]
        mask = (1 << bits) - 1
        driven = 0
        for r in range(n_rows):
            source = inputs[inputs_at[i] + r]
            if source < 0:
                continue
            for g in range(groups):
                listed = outputs_at[i] + (r if gated else g)
                sink = outputs[listed]
                if sink < 0:
                    continue
                driven += per_weight
                word = stored[stored_at[i] + r * groups + g]
                turned = flip[flip_at[i] + g] if flips else 0
                target = word if exact else wanted[wanted_at[i] + r * groups + g] ^ turned
                code = 0
                for d in range(per_weight):
                    k = g * per_weight + d
                    shift = bits * (per_weight - 1 - d)
                    level = int(later[c, r, k])
                    promised = (word >> shift) & mask
                    if int(first[c, r, k]) != promised:
                        _note(findings, used, STORED_FIRST, this, c, r, k, promised, first[c, r, k])
                    if level != promised:
                        _note(findings, used, STORED_LATER, this, c, r, k, promised, level)
                    if faulty[c, r, k]:
                        counts[i, 5] += 1
                    elif stamp[r, k] != this:
                        counts[i, 2 if level == ((target >> shift) & mask) else 3] += 1
                    code += weights_of[layer[i], d] * (level ^ ((turned >> shift) & mask))
                code -= offset[listed]
                if signed:
                    code *= signs[signs_at[i] + r]
                elif polarity[i] != 0:
                    code *= polarity[i]
                weight = base_of[layer[i]] + sink * inputs_of[layer[i]] + source
                codes[weight] += code
                mark = 2 if polarity[i] < 0 else 1
                if placed[weight] & mark:
                    _note(findings, used, TWICE, this, c, r, g * per_weight, sink, source)
                placed[weight] |= mark
        counts[i, 4] = rows * columns - driven
        for r in range(rows):
            for k in range(columns):
                image_first[i, r, k] = first[c, r, k]
                image_later[i, r, k] = later[c, r, k]
