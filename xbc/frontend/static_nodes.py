"""Which operands of a node are weights, also of operators that xbc does not know."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx

from ir.module import Unmapped
from xbc.frontend.folding import RESHAPING
from xbc.frontend.read import walk_nodes
from xbc.operators import MisshapenError, Refusal, attributes, find
from xbc.operators.definition import Found, Shapes

COEFFICIENTS = (
    "coefficients are attributes of an ai.onnx.ml operator, which the host graph cannot take as an input"
)
_FUSION = re.compile(r"(/(MatMulAddFusion|GemmTransposeFusion|MatmulTransposeFusion))+$")


def plain_name(node: onnx.NodeProto) -> str:
    """The name in the model, without what onnxruntime's fusions hang on."""
    return _FUSION.sub("", node.name)


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


def why_no_layers(host: onnx.ModelProto, unmapped: Sequence[Unmapped]) -> str:
    """What keeps a model from having a layer: its nodes with weights and the reasons, or the inputs that are weights.

    Args:
        host: the model after import.
        unmapped: its nodes with static weights.
    """
    found = [f"node {item.node!r} ({item.op_type}): {item.reason}" for item in unmapped]
    found += _weights_as_inputs(host.graph)
    if not found:
        return "it holds no product with static weights (Conv, Gemm, MatMul, LSTM and the like)"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return found[0] + more


def _weights_as_inputs(graph: onnx.GraphProto) -> list[str]:
    """A sentence for each product whose matrix comes, perhaps reshaped or dequantised, from an input."""
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in graph.input
        if value.type.tensor_type.HasField("shape")
    }
    whole = {
        name: shape for name, shape in shapes.items() if shape and all(shape)
    }  # a weight has no free dim
    source = dict(zip(whole, whole, strict=True))
    found = []
    for node in walk_nodes(graph):
        first = source.get(node.input[0]) if node.input else None
        if first is not None and (node.op_type in RESHAPING or node.op_type in ("DequantizeLinear", "Cast")):
            source.update((name, first) for name in node.output)
            continue
        operator = find(node.domain, node.op_type)
        if operator is None or operator.weights is None:
            continue
        given = [source.get(name) for name in node.input]
        for at in reversed(range(len(given))):
            name = given[at]
            if name is None or len(whole[name]) < 2:
                continue
            alone = [whole[name] if i == at else None for i in range(len(given))]
            try:
                weights = operator.find_weights(attributes(node), alone)
            except MisshapenError:
                continue
            if weights:
                called = _FUSION.sub("", node.name.rstrip("/"))
                found.append(
                    f"node {called!r} ({node.op_type}): its weight {name!r} is an input of the model: export it "
                    f"with its parameters inside"
                )
                break
    return found
