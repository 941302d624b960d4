from __future__ import annotations

from pathlib import Path

import numpy as np

from passes.base import Context
from passes.inputs import DAMPING
from tests.passes.small import compiled
from xbc.frontend import import_model
from xbc.simulate.moments import input_moments
from xbc.targets import load_target

MODEL = Path(__file__).parents[3] / "models" / "digits_cnn.onnx"


def test_moments_of_a_convolution_are_those_of_its_patches() -> None:
    imported = import_model(MODEL, load_target("isaac-128"))
    module = compiled("quantize,encode-signs,slice-bits", imported.module, Context())
    port = next(
        i for i in imported.host.graph.input if i.name not in {x.origin.tensor for x in module.layers}
    )
    shape = [d.dim_value or 6 for d in port.type.tensor_type.shape.dim]
    x = np.random.default_rng(0).normal(size=(6, *shape[1:])).astype(np.float32)
    found = input_moments(imported.host, module, {port.name: x}, threads=1)
    assert set(found.moments) == {layer.name for layer in module.layers}
    layer = module.layers[0]
    kernel = layer.origin.kernel
    node = next(n for n in imported.host.graph.node if n.name == layer.origin.node)
    pads = next((list(a.ints) for a in node.attribute if a.name == "pads"), [0, 0, 0, 0])
    strides = next((list(a.ints) for a in node.attribute if a.name == "strides"), [1, 1])
    padded = np.pad(x, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])
    patches = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))[
        :, :, :: strides[0], :: strides[1]
    ]
    columns = patches.transpose(1, 4, 5, 0, 2, 3).reshape(layer.body.shape[1], -1).astype(np.float64)
    second = columns @ columns.T / len(x)
    mine = found.moments[layer.name]
    np.testing.assert_allclose(mine.power[0], np.diag(second), rtol=1e-4)
    damped = second + DAMPING * np.diag(second).mean() * np.eye(len(second))
    factor = mine.factor[0].astype(np.float64)
    np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(len(second)), atol=2e-3)
