"""Operators whose weights stand inside a larger function: rewritten so that the product is a node of its own.

The rest of the operator stays what it was, with one-hot weights in place of the trained ones, so nothing of
it (masks, past states, interpolation) is computed in a second way, and the rewritten graph is equal to the old
one: sums over one product and zeros are exact.

``Attention(x, W, b, ...)`` becomes ``MatMul(x, W)`` and ``Attention(., I, b, ...)``.

``DeformConv(x, W, offset, b, mask)`` becomes ``DeformConv(x, E, offset, -, mask)`` with one group per channel,
which gives every tap of every channel as a channel; ``ConvTranspose(., E)`` lays the taps of a window side by side
in the image; ``Conv(., W, b)`` in steps of its kernel multiplies them.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ir.module import Layer, Module

MS = "com.microsoft"


def expand(host: onnx.ModelProto, module: Module) -> onnx.ModelProto:
    """``host`` with its Attention and DeformConv nodes that hold layers rewritten; the others as they are.

    The node that multiplies keeps the name of the old one, so layers still find their node.
    """
    layers = {layer.origin.node: layer for layer in module.layers}
    wanted = {name for name, layer in layers.items() if layer.origin.op_type in ("Attention", "DeformConv")}
    if not wanted:
        return host
    model = onnx.ModelProto()
    model.CopyFrom(host)
    _expand(model.graph, layers, wanted)
    return model


def _expand(graph: onnx.GraphProto, layers: dict[str, Layer], wanted: Collection[str]) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:  # asking others for a graph would give them one
                _expand(attribute.g, layers, wanted)
        if node.name not in wanted:
            nodes.append(node)
        elif (node.domain, node.op_type) == (MS, "Attention"):
            nodes += _attention(node, layers[node.name])
        else:
            made, weights = _deformable(node, layers[node.name])
            nodes += made
            graph.initializer.append(weights)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _attention(node: onnx.NodeProto, layer: Layer) -> list[onnx.NodeProto]:
    outputs = layer.body.shape[0]
    product, shape, zeros, identity = (
        f"{node.name}/{part}" for part in ("product", "shape", "zeros", "identity")
    )
    rest = onnx.NodeProto()
    rest.CopyFrom(node)
    rest.name = f"{node.name}/attention"
    rest.input[0], rest.input[1] = product, identity
    size = numpy_helper.from_array(np.array([outputs, outputs], np.int64))
    zero = numpy_helper.from_array(np.zeros(1, np.float32))
    return [
        helper.make_node("MatMul", [node.input[0], node.input[1]], [product], name=node.name),
        # the identity is made by nodes: computed once, and not copied into every session
        helper.make_node("Constant", [], [shape], name=shape, value=size),
        helper.make_node("ConstantOfShape", [shape], [zeros], name=zeros, value=zero),
        helper.make_node("EyeLike", [zeros], [identity], name=identity),
        rest,
    ]


def _deformable(node: onnx.NodeProto, layer: Layer) -> tuple[list[onnx.NodeProto], onnx.TensorProto]:
    kernel, groups = layer.origin.kernel, layer.origin.groups
    taps = int(np.prod(kernel))
    channels = layer.body.shape[1] // taps * groups
    one_hot = np.zeros((channels, taps, 1, taps), np.float32)
    one_hot[:, np.arange(taps), 0, np.arange(taps)] = 1
    weights, sampled, image = (f"{node.name}/{part}" for part in ("taps", "sampled", "image"))
    rest = onnx.NodeProto()
    rest.CopyFrom(node)
    rest.name, rest.output[0] = f"{node.name}/sampling", sampled
    rest.input[1] = weights
    bias = list(node.input[3:4])
    if bias:
        rest.input[3] = ""
    kept = [a for a in rest.attribute if a.name != "group"]
    del rest.attribute[:]
    rest.attribute.extend([*kept, helper.make_attribute("group", channels)])
    return [
        rest,
        helper.make_node(
            "ConvTranspose", [sampled, weights], [image], name=image, group=channels, strides=kernel
        ),
        helper.make_node(
            "Conv", [image, node.input[1], *bias], list(node.output), name=node.name, group=groups,
            strides=kernel,
        ),
    ], numpy_helper.from_array(one_hot.reshape(channels * taps, 1, *kernel), weights)  # fmt: skip
