"""Matrix products: which factor is static, and the product itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from ir.arrays import Array
from ir.layout import Layout
from xbc.operators.call import Call, Columns, CrossbarLayer
from xbc.operators.definition import (
    Attributes,
    Found,
    MisshapenError,
    Refusal,
    Shape,
    Shapes,
    Weight,
    Weights,
)
from xbc.operators.integers import at_rank


def matrix(operand: int, shape: Shape, *, right: bool, transposed: bool, **integer: Any) -> Weight:
    """Right factor ``[..., K, N]`` or left factor ``[..., M, K]`` of a product; leading dims are groups."""
    if not shape:
        raise MisshapenError("a matrix operand is a scalar")
    side = -1
    if len(shape) == 1:
        return Weight(operand, Layout(shape, (1, shape[0]), (0, 1), 1), **integer)
    rank = len(shape)
    outputs_last = right != transposed
    lead = tuple(range(rank - 2))
    perm = (*lead, rank - 1, rank - 2) if outputs_last else (*lead, rank - 2, rank - 1)
    if not outputs_last:
        side = -2
    groups = 1
    for dim in shape[:-2]:
        groups *= dim
    return Weight(operand, Layout(shape, shape, perm, rank - 1), groups, side=side, **integer)


def factor_weights(
    left: int, right: int, *, gemm: bool = False, integers: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
) -> Weights:
    """The static factor of a product (-1: no such operand may be one).

    ``integers`` are scale and zero-point operands of the left and right factor.
    """

    def rule(attrs: Attributes, shapes: Shapes) -> Found:
        sides = [i for i in (left, right) if i >= 0 and i < len(shapes) and shapes[i] is not None]
        if not sides:
            return []
        if len(sides) == 2 and left >= 0:
            return [Refusal(right, "both factors are static: a constant, not a product with an activation")]
        operand = sides[0]
        shape = shapes[operand]
        assert shape is not None
        if gemm:
            at_rank(shape, 2, "a matrix of Gemm")
        is_right = operand == right
        if attrs.get("transBatchA") or attrs.get("transBatchB"):
            return [Refusal(operand, "transBatchA / transBatchB reorder stacked matrices")]
        transposed = bool(attrs.get("transB" if is_right else "transA", 0)) and len(shape) > 1
        extra = integers[1 if is_right else 0]
        return [matrix(operand, shape, right=is_right, transposed=transposed, **extra)]

    return rule


def matrix_products(call: Call, x: Array, layer: CrossbarLayer, right: bool, zero: int | None) -> Array:
    """``x @ W`` or ``W @ x`` like numpy's matmul; float32, or float64 integers with ``zero``."""
    shape = layer.layer.origin.layout.shape
    lead, groups = shape[:-2], layer.layer.origin.groups
    inputs, per_group = layer.effective.shape[1], layer.effective.shape[0] // groups
    vector = x.ndim == 1
    if vector:
        x = x[None, :] if right else x[:, None]
    if x.shape[-1 if right else -2] != inputs:
        raise call.bad(f"multiplies vectors of {inputs}, its input has shape {list(x.shape)}")
    if not right:
        x = np.swapaxes(x, -1, -2)
    batch = np.broadcast_shapes(x.shape[:-2], lead)
    stacked = (1,) * (len(batch) - len(lead)) + lead
    # axes along which the weights are the same stand outside those along which each matrix is another one
    grouped = [axis for axis, size in enumerate(stacked) if size > 1]
    free = [axis for axis, size in enumerate(stacked) if size == 1]
    order = (*free, *grouped, len(batch), len(batch) + 1)
    x = np.broadcast_to(x, (*batch, *x.shape[-2:])).transpose(order)
    rows, outer = x.shape[-2], x.shape[: len(free)]
    # samples: the first axis; a plain matrix is a set of rows
    flat = x.reshape(-1, groups, rows, inputs) if outer else x.reshape(1, groups, rows, inputs)
    samples = outer[0] if outer else rows if groups == 1 else 1
    flat = flat.reshape(samples, -1, groups, rows if outer or groups > 1 else 1, inputs)
    vectors = flat.shape[1] * flat.shape[3]

    def arrange(values: Array, pad: Array, lines: slice) -> Array:
        columns = values.transpose(2, 4, 0, 1, 3).reshape(groups, inputs, len(values), vectors)
        return columns[..., lines].reshape(groups, inputs, -1)

    columns = Columns(arrange, vectors, 1)
    y = layer.real(flat, columns) if zero is None else layer.integer(flat, zero, columns)
    y = y.reshape(groups, per_group, samples, flat.shape[1], flat.shape[3])
    y = y.transpose(2, 3, 0, 4, 1).reshape(*(batch[axis] for axis in (*free, *grouped)), rows, per_group)
    y = y.transpose(np.argsort(order))
    if len(shape) == 1:
        y = y[..., 0]
        return y[..., 0] if vector else y
    if not right:
        y = np.swapaxes(y, -1, -2)
    if vector:
        y = y[..., 0, :] if right else y[..., 0]
    return np.asarray(y)


def side(call: Call, left: int, right: int) -> tuple[CrossbarLayer, bool, int]:
    """(layer, whether the weights are the right factor, operand index of the input)."""
    return (call.layers[right], True, left) if right in call.layers else (call.layers[left], False, right)
