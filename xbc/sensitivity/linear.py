"""Rules for matrix products and convolutions.

For ``z = W x``: ``S_W[i, j] = S_z[i] x_j**2`` and ``S_x[j] = sum_i W[i, j]**2 S_z[i]``, summed over the
positions (pixels, tokens) at which one weight is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Final

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from xbc.sensitivity.rules import Result, Rule, Step, unbroadcast


def _matmul(step: Step) -> Result:
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


def _gemm(step: Step) -> Result:
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


class Window:
    """Geometry of a sliding window: which input elements meet each kernel offset.

    Fields:
        pads: begin and end padding of each spatial axis.
    """

    def __init__(self, step: Step, kernel: tuple[int, ...]) -> None:
        """From the node's attributes, its input 0 ``[batch, channels, *space]`` and its output 0."""
        self.space = step.value(0).shape[2:]
        self.out = step.outputs[0].shape[2:]
        rank = len(self.space)
        self.kernel = kernel
        self.strides = list(step.attribute("strides") or [1] * rank)
        self.dilations = list(step.attribute("dilations") or [1] * rank)
        given = list(step.attribute("pads") or [0] * (2 * rank))
        auto = step.attribute("auto_pad", "NOTSET")
        self.pads: list[tuple[int, int]] = []
        for i in range(rank):
            reach = (self.out[i] - 1) * self.strides[i] + (kernel[i] - 1) * self.dilations[i] + 1
            if auto in ("SAME_UPPER", "SAME_LOWER"):
                total = max(0, reach - self.space[i])
                begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
            else:
                begin = 0 if auto == "VALID" else given[i]
            self.pads.append((begin, max(0, reach - begin - self.space[i])))

    def padded(self, x: Array, fill: float = 0.0) -> Array:
        """``x`` with its padding."""
        if not any(begin or end for begin, end in self.pads):
            return x
        return np.pad(x, [(0, 0), (0, 0), *self.pads], constant_values=fill)

    def padded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of ``padded``."""
        space = (n + b + e for n, (b, e) in zip(self.space, self.pads, strict=True))
        return (*shape[:2], *space)

    def cropped(self, x: Array) -> Array:
        """Inverse of ``padded``."""
        space = (slice(b, b + n) for n, (b, _) in zip(self.space, self.pads, strict=True))
        return x[(slice(None), slice(None), *space)]

    def offsets(self) -> Iterator[tuple[slice, ...]]:
        """Where each kernel offset lies in the padded input, for all output positions; row-major."""
        for at in product(*(range(k) for k in self.kernel)):
            where = (
                slice(i * d, i * d + (n - 1) * s + 1, s)
                for i, d, n, s in zip(at, self.dilations, self.out, self.strides, strict=True)
            )
            yield (slice(None), slice(None), *where)


def _conv(step: Step) -> Result:
    x, weight, s = step.value(0), step.value(1), step.s
    groups = int(step.attribute("group", 1))
    batch, channels = x.shape[:2]
    outputs = weight.shape[0]
    window = Window(step, weight.shape[2:])
    positions = int(np.prod(window.out))
    sz = s.reshape(batch, groups, outputs // groups, positions)
    w2 = step.raised(weight).reshape(groups, outputs // groups, channels // groups, -1)
    s_weight = np.zeros(w2.shape, np.float32)
    squares = window.padded(step.raised(x)) if step.wanted[1] else None
    s_x = np.zeros(window.padded_shape(x.shape), np.float32) if step.wanted[0] else None
    for at, where in enumerate(window.offsets()):
        if squares is not None:
            patch = squares[where].reshape(batch, groups, channels // groups, positions)
            s_weight[..., at] = np.matmul(sz, patch.swapaxes(-1, -2)).sum(0)
        if s_x is not None:
            back = np.matmul(w2[..., at].swapaxes(-1, -2), sz)
            s_x[where] += back.reshape(batch, channels, *window.out)
    out: list[Array | None] = [
        None if s_x is None else window.cropped(s_x),
        s_weight.reshape(weight.shape) if step.wanted[1] else None,
    ]
    if len(step.inputs) > 2:
        out.append(s.sum(axis=(0, *range(2, s.ndim))) if step.wanted[2] else None)
    return out


def _einsum(step: Step) -> Result:
    equation = str(step.attribute("equation")).replace(" ", "")
    if "..." in equation or "->" not in equation or len(step.inputs) != 2:
        raise XbcError(
            f"sensitivity: node {step.node.name!r}: Einsum {equation!r} is not supported "
            f"(two operands, an explicit result, no dots): export the model with MatMul"
        )
    left, right = equation.split("->")[0].split(",")
    result = equation.split("->")[1]
    a, b, s = step.value(0), step.value(1), step.s
    return [
        _contract(result, s, right, step.raised(b), left, a.shape) if step.wanted[0] else None,
        _contract(result, s, left, step.raised(a), right, b.shape) if step.wanted[1] else None,
    ]


def _contract(
    result: str, s: Array, other: str, squares: Array, wanted: str, shape: tuple[int, ...]
) -> Array:
    kept = "".join(i for i in wanted if i in result or i in other)
    out = np.einsum(f"{result},{other}->{kept}", s, squares, optimize=True)
    missing = [i for i, letter in enumerate(wanted) if letter not in kept]
    return np.asarray(np.broadcast_to(np.expand_dims(out, missing), shape))


RULES: Final[dict[str, Rule]] = {"MatMul": _matmul, "Gemm": _gemm, "Conv": _conv, "Einsum": _einsum}
