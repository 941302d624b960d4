"""The emitted tables: their columns, types and how they are encoded in Parquet.

One place for the writer, the reader and the virtual chip.  What each column means stands in
docs/program-format.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

FORMAT: Final = "xbc-program"
VERSION: Final = 2

MANIFEST: Final = "manifest.json"
MODULE: Final = "program.xir"
MODULE_ARRAYS: Final = "program.arrays"
HOST: Final = "host.onnx"

PER_OUTPUT, PER_ROW = "output", "layer"
"""Scopes of a layer: its sections list an output per column group, or an output per row (row gating)."""

EVERY, FIRST_ONLY, LATER_ONLY = 0, 1, 2
"""Phases of a write: in every inference, only in the first from blank cells, only in the later ones."""

GROUP_VALUES: Final = 1 << 20
"""Rows of a row group of writes, words of a row group of sections: what a reader holds at a time."""


def _list(item: Any) -> Any:
    return pa.list_(pa.field("element", item))


SCHEMAS: Final[dict[str, Any]] = {
    "layers": pa.schema(
        [
            ("layer", pa.int32()),
            ("name", pa.string()),
            ("node", pa.string()),
            ("op_type", pa.string()),
            ("operand", pa.int32()),
            ("tensor", pa.string()),
            ("dtype", pa.string()),
            ("shape", _list(pa.int64())),
            ("split", _list(pa.int64())),
            ("perm", _list(pa.int32())),
            ("outer", pa.int32()),
            ("groups", pa.int32()),
            ("kernel", _list(pa.int32())),
            ("products", pa.int64()),
            ("outputs", pa.int32()),
            ("inputs", pa.int32()),
            ("sections", pa.int32()),
            ("encoding", pa.string()),
            ("bits", pa.int32()),
            ("bits_per_cell", pa.int32()),
            ("outputs_per_section", pa.int32()),
            ("scope", pa.string()),
            ("columns_per_weight", pa.int32()),
            ("cell_weights", _list(pa.int64())),
            ("quantized_bits", pa.int32()),
            ("given", pa.bool_()),
            ("scale", _list(pa.float32())),
            ("zero_point", _list(pa.int32())),
            ("offset", _list(pa.int32())),
            ("predecessors", _list(pa.int32())),
        ]
    ),
    "sections": pa.schema(
        [
            ("section", pa.int32()),
            ("layer", pa.int32()),
            ("index", pa.int32()),
            ("rank", pa.int32()),
            ("polarity", pa.int8()),
            ("outputs", _list(pa.int32())),
            ("inputs", _list(pa.int32())),
            ("signs", _list(pa.int8())),
            ("scale", _list(pa.float32())),
            ("offset", _list(pa.int32())),
            ("stored", _list(pa.uint32())),
            ("wanted", _list(pa.uint32())),
            ("flip", _list(pa.uint32())),
        ]
    ),
    "loads": pa.schema(
        [
            ("load", pa.int32()),
            ("step", pa.int64()),
            ("crossbar", pa.int32()),
            ("section", pa.int32()),
            ("previous", pa.int32()),
            ("set", pa.int64()),
            ("reset", pa.int64()),
            ("unchanged", pa.int64()),
            ("stuck", pa.int64()),
            ("dont_care", pa.int64()),
            ("faulty", pa.int64()),
            ("set_first", pa.int64()),
            ("reset_first", pa.int64()),
            ("post_crc_first", pa.uint32()),
            ("post_crc_steady", pa.uint32()),
            ("write_verify", pa.bool_()),
            ("write_start", pa.int64()),
            ("write_count", pa.int64()),
        ]
    ),
    "writes": pa.schema(
        [
            ("load", pa.int32()),
            ("row", pa.int32()),
            ("column", pa.int32()),
            ("before", pa.uint8()),
            ("after", pa.uint8()),
            ("phase", pa.uint8()),
            ("verify", pa.bool_()),
        ]
    ),
}
_RISING = {("sections", "section"), ("loads", "load"), ("loads", "write_start"), ("writes", "load")}
_SEARCHED = ("load", "section", "layer", "step", "crossbar")
_SCATTERED = {("loads", "post_crc_first"), ("loads", "post_crc_steady")}


def file_of(table: str) -> str:
    """File name of a table."""
    return f"{table}.parquet"


def open_table(path: Path, table: str) -> pq.ParquetWriter:
    """Writer of a table: zstd, dictionary pages, delta coding for columns that only rise."""
    schema = SCHEMAS[table]
    plain = {name for t, name in _SCATTERED if t == table}
    delta = {name: "DELTA_BINARY_PACKED" for t, name in _RISING if t == table}
    return pq.ParquetWriter(
        path,
        schema,
        version="2.6",
        compression="zstd",
        compression_level=3,
        use_dictionary=[_leaf(f) for f in schema if f.name not in plain and f.name not in delta],
        column_encoding=delta,
        write_statistics=[name for name in _SEARCHED if name in schema.names],
        store_schema=False,
    )


def _leaf(field: Any) -> str:
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else str(field.name)


def table_of(table: str, columns: dict[str, Any]) -> pa.Table:
    """Arrow table in the column order and types of ``table`` (numpy columns are not copied)."""
    schema = SCHEMAS[table]
    return pa.Table.from_arrays([as_arrow(columns[f.name], f.type) for f in schema], schema=schema)


def as_arrow(values: Any, kind: Any) -> Any:
    """Arrow array of the given type; Arrow arrays pass."""
    return values if isinstance(values, pa.Array) else pa.array(values, type=kind)


def list_column(values: Any, offsets: Any, kind: Any, null: Any = None) -> Any:
    """List column from flat values and ``[n + 1]`` offsets; ``null`` ``[n]`` bool marks missing lists."""
    return pa.ListArray.from_arrays(
        pa.array(offsets, type=pa.int32()),
        pa.array(values, type=kind.value_type),
        type=kind,
        mask=None if null is None else pa.array(null, type=pa.bool_()),
    )
