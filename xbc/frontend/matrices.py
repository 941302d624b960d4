"""From the tensors of a node to the body of its layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from ir.arrays import Array
from ir.errors import XbcError
from ir.stages import Body, Float, Quantized
from xbc.frontend.dequantised import Dequantised
from xbc.frontend.grid import find_grid
from xbc.frontend.statics import Scope
from xbc.frontend.types import integer_range, is_integer
from xbc.operators import Weight

FLOAT_TYPES = frozenset({"float32", "float16", "bfloat16", "float64"})
WIDEST_INTEGER = 16


@dataclass(frozen=True)
class LayerBody:
    """A layer's body, the type of its host tensor, and whether integers were found behind its floats."""

    body: Body
    dtype: str
    recovered: bool = False


def layer_body(
    node: onnx.NodeProto, weight: Weight, scope: Scope, who: str, *, quantised_graph: bool
) -> LayerBody | str:
    """The body of a layer, or why the weight cannot be one.

    Args:
        node, weight: the operand.
        scope: of the node.
        who: how messages begin.
        quantised_graph: the model computes with Q/DQ pairs, so float weights may hide integers.
    Raises: XbcError for weights that are not finite.
    """
    name = node.input[weight.operand]
    if weight.integer:
        integers = scope.value(name)
        body = _integer_body(node, weight, scope, integers, who)
        return body if isinstance(body, str) else LayerBody(body, integers.dtype.name)
    codes = scope.dequantised(name)
    if codes is not None and is_integer(codes.integer.name):
        body = _quantized(weight, codes, who)
        return body if isinstance(body, str) else LayerBody(body, codes.dtype.name)
    tensor = scope.value(name)
    if tensor.dtype.name not in FLOAT_TYPES:
        return f"weights of type {tensor.dtype.name} are not supported"
    with np.errstate(over="ignore"):
        values = weight.layout.to_matrix(tensor).astype(np.float32)
    _check_finite(values, who)
    grid = find_grid(values) if quantised_graph else None
    if grid is None:
        return LayerBody(Float(values=values), tensor.dtype.name)
    kept = Quantized(
        codes=grid.codes,
        scale=grid.scale,
        zero_point=np.zeros(1, np.int32),
        limits=np.array([grid.limits], np.int32),
        bits=8,
        given=True,
    )
    return LayerBody(kept, tensor.dtype.name, recovered=True)


def _check_finite(values: Array, who: str) -> None:
    low, high = float(values.min()), float(values.max())  # both carry NaN through, neither overflows
    if not np.isfinite(low) or not np.isfinite(high):
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise XbcError(
            f"{who}: {bad} of its {values.size} weights are NaN or infinite (or beyond float32): "
            f"retrain or repair the model"
        )


def _integer_body(
    node: onnx.NodeProto, weight: Weight, scope: Scope, integers: Array, who: str
) -> Quantized | str:
    operands: list[Array] = []
    for at, neutral in ((weight.scale, np.ones(1, np.float32)), (weight.zero_point, np.zeros(1, np.int32))):
        if at < 0 or at >= len(node.input) or not node.input[at]:
            operands.append(neutral)
            continue
        if not scope.is_static(node.input[at]):
            return "the scale or zero point of its weights is computed at run time"
        array = scope.value(node.input[at])
        if array.size == 1:
            array = array.reshape(1)
        elif array.ndim == 1:
            dims = [1] * integers.ndim
            dims[weight.side] = array.size
            array = array.reshape(dims)
        try:
            operands.append(array if array.size == 1 else np.broadcast_to(array, integers.shape))
        except ValueError:
            return f"scales of shape {list(array.shape)} do not fit weights of shape {list(integers.shape)}"
    scale, zero = operands
    codes = Dequantised(
        integers, integers.dtype, scale.astype(np.float32), zero.astype(np.int32), np.dtype(np.float32)
    )
    return _quantized(weight, codes, who)


def _quantized(weight: Weight, codes: Dequantised, who: str) -> Quantized | str:
    name = codes.integer.name
    if not name.startswith(("int", "uint")):
        return f"its weights are stored as {name}, which has no integer codes"
    bits = int(name.split("int")[1])
    if bits > WIDEST_INTEGER:
        return f"its weights are {bits}-bit integers; at most {WIDEST_INTEGER} bits are supported"
    _check_finite(codes.scale, f"{who}: scale")
    scale, zero = _per_output(weight, codes.scale), _per_output(weight, codes.zero_point)
    if scale is None or zero is None:
        kind = "per block of inputs" if codes.blocked else "along the inputs of an output"
        return f"scales or zero points change {kind}, which one section cannot sum"
    low, high = integer_range(codes.integer)
    limits = np.stack([low - zero, high - zero], axis=1).astype(np.int32)
    wide = np.int16 if limits.min() >= -(2**15) and limits.max() < 2**15 else np.int32
    matrix = weight.layout.to_matrix(codes.codes).astype(wide)
    if zero.any():
        matrix = np.subtract(matrix, zero.astype(wide)[:, None])
    if (scale <= 0).any():
        matrix, scale, limits = _positive(matrix, scale, limits, flip=not weight.integer)
    return Quantized(
        codes=matrix,
        scale=scale.astype(np.float32),
        zero_point=zero.astype(np.int32),
        limits=limits,
        bits=bits,
        given=True,
    )


def _positive(matrix: Array, scale: Array, limits: Array, *, flip: bool) -> tuple[Array, Array, Array]:
    """Codes of positive scales for the same weights.

    An output of scale 0 has weights of 0, whatever its codes say.  A negative scale turns the codes over (``flip``);
    where the host graph reads the integers themselves they stay, and the scale counts by its magnitude.
    """
    scale = np.array(scale, np.float32)
    if flip and (scale < 0).any():
        outputs = max(len(scale), len(limits))
        limits = np.array(np.broadcast_to(limits, (outputs, 2)))
        turned = np.broadcast_to(scale < 0, outputs)
        limits[turned] = -limits[turned][:, ::-1]
        rows = np.broadcast_to(turned, len(matrix))
        wide = np.promote_types(matrix.dtype, np.int16 if limits.max() < 2**15 else np.int32)
        matrix = np.where(rows[:, None], -matrix.astype(wide), matrix.astype(wide))
    empty = np.broadcast_to(scale == 0, len(matrix))
    if empty.any():
        matrix = np.where(empty[:, None], matrix.dtype.type(0), matrix)
        scale[scale == 0] = 1
    return matrix, np.abs(scale), limits


def _per_output(weight: Weight, array: Array) -> Array | None:
    """``[1]`` or ``[outputs]`` of an element or a tensor-shaped array; None when it changes along inputs."""
    if array.size == 1:
        return np.asarray(array.reshape(1))
    matrix = weight.layout.to_matrix(array)
    if not (matrix == matrix[:, :1]).all():
        return None
    column = matrix[:, 0]
    return np.asarray(column[:1] if (column == column[0]).all() else column)
