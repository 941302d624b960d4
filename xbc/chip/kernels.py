"""The inner loops of the replay: writes applied, levels compared, weights decoded, load by load."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

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
SET, RESET, UNCHANGED, STUCK, DONT_CARE, HELD, SET_FIRST, RESET_FIRST, VERIFIED = range(len(COUNTS))
"""Columns of the counts of a load."""


class WriteRows(NamedTuple):
    """Writes of consecutive loads: those of load ``i`` are ``at[i] .. at[i + 1]`` of the other columns."""

    at: Any
    row: Any
    column: Any
    before: Any
    after: Any
    phase: Any
    verify: Any


class SectionRows(NamedTuple):
    """Sections of consecutive loads; entries ``x_at[i] .. x_at[i + 1]`` of a list ``x`` are those of load ``i``."""

    layer: Any
    polarity: Any
    inputs: Any
    inputs_at: Any
    outputs: Any
    outputs_at: Any
    signs: Any
    signs_at: Any
    stored: Any
    stored_at: Any
    wanted: Any
    wanted_at: Any
    flip: Any
    flip_at: Any
    offset: Any


class LayerRows(NamedTuple):
    """Per layer: cells per weight, bits per cell, ``[layers, 32]`` cell weights, inputs, start in ``codes``, and
    whether its sections list an output for each row.
    """

    columns: Any
    bits: Any
    weights: Any
    inputs: Any
    base: Any
    gated: Any


class Chips(NamedTuple):
    """Two chips side by side, in the first inference and in a later one.

    ``first``, ``later``, ``wear``, ``faulty``: ``[crossbars, rows, columns]``.  ``stamp [rows, columns]`` marks
    the cells that a load wrote; ``codes`` and ``placed`` collect all layers' weights.
    """

    faulty: Any
    first: Any
    later: Any
    wear: Any
    stamp: Any
    codes: Any
    placed: Any


class Notes(NamedTuple):
    """``counts [n, len(COUNTS)]``; ``first``, ``later [n, rows, columns]`` take the crossbar after each load;
    ``findings [most, FINDING_COLUMNS]``, of which ``used [1]`` would be filled.
    """

    counts: Any
    first: Any
    later: Any
    findings: Any
    used: Any


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
    load: int, top: int, crossbar: Any, writes: WriteRows, sections: SectionRows, layers: LayerRows, chips: Chips,
    notes: Notes,
) -> None:  # fmt: skip
    """Replays loads ``load ..`` into ``crossbar [n]`` on two chips at once, with levels up to ``top``."""
    image_first, image_later, first, later = notes.first, notes.later, chips.first, chips.later
    for i in range(crossbar.shape[0]):
        c = crossbar[i]
        _write(i, load + i, top, c, writes, sections, layers, chips, notes)
        driven = _read(i, load + i, c, sections, layers, chips, notes)
        notes.counts[i, DONT_CARE] = first.shape[1] * first.shape[2] - driven
        for r in range(first.shape[1]):
            for k in range(first.shape[2]):
                image_first[i, r, k] = first[c, r, k]
                image_later[i, r, k] = later[c, r, k]


@njit(cache=True, nogil=True)
def _write(
    i: int, this: int, top: int, c: int, writes: WriteRows, sections: SectionRows, layers: LayerRows, chips: Chips,
    notes: Notes,
) -> None:  # fmt: skip
    """The writes of load ``this``, entry ``i`` of the columns, into crossbar ``c``."""
    inputs, outputs, counts = sections.inputs, sections.outputs, notes.counts
    findings, used = notes.findings, notes.used
    first, later, wear, stamp, faulty = chips.first, chips.later, chips.wear, chips.stamp, chips.faulty
    rows, columns = first.shape[1], first.shape[2]
    inputs_at, outputs_at = sections.inputs_at[i], sections.outputs_at[i]
    n_rows = sections.inputs_at[i + 1] - inputs_at
    gated = layers.gated[sections.layer[i]]
    groups = 1 if gated else sections.outputs_at[i + 1] - outputs_at
    per_weight = layers.columns[sections.layer[i]]
    row, column, before, after, phase = writes.row, writes.column, writes.before, writes.after, writes.phase
    last_cell, last_phase = -1, -1
    for w in range(writes.at[i], writes.at[i + 1]):
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
            or inputs[inputs_at + r] < 0
            or group >= groups
            or (not gated and outputs[outputs_at + group] < 0)
        ):
            _note(findings, used, UNUSED_CELL, this, c, r, k, 0, 0)
        if old == new:
            _note(findings, used, NO_CHANGE, this, c, r, k, old, new)
        counts[i, VERIFIED] += writes.verify[w]
        if faulty[c, r, k]:
            _note(findings, used, FAULTY, this, c, r, k, first[c, r, k], new)
            continue
        if when != 2:
            if first[c, r, k] != old:
                _note(findings, used, BEFORE_FIRST, this, c, r, k, old, first[c, r, k])
            first[c, r, k] = new
            counts[i, SET_FIRST if new > old else RESET_FIRST] += 1
        if when != 1:
            if later[c, r, k] != old:
                _note(findings, used, BEFORE_LATER, this, c, r, k, old, later[c, r, k])
            later[c, r, k] = new
            counts[i, SET if new > old else RESET] += 1
            wear[c, r, k] += 1
            stamp[r, k] = this


@njit(cache=True, nogil=True)
def _read(
    i: int, this: int, c: int, sections: SectionRows, layers: LayerRows, chips: Chips, notes: Notes
) -> int:
    """The weights that stand in crossbar ``c`` after load ``this``; returns how many cells are driven."""
    inputs, outputs, stored, wanted, flip = (
        sections.inputs, sections.outputs, sections.stored, sections.wanted, sections.flip,
    )  # fmt: skip
    first, later, stamp, faulty, codes, placed = (
        chips.first, chips.later, chips.stamp, chips.faulty, chips.codes, chips.placed,
    )  # fmt: skip
    counts, findings, used, cell_weights = notes.counts, notes.findings, notes.used, layers.weights
    signs, offset, polarity = sections.signs, sections.offset, sections.polarity[i]
    layer = sections.layer[i]
    gated, per_weight, bits = layers.gated[layer], layers.columns[layer], layers.bits[layer]
    base, width = layers.base[layer], layers.inputs[layer]
    inputs_at, outputs_at, stored_at = sections.inputs_at[i], sections.outputs_at[i], sections.stored_at[i]
    wanted_at, flip_at, signs_at = sections.wanted_at[i], sections.flip_at[i], sections.signs_at[i]
    n_rows = sections.inputs_at[i + 1] - inputs_at
    groups = 1 if gated else sections.outputs_at[i + 1] - outputs_at
    exact = sections.wanted_at[i + 1] == wanted_at
    flips = sections.flip_at[i + 1] > flip_at
    signed = sections.signs_at[i + 1] > signs_at
    mask = (1 << bits) - 1
    driven = 0
    for r in range(n_rows):
        source = inputs[inputs_at + r]
        if source < 0:
            continue
        for g in range(groups):
            listed = outputs_at + (r if gated else g)
            sink = outputs[listed]
            if sink < 0:
                continue
            driven += per_weight
            word = stored[stored_at + r * groups + g]
            turned = flip[flip_at + g] if flips else 0
            target = word if exact else wanted[wanted_at + r * groups + g] ^ turned
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
                    counts[i, HELD] += 1
                elif stamp[r, k] != this:
                    counts[i, UNCHANGED if level == ((target >> shift) & mask) else STUCK] += 1
                code += cell_weights[layer, d] * (level ^ ((turned >> shift) & mask))
            code -= offset[listed]
            if signed:
                code *= signs[signs_at + r]
            elif polarity != 0:
                code *= polarity
            weight = base + sink * width + source
            codes[weight] += code
            mark = 2 if polarity < 0 else 1
            if placed[weight] & mark:
                _note(findings, used, TWICE, this, c, r, g * per_weight, sink, source)
            placed[weight] |= mark
    return driven
