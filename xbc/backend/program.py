"""Reading an emitted program: checked files, typed columns, tables streamed in blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ir.arrays import Array
from ir.display import html_table
from ir.errors import XbcError
from ir.layout import Layout
from ir.module import Module
from ir.target import Target
from xbc.backend.arrays import Inference, TableName, read_arrays, read_table
from xbc.backend.manifest import file_faults, read_manifest
from xbc.backend.tables import HOST, MANIFEST, MODULE, PER_ROW, SCHEMAS, file_of

if TYPE_CHECKING:
    import onnx

_MAX_GROUP = 1 << 26
"""Values of one column in one row group that a reader is willing to decode."""


class ProgramError(XbcError):
    """A fault in one file of a program.

    Fields:
        file: its name within the program.
        fault: what is wrong with it.
    """

    def __init__(self, folder: Path, file: str, fault: str) -> None:
        """The sentence says the whole path, the fault and the cure."""
        super().__init__(f"{folder / file} {fault}: copy the program again or compile the model again")
        self.file = file
        self.fault = fault


@dataclass(frozen=True)
class LayerRow:
    """One row of the layers table; the columns are described in docs/program-format.md."""

    layer: int
    name: str
    node: str
    op_type: str
    operand: int
    tensor: str
    dtype: str
    shape: tuple[int, ...]
    split: tuple[int, ...]
    perm: tuple[int, ...]
    outer: int
    groups: int
    kernel: tuple[int, ...]
    products: int | None
    outputs: int
    inputs: int
    sections: int
    encoding: str
    bits: int
    bits_per_cell: int
    outputs_per_section: int
    scope: str
    columns_per_weight: int
    cell_weights: tuple[int, ...]
    quantized_bits: int
    given: bool
    scale: Array
    zero_point: Array
    offset: Array
    predecessors: tuple[int, ...]

    @property
    def gated(self) -> bool:
        """Whether every row of a section has an output of its own."""
        return self.scope == PER_ROW

    @property
    def layout(self) -> Layout:
        """Where the matrix lies in the tensor of its node."""
        return Layout(self.shape, self.split, self.perm, self.outer)


class Lists(NamedTuple):
    """A list column: list ``i`` is ``values[offsets[i]:offsets[i + 1]]``; a missing list is empty."""

    values: Array
    offsets: Array
    missing: Array

    def __len__(self) -> int:
        """Number of lists."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Array:
        """``[n]`` int64 entries of each list."""
        return np.diff(self.offsets.astype(np.int64))

    def row(self, i: int) -> Array:
        """Entries of list ``i``."""
        return self.values[self.offsets[i] : self.offsets[i + 1]]


Block = Mapping[str, Any]
"""Column name -> ``[n]`` array, or ``Lists`` for list columns."""


class Program:
    """An emitted program on disk.

    Fields:
        folder: its directory.
        manifest: content of manifest.json.
        target: the chip it was made for.
        faults: file name -> what is wrong with it (empty when opened with ``check=True``).
        sound: whether ``xbc.backend.structure.check_tables`` has found its tables without contradiction.
    """

    def __init__(
        self, folder: Path, manifest: dict[str, Any], target: Target, faults: dict[str, str]
    ) -> None:
        """Use ``Program.open``."""
        self.folder = folder
        self.manifest = manifest
        self.target = target
        self.faults = faults
        self.sound = False

    @classmethod
    def open(cls, folder: str | os.PathLike[str], check: bool = True) -> Program:
        """The program in ``folder``.

        Args:
            check: compare every file with its size and SHA-256 and raise on the first fault; otherwise the
                caller looks at ``faults``.
        Raises: XbcError naming the damaged, missing or foreign file, or the newer format version.
        """
        if not isinstance(folder, str | os.PathLike):
            raise XbcError(f"{folder!r} is no path: give the directory that xbc compile wrote")
        folder = Path(folder)
        manifest = read_manifest(folder)
        faults = file_faults(folder, manifest["files"])
        program = cls(folder, manifest, Target.from_dict(manifest["target"]), faults)
        for name in (HOST, MODULE, *(file_of(table) for table in SCHEMAS)):
            if name not in manifest["files"]:
                raise ProgramError(folder, MANIFEST, f"does not list {name}")
        if check:
            for name, fault in faults.items():
                raise ProgramError(folder, name, fault)
        return program

    def table(self, name: TableName, inference: Inference | None = None) -> pa.Table:
        """A table as pyarrow: ``layers``, ``sections``, ``loads`` or ``writes``, see ``xbc.backend.arrays``."""
        return read_table(self, name, inference)

    def arrays(self, name: TableName, inference: Inference | None = None) -> dict[str, Array]:
        """A table as numpy, column -> array; ``inference``: only the writes of ``"first"`` or ``"steady"``."""
        return read_arrays(self, name, inference)

    def __repr__(self) -> str:
        totals = self.manifest["totals"]
        return (
            f"<Program {self.folder}: {totals['layers']} layers, {totals['loads']:,} loads, "
            f"{totals['steady']['writes']:,} writes per inference on {self.target.name}>"
        )

    def _repr_html_(self) -> str:
        return html_table(
            repr(self).strip("<>"),
            ("layer", "operator", "outputs", "inputs", "sections", "encoding", "bits"),
            (
                (row.name, row.op_type, row.outputs, row.inputs, row.sections, row.encoding, row.bits)
                for row in self.layers
            ),
        )

    def total(self, name: str) -> int:
        """A count of the manifest's totals (``loads``, ``steady.set``, ...)."""
        value: Any = self.manifest["totals"]
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if type(value) is not int or value < 0:
            raise ProgramError(self.folder, MANIFEST, f"gives no count totals.{name}")
        return value

    def module(self) -> Module:
        """The compiler's IR of the program."""
        from ir.storage import load_module

        return load_module(self.folder / MODULE)

    def host_bytes(self) -> bytes:
        """The host graph, a serialised ONNX model."""
        return (self.folder / HOST).read_bytes()

    def host_model(self) -> onnx.ModelProto:
        """The host graph.  Raises ProgramError when it is no ONNX model."""
        import onnx

        try:
            return onnx.load_from_string(self.host_bytes())
        except Exception as error:  # protobuf's own, and whatever comes with it
            raise ProgramError(self.folder, HOST, f"is no ONNX model ({error})") from None

    @cached_property
    def layers(self) -> tuple[LayerRow, ...]:
        """The layers table."""
        table = self.whole("layers")
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        arrays = {"scale": np.float32, "zero_point": np.int32, "offset": np.int32}
        rows = []
        for i in range(table.num_rows):
            row: dict[str, Any] = {}
            for name, values in columns.items():
                value = values[i]
                if (value is None and name != "products") or (isinstance(value, list) and None in value):
                    raise self._broken("layers", f"column {name} has no value in row {i}")
                if name in arrays:
                    value = np.array(value, arrays[name])
                row[name] = tuple(value) if isinstance(value, list) else value
            rows.append(LayerRow(**row))
        return tuple(rows)

    @cached_property
    def loads(self) -> dict[str, Array]:
        """The loads table: column name -> ``[loads]``."""
        table = self.whole("loads")
        return dict(self._columns("loads", table))

    def sections(self, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        """Blocks of the sections table that cover sections ``start`` to ``stop``, cut to that range."""
        yield from self._stream("sections", self.total("sections"), start, stop)

    def writes(self, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        """Blocks of the writes table with the rows ``start`` to ``stop`` (``write_start`` of a load).

        Rows of loads ``a`` to ``b``: ``loads["write_start"][a]`` to ``write_start[b] + write_count[b]``.
        """
        yield from self._stream("writes", self.total("write_rows"), start, stop)

    def _stream(self, table: str, rows: int, start: int, stop: int | None) -> Iterator[Block]:
        stop = rows if stop is None else min(stop, rows)
        file = self._open(table, rows)
        try:
            base = 0
            for group in range(file.metadata.num_row_groups):
                n = file.metadata.row_group(group).num_rows
                low, high = max(start - base, 0), min(stop - base, n)
                if low < high:
                    part = self._read(table, file, group)
                    if part.num_rows != n:
                        raise self._broken(
                            table, f"row group {group} has {part.num_rows} rows instead of {n}"
                        )
                    yield self._columns(table, part.slice(low, high - low))
                base += n
        finally:
            file.close()

    def whole(self, table: str) -> pa.Table:
        """A table as it is emitted, in memory as a whole.  Raises XbcError when it cannot be read."""
        rows = self.total("write_rows" if table == "writes" else table)
        file = self._open(table, rows)
        try:
            parts = [self._read(table, file, group) for group in range(file.metadata.num_row_groups)]
        finally:
            file.close()
        whole = pa.concat_tables(parts) if parts else SCHEMAS[table].empty_table()
        if whole.num_rows != rows:
            raise self._broken(table, f"it holds {whole.num_rows} rows instead of {rows}")
        return whole

    def _open(self, table: str, rows: int) -> pq.ParquetFile:
        path = self.folder / file_of(table)
        try:
            file = pq.ParquetFile(path)
            schema = file.schema_arrow
        except FileNotFoundError:
            raise ProgramError(self.folder, file_of(table), "is missing") from None
        except (OSError, pa.ArrowException) as error:
            raise self._broken(table, str(error)) from None
        wanted = SCHEMAS[table]
        if schema.names != wanted.names or schema.types != wanted.types:
            wrong = [
                n
                for n in wanted.names
                if n not in schema.names or schema.field(n).type != wanted.field(n).type
            ]
            raise self._broken(
                table, f"its columns are not those of the format ({', '.join(wrong) or 'order'})"
            )
        if file.metadata.num_rows != rows:
            raise self._broken(table, f"it holds {file.metadata.num_rows} rows, the manifest says {rows}")
        limit = max(_MAX_GROUP, 4 * self.target.rows * self.target.columns)
        for group in range(file.metadata.num_row_groups):
            part = file.metadata.row_group(group)
            if any(part.column(c).num_values > limit for c in range(part.num_columns)):
                raise self._broken(table, f"row group {group} has more than {limit} values")
        return file

    def _read(self, table: str, file: pq.ParquetFile, group: int) -> pa.Table:
        try:
            return file.read_row_group(group)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._broken(table, str(error)) from None

    def _columns(self, table: str, part: pa.Table) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for field in SCHEMAS[table]:
            column = part.column(field.name).combine_chunks()
            if isinstance(column, pa.ChunkedArray):
                column = column.chunk(0) if column.num_chunks else pa.array([], type=field.type)
            if pa.types.is_list(field.type):
                columns[field.name] = self._lists(table, field.name, column)
            elif column.null_count:
                raise self._broken(table, f"column {field.name} has missing values")
            else:
                columns[field.name] = column.to_numpy(zero_copy_only=False)
        return columns

    def _lists(self, table: str, name: str, column: Any) -> Lists:
        offsets = column.offsets.to_numpy()
        low = int(offsets[0]) if len(offsets) else 0
        high = int(offsets[-1]) if len(offsets) else 0
        values = column.values.slice(low, high - low)
        if values.null_count:
            raise self._broken(table, f"column {name} has missing values")
        missing = column.is_null().to_numpy(zero_copy_only=False)
        return Lists(values.to_numpy(zero_copy_only=False), offsets - np.int32(low), missing)

    def _broken(self, table: str, what: str) -> ProgramError:
        return ProgramError(self.folder, file_of(table), f"cannot be read ({what})")
