"""What a chip really holds against what the program promises: deviating cells, what they do, and their
repair.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit

from ir.arrays import Array
from ir.errors import XbcError
from ir.faulty import FaultyCells
from ir.target import Target
from xbc.backend.program import Program
from xbc.backend.stream import run_chunk, skipped_phase, start_levels, stream_loads
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
            levels = checked_levels(program, np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)))
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


@njit(cache=True, nogil=True)
def _disturb(
    crossbar: Any, write_at: Any, row: Any, column: Any, after: Any, phase: Any, skip: int, layer: Any,
    polarity: Any,
    inputs: Any, inputs_at: Any, outputs: Any, outputs_at: Any, signs: Any, signs_at: Any, flip: Any,
    flip_at: Any,
    columns_of: Any, bits_of: Any, weights_of: Any, gated_of: Any, f_bar: Any, f_row: Any, f_column: Any, f_found: Any,
    delta: Any,
    healed: Any, stuck: bool, bar_at: Any, out: Any, used: int,
) -> int:  # fmt: skip
    """Follows deviations (sorted by crossbar, ``bar_at`` bounds) through loads.

    ``delta [cells]``: level found minus level expected now.  Appends (layer, output, input, change) to
    ``out``.
    """
    for i in range(crossbar.shape[0]):
        c = crossbar[i]
        for f in range(bar_at[c], bar_at[c + 1]):
            for w in range(write_at[i], write_at[i + 1]):
                if row[w] == f_row[f] and column[w] == f_column[f] and phase[w] != skip:
                    delta[f] = f_found[f] - after[w] if stuck else 0
                    healed[f] = not stuck
            if delta[f] == 0 or f_row[f] >= inputs_at[i + 1] - inputs_at[i]:
                continue
            per = columns_of[layer[i]]
            group, digit = f_column[f] // per, f_column[f] % per
            source = inputs[inputs_at[i] + f_row[f]]
            if gated_of[layer[i]]:
                groups, listed = 1, outputs_at[i] + f_row[f]
            else:
                groups, listed = outputs_at[i + 1] - outputs_at[i], outputs_at[i] + group
            if source < 0 or group >= groups or outputs[listed] < 0:
                continue
            change = weights_of[layer[i], digit] * delta[f]
            if (
                flip_at[i + 1] > flip_at[i]
                and (flip[flip_at[i] + group] >> (bits_of[layer[i]] * (per - 1 - digit))) & 1
            ):
                change = -change
            if signs_at[i + 1] > signs_at[i]:
                change *= signs[signs_at[i] + f_row[f]]
            elif polarity[i] != 0:
                change *= polarity[i]
            if used < out.shape[0]:
                out[used, 0], out[used, 1] = layer[i], outputs[listed]
                out[used, 2], out[used, 3] = source, change
            used += 1
    return used


def follow(program: Program, deviations: Deviations, stuck: bool = False) -> Effect:
    """Replays one inference from the measured cells and gives the weights it computes wrongly.

    The loads after ``deviations.load`` come first, then the next inference up to that load: every load
    once. A deviation lasts until its cell is written again; with ``stuck`` the cells never change.
    """
    order = np.argsort(deviations.crossbar, kind="stable")
    cells = [getattr(deviations, n)[order] for n in ("crossbar", "row", "column", "measured", "expected")]
    bar, row, column, found, expected = (a.astype(np.int64) for a in cells)
    bar_at = np.searchsorted(bar, np.arange(program.target.crossbars + 1))
    delta, healed = found - expected, np.zeros(len(bar), np.bool_)
    weights_of = np.zeros((len(program.layers), 32), np.int64)
    for i, layer in enumerate(program.layers):
        weights_of[i, : len(layer.cell_weights)] = layer.cell_weights
    columns_of = np.array([layer.columns_per_weight for layer in program.layers], np.int64)
    bits_of = np.array([layer.bits_per_cell for layer in program.layers], np.int64)
    gated_of = np.array([layer.gated for layer in program.layers], np.bool_)
    loads, after = program.total("loads"), deviations.load + 1
    changes = [np.zeros((0, 4), np.int64)]
    disturb: Any = _disturb  # its list arguments come packed
    for start, stop, inference in ((after, loads, deviations.inference), (0, after, "steady")):
        at = start
        for block in program.sections(start, stop):
            n = len(block["section"])
            for part in stream_loads(program, at, at + n):
                here = slice(part.start - at, part.stop - at)
                lists: Any = []
                for name in ("inputs", "outputs", "signs", "flip"):
                    values = block[name].values
                    wide = values.astype(np.int64) if values.dtype == np.uint32 else values
                    lists += [wide, block[name].offsets[here.start : here.stop + 1]]
                room = 4096
                while True:
                    out = np.zeros((room, 4), np.int64)
                    state = delta.copy(), healed.copy()
                    used = disturb(
                        part.crossbar, part.write_at, part.row, part.column, part.after.astype(np.int64),
                        part.phase,
                        skipped_phase(inference), block["layer"][here], block["polarity"][here], *lists,
                        columns_of, bits_of, weights_of, gated_of, bar, row, column, found, *state, stuck, bar_at, out,
                        0,
                    )  # fmt: skip
                    if used <= room:
                        break
                    room = used
                delta, healed = state
                changes.append(out[:used])
            at += n
    merged = np.concatenate(changes)
    keys, inverse = np.unique(merged[:, :3], axis=0, return_inverse=True)
    change = np.bincount(inverse.reshape(-1), weights=merged[:, 3], minlength=len(keys)).astype(np.int64)
    keys, change = keys[change != 0], change[change != 0]
    unsorted = np.empty(len(healed), np.bool_)
    unsorted[order] = healed
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
