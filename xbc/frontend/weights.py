"""Between a layer's matrix and the tensor its host node reads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ir.arrays import F32, Array
from ir.layout import Layout
from ir.module import Layer, Module
from ir.stages import Float, Quantized
from xbc.frontend.types import integer_range, is_integer, numpy_dtype


def layer_tensor(layer: Layer, codes: Array | None = None) -> Array:
    """The tensor for host input ``layer.origin.tensor``, of its type and shape.

    Args:
        layer: at any stage.
        codes: ``[outputs, inputs]`` effective codes; None: the layer's own weights as imported or quantised.
    Raises: ValueError for codes on an unquantised layer, of a wrong shape, or outside the integer type.
    """
    body = layer.body
    dtype = numpy_dtype(layer.origin.dtype)
    if not isinstance(body, Quantized):
        if codes is not None or not isinstance(body, Float):
            raise ValueError(f"layer {layer.name!r} has no codes yet")
        return layer.origin.layout.to_tensor(body.values.astype(dtype))
    codes = body.codes if codes is None else codes
    if codes.shape != body.shape:
        raise ValueError(f"layer {layer.name!r}: codes are {codes.shape}, the matrix is {body.shape}")
    return codes_tensor(codes, body.scale, body.zero_point, layer.origin.dtype, layer.origin.layout)


def codes_tensor(codes: Array, scale: Array, zero_point: Array, dtype: str, layout: Layout) -> Array:
    """The host tensor of integer codes.

    Args:
        codes: ``[outputs, inputs]``.
        scale, zero_point: ``[1]`` or ``[outputs]``.
        dtype: ``Origin.dtype``; a float tensor is ``code * scale`` in float32, then cast; an integer one
            ``code + zero_point``.
    Raises: ValueError for codes outside the integer type.
    """
    kind = numpy_dtype(dtype)
    if is_integer(dtype):
        stored = codes.astype(np.int32) + zero_point[:, None]
        low, high = integer_range(kind)
        if stored.size and (stored.min() < low or stored.max() > high):
            raise ValueError(f"a code leaves the range of {dtype}")
        return layout.to_tensor(stored.astype(kind))
    return layout.to_tensor((codes.astype(np.float32) * scale[:, None]).astype(kind))


def module_tensors(module: Module, codes: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Host input name -> tensor for every layer; ``codes`` by layer name, default the layers' own."""
    given = codes or {}
    return {layer.origin.tensor: layer_tensor(layer, given.get(layer.name)) for layer in module.layers}


def layer_matrix(layer: Layer) -> F32:
    """``[outputs, inputs]`` float32 weights as imported (or quantised): values, or codes times scale."""
    body = layer.body
    if isinstance(body, Float):
        return body.values
    assert isinstance(body, Quantized)
    return np.asarray(body.codes.astype(np.float32) * body.scale[:, None])


def original_weights(module: Module) -> dict[str, F32]:
    """Layer name -> ``layer_matrix`` of a freshly imported module."""
    return {layer.name: layer_matrix(layer) for layer in module.layers}
