"""Turning a module's layers and sections into rows of the emitted tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ir.arrays import Array
from ir.module import Module
from ir.stages import Programmed
from xbc.backend.tables import (
    GROUP_VALUES,
    PER_OUTPUT,
    PER_ROW,
    SCHEMAS,
    file_of,
    list_column,
    open_table,
    table_of,
)


def layer_rows(module: Module) -> dict[str, list[Any]]:
    """Columns of the layers table."""
    number = {layer.name: i for i, layer in enumerate(module.layers)}
    before: list[list[int]] = [[] for _ in module.layers]
    for source, sink in module.edges:
        before[number[sink]].append(number[source])
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMAS["layers"].names}
    for i, layer in enumerate(module.layers):
        body, origin = layer.at(Programmed), layer.origin
        row = {
            "layer": i,
            "name": layer.name,
            "node": origin.node,
            "op_type": origin.op_type,
            "operand": origin.operand,
            "tensor": origin.tensor,
            "dtype": origin.dtype,
            "shape": list(origin.layout.shape),
            "split": list(origin.layout.split),
            "perm": list(origin.layout.perm),
            "outer": origin.layout.outer,
            "groups": origin.groups,
            "kernel": list(origin.kernel),
            "products": origin.products,
            "outputs": body.shape[0],
            "inputs": body.shape[1],
            "sections": body.sections,
            "encoding": body.encoding,
            "bits": body.stored_bits,
            "bits_per_cell": body.bits_per_cell,
            "outputs_per_section": body.group_width,
            "scope": PER_OUTPUT if body.row_outputs is None else PER_ROW,
            "columns_per_weight": body.cells.columns,
            "cell_weights": body.cells.cell_weights.tolist(),
            "quantized_bits": body.bits,
            "given": body.given,
            "scale": body.scale.tolist(),
            "zero_point": body.zero_point.tolist(),
            "offset": body.offset.tolist(),
            "predecessors": sorted(set(before[i])),
        }
        for name, value in row.items():
            columns[name].append(value)
    return columns


def _per_group(values: Array, outputs: Array, dtype: Any) -> Array:
    """Per-output values of each column group (or row); 0 where it is empty."""
    spread = values[np.maximum(outputs, 0)] if len(values) > 1 else values
    return np.where(outputs >= 0, spread, 0).astype(dtype)


Piece = Array | tuple[Array, Array] | None


class TableWriter:
    """Collects pieces of columns and writes them in row groups of about ``GROUP_VALUES`` values.

    A piece is a mapping column -> array ``[n]`` or, for list columns, ``[n, width]``, a pair of it and of a
    ``[n]`` mask of the lists that are present, or None when all are missing.
    """

    def __init__(self, folder: Path, table: str) -> None:
        """Creates the table's file in ``folder``."""
        self._table = table
        self._writer = open_table(folder / file_of(table), table)
        self._pieces: list[tuple[int, Mapping[str, Piece]]] = []
        self._values = 0
        self.rows = 0

    def add(self, rows: int, values: int, piece: Mapping[str, Piece]) -> None:
        """Takes ``rows`` rows that hold about ``values`` values in their longest column."""
        if not rows:
            return
        self._pieces.append((rows, piece))
        self._values += values
        self.rows += rows
        if self._values >= GROUP_VALUES:
            self.flush()

    def flush(self) -> None:
        """Writes what has been collected as one row group."""
        if not self._pieces:
            return
        rows = sum(n for n, _ in self._pieces)
        columns = {
            f.name: self._column(f.type, [(n, piece[f.name]) for n, piece in self._pieces])
            for f in SCHEMAS[self._table]
        }
        self._writer.write_table(table_of(self._table, columns), row_group_size=rows)
        self._pieces, self._values = [], 0

    @staticmethod
    def _column(kind: Any, pieces: list[tuple[int, Piece]]) -> Any:
        if not hasattr(kind, "value_type"):
            return np.concatenate([part for _, part in pieces if part is not None])
        lengths, null, flat = [], [], []
        for n, part in pieces:
            values, present = part if isinstance(part, tuple) else (part, np.full(n, part is not None))
            lengths.append(np.where(present, 0 if values is None else values.shape[1], 0))
            null.append(~present)
            if values is not None:
                flat.append((values if present.all() else values[present]).reshape(-1))
        values = np.concatenate(flat) if flat else np.zeros(0, np.int32)
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        missing = np.concatenate(null)
        return list_column(
            values.astype(kind.value_type.to_pandas_dtype(), copy=False), offsets, kind, missing
        )

    def __enter__(self) -> TableWriter:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes the rest (unless something failed) and closes the file."""
        if error is None:
            self.flush()
        self._writer.close()


def section_piece(
    body: Programmed, layer: int, section: int, part: slice, wanted: Array
) -> Mapping[str, Piece]:
    """Columns of the sections table for some rows of a layer's section table.

    Args:
        section: program-wide id of the first one.
        wanted: ``[n, rows, G]`` words of the exact codes.
    """
    n = part.stop - part.start
    outputs, stored = body.outputs[part], body.stored[part]
    driven = body.driven(part)[:, :, None] & (outputs >= 0)[:, None, :]
    flip = None if body.flip is None else body.flip[part]
    held = stored if flip is None else stored ^ flip[:, None, :]
    inexact = ((held != wanted) & driven).any(axis=(1, 2))
    listed = outputs if body.row_outputs is None else body.row_outputs[part]
    return {
        "section": np.arange(section, section + n, dtype=np.int32),
        "layer": np.full(n, layer, np.int32),
        "index": np.arange(part.start, part.stop, dtype=np.int32),
        "rank": body.rank[part],
        "polarity": body.polarity[part],
        "outputs": listed,
        "inputs": body.inputs[part],
        "signs": body.row_signs(part) if body.encoding == "driver" else None,
        "scale": _per_group(body.scale, listed, np.float32),
        "offset": _per_group(body.offset, listed, np.int32),
        "stored": (stored * driven).reshape(n, -1),
        "wanted": ((wanted * driven).reshape(n, -1), inexact) if inexact.any() else None,
        "flip": None if flip is None else (flip, np.asarray(flip.any(axis=1))),
    }
