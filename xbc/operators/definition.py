"""What xbc knows of one ONNX operator: its weight matrices, products, simulation and derivatives, side by side.

A **static-weight node** is a node that contracts an activation with a static tensor (convolutions, matrix
products, recurrent cells, attention projections, linear classifiers) or looks up its rows (embeddings).
Each is either mapped or listed with a reason.  Elementwise operators and normalisations with static operands
(bias, scale, position embedding, mask) hold one weight per output and sum nothing: they are no static-weight
nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ir.arrays import Array
from ir.layout import Layout
from ir.module import Layer
from xbc.operators.call import Call
from xbc.operators.step import Result, Step, unbroadcast

MICROSOFT = "com.microsoft"
"""Domain of onnxruntime's own operators."""

Attributes = Mapping[str, Any]
Shape = tuple[int, ...]
Shapes = Sequence[Shape | None]
"""Shapes of a node's static operands; None for a dynamic or absent one."""
Lookup = Callable[[str], Sequence[int | None] | None]
"""Value name -> dims for one inference (None for a dynamic one), or None when nothing is known."""


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attribute name -> Python value."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


@dataclass(frozen=True)
class Weight:
    """One operand that becomes a layer.

    Fields:
        operand: its index among the node's inputs.
        layout: where the matrix lies.
        groups, kernel: as in ``ir.Origin``.
        suffix: distinguishes several layers of one node.
        integer: the operand is an integer tensor whose scale and zero point are operands too.
        scale, zero_point: their indices (-1: none).
        side: for a per-output scale given as a vector: the operand axis it runs along.
    """

    operand: int
    layout: Layout
    groups: int = 1
    kernel: Shape = ()
    suffix: str = ""
    integer: bool = False
    scale: int = -1
    zero_point: int = -1
    side: int = 0


@dataclass(frozen=True)
class Refusal:
    """A static operand that stays in the host graph, and why."""

    operand: int
    reason: str


Found = list[Weight | Refusal]
Weights = Callable[[Attributes, Shapes], Found]
Products = Callable[[onnx.NodeProto, Weight, Lookup], int | None]
Simulation = Callable[[Call], list[Array]]
Expansion = Callable[[onnx.NodeProto, Layer], tuple[list[onnx.NodeProto], list[onnx.TensorProto]]]
Rule = Callable[[Step], Result]
Slopes = Callable[[Step], list[Array]]
"""Derivatives of the output in each input, elementwise (broadcastable to the output); for inputs that are not
differentiable (bounds of Clip, a cast's type) the list simply ends earlier."""


class MisshapenError(Exception):
    """A weight whose shape does not suit its operator (the message says how)."""


def count(shape: Sequence[int | None] | None, first: int | None = None) -> int | None:
    """Product of the (first) dims, None when one is unknown."""
    if shape is None:
        return None
    total = 1
    for dim in shape[:first]:
        if dim is None:
            return None
        total *= dim
    return total


def per_result(node: onnx.NodeProto, weight: Weight, shape_of: Lookup) -> int | None:
    """One product for as many elements of the result as the matrix has outputs."""
    results = count(shape_of(node.output[0]))
    return None if results is None else results // weight.layout.matrix_shape[0]


def nothing_refused(attrs: Attributes) -> str | None:
    """Every setting can be simulated."""
    return None


@dataclass(frozen=True)
class Operator:
    """One operator.  A side that is not given does not exist, and what asks for it says so.

    Fields:
        name, domain: as in ONNX; "" is ONNX's own domain.
        weights: (attributes, shapes of the static operands) -> operands that become layers, or stay for a
            reason.  Raises MisshapenError.
        refused: why its static tables of two or more dimensions stay in the host graph, instead of ``weights``.
        products: matrix-vector products with a whole matrix in one run of the model, None when shapes are
            dynamic.  All groups count together: a product delivers every output once.
        simulate: outputs of one execution with the products on crossbars.  Raises XbcError when an input does
            not fit the layer.
        not_simulated: attributes -> why the node computes with ideal weights instead, or None.
        expand: the node with its layer -> (nodes, initializers) that compute the same bit by bit and hold the
            product as a node of its own, which keeps the name; instead of ``simulate``.
        rule: the diagonal curvature (or gradient) through the node, see ``step``.
        slopes: of an elementwise operator, from which ``backward`` follows.
    """

    name: str
    domain: str = ""
    weights: Weights | None = None
    refused: str = ""
    products: Products = per_result
    simulate: Simulation | None = None
    not_simulated: Callable[[Attributes], str | None] = nothing_refused
    expand: Expansion | None = None
    rule: Rule | None = None
    slopes: Slopes | None = None

    @property
    def label(self) -> str:
        """Name with the domain, ``com.microsoft.QGemm``."""
        return f"{self.domain}.{self.name}" if self.domain else self.name

    @property
    def differentiable(self) -> bool:
        """Whether sensitivities can be carried through it."""
        return self.rule is not None or self.slopes is not None

    def find_weights(self, attrs: Attributes, shapes: Shapes) -> Found:
        """The static weights of a node.  Raises MisshapenError."""
        if self.weights is not None:
            return self.weights(attrs, shapes)
        tables = [i for i, shape in enumerate(shapes) if shape is not None and len(shape) >= 2]
        return [Refusal(i, self.refused) for i in tables[:1]] if self.refused else []

    def backward(self, step: Step) -> Result:
        """Curvature (or gradient) of the inputs, None where it is not wanted."""
        if self.rule is not None:
            return self.rule(step)
        assert self.slopes is not None
        out: list[Array | None] = [None] * len(step.inputs)
        for i, slope in enumerate(self.slopes(step)):
            if i < len(step.inputs) and step.wanted[i]:
                out[i] = np.asarray(unbroadcast(step.s * step.raised(slope), step.value(i).shape))
        return out
