"""Rules for pooling and reductions."""

from __future__ import annotations

from typing import Final

import numpy as np

from xbc.operators.definition import Operator, Rule
from xbc.operators.offsets import Offsets
from xbc.operators.step import Result, Step


def _max_pool(step: Step) -> Result:
    """The whole curvature goes to the (first) maximum of each reach."""
    x, y = step.value(0), step.outputs[0]
    reach = Offsets(step, tuple(step.attribute("kernel_shape")))
    padded = reach.padded(x, -np.inf)
    out = np.zeros(padded.shape, np.float32)
    open_ = np.ones(y.shape, bool)
    for where in reach.offsets():
        hit = open_ & (padded[where] == y)
        out[where] += step.s * hit
        open_ &= ~hit
    return [reach.cropped(out)]


def _average_pool(step: Step) -> Result:
    reach = Offsets(step, tuple(step.attribute("kernel_shape")))
    x = step.value(0)
    ones = np.ones((1, 1, *x.shape[2:]), np.float32)
    counted = reach.padded(ones, 1.0 if step.attribute("count_include_pad", 0) else 0.0)
    count = np.zeros((1, 1, *reach.out), np.float32)
    for where in reach.offsets():
        count += counted[where]
    share = step.s / step.raised(count)
    out = np.zeros(reach.padded_shape(x.shape), np.float32)
    for where in reach.offsets():
        out[where] += share
    return [reach.cropped(out)]


def _global_average_pool(step: Step) -> Result:
    x = step.value(0)
    pixels = float(np.prod(x.shape[2:]))
    return [np.broadcast_to(step.s / np.float32(pixels**step.power), x.shape)]


def _global_max_pool(step: Step) -> Result:
    x = step.value(0)
    flat = x.reshape(*x.shape[:2], -1)
    out = np.zeros_like(flat)
    first = flat.argmax(axis=2)[..., None]
    np.put_along_axis(out, first, step.s.reshape(*x.shape[:2], 1), axis=2)
    return [out.reshape(x.shape)]


def _reduce(step: Step) -> Result:
    x = step.value(0)
    axes = step.ints("axes", 1)
    if axes is None:
        if step.attribute("noop_with_empty_axes", 0):
            return [step.s]
        axes = list(range(x.ndim))
    axes = [a % x.ndim for a in axes]
    keep = [1 if i in axes else n for i, n in enumerate(x.shape)]
    share = np.float32(1)
    if step.node.op_type == "ReduceMean":
        share = np.float32(1 / np.prod([float(x.shape[a]) for a in axes]) ** step.power)
    return [np.broadcast_to(step.s.reshape(keep) * share, x.shape)]


_RULES: Final[dict[str, Rule]] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
}

OPERATORS: Final = tuple(Operator(name, rule=rule) for name, rule in _RULES.items())
