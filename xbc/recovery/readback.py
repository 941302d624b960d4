"""What a chip really holds against what the program promises: deviating cells, what they do, and their
repair.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit

from ir.arrays import Array
from ir.errors import XbcError
from ir.faulty import FaultyCells
from ir.npy import open_mapped
from ir.target import Target
from xbc.backend.program import Program
from xbc.backend.stream import run_chunk, skipped_phase, start_levels, stream_loads
from xbc.chip.kernels import LayerRows, SectionRows, WriteRows
from xbc.chip.replay import layer_facts, section_rows
from xbc.recovery.resume import checked_levels

COLUMNS: Final = ("crossbar", "row", "column", "level")


def read_levels(path: Path, program: Program) -> tuple[Array, Array]:
    """(levels, measured) ``[crossbars, rows, columns]`` of a measurement file, uint8 and bool.

    A ``.npy`` file holds the whole array; a Parquet table has the columns crossbar, row, column and level,
    one row per measured cell, and may leave cells out.

    Raises: XbcError when the file cannot be read, has another shape, names a cell twice or one that does not
    exist.
    """
    target = program.target
    shape = (target.crossbars, target.rows, target.columns)
    try:
        if path.suffix == ".npy":
            levels = checked_levels(program, np.asarray(open_mapped(path)))
            return levels, np.ones(shape, np.bool_)
        if path.suffix == ".npz":
            raise XbcError(f"{path} is an .npz archive: give the levels as .npy or Parquet")
        file = pq.ParquetFile(path)
        if file.metadata.num_rows > np.prod(shape, dtype=np.int64):
            raise XbcError(
                f"{path} has {file.metadata.num_rows} rows for {int(np.prod(shape))} cells of the chip"
            )
        missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
        if missing:
            raise XbcError(f"{path} has no column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
        table = file.read(columns=list(COLUMNS))
        columns = [_integers(path, name, table.column(name)) for name in COLUMNS]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise XbcError(f"cannot read the measured levels {path}: {error}") from None
    for name, values, limit in zip(COLUMNS, columns, (*shape, 2**target.bits_per_cell), strict=True):
        bad = np.flatnonzero((values < 0) | (values >= limit))
        if len(bad):
            raise XbcError(
                f"{path}, row {int(bad[0])}: {name} {int(values[bad[0]])} is outside 0..{limit - 1}"
            )
    bar, row, column, level = columns
    measured = np.zeros(shape, np.bool_)
    measured[bar, row, column] = True
    if np.count_nonzero(measured) != len(bar):
        raise XbcError(f"{path} gives a level for the same cell twice")
    levels = np.zeros(shape, np.uint8)
    levels[bar, row, column] = level
    return levels, measured


def _integers(path: Path, name: str, column: Any) -> Array:
    if not pa.types.is_integer(column.type) or column.null_count:
        raise XbcError(f"{path}: column {name} must hold integers without gaps")
    return np.asarray(column.to_numpy(), np.int64)


def expected_levels(program: Program, load: int, inference: str) -> Array:
    """``[crossbars, rows, columns]`` after load ``load`` of an inference (-1: before its first load)."""
    if not -1 <= load < program.total("loads"):
        raise XbcError(f"load {load} is outside -1..{program.total('loads') - 1} of {program.folder}")
    levels = start_levels(program, inference)
    for part in stream_loads(program, 0, load + 1):
        run_chunk(levels, part, inference)
    return levels


@dataclass(frozen=True)
class Deviations:
    """Cells that do not hold what they should.

    Fields:
        load, inference: after which load the chip was read.
        crossbar, row, column, expected, measured: ``[cells]``.
        resident: ``[cells]`` the load whose section stands in the crossbar, -1 for none yet.
    """

    load: int
    inference: str
    crossbar: Array
    row: Array
    column: Array
    expected: Array
    measured: Array
    resident: Array

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.crossbar)


def compare(program: Program, levels: Array, measured: Array, load: int, inference: str) -> Deviations:
    """Cells of a read-back that differ from the expected post-state of a load."""
    expected = expected_levels(program, load, inference)
    bar, row, column = np.nonzero(measured & (levels != expected))
    resident = np.full(program.target.crossbars, -1, np.int64)
    crossbars = program.loads["crossbar"]
    if inference == "steady":
        resident[crossbars] = np.arange(len(crossbars))
    resident[crossbars[: load + 1]] = np.arange(load + 1)
    return Deviations(
        load, inference, bar, row, column, expected[bar, row, column], levels[bar, row, column], resident[bar]
    )


@dataclass(frozen=True)
class Effect:
    """What deviating cells do to the network in the inference that follows.

    Fields:
        layer, output, input: ``[weights]`` which weights are computed with another code.
        change: ``[weights]`` int64, by how much.
        healed: ``[cells]`` bool: deviations that the program itself overwrites within that inference.
    """

    layer: Array
    output: Array
    input: Array
    change: Array
    healed: Array

    def codes(self, program: Program, codes: dict[str, Array]) -> dict[str, Array]:
        """Layer name -> ``[outputs, inputs]`` codes with the changes, from those of an undisturbed replay."""
        changed = {name: array.copy() for name, array in codes.items()}
        for i, layer in enumerate(program.layers):
            which = self.layer == i
            np.add.at(changed[layer.name], (self.output[which], self.input[which]), self.change[which])
        return changed


class _Cells(NamedTuple):
    """Deviating cells sorted by crossbar: those of crossbar ``c`` are ``at[c] .. at[c + 1]`` of the other columns.

    ``delta``: level found minus level expected now; ``healed``: whether the program has overwritten it.
    """

    at: Any
    row: Any
    column: Any
    found: Any
    delta: Any
    healed: Any


@njit(cache=True, nogil=True)
def _disturb(
    skip: int, stuck: bool, crossbar: Any, writes: WriteRows, sections: SectionRows, layers: LayerRows, cells: _Cells,
    out: Any,
) -> int:  # fmt: skip
    """Follows deviations through loads; returns how many (layer, output, input, change) ``out`` would take."""
    used = 0
    row, column, after, phase = writes.row, writes.column, writes.after, writes.phase
    inputs, outputs, signs, flip = sections.inputs, sections.outputs, sections.signs, sections.flip
    cells_row, cells_column, delta, healed = cells.row, cells.column, cells.delta, cells.healed
    for i in range(crossbar.shape[0]):
        c, layer = crossbar[i], sections.layer[i]
        inputs_at, outputs_at = sections.inputs_at[i], sections.outputs_at[i]
        signs_at, flip_at = sections.signs_at[i], sections.flip_at[i]
        n_rows, flips = sections.inputs_at[i + 1] - inputs_at, sections.flip_at[i + 1] > flip_at
        signed, per, bits = sections.signs_at[i + 1] > signs_at, layers.columns[layer], layers.bits[layer]
        begin, end = writes.at[i], writes.at[i + 1]
        for f in range(cells.at[c], cells.at[c + 1]):
            r, k = cells_row[f], cells_column[f]
            for w in range(begin, end):
                if row[w] == r and column[w] == k and phase[w] != skip:
                    delta[f] = cells.found[f] - after[w] if stuck else 0
                    healed[f] = not stuck
            if delta[f] == 0 or r >= n_rows:
                continue
            group, digit = k // per, k % per
            source = inputs[inputs_at + r]
            if layers.gated[layer]:
                groups, listed = 1, outputs_at + r
            else:
                groups, listed = sections.outputs_at[i + 1] - outputs_at, outputs_at + group
            if source < 0 or group >= groups or outputs[listed] < 0:
                continue
            change = layers.weights[layer, digit] * delta[f]
            if flips and (flip[flip_at + group] >> (bits * (per - 1 - digit))) & 1:
                change = -change
            if signed:
                change *= signs[signs_at + r]
            elif sections.polarity[i] != 0:
                change *= sections.polarity[i]
            if used < out.shape[0]:
                out[used, 0], out[used, 1], out[used, 2], out[used, 3] = (
                    layer,
                    outputs[listed],
                    source,
                    change,
                )
            used += 1
    return used


def follow(program: Program, deviations: Deviations, stuck: bool = False) -> Effect:
    """Replays one inference from the measured cells and gives the weights it computes wrongly.

    The loads after ``deviations.load`` come first, then the next inference up to that load: every load
    once. A deviation lasts until its cell is written again; with ``stuck`` the cells never change.
    """
    order = np.argsort(deviations.crossbar, kind="stable")
    columns = [getattr(deviations, n)[order] for n in ("crossbar", "row", "column", "measured", "expected")]
    bar, row, column, found, expected = (a.astype(np.int64) for a in columns)
    bar_at = np.searchsorted(bar, np.arange(program.target.crossbars + 1))
    cells = _Cells(bar_at, row, column, found, found - expected, np.zeros(len(bar), np.bool_))
    layers = layer_facts(program)
    loads, after = program.total("loads"), deviations.load + 1
    changes = [np.zeros((0, 4), np.int64)]
    for start, stop, inference in ((after, loads, deviations.inference), (0, after, "steady")):
        at = start
        for block in program.sections(start, stop):
            n = len(block["section"])
            for part in stream_loads(program, at, at + n):
                sections = section_rows(block, part.start - at, part.stop - at)
                writes = WriteRows(
                    part.write_at, part.row, part.column, part.before, part.after.astype(np.int64), part.phase,
                    part.verify,
                )  # fmt: skip
                room = 4096
                while True:
                    out = np.zeros((room, 4), np.int64)
                    now = cells._replace(delta=cells.delta.copy(), healed=cells.healed.copy())
                    used = _disturb(
                        skipped_phase(inference), stuck, part.crossbar, writes, sections, layers, now, out
                    )
                    if used <= room:
                        break
                    room = used
                cells = now
                changes.append(out[:used])
            at += n
    merged = np.concatenate(changes)
    keys, inverse = np.unique(merged[:, :3], axis=0, return_inverse=True)
    change = np.bincount(inverse.reshape(-1), weights=merged[:, 3], minlength=len(keys)).astype(np.int64)
    keys, change = keys[change != 0], change[change != 0]
    unsorted = np.empty(len(cells.healed), np.bool_)
    unsorted[order] = cells.healed
    return Effect(keys[:, 0], keys[:, 1], keys[:, 2], change, unsorted)


def with_deviations(target: Target, deviations: Deviations, measured: Array) -> FaultyCells:
    """The target's faulty cells and the deviating ones at the levels that were read.

    ``measured [crossbars, rows, columns]``: cells that were read.  A listed cell that was read at another level is
    stuck there; one that was not read stays listed.
    """
    found = np.stack([deviations.crossbar, deviations.row, deviations.column, deviations.measured], axis=1)
    again = np.zeros(measured.shape, np.bool_)
    again[deviations.crossbar, deviations.row, deviations.column] = True
    return FaultyCells(np.concatenate([target.faulty.cells[~again[target.faulty.index()]], found]))


def repair_table(program: Program, deviations: Deviations) -> tuple[pa.Table, int]:
    """The repair program, and how many cells it cannot repair (the target lists them as faulty).

    One row per write: crossbar, row, column, before (measured), after (expected), verify (always); sorted by
    crossbar, then row and column, as a load.
    """
    target = program.target
    faulty = target.faulty.mask((target.crossbars, target.rows, target.columns))
    keep = ~faulty[deviations.crossbar, deviations.row, deviations.column]
    count = int(keep.sum())
    table = pa.table(
        {
            "crossbar": pa.array(deviations.crossbar[keep], pa.int32()),
            "row": pa.array(deviations.row[keep], pa.int32()),
            "column": pa.array(deviations.column[keep], pa.int32()),
            "before": pa.array(deviations.measured[keep], pa.uint8()),
            "after": pa.array(deviations.expected[keep], pa.uint8()),
            "verify": pa.array(np.ones(count, np.bool_)),
        }
    )
    return table, len(deviations) - count
