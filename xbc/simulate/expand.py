"""Operators whose weights stand inside a larger function: rewritten so that the product is a node of its own.

The rest of the operator stays what it was, with one-hot weights in place of the trained ones, so nothing of
it (masks, past states, interpolation) is computed in a second way, and the rewritten graph is equal to the old
one: sums over one product and zeros are exact.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from ir.module import Layer, Module
from xbc.frontend.read import walk_nodes
from xbc.operators import find
from xbc.operators.definition import Expansion


def expand(host: onnx.ModelProto, module: Module) -> onnx.ModelProto:
    """``host`` with such nodes rewritten where they hold layers (``Operator.expand``); the others as they are.

    The node that multiplies keeps the name of the old one, so layers still find their node.
    """
    layers = {layer.origin.node: layer for layer in module.layers}
    if not any(_expansion(node, layers) for node in walk_nodes(host.graph)):
        return host
    model = onnx.ModelProto()
    model.CopyFrom(host)
    _expand(model.graph, layers)
    return model


def _expansion(node: onnx.NodeProto, layers: Mapping[str, Layer]) -> Expansion | None:
    operator = find(node.domain, node.op_type) if node.name in layers else None
    return None if operator is None else operator.expand


def _expand(graph: onnx.GraphProto, layers: Mapping[str, Layer]) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:  # asking others for a graph would give them one
                _expand(attribute.g, layers)
        rewrite = _expansion(node, layers)
        if rewrite is None:
            nodes.append(node)
            continue
        made, constants = rewrite(node, layers[node.name])
        nodes += made
        graph.initializer.extend(constants)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
