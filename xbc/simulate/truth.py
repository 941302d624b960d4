"""The simulator's one truth: the sections of an emitted program, read back from its tables after a replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ir.arrays import Array
from ir.cells import CellFormat
from ir.errors import XbcError
from ir.module import Layer, Module, Origin
from ir.progress import Progress, silent
from ir.stages import UNUSED, Programmed, lowest_outputs
from xbc.backend.encodings import OWN_WEIGHTS
from xbc.backend.program import LayerRow, Program
from xbc.chip import effective_codes


def replayed_module(program: Program, progress: Progress = silent) -> Module:
    """The layers as they stand in the cells.

    The virtual chip replays every write first; it compares the cells after each load with the levels that
    the sections table promises, so the table's words are the cells' content when the replay finds no fault.

    Raises: XbcError when the replay finds a broken promise.
    """
    codes = effective_codes(program, progress)
    target = program.target
    tables = [_Table.empty(row, target.rows) for row in program.layers]
    place = {name: program.loads[name] for name in ("step", "crossbar")}
    order = np.empty(program.total("loads"), np.int64)
    order[program.loads["section"]] = np.arange(len(order))
    of_section = {name: column[order] for name, column in place.items()}
    for block in program.sections():
        for layer in np.unique(block["layer"]):
            tables[layer].fill(block, np.flatnonzero(block["layer"] == layer), of_section)
    _mark_verified(program, tables)
    layers = tuple(
        _layer(row, codes[row.name], table) for row, table in zip(program.layers, tables, strict=True)
    )
    names = [layer.name for layer in layers]
    edges = tuple((names[p], row.name) for row in program.layers for p in row.predecessors)
    return Module(program.folder.stem, target, layers, edges)


def digits_of(row: LayerRow) -> tuple[int, ...] | None:
    """The column weights that a layer has of its own."""
    return row.cell_weights if row.encoding == OWN_WEIGHTS else None


@dataclass(eq=False)
class _Table:
    """Section arrays of one layer while they are read."""

    cells: CellFormat
    outputs: Array
    inputs: Array
    rank: Array
    polarity: Array
    crossbar: Array
    step: Array
    stored: Array
    flip: Array
    verify: Array
    section_ids: Array
    row_outputs: Array | None

    @classmethod
    def empty(cls, row: LayerRow, rows: int) -> _Table:
        cells = CellFormat(row.encoding, row.bits, row.bits_per_cell, digits_of(row) or ())
        n, g = row.sections, row.outputs_per_section
        return cls(
            cells=cells,
            outputs=np.full((n, g), UNUSED, np.int32),
            inputs=np.full((n, rows), UNUSED, np.int32),
            rank=np.zeros(n, np.int32),
            polarity=np.zeros(n, np.int8),
            crossbar=np.zeros(n, np.int32),
            step=np.zeros(n, np.int64),
            stored=np.zeros((n, rows, g), cells.dtype),
            flip=np.zeros((n, g), cells.dtype),
            verify=np.zeros((0, rows, g), cells.dtype),
            section_ids=np.full(n, -1, np.int64),
            row_outputs=np.full((n, rows), UNUSED, np.int32) if row.gated else None,
        )

    def fill(self, block: Any, rows: Array, of_section: dict[str, Array]) -> None:
        """Takes the block's rows of this layer; the replay has checked the lengths of their lists."""
        at = block["index"][rows]
        self.section_ids[at] = block["section"][rows]
        self.rank[at], self.polarity[at] = block["rank"][rows], block["polarity"][rows]
        for name in ("step", "crossbar"):
            getattr(self, name)[at] = of_section[name][block["section"][rows]]
        for name in ("outputs", "inputs", "stored", "flip"):
            lists, array = block[name], getattr(self, name)
            if name == "outputs" and self.row_outputs is not None:
                array = self.row_outputs
            here = rows[~lists.missing[rows]]
            if not len(here):
                continue
            width = int(np.prod(array.shape[1:]))
            if (lists.lengths[here] != width).any():
                raise XbcError(f"column {name} of the sections table has lists of a wrong length")
            index = lists.offsets[here].astype(np.int64)[:, None] + np.arange(width)
            array[block["index"][here]] = lists.values[index].reshape(-1, *array.shape[1:])


def _mark_verified(program: Program, tables: list[_Table]) -> None:
    """Fills ``verify`` when some writes are not verified (otherwise it stays empty: all are)."""
    if not any((~block["verify"]).any() for block in program.writes()):
        return
    sections = program.loads["section"]
    layer_of = np.empty(len(sections), np.int32)
    index_of = np.empty(len(sections), np.int64)
    for i, table in enumerate(tables):
        layer_of[table.section_ids] = i
        index_of[table.section_ids] = np.arange(len(table.section_ids))
        table.verify = np.zeros_like(table.stored)
    for block in program.writes():
        kept = np.flatnonzero(block["verify"])
        section = sections[block["load"][kept]]
        row, column = block["row"][kept].astype(np.int64), block["column"][kept].astype(np.int64)
        for layer in np.unique(layer_of[section]):
            table, here = tables[layer], layer_of[section] == layer
            digits = table.cells.columns
            shift = table.cells.bits_per_cell * (digits - 1 - column[here] % digits)
            mask = (np.uint32((1 << table.cells.bits_per_cell) - 1) << shift.astype(np.uint32)).astype(
                table.verify.dtype
            )
            np.bitwise_or.at(table.verify, (index_of[section[here]], row[here], column[here] // digits), mask)


def _layer(row: LayerRow, codes: Array, table: _Table) -> Layer:
    origin = Origin(
        row.node,
        row.op_type,
        row.operand,
        row.tensor,
        row.dtype,
        row.layout,
        row.groups,
        row.kernel,
        row.products,
    )
    low, high = table.cells.code_range()
    body = Programmed(
        codes=codes,
        scale=row.scale,
        zero_point=row.zero_point,
        limits=np.array([[low, high]], np.int32),
        bits=row.quantized_bits,
        given=row.given,
        encoding=row.encoding,
        stored_bits=row.bits,
        offset=row.offset,
        digits=digits_of(row),
        bits_per_cell=row.bits_per_cell,
        outputs=table.outputs if table.row_outputs is None else lowest_outputs(table.row_outputs),
        inputs=table.inputs,
        rank=table.rank,
        polarity=table.polarity,
        row_outputs=table.row_outputs,
        crossbar=table.crossbar,
        step=table.step,
        stored=table.stored,
        flip=table.flip if table.flip.any() else None,
        verify=table.verify if len(table.verify) else None,
    )
    return Layer(row.name, origin, body)
