"""Rules for operators that only move elements: exact permutations, selections and copies."""

from __future__ import annotations

from typing import Final

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from xbc.operators.definition import Operator, Rule
from xbc.operators.step import Result, Step, unbroadcast


def _reshape(step: Step) -> Result:
    return [step.s.reshape(step.value(0).shape)]


def _transpose(step: Step) -> Result:
    perm = step.attribute("perm") or list(range(step.value(0).ndim))[::-1]
    return [step.s.transpose(np.argsort(perm))]


def _concat(step: Step) -> Result:
    axis = int(step.attribute("axis"))
    ends = np.cumsum([step.value(i).shape[axis] for i in range(len(step.inputs))])
    return list(np.split(step.s, ends[:-1], axis=axis))


def _split(step: Step) -> Result:
    axis = int(step.attribute("axis", 0))
    parts = [
        np.zeros(y.shape, np.float32) if s is None else s
        for y, s in zip(step.outputs, step.curvature, strict=True)
    ]
    return [np.concatenate(parts, axis=axis)]


def _slice(step: Step) -> Result:
    x = step.value(0)
    starts, ends = step.ints("starts", 1), step.ints("ends", 2)
    assert starts is not None
    assert ends is not None
    axes = step.ints("axes", 3) or list(range(len(starts)))
    strides = (step.ints("", 4) if len(step.inputs) > 4 else None) or [1] * len(starts)
    where = [slice(None)] * x.ndim
    for start, end, axis, stride in zip(starts, ends, axes, strides, strict=True):
        n = x.shape[axis]
        if stride < 0:
            first = min(max(start + n if start < 0 else start, -1), n - 1)
            last = max(end + n, -1) if -n <= end < 0 else (-1 if end < -n else min(end, n - 1))
            where[axis] = slice(first, None if last < 0 else last, stride)
        else:
            where[axis] = slice(start, end, stride)
    out = np.zeros(x.shape, np.float32)
    out[tuple(where)] = step.s
    return [out]


def _pad(step: Step) -> Result:
    if step.attribute("mode", "constant") != "constant":
        raise XbcError(
            f"sensitivity: node {step.node.name!r} pads with mode {step.attribute('mode')!r}; only constant "
            f"padding is supported"
        )
    x = step.value(0)
    pads = step.ints("pads", 1)
    assert pads is not None
    axes = step.ints("", 3) if len(step.inputs) > 3 else None
    begin = [0] * x.ndim
    for axis, count in zip(axes or range(x.ndim), pads[: len(pads) // 2], strict=True):
        begin[axis] = count
    out = np.zeros(x.shape, np.float32)
    source, into = [], []
    for n, m, b in zip(x.shape, step.s.shape, begin, strict=True):  # negative pads crop
        first, last = max(0, -b), min(n, m - b)
        into.append(slice(first, last))
        source.append(slice(first + b, last + b))
    out[tuple(into)] = step.s[tuple(source)]
    return [out]


def _expand(step: Step) -> Result:
    return [unbroadcast(step.s, step.value(0).shape)]


def _nothing(step: Step) -> Result:
    """Comparisons, shapes, constants: no derivative."""
    return [None] * len(step.inputs)


def _depth_to_space(step: Step) -> Result:
    x = step.value(0)
    n, c, h, w = x.shape
    b = int(step.attribute("blocksize"))
    s: Array = step.s.reshape(n, c // (b * b), h, b, w, b)
    perm = (0, 3, 5, 1, 2, 4) if step.attribute("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return [s.transpose(perm).reshape(x.shape)]


_RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(
        ("Shape", "ArgMax", "Equal", "Greater", "Less", "Not", "ConstantOfShape", "Size"), _nothing
    ),
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Transpose": _transpose,
}

OPERATORS: Final = tuple(Operator(name, rule=rule) for name, rule in _RULES.items())
