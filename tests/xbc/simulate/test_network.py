"""Whole networks with ideal converters against integer arithmetic done outside the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ir.errors import XbcError
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
from xbc.simulate.partition import Crossbar

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


def value(name: str, kind: int, shape: list[Any]) -> Any:
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


rng = np.random.default_rng(0)


def integer_cases() -> dict[str, Any]:
    def weights(*shape: int, kind: Any = np.int8) -> Any:
        # onnxruntime's uint8 x int8 kernels saturate their 16-bit sums on machines without VNNI instructions,
        # so int8 weights have 7 bits here (its own quantiser calls that reduce_range)
        info = np.iinfo(kind)
        low, high = (-64, 63) if kind == np.int8 else (info.min, info.max)
        return rng.integers(low, high, shape, endpoint=True).astype(kind)

    scale, zero = np.float32(0.02), np.uint8(117)
    shared = {"xs": scale, "xz": zero, "ys": np.float32(3.0), "yz": np.uint8(100)}
    u8 = TensorProto.UINT8
    cases: dict[str, Any] = {}
    for label, attrs, shape in (
        ("padded", {"pads": [1, 2, 0, 1], "strides": [2, 1]}, (6, 5, 3, 2)),
        ("grouped", {"group": 3, "dilations": [2, 1]}, (6, 2, 2, 3)),
        ("depthwise", {"group": 6, "auto_pad": "SAME_UPPER", "strides": [2, 2]}, (6, 1, 3, 3)),
    ):
        channels = shape[1] * attrs.get("group", 1)
        w = weights(*shape)
        extra = {
            "w": w,
            "ws": rng.uniform(0.01, 0.1, shape[0]).astype(np.float32),
            "wz": np.zeros(shape[0], np.int8),
        }
        bias = {"b": rng.integers(-500, 500, shape[0]).astype(np.int32)}
        node = helper.make_node(
            "QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"], name="n", **attrs
        )
        cases[f"QLinearConv-{label}"] = (
            [node],
            [value("x", u8, [None, channels, 9, 8])],
            {**shared, **extra, **bias},
            (2, channels, 9, 8),
        )
    w = weights(4, 3, 3, 3, kind=np.uint8)
    node = helper.make_node("ConvInteger", ["x", "w", "xz", "wz"], ["y"], name="n", pads=[1, 1, 1, 1])
    cases["ConvInteger"] = (
        [node],
        [value("x", u8, [None, 3, 6, 6])],
        {"w": w, "xz": zero, "wz": np.uint8(120)},
        (3, 3, 6, 6),
    )
    node = helper.make_node("MatMulInteger", ["x", "w", "xz"], ["y"], name="n")
    cases["MatMulInteger"] = (
        [node],
        [value("x", u8, [None, 4, 40])],
        {"w": weights(40, 7), "xz": zero},
        (2, 4, 40),
    )
    node = helper.make_node("MatMulInteger", ["w", "x", "", "xz"], ["y"], name="n")
    cases["MatMulInteger-left"] = (
        [node],
        [value("x", u8, [None, 40, 5])],
        {"w": weights(7, 40), "xz": zero},
        (2, 40, 5),
    )
    node = helper.make_node("QLinearMatMul", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"], name="n")
    extra = {"w": weights(40, 7), "ws": np.float32(0.05), "wz": np.int8(3)}
    cases["QLinearMatMul"] = ([node], [value("x", u8, [None, 40])], {**shared, **extra}, (5, 40))
    return cases


INTEGER = integer_cases()


def fused_cases() -> dict[str, Any]:
    f, ms = TensorProto.FLOAT, {"domain": "com.microsoft", "name": "n"}

    def weights(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    node = helper.make_node
    u8 = {"xs": np.float32(0.02), "xz": np.uint8(117), "ws": rng.uniform(0.01, 0.1, 7).astype(np.float32)}
    u8 |= {"w": rng.integers(-64, 64, (40, 7)).astype(np.int8), "wz": np.zeros(7, np.int8)}
    u8 |= {"c": rng.integers(-900, 900, 7).astype(np.int32)}
    image = np.random.default_rng(4).standard_normal((2, 4, 6, 5)).astype(np.float32)
    rows = np.random.default_rng(5).standard_normal((6, 40)).astype(np.float32)
    integers = np.random.default_rng(6).integers(0, 256, (6, 40)).astype(np.uint8)
    args = ["x", "xs", "xz", "w", "ws", "wz", "c"]
    return {
        "FusedConv": (
            node("FusedConv", ["x", "w", "b", "z"], ["y"], activation="LeakyRelu", activation_params=[0.1],
                 pads=[1, 1, 1, 1], kernel_shape=[3, 3], **ms),
            image, {"w": weights(5, 4, 3, 3), "b": weights(5), "z": weights(2, 5, 6, 5)}, f),
        "FusedGemm": (
            node("FusedGemm", ["x", "w", "b"], ["y"], activation="LeakyRelu", activation_alpha=0.2, alpha=0.5, **ms),
            rows, {"w": weights(40, 7), "b": weights(7)}, f),
        "ConvTransposeWithDynamicPads": (
            node("ConvTransposeWithDynamicPads", ["x", "w", "p", "b"], ["y"], strides=[2, 1], **ms),
            image, {"w": weights(4, 3, 3, 2), "p": np.array([1, 0, 1, 1]), "b": weights(3)}, f),
        "QGemm-float": (node("QGemm", args, ["y"], alpha=0.5, **ms), integers, u8, f),
        "QGemm": (
            node("QGemm", [*args, "ys", "yz"], ["y"], **ms), integers,
            {**u8, "ys": np.float32(0.7), "yz": np.uint8(120)}, TensorProto.UINT8),
        "DynamicQuantizeMatMul": (
            node("DynamicQuantizeMatMul", ["x", "w", "s", "", "c"], ["y"], **ms), rows,
            {"w": u8["w"], "s": np.array([0.05], np.float32), "c": weights(7)}, f),
    }  # fmt: skip


FUSED = fused_cases()


@pytest.mark.parametrize("name", FUSED)
def test_fused_operators_follow_onnxruntime(name: str, tmp_path: Path) -> None:
    node, x, weights, kind = FUSED[name]
    graph = helper.make_graph(
        [node], "g", [value("x", helper.np_dtype_to_tensor_dtype(x.dtype), [None, *x.shape[1:]])],
        [value("y", kind, [None] * x.ndim)], [numpy_helper.from_array(np.asarray(w), k) for k, w in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    host, module = compiled(path)
    (wanted,) = onnxruntime_outputs(effective_model(host, module), {"x": x})
    (got,) = simulated(host, module, {"x": x}, input_bits=16)
    assert got.dtype == wanted.dtype
    if kind == TensorProto.UINT8:
        assert np.array_equal(got, wanted)
    else:
        assert np.abs(got - wanted).max() < 2e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("target", [BLOCK, GATHER], ids=["block", "gather"])
@pytest.mark.parametrize("name", INTEGER)
def test_integer_operators_equal_onnxruntime_element_for_element(
    name: str, target: Target, tmp_path: Path
) -> None:
    nodes, inputs, weights, shape = INTEGER[name]
    path = saved(tmp_path, nodes, inputs, ["y"], weights)
    host, module = compiled(path, target)
    feeds = {"x": np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)}
    (wanted,) = onnxruntime_outputs(onnx.load(path), feeds)
    (got,) = simulated(host, module, feeds)
    assert got.dtype == wanted.dtype
    assert np.array_equal(got, wanted)


def float_cases() -> dict[str, Any]:
    def weights(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    f = TensorProto.FLOAT

    def node(op: str, *args: str, outs: tuple[str, ...] = ("y",), **attrs: Any) -> Any:
        return helper.make_node(op, list(args), list(outs), name="n", **attrs)

    def case(made: Any, shape: tuple[int, ...], **tensors: Any) -> Any:
        free = [None, *shape[1:]]
        return [made], [value("x", f, free)], tensors, shape

    cases = {
        "Conv-1d": case(node("Conv", "x", "w", "b", pads=[2, 1], strides=[3]), (2, 4, 20), w=weights(5, 4,
        4), b=weights(5)),
        "Conv-3d": case(node("Conv", "x", "w", auto_pad="SAME_LOWER"), (2, 2, 4, 5, 3), w=weights(3, 2, 2, 2, 2)),
        "ConvTranspose": case(
            node("ConvTranspose", "x", "w", "b", strides=[2, 3], pads=[1, 0, 0, 1], output_padding=[1, 0], group=2),
            (2, 4, 5, 4), w=weights(4, 3, 3, 2), b=weights(6),
        ),
        "ConvTranspose-shape": case(
            node("ConvTranspose", "x", "w", strides=[2, 2], output_shape=[9, 10], dilations=[2, 1]),
            (1, 3, 4, 5), w=weights(3, 2, 3, 3),
        ),
        "ConvTranspose-same": case(
            node("ConvTranspose", "x", "w", strides=[2], auto_pad="SAME_UPPER"), (2, 3, 7), w=weights(3, 2, 3)
        ),
        "Gemm": case(node("Gemm", "x", "w", "c", alpha=0.5, beta=2.0, transB=1), (3, 40), w=weights(6, 40),
        c=weights(6)),
        "Gemm-left": case(node("Gemm", "w", "x", transA=1, transB=1), (3, 40), w=weights(40, 6)),
        "MatMul-tokens": case(node("MatMul", "x", "w"), (2, 5, 3, 40), w=weights(40, 6)),
        "MatMul-left": case(node("MatMul", "w", "x"), (2, 40, 5), w=weights(6, 40)),
        "MatMul-stacked": case(node("MatMul", "x", "w"), (2, 3, 4, 10), w=weights(3, 10, 6)),
        "MatMul-stacked-plain": case(node("MatMul", "x", "w"), (4, 10), w=weights(3, 10, 6)),
        "MatMul-one-stacked": case(node("MatMul", "x", "w"), (4, 10), w=weights(1, 10, 6)),
        "MatMul-vector": case(node("MatMul", "x", "w"), (3, 4, 10), w=weights(10)),
    }  # fmt: skip
    for op, gates, attrs in (
        ("LSTM", 4, {"direction": "bidirectional"}), ("LSTM", 4, {"direction": "reverse", "input_forget": 1}),
        ("LSTM", 4, {"clip": 0.4, "layout": 0}), ("GRU", 3, {"direction": "bidirectional"}),
        ("GRU", 3, {"linear_before_reset": 1}), ("RNN", 1, {"activations": ["Relu"]}),
    ):  # fmt: skip
        directions = 2 if attrs.get("direction") == "bidirectional" else 1
        tensors = {
            "w": weights(directions, gates * 7, 6), "r": 0.3 * weights(directions, gates * 7, 7),
            "b": weights(directions, 2 * gates * 7), "len": np.array([5, 3], np.int32),
            "h0": weights(directions, 2, 7),
        }  # fmt: skip
        args, outs = ["x", "w", "r", "b", "len", "h0"], ["y", "yh"]
        if op == "LSTM":
            tensors |= {"c0": weights(directions, 2, 7), "p": weights(directions, 21)}
            args, outs = [*args, "c0", "p"], [*outs, "yc"]
        made = helper.make_node(op, args, outs, name="n", hidden_size=7, **attrs)
        label = f"{op}-{'-'.join(f'{v}' for v in attrs.values())}"
        cases[label] = ([made], [value("x", f, [5, 2, 6])], tensors, (5, 2, 6))
    return cases


FLOAT = float_cases()


@pytest.mark.parametrize("name", FLOAT)
def test_float_operators_follow_onnxruntime_up_to_the_input_grid(name: str, tmp_path: Path) -> None:
    """16-bit inputs: what is left is the grid's rounding, about 2**-16 of the largest input."""
    nodes, inputs, weights, shape = FLOAT[name]
    path = saved(tmp_path, nodes, inputs, list(nodes[0].output), weights)
    host, module = compiled(path)
    feeds = {"x": np.random.default_rng(2).standard_normal(shape).astype(np.float32)}
    wanted = onnxruntime_outputs(effective_model(host, module), feeds)
    got = simulated(host, module, feeds, input_bits=16)
    for g, w in zip(got, wanted, strict=True):
        assert g.shape == w.shape
        assert np.abs(g - w).max() < 2e-4 * max(1.0, np.abs(w).max())


def in_integers(host: onnx.ModelProto, module: Module, feeds: dict[str, Any]) -> dict[str, Any]:
    """The network node by node: crossbar nodes by ONNX's reference kernels on whole float64 numbers."""
    layers = {layer.origin.node: layer for layer in module.layers}
    values = {t.name: numpy_helper.to_array(t) for t in host.graph.initializer} | feeds
    for node in host.graph.node:
        layer = layers.get(node.name)
        if layer is None:
            graph = helper.make_graph(
                [node], "one",
                [value(n, helper.np_dtype_to_tensor_dtype(values[n].dtype),
                list(values[n].shape)) for n in node.input if n],
                [onnx.ValueInfoProto(name=n) for n in node.output],
            )  # fmt: skip
            model = helper.make_model(graph, opset_imports=host.opset_import, ir_version=host.ir_version)
            made = onnxruntime_outputs(model, {n: values[n] for n in node.input if n})
            values.update(zip(node.output, made, strict=True))
            continue
        x = values[node.input[0]]
        flat = x.reshape(len(x), -1)
        signed = flat.min(axis=1) < 0
        top = np.where(signed, np.float32(127), np.float32(255))
        scale = (np.abs(flat).max(axis=1) / top).astype(np.float32).reshape(-1, *(1,) * (x.ndim - 1))
        codes = np.rint(x / scale).astype(np.float64)
        tensor = layer.origin.layout.to_tensor(layer.at(Programmed).effective_codes().astype(np.float64))
        names = [n if i else "codes" for i, n in enumerate(node.input)][:2]
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        del plain.input[:]
        plain.input.extend(names)
        graph = helper.make_graph(
            [plain], "one", [value(n, TensorProto.DOUBLE, None) for n in names],
            [value(node.output[0], TensorProto.DOUBLE, None)],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=host.opset_import, ir_version=host.ir_version)
        (y,) = ReferenceEvaluator(model).run(None, {names[0]: codes, names[1]: tensor})
        assert np.array_equal(y, np.rint(y))
        outputs_axis = 1 if node.op_type == "Conv" else y.ndim - 1
        weight_scale = np.broadcast_to(
            layer.at(Programmed).scale.astype(np.float64), (y.shape[outputs_axis],)
        )
        y = y * weight_scale.reshape(-1, *(1,) * (y.ndim - 1 - outputs_axis))
        y = (y * scale.astype(np.float64).reshape(-1, *(1,) * (y.ndim - 1))).astype(np.float32)
        if len(node.input) > 2:
            bias = values[node.input[2]]
            y = y + (bias.reshape(-1, *(1,) * (y.ndim - 2)) if node.op_type == "Conv" else bias)
        values[node.output[0]] = y
    return values


@pytest.mark.parametrize("target", [BLOCK, GATHER], ids=["block", "gather"])
@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit"])
def test_a_whole_network_is_its_integer_arithmetic(name: str, target: Target) -> None:
    host, module = compiled(MODELS / f"{name}.onnx", target)
    data = np.load(MODELS / "digits_eval.npz")
    feeds = {host.graph.input[0].name: data[host.graph.input[0].name][:6]}
    got = simulated(host, module, feeds)
    wanted = in_integers(host, module, feeds)
    for output, array in zip(host.graph.output, got, strict=True):
        if name == "digits_cnn":
            assert np.array_equal(array, wanted[output.name])
        else:  # softmax and layer normalisation are fused inside segments, in another order of summation
            assert np.abs(array - wanted[output.name]).max() < 5e-2


def test_a_model_with_its_own_grids_is_reproduced_exactly() -> None:
    """QDQ: inputs arrive on the model's grid, so nothing at all is lost."""
    host, module = compiled(MODELS / "digits_cnn_qdq.onnx", GATHER)
    data = np.load(MODELS / "digits_eval.npz")
    feeds = (
        {"image": data["image"][:20]}
        if "image" in data.files
        else {host.graph.input[0].name: data[data.files[0]][:20]}
    )
    got = simulated(host, module, feeds)
    wanted = onnxruntime_outputs(effective_model(host, module), feeds)
    assert np.abs(got[0] - wanted[0]).max() < 1e-5


def test_branches_residuals_and_dynamic_products_are_cut_right(tmp_path: Path) -> None:
    """Two branches of different depth, a residual, a product of two activations, a weightless path."""
    n = helper.make_node
    nodes = [
        n("MatMul", ["x", "a"], ["xa"], name="a"), n("Relu", ["xa"], ["ra"], name="ra"),
        n("MatMul", ["ra", "b"], ["xb"], name="b"), n("Add", ["xb", "x"], ["res"], name="res"),
        n("MatMul", ["x", "c"], ["xc"], name="c"),
        n("Transpose", ["xc"], ["xt"], name="t", perm=[0, 2, 1]),
        n("MatMul", ["res", "xt"], ["dyn"], name="dyn"), n("Softmax", ["dyn"], ["soft"], name="soft"),
        n("MatMul", ["soft", "x"], ["mix"], name="mix"), n("MatMul", ["mix", "d"], ["y"], name="d"),
        n("ReduceMean", ["x"], ["z"], name="z", axes=[1]),
    ]  # fmt: skip
    weights = {k: rng.standard_normal((8, 8)).astype(np.float32) for k in "abcd"}
    path = saved(tmp_path, nodes, [value("x", TensorProto.FLOAT, [None, 5, 8])], ["y", "z", "res"], weights)
    host, module = compiled(path)
    session = CrossbarSession(host, module, converters=converter_settings(module.target, {"input_bits": 16}))
    order = [s.node.name for s in session._partition.steps if isinstance(s, Crossbar)]
    assert sorted(order) == ["a", "b", "c", "d"]
    assert order.index("a") < order.index("b") < order.index("d")
    feeds = {"x": rng.standard_normal((3, 5, 8)).astype(np.float32)}
    wanted = onnxruntime_outputs(effective_model(host, module), feeds)
    for got, array in zip(session._session.run(["y", "z", "res"], feeds), wanted, strict=True):
        assert np.allclose(got, array, atol=1e-3)
    held = {name for frees in session._partition.frees for name in frees}
    assert "xa" in held  # intermediate values do not stay until the end


def test_a_sample_does_not_depend_on_its_batch() -> None:
    host, module = compiled(MODELS / "digits_cnn.onnx")
    data = np.load(MODELS / "digits_eval.npz")
    name = host.graph.input[0].name
    x = data[name][:5]
    together = simulated(host, module, {name: x})[0]
    alone = np.concatenate([simulated(host, module, {name: x[i : i + 1]})[0] for i in range(5)])
    assert np.allclose(together, alone, atol=1e-6)


def bad_session() -> tuple[CrossbarSession, str, Any]:
    host, module = compiled(MODELS / "digits_cnn.onnx")
    session = CrossbarSession(host, module)
    name = session.inputs[0].name
    return session, name, np.load(MODELS / "digits_eval.npz")[name][:2]


def test_bad_inputs_are_refused_in_a_sentence() -> None:
    session, name, x = bad_session()
    broken = x.copy()
    broken[0, 0, 1, 2] = np.nan
    with pytest.raises(XbcError, match=r"its input is nan at index \[0, 0, 1, 2\]"):
        session.run({name: broken})
    with pytest.raises(XbcError, match="does not suit the input"):
        session.run({name: x[:, :, :5]})
    with pytest.raises(XbcError, match="needs an array for its input"):
        session.run({})


def run_negative(host: onnx.ModelProto, module: Module, settings: dict[str, Any]) -> None:
    session = CrossbarSession(host, module, converters=converter_settings(module.target, settings))
    name = session.inputs[0].name
    session.run({name: -np.load(MODELS / "digits_eval.npz")[name][:2]})


def test_missing_calibration_and_contradictions_are_refused() -> None:
    host, module = compiled(MODELS / "digits_cnn.onnx")
    for settings, message in (
        ({"input_range": "calibrated"}, "needs calibration inputs"),
        ({"adc_range": "calibrated"}, "needs calibration inputs"),
        ({"dac_bits": 9}, "dac_bits = 9 is above input_bits = 8"),
        ({"input_bits": 1, "dac_bits": 1}, "cannot represent negative inputs"),
    ):
        with pytest.raises(XbcError, match=message):
            run_negative(host, module, settings)
    session = CrossbarSession(host, module)
    with pytest.raises(XbcError, match="percentile"):
        session.calibrate({}, percentile=0)


def test_calibrated_ranges_come_from_the_set() -> None:
    host, module = compiled(MODELS / "digits_cnn.onnx")
    settings = {"adc_range": "calibrated", "input_range": "calibrated", "adc_bits": 5}
    session = CrossbarSession(host, module, converters=converter_settings(module.target, settings))
    name = session.inputs[0].name
    data = np.load(MODELS / "digits_calib.npz")[name]
    session.calibrate({name: data[:50]})
    first = next(iter(session.layers.values()))
    assert (first.extremes.low, first.extremes.high) == (
        min(0.0, float(data[:50].min())),
        float(data[:50].max()),
    )
    session.measure(True)
    session.run({name: data[:20]})
    full = CrossbarSession(host, module, converters=converter_settings(module.target, {"adc_bits": 5}))
    full.measure(True)
    full.run({name: data[:20]})
    # sums stay far below 32 rows of ones: the calibrated range resolves them better
    assert session.reports()[0].snr_db > full.reports()[0].snr_db
    assert all(r.conversions > 0 for r in session.reports())


def test_crossbars_inside_the_branches_of_an_if(tmp_path: Path) -> None:
    """Each body is cut in its turn; it takes values from around it and one branch nests another."""
    n = helper.make_node
    f = TensorProto.FLOAT
    weights = {k: rng.standard_normal((8, 8)).astype(np.float32) for k in "abc"} | {"half": np.float32(0.5)}
    plain = helper.make_graph(
        [n("MatMul", ["s", "a"], ["t1"], name="inner_a"), n("Relu", ["t1"], ["t2"], name="r")], "then", [],
        [value("t2", f, None)],
    )  # fmt: skip
    deep = helper.make_graph(
        [n("MatMul", ["s", "b"], ["d"], name="inner_b")], "deep", [], [value("d", f, None)]
    )
    flat = helper.make_graph([n("Identity", ["s"], ["e"], name="id")], "flat", [], [value("e", f, None)])
    nested = helper.make_graph(
        [
            n("ReduceMean", ["s"], ["m"], name="mean", keepdims=0), n("Greater", ["m", "half"], ["big"], name="gt"),
            n("If", ["big"], ["n1"], name="if_inner", then_branch=deep, else_branch=flat),
            n("Neg", ["n1"], ["n2"], name="neg"),
        ],
        "else", [], [value("n2", f, None)],
    )  # fmt: skip
    nodes = [
        n("MatMul", ["x", "c"], ["s"], name="outer"),
        n("If", ["choose"], ["y0"], name="if", then_branch=plain, else_branch=nested),
        n("Add", ["y0", "x"], ["y"], name="add"),
    ]
    inputs = [value("x", f, [None, 8]), value("choose", TensorProto.BOOL, [])]
    path = saved(tmp_path, nodes, inputs, ["y"], weights)
    host, module = compiled(path)
    assert {layer.origin.node for layer in module.layers} == {"outer", "inner_a", "inner_b"}
    for choose in (True, False):
        for sign in (1.0, -1.0):
            x = sign * np.abs(rng.standard_normal((4, 8))).astype(np.float32)
            feeds = {"x": x, "choose": np.array(choose)}
            wanted = onnxruntime_outputs(effective_model(host, module), feeds)
            got = simulated(host, module, feeds, input_bits=16)
            assert np.allclose(got[0], wanted[0], atol=2e-3)


def test_what_cannot_be_simulated_is_named_and_ideal(tmp_path: Path) -> None:
    node = helper.make_node(
        "RNN", ["x", "w", "r"], ["y"], name="n", hidden_size=7, activations=["Affine"], activation_alpha=[0.1],
        activation_beta=[0.2],
    )  # fmt: skip
    weights = {"w": rng.standard_normal((1, 7, 6)), "r": rng.standard_normal((1, 7, 7))}
    tensors = {k: v.astype(np.float32) for k, v in weights.items()}
    path = saved(tmp_path, [node], [value("x", TensorProto.FLOAT, [5, 2, 6])], ["y"], tensors)
    host, module = compiled(path)
    session = CrossbarSession(host, module)
    assert [name for name, _ in session.left] == ["n.W", "n.R"]
    assert "activation Affine of RNN is not simulated" in session.notes[0]
    feeds = {"x": rng.standard_normal((5, 2, 6)).astype(np.float32)}
    wanted = onnxruntime_outputs(effective_model(host, module), feeds)
    assert np.allclose(session._session.run(None, feeds)[0], wanted[0], atol=1e-5)
