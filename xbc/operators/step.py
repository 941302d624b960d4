"""One node of the backward pass of sensitivities.

A rule carries the diagonal curvature backwards through one node: for ``y = f(x)`` and ``S_y`` (the diagonal
second derivative of the loss in ``y``) it gives

    S_x[j] = sum_i (dy_i / dx_j)**2 * S_y[i]            (power 2)

or, with the same code, the gradient: the sum of ``dy_i / dx_j * G_y[i]`` (power 1).

Every rule computes that sum exactly.  What the recursion as a whole leaves out is the curvature of ``f``
itself (``d2y/dx2`` times the gradient: zero for ReLU, dropped for others, as in the Gauss-Newton matrix)
and the correlation between the elements of ``y`` (the off-diagonal entries of its curvature).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ir.arrays import Array


@dataclass(frozen=True)
class Step:
    """One node of the backward pass with the values of the forward pass around it.

    Fields:
        node: the ONNX node.
        inputs: value of each input, None where absent.
        outputs: value of each output.
        curvature: ``S`` of each output; None where nothing that matters depends on it.
        wanted: per input, whether its ``S`` is needed.
        opset: version of the default domain.
        power: 2 for the diagonal curvature, 1 for the gradient.
    """

    node: onnx.NodeProto
    inputs: Sequence[Array | None]
    outputs: Sequence[Array]
    curvature: Sequence[Array | None]
    wanted: Sequence[bool]
    opset: int
    power: int = 2

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute of the node."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def raised(self, slope: Array) -> Array:
        """A derivative, squared when it is curvature that goes back."""
        return np.square(slope) if self.power == 2 else slope

    def value(self, index: int) -> Array:
        """Value of an input that must be there."""
        found = self.inputs[index]
        assert found is not None
        return found

    def ints(self, name: str, operand: int) -> list[int] | None:
        """A list that older opsets give as attribute ``name`` and newer ones as input ``operand``."""
        if len(self.inputs) > operand:
            found = self.inputs[operand]
            if found is not None:
                return [int(v) for v in np.atleast_1d(found)]
        listed = self.attribute(name)
        return None if listed is None else [int(v) for v in listed]

    @property
    def s(self) -> Array:
        """``S`` of the first output (zeros when only another output matters)."""
        first = self.curvature[0]
        return np.zeros(self.outputs[0].shape, np.float32) if first is None else first


Result = Sequence[Array | None]


def unbroadcast(s: Array, shape: tuple[int, ...]) -> Array:
    """``s`` summed over the axes along which an operand of ``shape`` was broadcast."""
    extra = s.ndim - len(shape)
    if extra:
        s = s.sum(axis=tuple(range(extra)))
    axes = tuple(i for i, (a, b) in enumerate(zip(s.shape, shape, strict=True)) if b == 1 and a != 1)
    return np.asarray(s.sum(axis=axes, keepdims=True) if axes else s)
