"""ONNX operators whose products run on crossbars: what is around the product is done here, digitally."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ir.arrays import Array
from xbc.simulate import fused
from xbc.simulate.call import Call
from xbc.simulate.layer import Columns, LayerSimulator
from xbc.simulate.recurrent import run_recurrent
from xbc.simulate.window import window

MS = "com.microsoft"


Operator = Callable[[Call], list[Array]]


def run(call: Call) -> list[Array]:
    """Outputs of the node.  Raises XbcError when an input does not fit the layer."""
    return OPERATORS[(call.node.domain, call.node.op_type)](call)


# ---- convolutions


def _conv_products(call: Call, x: Array, layer: LayerSimulator, zero: int | None) -> Array:
    """``[N, outputs, *out]``: float32 from real inputs, float64 integers when the zero point is given."""
    kernel = layer.layer.origin.kernel
    groups = layer.layer.origin.groups
    _channels(call, x, layer.effective.shape[1] // int(np.prod(kernel)) * groups)
    w = window(call.attrs, kernel, x.shape[2:], False, layer.layer.name)

    def arrange(values: Array, pad: Array, lines: slice) -> Array:
        return w.columns(values, groups, pad, lines)

    columns = Columns(arrange, w.out[0], w.vectors // w.out[0])
    y = layer.real(x, columns) if zero is None else layer.integer(x, zero, columns)
    return np.moveaxis(y, 0, 1).reshape(len(x), -1, *w.out)


def _channels(call: Call, x: Array, channels: int) -> None:
    if x.ndim < 3 or x.shape[1] != channels:
        raise call.bad(f"takes images of {channels} channels, its input has shape {list(x.shape)}")


def _bias(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias.reshape(-1, *(1,) * (y.ndim - 2)).astype(y.dtype)


def _conv(call: Call) -> list[Array]:
    x = call.need(0)
    return [_bias(_conv_products(call, x, call.layers[1], None), call.given(2)).astype(x.dtype)]


def _conv_transpose(call: Call) -> list[Array]:
    x, layer = call.need(0), call.layers[1]
    origin = layer.layer.origin
    groups = origin.groups
    _channels(call, x, layer.effective.shape[1] * groups)
    w = window(call.attrs, origin.kernel, x.shape[2:], True, origin.node)
    pixels = int(np.prod(x.shape[2:]))

    def arrange(values: Array, pad: Array, lines: slice) -> Array:
        columns = np.moveaxis(values.reshape(*values.shape[:2], pixels)[:, :, lines], 0, 1)
        return columns.reshape(groups, len(columns) // groups, -1)

    y = layer.real(x, Columns(arrange, pixels, 1))
    channels = layer.effective.shape[0] // int(np.prod(origin.kernel))
    return [_bias(w.images(y, channels, len(x)), call.given(2)).astype(x.dtype)]


def _qlinear_conv(call: Call) -> list[Array]:
    x = call.need(0)
    acc = _conv_products(call, x, call.layers[3], int(call.scalar(2)))
    return [_requantise(_bias(acc, call.given(8)), call, 1, 4, 6, 7, axis=1)]


def _conv_integer(call: Call) -> list[Array]:
    return [_int32(_conv_products(call, call.need(0), call.layers[1], int(call.scalar(2))))]


# ---- matrix products


def _matrix_products(call: Call, x: Array, layer: LayerSimulator, right: bool, zero: int | None) -> Array:
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
    while lead and lead[0] == 1:
        lead = lead[1:]
    if lead and batch[len(batch) - len(lead) :] != lead:
        raise call.bad(f"broadcasts its stacked weights {list(lead)} over inputs of {list(x.shape)}")
    x = np.broadcast_to(x, (*batch, *x.shape[-2:]))
    rows, outer = x.shape[-2], batch[: len(batch) - len(lead)]
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
    y = y.transpose(2, 3, 0, 4, 1).reshape(*batch, rows, per_group)
    if len(shape) == 1:
        y = y[..., 0]
        return y[..., 0] if vector else y
    if not right:
        y = np.swapaxes(y, -1, -2)
    if vector:
        y = y[..., 0, :] if right else y[..., 0]
    return np.asarray(y)


def _side(call: Call, left: int, right: int) -> tuple[LayerSimulator, bool, int]:
    """(layer, whether the weights are the right factor, operand index of the input)."""
    return (call.layers[right], True, left) if right in call.layers else (call.layers[left], False, right)


def _matmul(call: Call) -> list[Array]:
    layer, right, other = _side(call, 0, 1)
    x = call.need(other)
    kind = x.dtype
    if call.attrs.get("transA" if right else "transB", 0) and x.ndim > 1:
        x = np.swapaxes(x, -1, -2)
    y = _matrix_products(call, x, layer, right, None) * np.float32(call.attrs.get("alpha", 1.0))
    return [y.astype(kind)]


def _gemm(call: Call) -> list[Array]:
    layer, right, other = _side(call, 0, 1)
    x = call.need(other)
    kind = x.dtype
    if x.ndim != 2:
        raise call.bad(f"takes a matrix, its input has shape {list(x.shape)}")
    if call.attrs.get("transA" if right else "transB", 0):
        x = x.T
    y = _matrix_products(call, x, layer, right, None) * np.float32(call.attrs.get("alpha", 1.0))
    c = call.given(2)
    if c is not None:
        y = y + np.float32(call.attrs.get("beta", 1.0)) * c.astype(np.float32)
    return [y.astype(kind)]


def _matmul_integer(call: Call) -> list[Array]:
    layer, right, other = _side(call, 0, 1)
    zero = int(call.scalar(2 if right else 3))
    return [_int32(_matrix_products(call, call.need(other), layer, right, zero))]


def _qlinear_matmul(call: Call) -> list[Array]:
    layer, right, other = _side(call, 0, 3)
    zero = int(call.scalar(2 if right else 5))
    acc = _matrix_products(call, call.need(other), layer, right, zero)
    return [_requantise(acc, call, 1, 4, 6, 7, axis=acc.ndim - 1 if right else acc.ndim - 2)]


def _matmul_integer_to_float(call: Call) -> list[Array]:
    layer, right, other = _side(call, 0, 1)
    zero = int(call.scalar(4 if right else 5))
    acc = _matrix_products(call, call.need(other), layer, right, zero)
    y = acc * (call.need(2).astype(np.float64) * call.need(3).astype(np.float64))
    bias = call.given(6)
    return [(y if bias is None else y + bias).astype(np.float32)]


# ---- fused by onnxruntime


def _fused_conv(call: Call) -> list[Array]:
    (y,) = _conv(call)
    summand = call.given(3)
    return [fused.activate(call, y if summand is None else y + summand)]


def _fused_gemm(call: Call) -> list[Array]:
    return [fused.activate(call, _gemm(call)[0])]


def _conv_transpose_dynamic_pads(call: Call) -> list[Array]:
    attrs = dict(call.attrs)
    pads = call.given(2)
    if pads is not None:
        attrs["pads"] = pads.tolist()
    return _conv_transpose(replace(call, attrs=attrs, inputs=[call.given(0), None, call.given(3)]))


def _qgemm(call: Call) -> list[Array]:
    layer, right, other = _side(call, 0, 3)
    x = call.need(other)
    if call.attrs.get("transA" if right else "transB", 0):
        x = x.T
    acc = _matrix_products(call, x, layer, right, int(call.scalar(2 if right else 5)))
    bias = call.given(6)
    if bias is not None:
        acc = acc + bias
    scale = np.float32(call.attrs.get("alpha", 1.0)) * call.need(1) * call.need(4)
    if call.given(7) is None:
        return [(acc * scale.astype(np.float64)).astype(np.float32)]
    whole = replace(call, inputs=[np.ones(1, np.float32), scale, call.given(7), call.given(8)])
    return [_requantise(acc, whole, 0, 1, 2, 3, axis=1)]


def _dynamic_quantize_matmul(call: Call) -> list[Array]:
    codes, scale, zero = fused.dynamic_grid(call.need(0))
    acc = _matrix_products(call, codes, call.layers[1], True, zero)
    y = acc * (np.float64(scale) * call.need(2).astype(np.float64))
    bias = call.given(4)
    return [(y if bias is None else y + bias).astype(np.float32)]


# ---- integers back to integers


def _int32(acc: Array) -> Array:
    limits = np.iinfo(np.int32)
    return np.clip(np.rint(acc), limits.min, limits.max).astype(np.int32)


def _requantise(
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


OPERATORS: dict[tuple[str, str], Operator] = {
    ("", "Conv"): _conv,
    ("", "ConvTranspose"): _conv_transpose,
    ("", "Gemm"): _gemm,
    ("", "MatMul"): _matmul,
    (MS, "FusedMatMul"): _matmul,
    (MS, "TransposeMatMul"): _matmul,
    ("", "QLinearConv"): _qlinear_conv,
    ("", "ConvInteger"): _conv_integer,
    ("", "QLinearMatMul"): _qlinear_matmul,
    ("", "MatMulInteger"): _matmul_integer,
    (MS, "MatMulInteger16"): _matmul_integer,
    (MS, "MatMulIntegerToFloat"): _matmul_integer_to_float,
    (MS, "FusedConv"): _fused_conv,
    (MS, "FusedGemm"): _fused_gemm,
    (MS, "ConvTransposeWithDynamicPads"): _conv_transpose_dynamic_pads,
    (MS, "QGemm"): _qgemm,
    (MS, "DynamicQuantizeMatMul"): _dynamic_quantize_matmul,
    ("", "LSTM"): run_recurrent,
    ("", "GRU"): run_recurrent,
    ("", "RNN"): run_recurrent,
}  # fmt: skip
