"""Matrix products of real numbers: ``MatMul``, ``Gemm`` and the forms that onnxruntime fuses."""

from __future__ import annotations

from typing import Final

import numpy as np

from ir.arrays import Array
from xbc.operators import fused
from xbc.operators.call import Call
from xbc.operators.definition import MICROSOFT, Operator
from xbc.operators.products import factor_weights, matrix_products, side
from xbc.operators.step import Result, Step, unbroadcast


def _matmul(call: Call) -> list[Array]:
    layer, right, other = side(call, 0, 1)
    x = call.need(other)
    kind = x.dtype
    if call.attrs.get("transA" if right else "transB", 0) and x.ndim > 1:
        x = np.swapaxes(x, -1, -2)
    y = matrix_products(call, x, layer, right, None) * np.float32(call.attrs.get("alpha", 1.0))
    return [y.astype(kind)]


def _gemm(call: Call) -> list[Array]:
    layer, right, other = side(call, 0, 1)
    x = call.need(other)
    kind = x.dtype
    if x.ndim != 2:
        raise call.bad(f"takes a matrix, its input has shape {list(x.shape)}")
    if call.attrs.get("transA" if right else "transB", 0):
        x = x.T
    y = matrix_products(call, x, layer, right, None) * np.float32(call.attrs.get("alpha", 1.0))
    c = call.given(2)
    if c is not None:
        y = y + np.float32(call.attrs.get("beta", 1.0)) * c.astype(np.float32)
    return [y.astype(kind)]


def _fused_gemm(call: Call) -> list[Array]:
    return [fused.activate(call, _gemm(call)[0])]


def _matmul_backward(step: Step) -> Result:
    a, b, s = step.value(0), step.value(1), step.s
    if a.ndim == 1 or b.ndim == 1:
        lifted_a = a[None, :] if a.ndim == 1 else a
        lifted_b = b[:, None] if b.ndim == 1 else b
        lifted = s.reshape(np.matmul(lifted_a, lifted_b).shape)
        left, right = _products(step, lifted_a, lifted_b, lifted)
        return [
            None if left is None else left.reshape(a.shape),
            None if right is None else right.reshape(b.shape),
        ]
    return _products(step, a, b, s)


def _products(step: Step, a: Array, b: Array, s: Array) -> list[Array | None]:
    want, raised = step.wanted, step.raised
    out: list[Array | None] = [None, None]
    if b.ndim == 2:  # one matrix for all positions: two big products
        flat = s.reshape(-1, s.shape[-1])
        if want[0]:
            out[0] = (flat @ raised(b).T).reshape(a.shape)
        if want[1]:
            out[1] = raised(a.reshape(-1, a.shape[-1])).T @ flat
        return out
    if want[0]:
        out[0] = unbroadcast(np.matmul(s, raised(b).swapaxes(-1, -2)), a.shape)
    if want[1]:
        out[1] = unbroadcast(np.matmul(raised(a).swapaxes(-1, -2), s), b.shape)
    return out


def _gemm_backward(step: Step) -> Result:
    a, b, s = step.value(0), step.value(1), step.s
    alpha, beta = step.attribute("alpha", 1.0), step.attribute("beta", 1.0)
    flip_a, flip_b = bool(step.attribute("transA", 0)), bool(step.attribute("transB", 0))
    left, right = _products(
        step, a.T if flip_a else a, b.T if flip_b else b, s * np.float32(alpha**step.power)
    )
    out: list[Array | None] = [
        left.T if left is not None and flip_a else left,
        right.T if right is not None and flip_b else right,
    ]
    if len(step.inputs) > 2:
        c = step.inputs[2]
        out.append(
            unbroadcast(s * np.float32(beta**step.power), c.shape)
            if step.wanted[2] and c is not None
            else None
        )
    return out


OPERATORS: Final = (
    Operator("MatMul", weights=factor_weights(0, 1), simulate=_matmul, rule=_matmul_backward),
    Operator("Gemm", weights=factor_weights(0, 1, gemm=True), simulate=_gemm, rule=_gemm_backward),
    Operator("FusedMatMul", MICROSOFT, weights=factor_weights(0, 1), simulate=_matmul),
    Operator("TransposeMatMul", MICROSOFT, weights=factor_weights(0, 1), simulate=_matmul),
    Operator(
        "FusedGemm",
        MICROSOFT,
        weights=factor_weights(0, 1, gemm=True),
        simulate=_fused_gemm,
        not_simulated=fused.not_simulated("FusedGemm"),
    ),
    # onnxruntime has them on graphics processors only
    Operator("GemmFastGelu", MICROSOFT, weights=factor_weights(-1, 1)),
    Operator("FusedMatMulActivation", MICROSOFT, weights=factor_weights(0, 1)),
)
