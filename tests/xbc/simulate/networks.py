"""Two exact chips, and networks compiled for them and simulated: what the network tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from ir.module import Module
from ir.stages import Programmed
from ir.target import Target
from passes.base import Context
from passes.manager import finish, run_pipeline
from passes.pipeline import parse_pipeline
from xbc.frontend import import_model
from xbc.frontend.host import host_with_weights
from xbc.frontend.weights import layer_tensor
from xbc.simulate.network import CrossbarSession, converter_settings

MODELS = Path(__file__).resolve().parents[3] / "models"
PIPELINE = "quantize{bits=8},encode-signs,slice-bits,form-sections,deal-sections{method=contiguous}"
BLOCK = Target(
    "block", 32, 64, 1, crossbars=4, outputs_per_section=8, encoding="offset", routing="block"
).override({"converters.adc_bits": 6})
GATHER = Target("gather", 32, 8, 1, crossbars=3).override({"converters.adc_bits": 6})
"""32 rows of 1-bit cells sum to at most 32, which 6 bits hold: both chips are exact."""


def compiled(path: Path, target: Target = BLOCK) -> tuple[onnx.ModelProto, Module]:
    imported = import_model(path, target)
    run = run_pipeline(imported.module, parse_pipeline(PIPELINE), Context())
    return imported.host, finish(run.module)


def saved(
    folder: Path, nodes: list[Any], inputs: list[Any], outputs: list[str], weights: dict[str, Any]
) -> Path:
    graph = helper.make_graph(
        nodes, "g", inputs, [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(model)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def value(name: str, kind: int, shape: list[Any] | None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def onnxruntime_outputs(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, feeds)


def effective_model(host: onnx.ModelProto, module: Module) -> onnx.ModelProto:
    tensors = {
        layer.origin.tensor: layer_tensor(layer, layer.at(Programmed).effective_codes())
        for layer in module.layers
    }
    return host_with_weights(host, tensors)


def simulated(host: onnx.ModelProto, module: Module, feeds: dict[str, Any], **settings: Any) -> list[Any]:
    converters = converter_settings(module.target, settings)
    session = CrossbarSession(host, module, converters=converters)
    assert session.left == []
    return session._session.run(None, feeds)
