"""Which operands of a node are weights, also of operators that xbc does not know."""

from __future__ import annotations

import onnx

from xbc.operators import Refusal, attributes, find
from xbc.operators.definition import Found, Shapes

COEFFICIENTS = (
    "coefficients are attributes of an ai.onnx.ml operator, which the host graph cannot take as an input"
)


def find_weights(node: onnx.NodeProto, shapes: Shapes) -> Found:
    """The static weights of a node.

    Args:
        shapes: of its static operands, None for the others.
    Raises: MisshapenError.
    """
    operator = find(node.domain, node.op_type)
    if operator is not None:
        return operator.find_weights(attributes(node), shapes)
    if not node.domain:
        return []  # an ONNX operator that is not in the table sums nothing over a static operand
    return [
        Refusal(i, f"no rule for the weights of operator {node.domain}.{node.op_type}")
        for i, shape in enumerate(shapes)
        if shape is not None and len(shape) >= 2 and sum(d > 1 for d in shape) >= 2
    ]


def coefficients(node: onnx.NodeProto) -> int:
    """Weights of a classical linear model or support vector machine that keeps them in attributes."""
    if node.domain != "ai.onnx.ml":
        return 0
    return max(
        (len(a.floats) for a in node.attribute if a.name in ("coefficients", "support_vectors")), default=0
    )
