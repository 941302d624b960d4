"""Layers with heavy-tailed random weights for the optimiser's benchmarks: no model file needed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

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
