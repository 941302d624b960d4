"""Rules for Softmax and the normalisations, whose outputs each depend on many inputs."""

from __future__ import annotations

from typing import Final

import numpy as np

from ir.arrays import Array
from xbc.operators.definition import Operator, Rule
from xbc.operators.step import Result, Step


def _softmax(step: Step) -> Result:
    """dy_i/dx_j = y_i (d_ij - y_j), squared and summed over i."""
    y, s = step.outputs[0], step.s
    axis = int(step.attribute("axis", -1 if step.opset >= 13 else 1))
    if step.opset < 13:  # flattened to two dimensions at axis
        rows = int(np.prod(y.shape[: axis % y.ndim]))
        return [_softmax_rows(y.reshape(rows, -1), s.reshape(rows, -1), 1, step.power).reshape(y.shape)]
    return [_softmax_rows(y, s, axis, step.power)]


def _softmax_rows(y: Array, s: Array, axis: int, power: int) -> Array:
    if power == 1:
        return np.asarray(y * (s - (y * s).sum(axis=axis, keepdims=True)))
    y2 = np.square(y)
    total = (y2 * s).sum(axis=axis, keepdims=True)
    return np.asarray(y2 * (total + s * (1 - 2 * y)))


def _layer_normalization(step: Step) -> Result:
    """dy_i/dx_j = g_i/sigma (d_ij - (1 + n_i n_j) / N), n the normalised input; squared, summed over i."""
    x, gain, s = step.value(0), step.value(1), step.s
    axis = int(step.attribute("axis", -1)) % x.ndim
    axes = tuple(range(axis, x.ndim))
    size = np.float32(np.prod(x.shape[axis:]))
    mean = x.mean(axis=axes, keepdims=True)
    sigma = np.sqrt(x.var(axis=axes, keepdims=True) + np.float32(step.attribute("epsilon", 1e-5)))
    normal = (x - mean) / sigma
    out: list[Array | None] = [None] * len(step.inputs)
    if step.wanted[0] and step.power == 1:
        weighted = s * gain / sigma
        mean_w = weighted.mean(axis=axes, keepdims=True)
        out[0] = weighted - mean_w - normal * (weighted * normal).mean(axis=axes, keepdims=True)
    elif step.wanted[0]:
        weighted = s * np.square(gain / sigma)
        # sum_i t_i (d_ij - a_ij)**2 with a_ij = (1 + n_i n_j) / N, term by term
        own = weighted * (1 - 2 * (1 + np.square(normal)) / size)
        flat = weighted.sum(axis=axes, keepdims=True)
        first = (weighted * normal).sum(axis=axes, keepdims=True)
        second = (weighted * np.square(normal)).sum(axis=axes, keepdims=True)
        out[0] = own + (flat + 2 * normal * first + np.square(normal) * second) / size**2
    lead = tuple(range(axis))
    if len(step.wanted) > 1 and step.wanted[1]:
        out[1] = (s * step.raised(normal)).sum(axis=lead)
    if len(step.wanted) > 2 and step.wanted[2]:
        out[2] = s.sum(axis=lead)
    return out


def _instance_normalization(step: Step) -> Result:
    x = step.value(0)
    flat = x.reshape(x.shape[0] * x.shape[1], -1)
    gain = np.tile(step.value(1), x.shape[0])[:, None]
    size = np.float32(flat.shape[1])
    sigma = np.sqrt(flat.var(axis=1, keepdims=True) + np.float32(step.attribute("epsilon", 1e-5)))
    normal = (flat - flat.mean(axis=1, keepdims=True)) / sigma
    weighted = step.s.reshape(flat.shape) * step.raised(gain / sigma)
    if step.power == 1:
        back = weighted - weighted.mean(axis=1, keepdims=True)
        return [(back - normal * (weighted * normal).mean(axis=1, keepdims=True)).reshape(x.shape)]
    own = weighted * (1 - 2 * (1 + np.square(normal)) / size)
    first = (weighted * normal).sum(axis=1, keepdims=True)
    second = (weighted * np.square(normal)).sum(axis=1, keepdims=True)
    spread = weighted.sum(axis=1, keepdims=True) + 2 * normal * first + np.square(normal) * second
    return [(own + spread / size**2).reshape(x.shape)]


def _batch_normalization(step: Step) -> Result:
    """Inference form: a fixed gain per channel."""
    gain, variance = step.value(1), step.value(4)
    slope = gain / np.sqrt(variance + np.float32(step.attribute("epsilon", 1e-5)))
    return [step.s * step.raised(slope).reshape(1, -1, *([1] * (step.s.ndim - 2)))]


_RULES: Final[dict[str, Rule]] = {
    "Softmax": _softmax,
    "LayerNormalization": _layer_normalization,
    "InstanceNormalization": _instance_normalization,
    "BatchNormalization": _batch_normalization,
}

OPERATORS: Final = tuple(Operator(name, rule=rule) for name, rule in _RULES.items())
