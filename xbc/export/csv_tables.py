"""Format ``csv``: loads.csv and writes.csv, comma separated, one header line, integers only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from ir.errors import XbcError
from xbc.backend.program import Program
from xbc.backend.stream import WRITE_COLUMNS, Loads, stream_loads
from xbc.export.package import open_export

if TYPE_CHECKING:
    from xbc.export import Options

NAME: Final = "csv"
VERSION: Final = 1
SUMMARY: Final = "loads and writes as two CSV tables"
LOAD_COLUMNS: Final = (
    "load",
    "step",
    "crossbar",
    "section",
    "previous",
    "write_count",
    "post_crc_first",
    "post_crc_steady",
)
_LOADS: Final = pa.schema([(name, pa.int64()) for name in LOAD_COLUMNS])
_WRITES: Final = pa.schema([("load", pa.int32()), *((name, pa.int32()) for name in WRITE_COLUMNS)])


def write(program: Program, folder: Path, options: Options) -> dict[str, Any]:
    """Writes both tables."""
    plain = pc.WriteOptions(quoting_style="none", quoting_header="none")
    rows = 0
    with (
        pc.CSVWriter(folder / "loads.csv", _LOADS, write_options=plain) as loads,
        pc.CSVWriter(folder / "writes.csv", _WRITES, write_options=plain) as writes,
    ):
        for chunk in stream_loads(program, 0, options.loads):
            ids = np.arange(chunk.start, chunk.stop)
            columns = [
                ids, chunk.step, chunk.crossbar, chunk.section, chunk.previous, np.diff(chunk.write_at),
                chunk.crc_first, chunk.crc_steady,
            ]  # fmt: skip
            loads.write_table(pa.table([pa.array(c.astype(np.int64)) for c in columns], schema=_LOADS))
            values = [(chunk.owner() + chunk.start), *(getattr(chunk, name) for name in WRITE_COLUMNS)]
            writes.write_table(pa.table([pa.array(c.astype(np.int32)) for c in values], schema=_WRITES))
            rows += len(chunk.row)
            options.progress("csv", chunk.stop, options.loads)
    return {"writes": rows}


def read(folder: Path) -> Iterator[Loads]:
    """The loads of an export, in chunks.  Raises XbcError for a damaged one."""
    description, _ = open_export(folder, NAME, VERSION)
    try:
        loads = pc.read_csv(folder / "loads.csv", convert_options=pc.ConvertOptions(column_types=_LOADS))
        table = {name: loads[name].to_numpy() for name in LOAD_COLUMNS}
        if len(table["load"]) != description["loads"]:
            raise XbcError(
                f"{folder / 'loads.csv'} has {len(table['load'])} loads instead of {description['loads']}"
            )
        held = {name: np.zeros(0, np.int32) for name in ("load", *WRITE_COLUMNS)}
        start = 0
        reader = pc.open_csv(folder / "writes.csv", convert_options=pc.ConvertOptions(column_types=_WRITES))
        for batch in reader:
            held = {name: np.concatenate([held[name], batch.column(name).to_numpy()]) for name in held}
            stop = int(held["load"][-1]) if len(held["load"]) else start
            if stop > start:  # its last load may go on in the next batch
                cut = int(np.searchsorted(held["load"], stop))
                yield _chunk(table, start, stop, {name: column[:cut] for name, column in held.items()})
                held = {name: column[cut:] for name, column in held.items()}
                start = stop
        yield _chunk(table, start, description["loads"], held)
    except (pa.ArrowInvalid, KeyError) as error:
        raise XbcError(f"{folder} is no readable export of format csv: {error}") from None


def _chunk(table: dict[str, Any], start: int, stop: int, writes: dict[str, Any]) -> Loads:
    part = slice(start, stop)
    at = np.concatenate([[0], np.cumsum(table["write_count"][part])])
    if int(at[-1]) != len(writes["load"]):
        raise XbcError(
            f"writes.csv has {len(writes['load'])} writes for loads {start} to {stop - 1}, not {int(at[-1])}"
        )
    return Loads(
        start, table["step"][part], table["crossbar"][part], table["section"][part], table["previous"][part],
        table["post_crc_first"][part], table["post_crc_steady"][part], at,
        writes["row"], writes["column"], writes["before"], writes["after"], writes["phase"],
        writes["verify"].astype(np.bool_),
    )  # fmt: skip
