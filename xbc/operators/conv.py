"""Convolutions: ``Conv`` with its integer and fused forms.

Weights ``[M, C / groups, *kernel]``: an output channel per row of the matrix.  A position of the output image is
one matrix-vector product.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ir.arrays import Array
from ir.layout import Layout
from xbc.operators import fused
from xbc.operators.call import Call, Columns, CrossbarLayer
from xbc.operators.definition import (
    MICROSOFT,
    Attributes,
    Found,
    MisshapenError,
    Operator,
    Shapes,
    Weight,
    Weights,
)
from xbc.operators.integers import at_rank, int32, requantise
from xbc.operators.offsets import Offsets
from xbc.operators.step import Result, Step
from xbc.operators.window import window


def image_weights(operand: int, **integer: Any) -> Weights:
    """The rule for weights at ``operand``; ``integer`` as in ``Weight``."""

    def rule(attrs: Attributes, shapes: Shapes) -> Found:
        shape = shapes[operand]
        if shape is None:
            return []
        at_rank(shape, 3, "a convolution weight")
        groups = attrs.get("group", 1)
        if groups < 1 or shape[0] % groups:
            raise MisshapenError(f"{shape[0]} output channels cannot be split into {groups} groups")
        perm = tuple(range(len(shape)))
        return [Weight(operand, Layout(shape, shape, perm, 1), groups, shape[2:], **integer)]

    return rule


def _conv_products(call: Call, x: Array, layer: CrossbarLayer, zero: int | None) -> Array:
    """``[N, outputs, *out]``: float32 from real inputs, float64 integers when the zero point is given."""
    kernel = layer.layer.origin.kernel
    groups = layer.layer.origin.groups
    check_channels(call, x, layer.effective.shape[1] // int(np.prod(kernel)) * groups)
    w = window(call.attrs, kernel, x.shape[2:], False, layer.layer.name)

    def arrange(values: Array, pad: Array, lines: slice) -> Array:
        return w.columns(values, groups, pad, lines)

    columns = Columns(arrange, w.out[0], w.vectors // w.out[0])
    y = layer.real(x, columns) if zero is None else layer.integer(x, zero, columns)
    return np.moveaxis(y, 0, 1).reshape(len(x), -1, *w.out)


def check_channels(call: Call, x: Array, channels: int) -> None:
    """Raises XbcError when ``x`` is not ``[N, channels, *spatial]``."""
    if x.ndim < 3 or x.shape[1] != channels:
        raise call.bad(f"takes images of {channels} channels, its input has shape {list(x.shape)}")


def add_bias(y: Array, bias: Array | None) -> Array:
    """``y [N, channels, *spatial]`` and a bias per channel."""
    return y if bias is None else y + bias.reshape(-1, *(1,) * (y.ndim - 2)).astype(y.dtype)


def _conv(call: Call) -> list[Array]:
    x = call.need(0)
    return [add_bias(_conv_products(call, x, call.layers[1], None), call.given(2)).astype(x.dtype)]


def _qlinear_conv(call: Call) -> list[Array]:
    x = call.need(0)
    acc = _conv_products(call, x, call.layers[3], int(call.scalar(2)))
    return [requantise(add_bias(acc, call.given(8)), call, 1, 4, 6, 7, axis=1)]


def _conv_integer(call: Call) -> list[Array]:
    return [int32(_conv_products(call, call.need(0), call.layers[1], int(call.scalar(2))))]


def _fused_conv(call: Call) -> list[Array]:
    (y,) = _conv(call)
    summand = call.given(3)
    return [fused.activate(call, y if summand is None else y + summand)]


def _backward(step: Step) -> Result:
    x, weight, s = step.value(0), step.value(1), step.s
    groups = int(step.attribute("group", 1))
    batch, channels = x.shape[:2]
    outputs = weight.shape[0]
    reach = Offsets(step, weight.shape[2:])
    positions = int(np.prod(reach.out))
    sz = s.reshape(batch, groups, outputs // groups, positions)
    w2 = step.raised(weight).reshape(groups, outputs // groups, channels // groups, -1)
    s_weight = np.zeros(w2.shape, np.float32)
    squares = reach.padded(step.raised(x)) if step.wanted[1] else None
    s_x = np.zeros(reach.padded_shape(x.shape), np.float32) if step.wanted[0] else None
    for at, where in enumerate(reach.offsets()):
        if squares is not None:
            patch = squares[where].reshape(batch, groups, channels // groups, positions)
            s_weight[..., at] = np.matmul(sz, patch.swapaxes(-1, -2)).sum(0)
        if s_x is not None:
            back = np.matmul(w2[..., at].swapaxes(-1, -2), sz)
            s_x[where] += back.reshape(batch, channels, *reach.out)
    out: list[Array | None] = [
        None if s_x is None else reach.cropped(s_x),
        s_weight.reshape(weight.shape) if step.wanted[1] else None,
    ]
    if len(step.inputs) > 2:
        out.append(s.sum(axis=(0, *range(2, s.ndim))) if step.wanted[2] else None)
    return out


OPERATORS: Final = (
    Operator("Conv", weights=image_weights(1), simulate=_conv, rule=_backward),
    Operator(
        "FusedConv",
        MICROSOFT,
        weights=image_weights(1),
        simulate=_fused_conv,
        not_simulated=fused.not_simulated("FusedConv"),
    ),
    Operator(
        "QLinearConv",
        weights=image_weights(3, integer=True, scale=4, zero_point=5),
        simulate=_qlinear_conv,
    ),
    Operator("ConvInteger", weights=image_weights(1, integer=True, zero_point=3), simulate=_conv_integer),
)
