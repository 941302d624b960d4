"""Layers with heavy-tailed random weights for the optimiser's benchmarks: no model file needed.

As a script it writes the ViT-Base shape (86.3 M weights, 197 tokens) as an ONNX file, for whole commands:

    python benchmarks/synthetic.py vit_base_shape.onnx
    xbc compile vit_base_shape.onnx
"""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ir.layout import Layout
from ir.module import Layer, Module, Origin
from ir.stages import Float
from ir.target import Target


def layer(name: str, outputs: int, inputs: int, seed: int) -> Layer:
    """Student-t weights (5 degrees of freedom), each output with a scale of its own, as trained layers have."""
    rng = np.random.default_rng(seed)
    values = rng.standard_t(5, (outputs, inputs)) * rng.lognormal(0, 0.3, (outputs, 1)) / np.sqrt(inputs)
    layout = Layout((outputs, inputs), (outputs, inputs), (0, 1), 1)
    origin = Origin(name, "MatMul", 1, f"{name}.weight", "float32", layout, products=1)
    return Layer(name, origin, Float(values=values.astype(np.float32)))


def network(shapes: list[tuple[int, int]], crossbars: int = 1) -> Module:
    """A chain of layers on the narrow gather array (128 rows, one 8-bit weight per row)."""
    target = Target(name="gather-128", rows=128, columns=8, crossbars=crossbars)
    layers = tuple(layer(f"layer{i}", outputs, inputs, i) for i, (outputs, inputs) in enumerate(shapes))
    edges = tuple((a.name, b.name) for a, b in pairwise(layers))
    return Module("synthetic", target, layers, edges)


def vit_base() -> list[tuple[int, int]]:
    """The weight matrices of ViT-Base/16: patch embedding, 12 blocks, head; 86 M weights."""
    block = [(2304, 768), (768, 768), (3072, 768), (768, 3072)]
    return [(768, 768), *(block * 12), (1000, 768)]


def onnx_chain(shapes: list[tuple[int, int]], tokens: int) -> onnx.ModelProto:
    """The layers one after the other, each on as many of the values before it as it has inputs."""
    nodes, tensors, at = [], [], "x"
    for i, (outputs, inputs) in enumerate(shapes):
        if i and inputs > shapes[i - 1][0]:
            raise ValueError(f"layer {i} has {inputs} inputs, the one before it {shapes[i - 1][0]} outputs")
        if i and inputs < shapes[i - 1][0]:
            values = {"begin": 0, "end": inputs, "axis": 1}
            bounds = [numpy_helper.from_array(np.array([v]), f"{k}{i}") for k, v in values.items()]
            tensors += bounds
            nodes.append(helper.make_node("Slice", [at, *(b.name for b in bounds)], [f"part{i}"]))
            at = f"part{i}"
        made = layer(f"layer{i}", outputs, inputs, i).at(Float).values
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(made.T), f"layer{i}.weight"))
        nodes.append(helper.make_node("MatMul", [at, f"layer{i}.weight"], [f"y{i}"], name=f"layer{i}"))
        at = f"y{i}"
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [tokens, width])
        for name, width in (("x", shapes[0][1]), (at, shapes[-1][0]))
    ]
    graph = helper.make_graph(nodes, "synthetic", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    onnx.save(onnx_chain(vit_base(), 197), sys.argv[1])
