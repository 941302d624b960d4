"""Checks of the tables' structure: sizes, ranges and references, before anything is replayed.

Each check looks at whole columns; the replay relies on them and indexes without looking again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.target import Target
from xbc.backend.encodings import SIGNED_ROWS, SIGNED_SECTIONS, cell_weights
from xbc.backend.problems import Broken, Problem
from xbc.backend.program import Block, LayerRow, Lists, Program
from xbc.backend.tables import PER_OUTPUT, PER_ROW, file_of

_LAYERS, _SECTIONS, _LOADS = file_of("layers"), file_of("sections"), file_of("loads")


def check_tables(program: Program) -> None:
    """Layers, loads and sections are those of the program's chip; looked at once per opened program.

    Raises: XbcError with the first contradiction.
    """
    if program.sound:
        return
    start = 0
    try:
        check_layers(program)
        check_loads(program)
        for block in program.sections():
            check_sections(program, block, start)
            start += len(block["section"])
    except Broken as broken:
        raise XbcError(f"{program.folder} contradicts itself: {broken}; compile the model again") from None
    program.sound = True


def check_layers(program: Program) -> None:
    """Every layer's sizes, encoding, scales and predecessors.  Raises Broken."""
    target = program.target
    for i, layer in enumerate(program.layers):
        for message in _layer_faults(i, layer, target):
            raise Broken(Problem(_LAYERS, f"layer {i} ({layer.name!r}) {message}"))
    names = [layer.name for layer in program.layers]
    if len(set(names)) != len(names):
        raise Broken(Problem(_LAYERS, "two layers have the same name"))
    listed = sum(layer.sections for layer in program.layers)
    if listed != program.total("sections"):
        raise Broken(
            Problem(_LAYERS, f"the layers have {listed} sections, the manifest {program.total('sections')}")
        )


def _layer_faults(i: int, layer: LayerRow, target: Target) -> Iterator[str]:
    if layer.layer != i:
        yield f"has number {layer.layer}"
    try:
        weights = cell_weights(layer.encoding, layer.bits, layer.bits_per_cell, layer.cell_weights)
    except ValueError as error:
        yield f"has {error}"
        return
    if list(layer.cell_weights) != weights or layer.columns_per_weight != len(weights):
        yield f"has cell weights {list(layer.cell_weights)}; {layer.encoding} has {weights}"
    if len(weights) * layer.bits_per_cell > 32:
        yield "has words of more than 32 bits"
    if layer.bits_per_cell > target.bits_per_cell:
        yield f"needs {layer.bits_per_cell} bits per cell, the target has {target.bits_per_cell}"
    if layer.outputs < 1 or layer.inputs < 1 or layer.sections < 0 or layer.outputs_per_section < 1:
        yield "has a size below 1"
    if layer.encoding == SIGNED_ROWS and layer.outputs_per_section != 1:
        yield "has signs in the row driver and more than one output per section"
    if layer.scope not in (PER_OUTPUT, PER_ROW):
        yield f"has scope {layer.scope!r}"
    if layer.gated and (
        layer.outputs_per_section != 1 or not target.row_gating or target.routing != "gather"
    ):
        yield "has an output for each row, which needs one output per section, row gating and gather routing"
    if layer.outputs_per_section * len(weights) > target.columns:
        yield f"needs {layer.outputs_per_section * len(weights)} columns, the target has {target.columns}"
    if layer.outputs * layer.inputs > layer.sections * target.rows * layer.outputs_per_section:
        yield f"has {layer.outputs} x {layer.inputs} weights, more than its {layer.sections} sections hold"
    for name in ("scale", "zero_point", "offset"):
        if len(getattr(layer, name)) not in (1, layer.outputs):
            yield f"has {len(getattr(layer, name))} entries in {name}, not 1 or {layer.outputs}"
    if not np.isfinite(layer.scale).all():
        yield "has a scale that is not finite"
    if any(not 0 <= before < i for before in layer.predecessors):
        yield f"has predecessors {list(layer.predecessors)}; they must come before it"
    axes = sorted(layer.perm)
    if axes != list(range(len(layer.split))) or not 0 <= layer.outer <= len(axes):
        yield "has a layout whose axes are no permutation"
    elif _product(layer.shape) != _product(layer.split) or layer.layout.matrix_shape != (
        layer.outputs,
        layer.inputs,
    ):
        yield f"has a layout that makes no {layer.outputs} x {layer.inputs} matrix of {list(layer.shape)}"


def _product(sizes: tuple[int, ...]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def check_loads(program: Program) -> None:
    """Numbers, order, crossbars, previous loads and write ranges of all loads.  Raises Broken."""
    loads, target = program.loads, program.target
    count = len(loads["load"])
    if program.total("sections") != count:
        raise Broken(
            Problem(_LOADS, f"{count} loads for {program.total('sections')} sections; each is loaded once")
        )
    ids = np.arange(count)
    crossbar, step = loads["crossbar"], loads["step"]

    def first(bad: Array, message: str) -> None:
        for at in np.flatnonzero(bad)[:1]:
            raise Broken(
                Problem(_LOADS, message.format(**{k: int(v[at]) for k, v in loads.items()}), int(at))
            )

    first(loads["load"] != ids, "is numbered {load}; loads are numbered from 0 in order")
    first(loads["section"] != ids, "loads section {section}; load i loads section i")
    first(
        (crossbar < 0) | (crossbar >= target.crossbars),
        "uses crossbar {crossbar}, which the target does not have",
    )
    first(step < 0, "has step {step}")
    if count:
        later = (np.diff(step) > 0) | ((np.diff(step) == 0) & (np.diff(crossbar) > 0))
        first(
            np.concatenate([[False], ~later]),
            "step {step}, crossbar {crossbar} does not come after the load before it: loads stand in order "
            "of step, then crossbar, and a crossbar gets one section per step",
        )
    first(loads["previous"] != _previous(crossbar), "names {previous} as the load before it on its crossbar")
    for name in ("set", "reset", "unchanged", "stuck", "dont_care", "faulty", "set_first", "reset_first"):
        first(loads[name] < 0, f"has {{{name}}} as its count of {name}")
    start, rows = loads["write_start"], loads["write_count"]
    first((rows < 0) | (rows > 2 * target.rows * target.columns), "has {write_count} rows of writes")
    expected = np.concatenate([[0], np.cumsum(rows)])
    first(start != expected[:-1], "says that its writes start at row {write_start}")
    if expected[-1] != program.total("write_rows"):
        raise Broken(
            Problem(_LOADS, f"the loads have {expected[-1]} rows of writes, the manifest says otherwise")
        )


def _previous(crossbar: Array) -> Array:
    last: Array = np.full(len(crossbar), -1, np.int64)
    order = np.argsort(crossbar, kind="stable")
    same = np.flatnonzero(crossbar[order[1:]] == crossbar[order[:-1]])
    last[order[same + 1]] = order[same]
    return last


def check_sections(program: Program, block: Block, start: int) -> None:
    """Lists and references of a block of sections that begins with section ``start``.  Raises Broken."""
    target, layers = program.target, program.layers
    count = len(block["section"])
    layer: Array = block["layer"]

    def first(bad: Any, message: str) -> None:
        for at in np.flatnonzero(bad)[:1]:
            raise Broken(Problem(_SECTIONS, f"section {start + int(at)} {message}", load=start + int(at)))

    first(
        block["section"] != np.arange(start, start + count),
        "has another number; sections are numbered from 0 in order",
    )
    first((layer < 0) | (layer >= len(layers)), "belongs to a layer that does not exist")
    groups = np.array([row.outputs_per_section for row in layers])[layer]
    rows = block["inputs"].lengths
    first((rows < 1) | (rows > target.rows), f"does not have 1 to {target.rows} rows")
    _check_lengths(block, layer, layers, groups, rows, first)
    _check_row_outputs(block, layer, layers, first)
    signed = np.array([row.encoding == SIGNED_SECTIONS for row in layers])[layer]
    first(
        np.where(signed, np.abs(block["polarity"]) != 1, block["polarity"] != 0),
        "has a polarity that its encoding does not have",
    )
    first(block["rank"] < 0, "has a negative rank")

    sizes = {name: np.array([getattr(row, name) for row in layers])[layer] for name in ("outputs", "inputs")}
    for name, most in sizes.items():
        values = block[name].values
        bad = (values < -1) | (values >= np.repeat(most, block[name].lengths))
        first(_any_in(block[name], bad), f"names one of its {name} that the layer does not have")
    bits_per_cell = np.array([row.bits_per_cell for row in layers])[layer]
    bits = np.array([row.columns_per_weight for row in layers])[layer] * bits_per_cell
    for name in ("stored", "wanted", "flip"):
        bad = (
            block[name].values.astype(np.uint64) >> np.repeat(bits, block[name].lengths).astype(np.uint64)
            != 0
        )
        first(_any_in(block[name], bad), f"has a word in {name} that is wider than its cells")
    first(
        _any_in(block["flip"], _mixed(block["flip"], bits_per_cell)),
        "has a flip whose digits are not all 0 or all 1",
    )
    first(_any_in(block["signs"], np.abs(block["signs"].values) != 1), "has a sign that is not 1 or -1")
    outputs = block["outputs"].values
    where = np.repeat(layer, block["outputs"].lengths)
    for name in ("scale", "offset"):
        bad = block[name].values != _of_layer(layers, name, where, outputs)
        first(_any_in(block[name], bad), f"has another {name} than its layer")


def _check_lengths(
    block: Block, layer: Array, layers: tuple[LayerRow, ...], groups: Array, rows: Array, first: Any
) -> None:
    driver = np.array([row.encoding == SIGNED_ROWS for row in layers])[layer]
    gated = np.array([row.gated for row in layers])[layer]
    listed = np.where(gated, rows, groups)
    for name, length in (
        ("outputs", listed),
        ("scale", listed),
        ("offset", listed),
        ("stored", rows * groups),
    ):
        first(block[name].missing | (block[name].lengths != length), f"has a list {name} of the wrong length")
    first(block["inputs"].missing, "has no list inputs")
    signs: Lists = block["signs"]
    first(
        (signs.missing == driver) | (signs.lengths != rows * driver),
        "has row signs that do not suit its encoding",
    )
    for name, length in (("wanted", rows * groups), ("flip", groups)):
        lists: Lists = block[name]
        first(lists.lengths != np.where(lists.missing, 0, length), f"has a list {name} of the wrong length")


def _check_row_outputs(block: Block, layer: Array, layers: tuple[LayerRow, ...], first: Any) -> None:
    """Where every row has an output of its own: just the driven rows have one."""
    gated = np.array([row.gated for row in layers])[layer]
    if not gated.any():
        return
    outputs, inputs = block["outputs"], block["inputs"]
    with_output = outputs.values[np.repeat(gated, outputs.lengths)] >= 0
    driven = inputs.values[np.repeat(gated, inputs.lengths)] >= 0
    bad = np.zeros(len(inputs.values), np.bool_)
    bad[np.repeat(gated, inputs.lengths)] = with_output != driven
    first(_any_in(inputs, bad), "has a row with an output and no input, or with an input and no output")


def _any_in(lists: Lists, bad: Array) -> Array:
    """``[n]`` bool: lists with a bad entry."""
    hits = np.zeros(len(lists), np.bool_)
    hits[np.searchsorted(lists.offsets, np.flatnonzero(bad), side="right") - 1] = True
    return hits


def _mixed(flip: Lists, bits_per_cell: Array) -> Array:
    """Flip words with a digit that is neither 0 nor full."""
    bits = np.repeat(bits_per_cell, flip.lengths)
    full = (1 << bits) - 1
    mixed = np.zeros(len(flip.values), np.bool_)
    for digit in range(32 if len(flip.values) else 0):
        held = (flip.values.astype(np.int64) >> np.minimum(bits * digit, 32)) & full
        mixed |= (held != 0) & (held != full)
    return mixed


def _of_layer(layers: tuple[LayerRow, ...], name: str, layer: Array, outputs: Array) -> Array:
    """The layers' value of each output, 0 for an empty column group."""
    tables = [getattr(row, name) for row in layers]
    base = np.concatenate([[0], np.cumsum([len(table) for table in tables])])
    single = np.array([len(table) == 1 for table in tables])
    at = base[layer] + np.where(single[layer], 0, np.maximum(outputs, 0))
    return np.where(outputs >= 0, np.concatenate(tables)[at], 0)


def check_order(program: Program, layer_of: Array, index_of: Array) -> Iterator[Problem]:
    """Section counts of the layers, their order, and that steps follow those of the layers depended on.

    Args:
        layer_of, index_of: ``[loads]`` layer of each loaded section and its number in the layer.
    """
    layers, step = program.layers, program.loads["step"]
    order = np.argsort(layer_of, kind="stable")
    counts = np.bincount(layer_of, minlength=len(layers))
    begin = np.concatenate([[0], np.cumsum(counts)])
    for i, layer in enumerate(layers):
        mine = order[begin[i] : begin[i + 1]]
        if len(mine) != layer.sections:
            yield Problem(
                _LAYERS, f"layer {layer.name!r} has {layer.sections} sections, {len(mine)} are loaded"
            )
        for at in np.flatnonzero(index_of[mine] != np.arange(len(mine)))[:1]:
            load = int(mine[at])
            yield Problem(
                _SECTIONS,
                f"section {load} has index {int(index_of[load])} in its layer instead of {at}",
                load,
            )
    first = [int(step[order[begin[i]]]) if counts[i] else None for i in range(len(layers))]
    last = [
        int(step[order[begin[i] : begin[i + 1]]].max()) if counts[i] else None for i in range(len(layers))
    ]
    for i, layer in enumerate(layers):
        for before in layer.predecessors:
            start, end = first[i], last[before]
            if start is not None and end is not None and start <= end:
                yield Problem(
                    _LOADS,
                    f"layer {layer.name!r} starts in step {start}, but needs layer "
                    f"{layers[before].name!r}, which ends in step {end}",
                    load=int(order[begin[i]]),
                    crossbar=int(program.loads["crossbar"][order[begin[i]]]),
                )
