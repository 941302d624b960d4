"""Format ``aihwkit``: target conductances in siemens, as analog toolkits and testers take them.

writes.csv has one line per write: load, crossbar, row, column, the wanted conductance, the window that
write-verify accepts, the column that holds the other half of a differential pair (-1: none), and the phase.
start.csv has the conductance of every cell that is not at the lowest level when a steady inference begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from ir.arrays import Array
from ir.errors import XbcError
from ir.target import Target
from xbc.backend.program import Program
from xbc.backend.stream import start_levels, stream_loads
from xbc.export.neurosim import _layer_of
from xbc.export.package import open_export

if TYPE_CHECKING:
    from xbc.export import Options

NAME: Final = "aihwkit"
VERSION: Final = 1
SUMMARY: Final = "target conductance and window of every write in siemens"
_INT: Final = ("load", "crossbar", "row", "column")
_TEXT: Final = ("siemens", "low", "high")
_TAIL: Final = ("pair", "phase", "verify")
_SCHEMA: Final = pa.schema(
    [(n, pa.int32()) for n in _INT] + [(n, pa.string()) for n in _TEXT] + [(n, pa.int32()) for n in _TAIL]
)
_START: Final = pa.schema([(n, pa.int32()) for n in _INT[1:]] + [("siemens", pa.string())])


def conductances(target: Target) -> tuple[Array, Array, Array]:
    """(wanted, lowest accepted, highest accepted) conductance of each level, siemens, ``[levels]``.

    Levels are spread evenly over the device's window.  Accepted is what stays nearest to the level, or within
    ``device.verify_window`` (a fraction of the window) when the target gives one.
    """
    device, top = target.device, 2**target.bits_per_cell - 1
    span = device.g_max_siemens - device.g_min_siemens
    wanted = device.g_min_siemens + span * np.arange(top + 1) / top
    half = span * device.verify_window if device.verify_window else span / top / 2
    return wanted, np.maximum(wanted - half, 0.0), wanted + half


def write(program: Program, folder: Path, options: Options) -> dict[str, Any]:
    """Writes start.csv, writes.csv and levels.csv (the conductance of each level)."""
    target = program.target
    texts = [np.array([f"{v:.6g}" for v in values]) for values in conductances(target)]
    (folder / "levels.csv").write_text(
        "level,siemens,low,high\n"
        + "".join(f"{i},{a},{b},{c}\n" for i, (a, b, c) in enumerate(zip(*texts, strict=True)))
    )
    plain = pc.WriteOptions(quoting_style="none", quoting_header="none")
    levels = start_levels(program, "steady")
    with pc.CSVWriter(folder / "start.csv", _START, write_options=plain) as start:
        for c in range(target.crossbars):
            at_row, at_column = np.nonzero(levels[c])
            cells = [np.full(len(at_row), c), at_row, at_column]
            siemens = pa.array(texts[0].astype(object)[levels[c, at_row, at_column]], pa.string())
            start.write_table(
                pa.table([*(pa.array(x.astype(np.int32)) for x in cells), siemens], schema=_START)
            )
    layers = program.layers
    slices = np.array([a.columns_per_weight // 2 if a.encoding == "differential" else 0 for a in layers])
    layer_of = _layer_of(program, options.loads)
    dictionary = [pa.array(text) for text in texts]
    with pc.CSVWriter(folder / "writes.csv", _SCHEMA, write_options=plain) as out:
        for chunk in stream_loads(program, 0, options.loads):
            owner = chunk.owner()
            half = slices[layer_of[chunk.start + owner]]
            digit = chunk.column % np.maximum(2 * half, 1)
            pair = np.where(half > 0, np.where(digit < half, chunk.column + half, chunk.column - half), -1)
            numbers = [owner + chunk.start, chunk.crossbar[owner], chunk.row, chunk.column]
            index = pa.array(chunk.after.astype(np.int32))
            columns = [pa.array(n.astype(np.int32)) for n in numbers]
            columns += [values.take(index) for values in dictionary]
            columns += [pa.array(n.astype(np.int32)) for n in (pair, chunk.phase, chunk.verify)]
            out.write_table(pa.table(columns, schema=_SCHEMA))
            options.progress("aihwkit", chunk.stop, options.loads)
    return {"units": "siemens"}


def read(folder: Path) -> Iterator[dict[str, Array]]:
    """Batches of writes: column name -> values, ``level`` the level nearest to ``siemens``.

    Raises: XbcError for a damaged export or a conductance outside its own window.
    """
    _, target = open_export(folder, NAME, VERSION)
    wanted, _, _ = conductances(target)
    types = {name: pa.float64() if name in _TEXT else pa.int32() for name in _SCHEMA.names}
    try:
        for batch in pc.open_csv(
            folder / "writes.csv", convert_options=pc.ConvertOptions(column_types=types)
        ):
            rows: dict[str, Array] = {name: batch.column(name).to_numpy() for name in _SCHEMA.names}
            if np.any((rows["siemens"] < rows["low"]) | (rows["siemens"] > rows["high"])):
                raise XbcError(
                    f"{folder / 'writes.csv'} has a conductance outside its window: export the program again"
                )
            edges = (wanted[1:] + wanted[:-1]) / 2
            rows["level"] = np.digitize(rows["siemens"], edges).astype(np.uint8)
            yield rows
    except (pa.ArrowInvalid, KeyError) as error:
        raise XbcError(f"{folder} is no readable export of format aihwkit: {error}") from None
