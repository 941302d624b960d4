"""Bits of the row maps: what the router has to be told before the inputs of a section reach their rows."""

from __future__ import annotations

import numpy as np

from ir.arrays import Array
from ir.module import Module
from ir.stages import Programmed, Sectioned
from passes.row_maps import MOST_WORDS, MapCoder, codable
from xbc.backend.order import LoadOrder


def index_bits(count: int) -> int:
    """Bits that tell ``count`` things apart, at least 1."""
    return max(1, (count - 1).bit_length())


def plain_bits(inputs: Array, layer_inputs: int, routing: str) -> Array:
    """``[n]`` int64 bits of uncoded maps, one fixed-size index per driven row.

    Under gather routing an index names one of all inputs of the layer; under block (and fixed) routing one of the
    ``rows`` inputs of the section's block, and the block is named once.  A section whose driven rows take consecutive
    inputs in their order needs the first input, or the block, only.

    Args:
        inputs: ``[n, rows]`` input of each row, below 0 where the row is don't care.
        layer_inputs: inputs of the layer (of one group).
        routing: of the target.
    """
    rows = inputs.shape[1]
    driven = inputs >= 0
    run = np.all(~driven | (inputs - inputs[:, :1] == np.arange(rows)), axis=1) & driven[:, 0]
    if routing == "gather":
        start, each = index_bits(layer_inputs), index_bits(layer_inputs)
        listed = each * driven.sum(axis=1)
    else:
        start, each = index_bits(-(-layer_inputs // rows)), index_bits(min(rows, layer_inputs))
        listed = start + each * driven.sum(axis=1)
    return np.asarray(np.where(run, start, listed), np.int64)


def layer_map_bits(body: Sectioned, routing: str) -> Array:
    """``[sections]`` int64 bits of the uncoded row maps of a layer.

    Where rows have outputs of their own (row gating) every driven row also names its output.
    """
    parts = [np.zeros(0, np.int64)]
    chunk = max(1, 2**22 // max(1, body.rows))
    for start in range(0, body.sections, chunk):
        inputs = body.inputs[start : start + chunk]
        bits = plain_bits(inputs, body.shape[1], routing)
        if body.row_outputs is not None:
            bits += (inputs >= 0).sum(axis=1) * index_bits(body.shape[0])
        parts.append(bits)
    return np.concatenate(parts)


def coded_map_bits(body: Programmed, fetched: Array) -> Array | None:
    """``[sections]`` int64 bits of the coded row maps of the sections ``fetched`` (in load order), 0 for others.

    None where maps are not coded: rows of several weights, or maps that order-inputs has not ordered.
    """
    if not codable(body) or not len(fetched):
        return None
    coder = MapCoder.of(body, fetched)
    return coder.sizes(body.inputs) if coder.distinct <= MOST_WORDS else None


def digital_bits(body: Programmed) -> Array:
    """``[sections]`` int64 bits that are needed beside the map.

    Which rows are driven, unless all are: how many, or one bit per row where they are not the first ones.  For driver
    encoding one bit per driven row that does not hold 0, for the sign.  One bit per used column where columns may hold
    complements (``flip``).
    """
    driven = body.driven()
    count = driven.sum(axis=1)
    first = (driven == (np.arange(body.rows) < count[:, None])).all(axis=1)
    bits = np.where(count == body.rows, 0, np.where(first, index_bits(body.rows + 1), body.rows)).astype(
        np.int64
    )
    if body.encoding == "driver":
        held = body.stored if body.flip is None else body.stored ^ body.flip[:, None, :]
        bits += (driven & (held[:, :, 0] != 0)).sum(axis=1)
    if body.flip is not None and body.flip.any():
        bits += (body.outputs >= 0).sum(axis=1) * body.cells.columns
    return bits


def module_map_bits(module: Module, order: LoadOrder) -> Array:
    """``[loads]`` int64 bits of the row maps and what goes with them, 0 for the only load of its crossbar.

    Every layer takes the cheaper form of its maps, plain or coded.

    Args:
        module: all layers programmed, in load order.
    """
    fetched = ~alone(order.crossbar)
    bits = np.zeros(order.loads, np.int64)
    for i, layer in enumerate(module.layers):
        body, mine = layer.at(Programmed), np.flatnonzero(order.layer == i)
        table = order.index[mine].astype(np.int64)
        kept = fetched[mine]
        maps = layer_map_bits(body, module.target.routing)
        if module.target.routing == "gather":
            coded = coded_map_bits(body, table[kept])
            if coded is not None and coded.sum() < maps[table[kept]].sum():
                maps = coded
        bits[mine] = (maps + digital_bits(body))[table] * kept
    return bits


def alone(crossbar: Array) -> Array:
    """``[loads]`` bool: the only load of its crossbar, which stays in it with its row map."""
    _, inverse, loads = np.unique(crossbar, return_inverse=True, return_counts=True)
    return np.asarray(loads[inverse] == 1)
