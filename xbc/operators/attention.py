"""``com.microsoft.Attention``: its joint projection ``[inputs, 3 * hidden]`` is a layer.

``Attention(x, W, b, ...)`` is ``MatMul(x, W)`` and ``Attention(., I, b, ...)``.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ir.module import Layer
from xbc.operators.definition import MICROSOFT, Attributes, Found, Operator, Shapes
from xbc.operators.products import matrix


def _weights(attrs: Attributes, shapes: Shapes) -> Found:
    if len(shapes) < 2 or shapes[1] is None:
        return []
    return [matrix(1, shapes[1], right=True, transposed=False)]


def _expand(node: onnx.NodeProto, layer: Layer) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
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
    ], []


OPERATORS: Final = (Operator("Attention", MICROSOFT, weights=_weights, expand=_expand),)
