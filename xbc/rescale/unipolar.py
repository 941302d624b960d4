"""Non-negative matrices by a reference column.

With m_o the smallest weight of output o (0 if none is negative) and W+ = W - m_o >= 0,

    W x = W+ x + m_o * sum(x),

and sum(x) is one more column of the same crossbar, all of whose weights are equal: the reference column.  The
digital side multiplies it by m_o and adds.  Exact up to float rounding; the range of W+ is up to twice that of
W, so at equal bits the step is up to twice as coarse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ir.arrays import Array
from ir.errors import XbcError
from ir.stages import Float
from xbc.frontend import Imported, host_with_weights, module_tensors
from xbc.rescale.names import Names

SPLIT_TAKES_SIZES: Final = 13
"""First opset in which Split has the sizes as an input; before, they are an attribute."""
GEMM_WITHOUT_BIAS: Final = 11
"""First opset in which Gemm may have no third input."""


@dataclass(frozen=True)
class Unipolar:
    """A model with non-negative matrices.

    Fields:
        model: whole and runnable, the same function.
        made: layers that got a reference column.
        found: layers that had no negative weight before.
        left: layer name -> why it keeps both signs.
    """

    model: onnx.ModelProto
    made: tuple[str, ...]
    found: tuple[str, ...]
    left: dict[str, str]


def unipolar_model(imported: Imported) -> Unipolar:
    """The model with every matrix that allows it made non-negative.

    Raises: XbcError for a model that is quantised already.
    """
    host = onnx.ModelProto()
    host.CopyFrom(imported.host)
    tensors = module_tensors(imported.module)
    model = host_with_weights(host, tensors)
    nodes = {node.name: node for node in model.graph.node}
    held = {t.name: t for t in model.graph.initializer}
    taken = Names(model.graph)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    made, found, left = [], [], {}
    for layer in imported.module.layers:
        if not isinstance(layer.body, Float):
            raise XbcError(
                f"rescale: layer {layer.name!r} is quantised already, its codes cannot be shifted: "
                f"make the float model unipolar before it is quantised"
            )
        if layer.body.values.min() >= 0:
            found.append(layer.name)
        elif layer.origin.op_type not in ("Conv", "Gemm", "MatMul") or layer.origin.operand != 1:
            left[layer.name] = f"a {layer.origin.op_type} has no place for a reference column"
        elif layer.origin.groups > 1:
            left[layer.name] = "a grouped convolution would need a reference column in every group"
        elif any(name and name not in held for name in nodes[layer.origin.node].input[2:]):
            left[layer.name] = "its bias is computed"
        else:
            _shift(model.graph, nodes[layer.origin.node], held[layer.origin.tensor], layer, opset, taken)
            made.append(layer.name)
    _sort(model.graph, [node.name for node in imported.host.graph.node])
    del model.graph.value_info[:]
    return Unipolar(model, tuple(made), tuple(found), left)


def _shift(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    tensor: onnx.TensorProto,
    layer: Any,
    opset: int,
    taken: Names,
) -> None:
    weights = numpy_helper.to_array(tensor)
    conv = node.op_type == "Conv"
    flipped = bool(next((a.i for a in node.attribute if a.name == "transB"), 0))
    outputs_axis = 0 if conv or flipped else weights.ndim - 1
    outputs = weights.shape[outputs_axis]
    others = tuple(i for i in range(weights.ndim) if i != outputs_axis)
    low = np.minimum(weights.min(axis=others, keepdims=True), 0)
    positive = weights - low
    top = np.float32(positive.max())
    shape = list(weights.shape)
    shape[outputs_axis] = 1
    column = np.full(shape, top, weights.dtype)
    whole = np.concatenate([positive, column], axis=outputs_axis)
    tensor.CopyFrom(numpy_helper.from_array(whole.astype(weights.dtype), tensor.name))

    result = node.output[0]
    main, reference, shift, sums, plain = (
        taken.fresh(f"{layer.name}.unipolar.{part}")
        for part in ("main", "reference", "shift", "sums", "plain")
    )
    axis = 1 if conv else -1
    tail = [1, outputs] + [1] * (weights.ndim - 2) if conv else [outputs]

    def constant(name: str, value: Array) -> str:
        fresh = taken.fresh(f"{layer.name}.unipolar.{name}")
        graph.initializer.append(numpy_helper.from_array(value, fresh))
        return fresh

    def node_name(name: str) -> str:
        return taken.fresh(f"{layer.name}.unipolar.{name}")

    bias = node.input[2] if len(node.input) > 2 else ""
    if bias:
        del node.input[2:]
        if node.op_type == "Gemm" and opset < GEMM_WITHOUT_BIAS:
            node.input.append(constant("zero", np.zeros(1, weights.dtype)))
    node.output[0] = sums
    split = helper.make_node("Split", [node.output[0]], [main, reference], axis=axis, name=node_name("split"))
    if opset < SPLIT_TAKES_SIZES:
        split.attribute.append(helper.make_attribute("split", [outputs, 1]))
    else:
        split.input.append(constant("sizes", np.array([outputs, 1], np.int64)))
    steps = [
        split,
        helper.make_node(
            "Mul",
            [reference, constant("offset", (low.reshape(tail) / top).astype(weights.dtype))],
            [shift],
            name=node_name("mul"),
        ),
        helper.make_node(
            "Add",
            [main, shift],
            [plain if bias else result],
            name=node_name("add"),
        ),
    ]
    if bias:
        value = numpy_helper.to_array(next(t for t in graph.initializer if t.name == bias))
        beta = next((a.f for a in node.attribute if a.name == "beta"), 1.0) if node.op_type == "Gemm" else 1.0
        shaped = value.reshape(tail) if conv else value
        added = constant("bias", (shaped * np.float32(beta)).astype(value.dtype))
        steps.append(helper.make_node("Add", [plain, added], [result], name=node_name("bias")))
    graph.node.extend(steps)


def _sort(graph: onnx.GraphProto, order: list[str]) -> None:
    """Puts the new nodes behind what they read."""
    ready = {i.name for i in graph.input} | {t.name for t in graph.initializer} | {""}
    waiting = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    place = {name: i for i, name in enumerate(order)}
    waiting.sort(key=lambda node: place.get(node.name, len(order)))
    produced = {name for node in waiting for name in node.output}
    done: list[onnx.NodeProto] = []
    while waiting:
        later = []
        for node in waiting:
            needed = {n for n in _reads(node) if n in produced}
            if needed <= ready:
                done.append(node)
                ready.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise RuntimeError("the transformed graph has a cycle")
        waiting = later
    del graph.node[:]
    graph.node.extend(done)


def _reads(node: onnx.NodeProto) -> set[str]:
    names = set(node.input)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                names |= _reads(inner)
    return names
