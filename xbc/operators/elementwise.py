"""Rules for operators that work element by element, and their slopes (for regions taken as one function)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ir.arrays import Array
from xbc.operators.definition import Operator, Slopes
from xbc.operators.step import Result, Step


def _special() -> Any:
    from scipy import special  # a tenth of a second that reading a model need not wait for

    return special


def _relu(step: Step) -> list[Array]:
    return [(step.outputs[0] > 0).astype(np.float32)]


def _leaky(step: Step) -> list[Array]:
    return [np.where(step.value(0) >= 0, np.float32(1), np.float32(step.attribute("alpha", 0.01)))]


def _elu(step: Step) -> list[Array]:
    x, alpha = step.value(0), np.float32(step.attribute("alpha", 1.0))
    return [np.where(x >= 0, np.float32(1), alpha * np.exp(np.minimum(x, 0)))]


def _clip(step: Step) -> list[Array]:
    x = step.value(0)
    bounds = [step.inputs[i] if len(step.inputs) > i else None for i in (1, 2)]
    low = bounds[0] if bounds[0] is not None else step.attribute("min", -np.inf)
    high = bounds[1] if bounds[1] is not None else step.attribute("max", np.inf)
    return [((x > low) & (x < high)).astype(np.float32)]


def _hard_sigmoid(step: Step) -> list[Array]:
    alpha = np.float32(step.attribute("alpha", 0.2))
    line = alpha * step.value(0) + np.float32(step.attribute("beta", 0.5))
    return [np.where((line > 0) & (line < 1), alpha, np.float32(0))]


def _hard_swish(step: Step) -> list[Array]:
    x = step.value(0)
    return [np.where(x <= -3, np.float32(0), np.where(x >= 3, np.float32(1), x / 3 + np.float32(0.5)))]


def _gelu(step: Step) -> list[Array]:
    x = step.value(0)
    if step.attribute("approximate", "none") == "tanh":
        c = np.float32(np.sqrt(2 / np.pi))
        t = np.tanh(c * (x + np.float32(0.044715) * x**3))
        return [0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + np.float32(3 * 0.044715) * x * x)]
    density = np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)
    return [np.asarray(0.5 * (1 + _special().erf(x / np.sqrt(2))) + x * density)]


def _softplus(step: Step) -> list[Array]:
    return [np.asarray(_special().expit(step.value(0)))]


def _sigmoid(step: Step) -> list[Array]:
    y = step.outputs[0]
    return [y * (1 - y)]


def _swish(step: Step) -> list[Array]:
    x, alpha = step.value(0), np.float32(step.attribute("alpha", 1.0))
    gate = _special().expit(alpha * x)
    return [np.asarray(gate + alpha * x * gate * (1 - gate))]


def _pow(step: Step) -> list[Array]:
    x, exponent = step.value(0), step.value(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        base = exponent * np.power(x, exponent - 1)
        out = [np.where(np.isfinite(base), base, 0)]
        if step.wanted[1]:
            log = step.outputs[0] * np.log(np.maximum(x, np.finfo(np.float32).tiny))
            out.append(np.asarray(log))
    return out


def _mul(step: Step) -> list[Array]:
    return [step.value(1), step.value(0)]


def _div(step: Step) -> list[Array]:
    a, b = step.value(0), step.value(1)
    return [1 / b, -a / (b * b)]


def _one(step: Step) -> list[Array]:
    return [np.ones((), np.float32)]


def _where(step: Step) -> list[Array]:
    condition = step.value(0)
    return [np.zeros((), np.float32), condition.astype(np.float32), (~condition).astype(np.float32)]


_SLOPES: Final[dict[str, Slopes]] = {
    "Abs": lambda step: [np.sign(step.value(0))],
    "Add": lambda step: [np.ones((), np.float32)] * 2,
    "Cast": _one,
    "Clip": _clip,
    "Div": _div,
    "Dropout": _one,
    "Elu": _elu,
    "Erf": lambda step: [np.float32(2 / np.sqrt(np.pi)) * np.exp(-(step.value(0) ** 2))],
    "Exp": lambda step: [step.outputs[0]],
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _one,
    "LeakyRelu": _leaky,
    "Log": lambda step: [1 / step.value(0)],
    "Mul": _mul,
    "Neg": lambda step: [-np.ones((), np.float32)],
    "Pow": _pow,
    "Reciprocal": lambda step: [-(step.outputs[0] ** 2)],
    "Relu": _relu,
    "Sigmoid": _sigmoid,
    "Softplus": _softplus,
    "Sqrt": lambda step: [0.5 / np.maximum(step.outputs[0], np.finfo(np.float32).tiny)],
    "Sub": lambda step: [np.ones((), np.float32), -np.ones((), np.float32)],
    "Swish": _swish,
    "Tanh": lambda step: [1 - step.outputs[0] ** 2],
    "Where": _where,
}


def _quantize(step: Step) -> Result:
    """Straight-through inside the range; rounding itself is taken as the identity."""
    x, scale = step.value(0), along(step, step.value(1))
    zero = step.inputs[2] if len(step.inputs) > 2 else None
    kind = np.iinfo(step.outputs[0].dtype)
    level = x / scale + (0 if zero is None else along(step, zero.astype(np.float32)))
    inside = (level >= kind.min - 0.5) & (level <= kind.max + 0.5)
    return [step.s * inside / step.raised(scale)]


def _dequantize(step: Step) -> Result:
    return [step.s * step.raised(along(step, step.value(1)).astype(np.float32))]


def along(step: Step, parameter: Array) -> Array:
    """A scale or zero point, per tensor or along ``axis``, broadcastable to the node's first input."""
    if parameter.size == 1:
        return parameter.reshape(())
    shape = step.value(0).shape
    axis = int(step.attribute("axis", 1)) % len(shape)
    if parameter.ndim == 1 and parameter.shape[0] == shape[axis]:
        return parameter.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.repeat(parameter, shape[axis] // parameter.shape[axis], axis=axis)  # blocked


OPERATORS: Final = (
    *(Operator(name, slopes=slopes) for name, slopes in _SLOPES.items()),
    Operator("QuantizeLinear", rule=_quantize),
    Operator("DequantizeLinear", rule=_dequantize),
)
