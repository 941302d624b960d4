"""onnxruntime's fused operators: a crossbar product with an activation or a quantisation around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ir.arrays import Array
from xbc.simulate.activations import ACTIVATIONS
from xbc.simulate.call import Call


def activation_name(attrs: Mapping[str, Any]) -> str:
    """The fused activation, empty when there is none."""
    name = attrs.get("activation", b"")
    return name.decode() if isinstance(name, bytes) else str(name)


def unsupported(op_type: str, attrs: Mapping[str, Any]) -> str | None:
    """Why a fused node cannot be simulated, None when it can."""
    name = activation_name(attrs)
    return (
        None
        if not name or name.lower() in ACTIVATIONS
        else f"activation {name} of {op_type} is not simulated"
    )


def activate(call: Call, y: Array) -> Array:
    """``y`` through the node's fused activation."""
    name = activation_name(call.attrs)
    if not name:
        return y
    parameters = call.attrs.get("activation_params")
    if parameters is None:
        keys = ("activation_alpha", "activation_beta", "activation_gamma")
        parameters = [call.attrs[key] for key in keys if key in call.attrs]
    return np.asarray(ACTIVATIONS[name.lower()](y, list(parameters)).astype(y.dtype))


def dynamic_grid(x: Array) -> tuple[Array, np.float32, int]:
    """(uint8 codes, scale, zero point) as DynamicQuantizeLinear makes them, one grid for the whole tensor."""
    low, high = np.float32(min(0.0, float(x.min()))), np.float32(max(0.0, float(x.max())))
    scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8), scale, zero
