"""Transposed convolutions.

Weights ``[C, M / groups, *kernel]``: one product spreads an input pixel over kernel x channels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import onnx

from ir.arrays import Array
from ir.layout import Layout
from xbc.operators.call import Call, Columns
from xbc.operators.conv import add_bias, check_channels
from xbc.operators.definition import (
    MICROSOFT,
    Attributes,
    Found,
    Lookup,
    MisshapenError,
    Operator,
    Shapes,
    Weight,
    count,
)
from xbc.operators.integers import at_rank
from xbc.operators.window import window


def _weights(attrs: Attributes, shapes: Shapes) -> Found:
    shape = shapes[1]
    if shape is None:
        return []
    at_rank(shape, 3, "a transposed convolution weight")
    groups = attrs.get("group", 1)
    if groups < 1 or shape[0] % groups:
        raise MisshapenError(f"{shape[0]} input channels cannot be split into {groups} groups")
    split = (groups, shape[0] // groups, *shape[1:])
    perm = (0, *range(2, len(split)), 1)
    return [Weight(1, Layout(shape, split, perm, len(split) - 1), groups, shape[2:])]


def _products(node: onnx.NodeProto, weight: Weight, shape_of: Lookup) -> int | None:
    pixels = count(shape_of(node.input[0]))
    return None if pixels is None else pixels // weight.layout.shape[0]


def _conv_transpose(call: Call) -> list[Array]:
    x, layer = call.need(0), call.layers[1]
    origin = layer.layer.origin
    groups = origin.groups
    check_channels(call, x, layer.effective.shape[1] * groups)
    w = window(call.attrs, origin.kernel, x.shape[2:], True, origin.node)
    pixels = int(np.prod(x.shape[2:]))

    def arrange(values: Array, pad: Array, lines: slice) -> Array:
        columns = np.moveaxis(values.reshape(*values.shape[:2], pixels)[:, :, lines], 0, 1)
        return columns.reshape(groups, len(columns) // groups, -1)

    y = layer.real(x, Columns(arrange, pixels, 1))
    channels = layer.effective.shape[0] // int(np.prod(origin.kernel))
    return [add_bias(w.images(y, channels, len(x)), call.given(2)).astype(x.dtype)]


def _with_pads_as_input(call: Call) -> list[Array]:
    attrs = dict(call.attrs)
    pads = call.given(2)
    if pads is not None:
        attrs["pads"] = pads.tolist()
    return _conv_transpose(replace(call, attrs=attrs, inputs=[call.given(0), None, call.given(3)]))


OPERATORS: Final = (
    Operator("ConvTranspose", weights=_weights, products=_products, simulate=_conv_transpose),
    Operator(
        "ConvTransposeWithDynamicPads",
        MICROSOFT,
        weights=_weights,
        products=_products,
        simulate=_with_pads_as_input,
    ),
)
