"""Walking a module's loads with the levels of every cell, to find what has to be written.

Two chips are walked at once: one starts blank (first inference), one starts with what an inference leaves
behind (steady state).  Where their cells differ a write belongs to one phase only.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from ir.arrays import Array, frozen
from ir.errors import XbcError
from ir.module import Module
from ir.stages import Programmed
from ir.target import Target
from xbc.backend.order import LoadOrder
from xbc.backend.tables import GROUP_VALUES

COUNTS = (
    "set", "reset", "unchanged", "stuck", "dont_care", "faulty", "set_first", "reset_first", "rows",
    "verified",
)  # fmt: skip
_SNAPSHOT_BYTES = 1 << 24


MOST_CELLS = 1 << 34
"""Of a chip that is walked or replayed, one byte each."""


@njit(cache=True, nogil=True)
def _settle(
    crossbar: Any, inputs: Any, outputs: Any, stored: Any, columns: int, bits: int, state: Any
) -> None:
    """Levels after the loads: only the last touch of a cell counts."""
    mask = np.uint32((1 << bits) - 1)
    for i in range(crossbar.shape[0]):
        c = crossbar[i]
        for r in range(inputs.shape[1]):
            if inputs[i, r] < 0:
                continue
            for g in range(outputs.shape[1]):
                if outputs[i, g] < 0:
                    continue
                word = np.uint32(stored[i, r, g])
                for d in range(columns):
                    state[c, r, g * columns + d] = (word >> np.uint32(bits * (columns - 1 - d))) & mask


@njit(cache=True, nogil=True)
def _walk(
    load: int, crossbar: Any, inputs: Any, outputs: Any, stored: Any, wanted: Any, flip: Any, verify: Any,
    verify_all: bool, columns: int, bits: int, faulty: Any, any_faulty: bool, first: Any, steady: Any,
    wear: Any, snap_first: Any, snap_steady: Any, counts: Any, out_load: Any, out_row: Any, out_column: Any,
    out_before: Any, out_after: Any, out_phase: Any, out_verify: Any, position: int, conflict: Any,
) -> int:  # fmt: skip
    """Loads sections one after the other; returns the new position in the ``out_*`` columns.

    Shapes: crossbar [n], inputs [n, rows], outputs [n, G], stored/wanted/verify [n, rows, G], flip [n, G],
    first/steady/wear/faulty [crossbars, rows, columns], snap_* [n, rows, columns], counts [n, len(COUNTS)].
    ``conflict`` [4] takes (crossbar, row, column, i) of a faulty cell that would have to be written.
    """
    mask = np.uint32((1 << bits) - 1)
    total = first.shape[1] * first.shape[2]
    for i in range(crossbar.shape[0]):
        c = crossbar[i]
        driven = 0
        for r in range(inputs.shape[1]):
            if inputs[i, r] < 0:
                continue
            for g in range(outputs.shape[1]):
                if outputs[i, g] < 0:
                    continue
                driven += columns
                word = np.uint32(stored[i, r, g])
                want = np.uint32(wanted[i, r, g]) ^ np.uint32(flip[i, g])
                marks = np.uint32(verify[i, r, g])
                for d in range(columns):
                    shift = np.uint32(bits * (columns - 1 - d))
                    level = np.uint8((word >> shift) & mask)
                    k = g * columns + d
                    f, s = first[c, r, k], steady[c, r, k]
                    if any_faulty and faulty[c, r, k]:
                        if level != s:
                            conflict[0], conflict[1], conflict[2], conflict[3] = c, r, k, i
                            return position
                        counts[i, 5] += 1
                        continue
                    if level == s:
                        if level == np.uint8((want >> shift) & mask):
                            counts[i, 2] += 1
                        else:
                            counts[i, 3] += 1
                    else:
                        counts[i, 0 if level > s else 1] += 1
                        wear[c, r, k] += 1
                        steady[c, r, k] = level
                    if level != f:
                        counts[i, 6 if level > f else 7] += 1
                        first[c, r, k] = level
                    if level == s and level == f:
                        continue
                    checked = verify_all or ((marks >> shift) & mask) != 0
                    for phase in range(3):
                        if phase == 0 and (f != s):
                            continue
                        if phase == 1 and (f == s or level == f):
                            continue
                        if phase == 2 and (f == s or level == s):
                            continue
                        out_load[position] = load + i
                        out_row[position] = r
                        out_column[position] = k
                        out_before[position] = s if phase == 2 else f
                        out_after[position] = level
                        out_phase[position] = phase
                        out_verify[position] = checked
                        position += 1
                        counts[i, 8] += 1
                        counts[i, 9] += checked
        counts[i, 4] = total - driven
        for r in range(first.shape[1]):
            for k in range(first.shape[2]):
                snap_first[i, r, k] = first[c, r, k]
                snap_steady[i, r, k] = steady[c, r, k]
    return position


@dataclass(frozen=True)
class Chunk:
    """What a run of consecutive loads of one layer does.

    Fields:
        load: id of the first one.
        layer: index of the layer.
        part: rows of the layer's section table.
        wanted: ``[n, rows, G]`` words that represent the codes exactly.
        counts: ``[n, len(COUNTS)]`` int64.
        crc_first, crc_steady: ``[n]`` uint32, CRC-32 of the whole crossbar after each load.
        writes: column name -> ``[writes]``, valid until the next chunk is asked for.
    """

    load: int
    layer: int
    part: slice
    wanted: Array
    counts: Array
    crc_first: Array
    crc_steady: Array
    writes: dict[str, Array]


def check_cells(crossbars: int, rows: int, columns: int) -> None:
    """Raises XbcError for a chip of more cells than the virtual chip takes."""
    if crossbars * rows * columns > MOST_CELLS:
        raise XbcError(f"a chip of {crossbars} x {rows} x {columns} cells is too large for the virtual chip")


def blank_chip(target: Target) -> tuple[Array, Array]:
    """Levels before the first inference and mask of faulty cells, ``[crossbars, rows, columns]`` uint8.

    Raises: XbcError when the chip has more cells than can be simulated.
    """
    shape = (target.crossbars, target.rows, target.columns)
    check_cells(*shape)
    faulty = target.faulty.mask(shape) if target.faulty else np.zeros((1, 1, 1), np.bool_)
    return target.faulty.stamp(np.zeros(shape, np.uint8)), faulty.view(np.uint8)


def walk_module(module: Module, order: LoadOrder, wear: Array) -> Iterator[Chunk]:
    """Chunks of loads in load order.

    Args:
        module: all layers programmed, in load order.
        order: its load order.
        wear: ``[crossbars, rows, columns]`` uint32 of zeros; takes the steady writes of every cell.
    Raises: XbcError when a stored level contradicts a faulty cell.
    """
    target = module.target
    bodies = [layer.at(Programmed) for layer in module.layers]
    first, faulty = blank_chip(target)
    steady, _ = blank_chip(target)  # not a copy: cells that no load reaches cost no memory
    for _, at, part in order.runs(1 << 30):
        b = bodies[at]
        _settle(b.crossbar[part], b.inputs[part], b.outputs[part], b.stored[part], b.cells.columns,
                b.bits_per_cell, steady)  # fmt: skip
    target.faulty.stamp(steady)

    per_load = max((2 * b.rows * b.group_width * b.cells.columns for b in bodies), default=1)
    room = max(GROUP_VALUES, per_load)
    longest = max(1, min(_SNAPSHOT_BYTES // (target.rows * target.columns), room // per_load))
    out: dict[str, Array] = {
        "load": np.empty(room, np.int32),
        "row": np.empty(room, np.int32),
        "column": np.empty(room, np.int32),
        "before": np.empty(room, np.uint8),
        "after": np.empty(room, np.uint8),
        "phase": np.empty(room, np.uint8),
        "verify": np.empty(room, np.bool_),
    }
    snap_shape = (min(longest, order.loads), target.rows, target.columns)
    snaps = np.empty(snap_shape, np.uint8), np.empty(snap_shape, np.uint8)
    conflict = np.full(4, -1, np.int64)
    windows: dict[int, tuple[int, Array]] = {}
    for load, at, part in order.runs(longest):
        body = bodies[at]
        wanted = _wanted(body, part, windows, at)
        n = part.stop - part.start
        counts = np.zeros((n, len(COUNTS)), np.int64)
        plain = np.zeros((n, body.group_width), wanted.dtype)
        flip = frozen(plain if body.flip is None else body.flip[part])
        verify = body.stored[part] if body.verify is None else body.verify[part]
        used = _walk(
            load, body.crossbar[part], body.inputs[part], body.outputs[part], body.stored[part], wanted, flip,
            verify, body.verify is None, body.cells.columns, body.bits_per_cell, faulty, bool(target.faulty),
            first, steady, wear, snaps[0], snaps[1], counts, out["load"], out["row"], out["column"],
            out["before"], out["after"], out["phase"], out["verify"], 0, conflict,
        )  # fmt: skip
        if conflict[0] >= 0:
            c, r, k, s = (int(x) for x in conflict)
            raise XbcError(
                f"layer {module.layers[at].name!r}, section {part.start + s}: row {r}, column {k} of "
                f"crossbar {c} is faulty at level {int(steady[c, r, k])} and the section stores another "
                f"level there: place the section elsewhere or take the cell out of the target's faulty list"
            )
        crcs = [np.array([zlib.crc32(image) for image in snap[:n]], np.uint32) for snap in snaps]
        writes = {name: column[:used] for name, column in out.items()}
        yield Chunk(load, at, part, wanted, counts, crcs[0], crcs[1], writes)


def _wanted(body: Programmed, part: slice, windows: dict[int, tuple[int, Array]], at: int) -> Array:
    """Wanted words of some sections, computed for many neighbours at once (layers may take turns)."""
    start, words = windows.get(at, (0, np.zeros(0, body.stored.dtype)))
    if part.start < start or part.stop > start + len(words):
        size = max(part.stop - part.start, GROUP_VALUES // max(1, body.rows * body.group_width))
        start, words = part.start, frozen(body.wanted_words(slice(part.start, part.start + size)))
        windows[at] = (start, words)
    if part.stop == body.sections:
        windows.pop(at, None)
    return words[part.start - start : part.stop - start]
