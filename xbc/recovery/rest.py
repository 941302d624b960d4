"""The rest of an interrupted inference as files: export.json, loads.parquet, writes.parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ir.arrays import Array
from ir.errors import XbcError
from xbc.backend.program import Program
from xbc.export.package import describe, export_directory, open_export, seal_export
from xbc.recovery.resume import Position, rest_of

NAME: Final = "resume"
VERSION: Final = 1
LOADS: Final = pa.schema(
    [
        ("load", pa.int32()),
        ("step", pa.int64()),
        ("crossbar", pa.int32()),
        ("section", pa.int32()),
        ("uncertain", pa.bool_()),
        ("post_crc", pa.uint32()),
        ("write_start", pa.int64()),
        ("write_count", pa.int64()),
    ]
)
WRITES: Final = pa.schema(
    [
        ("load", pa.int32()),
        ("row", pa.int32()),
        ("column", pa.int32()),
        ("before", pa.uint8()),
        ("after", pa.uint8()),
        ("verify", pa.bool_()),
    ]
)


def write_rest(program: Program, position: Position, levels: Array | None, output: Path) -> dict[str, Any]:
    """Writes the rest of an inference, whole or not at all, and returns its figures."""
    loads = program.total("loads")
    done = int(position.done.sum())
    facts: dict[str, Any] = {
        "inference": position.inference,
        "loads_done": done,
        "loads_left": loads - done,
        "writes_left": 0,
        "writes_uncertain": 0,
    }
    with export_directory(output) as folder:
        with (
            pq.ParquetWriter(folder / "loads.parquet", LOADS, compression="zstd") as load_table,
            pq.ParquetWriter(folder / "writes.parquet", WRITES, compression="zstd") as write_table,
        ):
            for ids, uncertain, part in rest_of(program, position, levels):
                counts = np.diff(part.write_at)
                crc = part.crc_first if position.inference == "first" else part.crc_steady
                start = part.write_at[:-1] + facts["writes_left"]
                columns = [ids, part.step, part.crossbar, part.section, uncertain, crc, start, counts]
                load_table.write_table(_table(LOADS, columns))
                owner = np.repeat(ids, counts)
                values = [owner, part.row, part.column, part.before, part.after, part.verify]
                write_table.write_table(_table(WRITES, values))
                facts["writes_left"] += len(part.row)
                facts["writes_uncertain"] += int(counts[uncertain].sum())
        head = describe(program, NAME, VERSION, loads)
        seal_export(folder, {**head, **facts})
    return {"loads": loads, **facts}


def _table(schema: pa.Schema, columns: list[Array]) -> pa.Table:
    arrays = [pa.array(c.astype(f.type.to_pandas_dtype())) for c, f in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def read_rest(folder: Path) -> tuple[dict[str, Any], dict[str, Array], dict[str, Array]]:
    """(description, loads columns, writes columns) of a rest.

    Raises: XbcError when it is damaged or its tables contradict each other.
    """
    description, _ = open_export(folder, NAME, VERSION)
    tables = []
    for name, schema in (("loads", LOADS), ("writes", WRITES)):
        try:
            table = pq.read_table(folder / f"{name}.parquet")
        except (OSError, pa.ArrowException) as error:
            raise XbcError(f"{folder / name}.parquet cannot be read: {error}") from None
        if table.schema != schema:
            raise XbcError(f"{folder / name}.parquet has other columns than the format: emit the rest again")
        tables.append({f.name: table.column(f.name).to_numpy() for f in schema})
    loads, writes = tables
    ends = np.cumsum(loads["write_count"])
    if len(writes["load"]) != (int(ends[-1]) if len(ends) else 0) or np.any(
        loads["write_start"] != ends - loads["write_count"]
    ):
        raise XbcError(f"{folder}: its tables contradict each other: emit the rest again")
    return description, loads, writes
