"""The codes behind a DequantizeLinear of static data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ir.arrays import Array
from ir.errors import XbcError
from xbc.frontend.types import is_integer
from xbc.operators import attributes


@dataclass
class Dequantised:
    """``(codes - zero_point) * scale`` in float32, then cast to ``dtype``.

    Fields:
        codes: integers as the model stores them, or floats of 8 or 4 bits.
        integer: their ONNX type as a numpy dtype (``int4`` is one of ml_dtypes).
        scale: float32, one element or the shape of ``codes``.
        zero_point: int32, one element or the shape of ``codes``.
        dtype: of the dequantised tensor.
        blocked: scales change within blocks of an axis.
    """

    codes: Array
    integer: np.dtype[Any]
    scale: Array
    zero_point: Array
    dtype: np.dtype[Any]
    blocked: bool = False

    def values(self) -> Array:
        """The tensor that the model computes with."""
        shape = self.codes.shape
        zero, scale = (a.reshape(()) if a.size == 1 else a for a in (self.zero_point, self.scale))
        codes = self.codes.astype(np.int32 if is_integer(self.integer.name) else np.float32) - zero
        out = codes.astype(np.float32) * scale.astype(np.float32)
        return np.asarray(out.astype(self.dtype).reshape(shape))


def dequantise(node: onnx.NodeProto, codes: Array, scale: Array, zero: Array | None) -> Dequantised:
    """A DequantizeLinear node of these operands.

    Raises: XbcError for scales or zero points that do not fit the codes.
    """
    settings = attributes(node)
    kind = settings.get("output_dtype") or 0
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind)) if kind else scale.dtype
    block = settings.get("block_size", 0)
    spread = [
        _spread(node, array, codes.shape, settings.get("axis", 1), block)
        for array in (scale.astype(np.float32), np.zeros(1, np.int32) if zero is None else zero)
    ]
    return Dequantised(codes, codes.dtype, spread[0], spread[1].astype(np.int32), dtype, bool(block))


def _spread(node: onnx.NodeProto, array: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """One element, or the parameter at every element of a tensor of ``shape``."""
    if array.size == 1:
        return array.reshape(1)
    known = -len(shape) <= axis < len(shape)
    if block and known and block > 0:
        axis %= len(shape)
        blocks = (*shape[:axis], -(-shape[axis] // block), *shape[axis + 1 :])
        if array.shape == blocks:  # so repeating makes less than a block more than the codes
            whole = np.repeat(array, min(block, shape[axis]), axis)
            return whole[tuple(slice(0, n) for n in shape)]
    elif not block and known and array.ndim == 1 and shape[axis] == array.size:
        dims = [1] * len(shape)
        dims[axis] = array.size
        return np.broadcast_to(array.reshape(dims), shape)
    raise XbcError(
        f"node {node.name!r}: a scale of shape {list(array.shape)} does not fit axis {axis} of "
        f"a tensor of shape {list(shape)}" + (f" in blocks of {block}" if block else "")
    )
