"""Matrix products of integers: ``QLinearMatMul``, ``MatMulInteger`` and onnxruntime's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from ir.arrays import Array
from xbc.operators.call import Call
from xbc.operators.definition import MICROSOFT, Operator
from xbc.operators.integers import int32, requantise
from xbc.operators.products import factor_weights, matrix_products, side


def _at(scale: int, zero_point: int) -> dict[str, Any]:
    return {"integer": True, "scale": scale, "zero_point": zero_point}


def _matmul_integer(call: Call) -> list[Array]:
    layer, right, other = side(call, 0, 1)
    zero = int(call.scalar(2 if right else 3))
    return [int32(matrix_products(call, call.need(other), layer, right, zero))]


def _qlinear_matmul(call: Call) -> list[Array]:
    layer, right, other = side(call, 0, 3)
    zero = int(call.scalar(2 if right else 5))
    acc = matrix_products(call, call.need(other), layer, right, zero)
    return [requantise(acc, call, 1, 4, 6, 7, axis=acc.ndim - 1 if right else acc.ndim - 2)]


def _matmul_integer_to_float(call: Call) -> list[Array]:
    layer, right, other = side(call, 0, 1)
    zero = int(call.scalar(4 if right else 5))
    acc = matrix_products(call, call.need(other), layer, right, zero)
    y = acc * (call.need(2).astype(np.float64) * call.need(3).astype(np.float64))
    bias = call.given(6)
    return [(y if bias is None else y + bias).astype(np.float32)]


def _qgemm(call: Call) -> list[Array]:
    layer, right, other = side(call, 0, 3)
    x = call.need(other)
    if call.attrs.get("transA" if right else "transB", 0):
        x = x.T
    acc = matrix_products(call, x, layer, right, int(call.scalar(2 if right else 5)))
    bias = call.given(6)
    if bias is not None:
        acc = acc + bias
    scale = np.float32(call.attrs.get("alpha", 1.0)) * call.need(1) * call.need(4)
    if call.given(7) is None:
        return [(acc * scale.astype(np.float64)).astype(np.float32)]
    whole = replace(call, inputs=[np.ones(1, np.float32), scale, call.given(7), call.given(8)])
    return [requantise(acc, whole, 0, 1, 2, 3, axis=1)]


def _dynamic_grid(x: Array) -> tuple[Array, np.float32, int]:
    """(uint8 codes, scale, zero point) as DynamicQuantizeLinear makes them, one grid for the whole tensor."""
    low, high = np.float32(min(0.0, float(x.min()))), np.float32(max(0.0, float(x.max())))
    scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8), scale, zero


def _dynamic_quantize_matmul(call: Call) -> list[Array]:
    codes, scale, zero = _dynamic_grid(call.need(0))
    acc = matrix_products(call, codes, call.layers[1], True, zero)
    y = acc * (np.float64(scale) * call.need(2).astype(np.float64))
    bias = call.given(4)
    return [(y if bias is None else y + bias).astype(np.float32)]


_QLINEAR = factor_weights(0, 3, integers=(_at(1, 2), _at(4, 5)))
OPERATORS: Final = (
    Operator("QLinearMatMul", weights=_QLINEAR, simulate=_qlinear_matmul),
    Operator(
        "MatMulInteger",
        weights=factor_weights(0, 1, integers=(_at(-1, 2), _at(-1, 3))),
        simulate=_matmul_integer,
    ),
    Operator(
        "MatMulInteger16",
        MICROSOFT,
        weights=factor_weights(0, 1, integers=(_at(-1, -1), _at(-1, -1))),
        simulate=_matmul_integer,
    ),
    Operator(
        "MatMulIntegerToFloat",
        MICROSOFT,
        weights=factor_weights(0, 1, integers=(_at(2, 4), _at(3, 5))),
        simulate=_matmul_integer_to_float,
    ),
    Operator(
        "DynamicQuantizeMatMul",
        MICROSOFT,
        weights=factor_weights(-1, 1, integers=({}, _at(2, 3))),
        simulate=_dynamic_quantize_matmul,
    ),
    Operator("QGemm", MICROSOFT, weights=_QLINEAR, simulate=_qgemm),
)
