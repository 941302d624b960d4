"""onnxruntime's fused operators: a crossbar product with an activation behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ir.arrays import Array
from xbc.operators.activations import ACTIVATIONS
from xbc.operators.call import Call


def activation_name(attrs: Mapping[str, Any]) -> str:
    """The fused activation, empty when there is none."""
    name = attrs.get("activation", b"")
    return name.decode() if isinstance(name, bytes) else str(name)


def not_simulated(op_type: str) -> Callable[[Mapping[str, Any]], str | None]:
    """Why a node of that operator cannot be simulated, from its attributes; None when it can."""

    def check(attrs: Mapping[str, Any]) -> str | None:
        name = activation_name(attrs)
        known = not name or name.lower() in ACTIVATIONS
        return None if known else f"activation {name} of {op_type} is not simulated"

    return check


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
