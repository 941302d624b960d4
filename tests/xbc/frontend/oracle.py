"""Small ONNX models and the comparison with onnxruntime that the front end's tests share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import onnxruntime as ort
from onnx import helper, numpy_helper

from ir.arrays import Array
from ir.target import Target
from xbc.frontend import Imported, host_with_weights, import_model, module_tensors

TARGET = Target(name="test", rows=16, columns=8)
RNG = np.random.default_rng(7)


def weights(*shape: int, dtype: str = "float32") -> Array:
    """Normal random weights."""
    return RNG.standard_normal(shape).astype(dtype)


def integers(*shape: int, dtype: str = "int8") -> Array:
    """Random integers over the whole type."""
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def kind(dtype: Any) -> int:
    """ONNX element type of a numpy type."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[Any, Sequence[Any]]],
    outputs: Mapping[str, Any],
    constants: Mapping[str, Any] | None = None,
    *,
    opset: int = 17,
    ir_version: int = 8,
    **graph: Any,
) -> onnx.ModelProto:
    """A model; inputs are name -> (dtype, dims), outputs name -> dtype or (dtype, rank)."""
    domains = {node.domain for node in nodes} - {""}
    out = helper.make_model(
        helper.make_graph(
            list(nodes),
            "test",
            [helper.make_tensor_value_info(n, kind(d), list(s)) for n, (d, s) in inputs.items()],
            [
                helper.make_tensor_value_info(n, kind(d[0]), [None] * d[1])
                if isinstance(d, tuple)
                else helper.make_tensor_value_info(n, kind(d), None)
                for n, d in outputs.items()
            ],
            [numpy_helper.from_array(np.asarray(a, order="C"), n) for n, a in (constants or {}).items()],
            **graph,
        ),
        opset_imports=[helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in sorted(domains))],
        ir_version=ir_version,
    )
    for given, inferred in zip(
        out.graph.output, onnx.shape_inference.infer_shapes(out).graph.output, strict=True
    ):
        for dim in (
            inferred.type.tensor_type.shape.dim if not given.type.tensor_type.HasField("shape") else ()
        ):
            given.type.tensor_type.shape.dim.add().CopyFrom(dim)
        given.type.tensor_type.shape.SetInParent()
    return out


def session(proto: onnx.ModelProto | Path) -> ort.InferenceSession:
    """onnxruntime by the letter: no optimisation."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(proto) if isinstance(proto, Path) else proto.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def random_feeds(proto: onnx.ModelProto, free: int = 2) -> dict[str, Array]:
    """Random inputs; free dims become ``free``."""
    known = {t.name for t in proto.graph.initializer}
    feeds = {}
    for value in proto.graph.input:
        if value.name in known:
            continue
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [d.dim_value or free for d in value.type.tensor_type.shape.dim]
        feeds[value.name] = (
            RNG.standard_normal(shape).astype(dtype)
            if dtype.kind == "f"
            else np.ones(shape, bool) if dtype.kind == "b" else RNG.integers(0, 100, shape).astype(dtype)
        )  # fmt: skip
    return feeds


def check_against_onnxruntime(
    proto: onnx.ModelProto | Path,
    folder: Path,
    *,
    optimise: bool = True,
    feeds: dict[str, Array] | None = None,
    rtol: float = 1e-4,
) -> Imported:
    """Import a model, put its own weights back and compare with the unmodified model in onnxruntime.

    Also: both host forms pass the checker, every layer is a host input, and no mapped weight is left inside.
    """
    path = proto if isinstance(proto, Path) else folder / "model.onnx"
    if isinstance(proto, Path):
        proto = onnx.load(path)
    else:
        onnx.save(proto, path)
    imported = import_model(path, TARGET, optimise=optimise)
    onnx.checker.check_model(imported.host)
    tensors = module_tensors(imported.module)
    names = {i.name for i in imported.host.graph.input}
    assert set(tensors) <= names
    assert len(tensors) == len(imported.module.layers)
    inside = [numpy_helper.to_array(t) for t in imported.host.graph.initializer]
    for tensor in tensors.values():
        assert not any(tensor.size > 4 and np.array_equal(tensor, other) for other in inside)
    again = host_with_weights(imported.host, tensors)
    onnx.checker.check_model(again)
    feeds = random_feeds(proto) if feeds is None else feeds
    expected = session(path).run(None, feeds)
    actual = session(again).run(None, feeds)
    for a, b in zip(expected, actual, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        scale = np.abs(a.astype(np.float64)).max(initial=1e-6)
        np.testing.assert_allclose(b.astype(np.float64), a.astype(np.float64), rtol=rtol, atol=rtol * scale)
    return imported


def only_layer(imported: Imported) -> Any:
    """The single layer of a module."""
    (layer,) = imported.module.layers
    return layer


WEIGHT_OPERANDS = {
    "Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1), "LSTM": (1, 2),
    "GRU": (1, 2), "RNN": (1, 2),
}  # fmt: skip


def quantised_outside(path: Path, folder: Path, bits: int = 8) -> Path:
    """The model with its float weights rounded to ``bits`` magnitude bits per tensor, without any xbc code.

    onnxruntime folds what can be folded and writes its graph; there every float initializer that is the
    weight operand of a linear operator becomes ``rint(w / s) * s`` with ``s = max|w| / (2**bits - 1)`` in
    float32.  Weights that come out of DequantizeLinear are quantised already and stay.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "folded.onnx")
    plain = onnx.load(path)
    weights_ = {t.name for t in plain.graph.initializer}
    kept = [i for i in plain.graph.input if i.name not in weights_]
    del plain.graph.input[:]
    plain.graph.input.extend(kept)
    plain.ir_version = max(4, plain.ir_version)
    disabled = ["WeightBiasQuantization", "QDQPropagationTransformer", "EnsureUniqueDQForNodeUnit"]
    ort.InferenceSession(
        plain.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )
    proto = onnx.load(folder / "folded.onnx")
    _quantise_graph(proto.graph, {}, 2**bits - 1)
    out = folder / "quantised.onnx"
    onnx.save(proto, out)
    return out


def _quantise_graph(graph: onnx.GraphProto, outer: dict[str, onnx.TensorProto], top: int) -> None:
    tensors = {**outer, **{t.name: t for t in graph.initializer}}
    done = set()
    for item in graph.node:
        for operand in WEIGHT_OPERANDS.get(item.op_type, ()):
            name = item.input[operand]
            if name in tensors and name not in done and tensors[name].data_type == onnx.TensorProto.FLOAT:
                done.add(name)
                w = numpy_helper.to_array(tensors[name])
                scale = np.float32(np.abs(w).max() / np.float32(top)) or np.float32(1)
                rounded = np.rint(w / scale).astype(np.float32) * scale
                tensors[name].CopyFrom(numpy_helper.from_array(rounded, name))
        for attribute in item.attribute:
            if attribute.HasField("g"):
                _quantise_graph(attribute.g, tensors, top)
