"""Bits of the row maps: what the router has to be told before the inputs of a section reach their rows."""

from __future__ import annotations

import numpy as np

from ir.arrays import Array
from ir.stages import Programmed, Sectioned


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


def digital_bits(body: Programmed) -> Array:
    """``[sections]`` int64 bits that the digital side needs beside the map: one per driven row for the sign that its
    driver applies (driver encoding), one per used column where columns may hold complements (``flip``)"""
    bits = np.zeros(body.sections, np.int64)
    if body.encoding == "driver":
        bits += body.driven().sum(axis=1)
    if body.flip is not None and body.flip.any():
        bits += (body.outputs >= 0).sum(axis=1) * body.cells.columns
    return bits
