"""Every operator with ideal converters against onnxruntime on the effective weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ir.target import Target
from tests.xbc.simulate.networks import (
    BLOCK,
    GATHER,
    compiled,
    effective_model,
    onnxruntime_outputs,
    saved,
    simulated,
    value,
)
from xbc.simulate.network import CrossbarSession, converter_settings

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
    attrs: Any
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
    tokens = np.random.default_rng(7).standard_normal((2, 5, 12)).astype(np.float32)
    attention = {"w": weights(12, 24), "b": weights(24)}
    past = {"past": weights(2, 2, 2, 3, 4)}
    offset = {"o": 2 * weights(2, 2 * 2 * 6, 6, 5), "m": weights(2, 2 * 6, 6, 5)}
    return {
        "Attention": (
            node("Attention", ["x", "w", "b", "", "", "extra"], ["y"], num_heads=2, unidirectional=1, **ms), tokens,
            {**attention, "extra": weights(2, 2, 5, 5)}, f),
        "Attention-mask-past": (
            node("Attention", ["x", "w", "b", "mask", "past"], ["y", "now"], num_heads=2, scale=0.7, **ms),
            tokens,
            {**attention, **past, "mask": np.array([[1] * 8, [1, 1, 0, 1, 1, 1, 0, 1]], np.int32)}, f),
        "Attention-sizes": (
            node("Attention", ["x", "w", "b"], ["y"], num_heads=2, qkv_hidden_sizes=[8, 8, 6], **ms), tokens,
            {"w": weights(12, 22), "b": weights(22)}, f),
        "DeformConv": (
            node("DeformConv", ["x", "w", "o", "b", "m"], ["y"], name="n", group=2, offset_group=2, pads=[1, 0, 1, 1]),
            image, {"w": weights(6, 2, 3, 2), "b": weights(6), **offset}, f),
        "DeformConv-strided": (
            node("DeformConv", ["x", "w", "o"], ["y"], name="n", strides=[2, 1], dilations=[1, 2]),
            image, {"w": weights(3, 4, 2, 2), "o": weights(2, 8, 3, 3)}, f),
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
        [value("y", kind, [None] * x.ndim), *(value(name, kind, [None] * 5) for name in node.output[1:])],
        [numpy_helper.from_array(np.asarray(w), k) for k, w in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    host, module = compiled(path)
    assert [layer.origin.node for layer in module.layers] == ["n"]
    wanted, *more = onnxruntime_outputs(effective_model(host, module), {"x": x})
    got, *others = simulated(host, module, {"x": x}, input_bits=16)
    for a, b in zip(others, more, strict=True):
        assert np.abs(a - b).max() < 2e-4 * np.abs(b).max()
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
        "MatMul-broadcast-left": case(node("MatMul", "w", "x"), (2, 10, 3), w=weights(3, 1, 6, 10)),
        "MatMul-broadcast-right": case(node("MatMul", "x", "w"), (2, 4, 10), w=weights(3, 1, 10, 6)),
        "MatMul-broadcast-between": case(node("MatMul", "x", "w"), (5, 3, 2, 1, 4, 10), w=weights(3, 1, 7, 10, 6)),
        "MatMul-vector": case(node("MatMul", "x", "w"), (3, 4, 10), w=weights(10)),
    }  # fmt: skip
    for op, gates, attrs in (
        ("LSTM", 4, {"direction": "bidirectional"}), ("LSTM", 4, {"direction": "reverse", "input_forget": 1}),
        ("LSTM", 4, {"clip": 0.4, "layout": 0}), ("GRU", 3, {"direction": "bidirectional"}),
        ("GRU", 3, {"linear_before_reset": 1}), ("RNN", 1, {"activations": ["Relu"]}),
        ("RNN", 1, {"activations": ["Affine"], "activation_alpha": [0.1], "activation_beta": [0.2]}),
        ("LSTM", 4, {"activations": ["HardSigmoid", "Elu", "ScaledTanh"], "activation_alpha": [0.3, 0.5, 0.9],
                     "activation_beta": [0.4, 0.7]}),
        ("GRU", 3, {"activations": ["Sigmoid", "Softplus"]}), ("RNN", 1, {"activations": ["Softsign"]}),
        ("GRU", 3, {"activations": ["LeakyRelu", "ThresholdedRelu", "HardSigmoid", "Elu"],
                    "direction": "bidirectional", "clip": 2.0}),
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


CUT = ["Conv-3d", "ConvTranspose", "MatMul-tokens", "MatMul-left", "MatMul-stacked", "Gemm"]


@pytest.mark.parametrize("name", [*CUT, "QLinearConv-padded", "QLinearConv-grouped", "MatMulInteger"])
def test_samples_cut_into_lines_give_the_same(name: str, tmp_path: Path) -> None:
    """Pieces of one line, of a few lines and of whole samples; what calibration counts is the same as well."""
    nodes, inputs, weights, shape = (FLOAT | INTEGER)[name]
    kind = np.float32 if name in FLOAT else np.uint8
    x = np.random.default_rng(8).integers(-99 if name in FLOAT else 0, 100, shape).astype(kind)
    path = saved(tmp_path, nodes, inputs, ["y"], weights)
    host, module = compiled(path, GATHER)
    settings = converter_settings(module.target, {"adc_bits": 4, "adc_range": "calibrated"})
    found = []
    for chunk in (1, 600, 2**20):
        session = CrossbarSession(host, module, converters=settings)
        (layer,) = session.layers.values()
        layer.chunk_bytes = chunk
        session.calibrate({"x": x}, batch=1 if chunk == 1 else None)
        session.measure(True)
        (y,) = session._session.run(None, {"x": x})
        found.append((y, session.ranges, next(iter(session.histograms.values())), layer.signal))
    for y, ranges, histogram, signal in found[1:]:
        assert np.allclose(y, found[0][0], rtol=1e-5, atol=1e-4)
        assert ranges == found[0][1]
        assert np.array_equal(histogram, found[0][2])
        assert signal.snr_db == pytest.approx(found[0][3].snr_db, rel=1e-3)
