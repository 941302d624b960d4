"""The tables of a program as arrays, with what takes a join to know beside them: for notebooks and scripts."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from ir.arrays import Array
from ir.errors import XbcError
from xbc.backend.tables import FIRST_ONLY, LATER_ONLY, SCHEMAS

TableName = Literal["layers", "sections", "loads", "writes"]
Inference = Literal["first", "steady"]


class Tables(Protocol):
    """What is asked of a ``Program``."""

    @property
    def layers(self) -> tuple[Any, ...]: ...  # noqa: D102

    @property
    def loads(self) -> dict[str, Array]: ...  # noqa: D102

    def whole(self, table: str) -> pa.Table:
        """A table as it is emitted."""


def read_table(program: Tables, name: TableName, inference: Inference | None = None) -> pa.Table:
    """A table as it is emitted (columns: docs/program-format.md), and further columns at its end:

    ``layer_name`` in sections, loads and writes; ``layer``, ``crossbar``, ``step`` of the load in writes; ``layer``
    in loads.

    Args:
        inference: only the writes that the first inference, from blank cells, or every later one does; None: all,
            told apart by their ``phase``.
    Raises: XbcError for an unknown table or an inference where there are no writes, and for damaged files.
    """
    if name not in SCHEMAS:
        raise XbcError(f"unknown table {name!r}; known: {', '.join(SCHEMAS)}")
    if inference is not None and (name != "writes" or inference not in ("first", "steady")):
        raise XbcError(f"inference = {inference!r}: choose 'first' or 'steady' for the table of writes")
    table = program.whole(name)
    if name == "layers":
        return table
    if inference is not None:
        skipped = LATER_ONLY if inference == "first" else FIRST_ONLY
        table = table.filter(pa.compute.not_equal(table["phase"], skipped))
    if name == "sections":
        layer = table["layer"].to_numpy()
    else:
        layer = program.whole("sections")["layer"].to_numpy()[program.loads["section"]]
        if name == "writes":
            load = table["load"].to_numpy()
            for column, values in (("crossbar", program.loads["crossbar"]), ("step", program.loads["step"])):
                table = table.append_column(column, pa.array(values[load]))
            layer = layer[load]
        table = table.append_column("layer", pa.array(layer))
    names = pa.array([row.name for row in program.layers], pa.string())
    return table.append_column(
        "layer_name", pa.DictionaryArray.from_arrays(pa.array(layer, pa.int32()), names)
    )


def read_arrays(program: Tables, name: TableName, inference: Inference | None = None) -> dict[str, Any]:
    """The same as numpy: column -> ``[n]``, and ``[n, longest]`` for columns of lists.

    Lists that are shorter are filled up with -1 (signed), 0 (unsigned) or nan, what a section's ``inputs`` and
    ``outputs`` say of empty rows too; ``layer_name`` is an array of str objects.
    """
    found = {}
    table = read_table(program, name, inference)
    for column in table.column_names:
        values = table[column].combine_chunks()
        if isinstance(values, pa.ChunkedArray):
            values = values.chunk(0) if values.num_chunks else pa.array([], type=values.type)
        if pa.types.is_list(values.type):
            found[column] = _filled(values)
        elif pa.types.is_dictionary(values.type):
            found[column] = values.dictionary.to_numpy(zero_copy_only=False)[values.indices.to_numpy()]
        else:
            found[column] = values.to_numpy(zero_copy_only=False)
    return found


def _filled(column: Any) -> Array:
    lengths = np.nan_to_num(pa.compute.list_value_length(column).to_numpy(zero_copy_only=False)).astype(
        np.int64
    )
    values = column.flatten().to_numpy(zero_copy_only=False)
    kind = values.dtype.kind
    fill = np.nan if kind == "f" else -1 if kind == "i" else "" if kind == "O" else 0
    out = np.full((len(lengths), int(lengths.max(initial=0))), fill, values.dtype)
    out[np.arange(out.shape[1]) < lengths[:, None]] = values
    return out
