"""What the integer forms of several operators share: accumulators back to integers, in onnxruntime's order."""

from __future__ import annotations

import numpy as np

from ir.arrays import Array
from xbc.operators.call import Call
from xbc.operators.definition import MisshapenError, Shape


def at_rank(shape: Shape, least: int, what: str) -> None:
    """Raises MisshapenError for fewer dimensions than ``least``."""
    if len(shape) < least:
        raise MisshapenError(f"{what} of shape {list(shape)} must have at least {least} dimensions")


def int32(acc: Array) -> Array:
    """Accumulators that are the output themselves."""
    limits = np.iinfo(np.int32)
    return np.clip(np.rint(acc), limits.min, limits.max).astype(np.int32)


def requantise(
    acc: Array, call: Call, x_scale: int, w_scale: int, y_scale: int, y_zero: int, axis: int
) -> Array:
    """Accumulators to the output's integers, in float32 as onnxruntime does it."""
    scale = call.need(x_scale).astype(np.float32) * call.need(w_scale).astype(np.float32)
    scale = np.asarray(scale / call.need(y_scale).astype(np.float32), np.float32)
    if scale.size > 1:
        scale = scale.reshape(-1, *(1,) * (acc.ndim - 1 - axis))
    zero = call.need(y_zero)
    info = np.iinfo(zero.dtype)
    y = np.rint(acc.astype(np.float32) * scale) + np.float32(zero.reshape(-1)[0])
    return np.asarray(np.clip(y, info.min, info.max).astype(zero.dtype))
