"""Every mapped operator and layout: the host with its weights put back computes what the model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from ir.stages import Float, Quantized
from tests.xbc.frontend.oracle import (
    TARGET,
    check_against_onnxruntime,
    integers,
    model,
    only_layer,
    random_feeds,
    session,
    weights,
)
from xbc.frontend import host_with_weights, import_model, layer_tensor, original_weights
from xbc.operators import operators

node = helper.make_node
F = np.float32
both = pytest.mark.parametrize("optimise", [True, False])


def conv(shape: tuple[int, ...], channels: int, op: str = "Conv", **attrs: Any) -> onnx.ModelProto:
    space = [9, 8, 7][: len(shape) - 2]
    return model(
        [node(op, ["x", "w"], ["y"], "the/conv", **attrs)],
        {"x": (F, ["batch", channels, *space])},
        {"y": F},
        {"w": weights(*shape)},
    )


@both
@pytest.mark.parametrize(
    ("shape", "channels", "attrs", "products"),
    [
        ((4, 3, 3), 3, {}, 7),
        ((4, 3, 3, 2), 3, {"strides": [2, 1]}, 4 * 7),
        ((4, 2, 2, 3, 2), 2, {"pads": [1, 0, 0, 0, 0, 0]}, 9 * 6 * 6),
        ((6, 2, 3, 3), 4, {"group": 2}, 7 * 6),
        ((8, 1, 3, 3), 4, {"group": 4}, 7 * 6),
        ((4, 3, 3, 3), 3, {"dilations": [2, 3]}, 5 * 2),
    ],
    ids=["1d", "2d-strided", "3d-padded", "grouped", "depthwise", "dilated"],
)
def test_conv(
    shape: tuple[int, ...],
    channels: int,
    attrs: dict[str, Any],
    products: int,
    optimise: bool,
    tmp_path: Path,
) -> None:
    layer = only_layer(check_against_onnxruntime(conv(shape, channels, **attrs), tmp_path, optimise=optimise))
    assert layer.name == "the.conv"
    assert layer.body.shape == (shape[0], int(np.prod(shape[1:])))
    assert layer.origin.groups == attrs.get("group", 1)
    assert layer.origin.kernel == shape[2:]
    assert layer.origin.products == products


def test_conv_matrix_is_the_dot_product_of_a_patch(tmp_path: Path) -> None:
    proto = conv((6, 2, 3, 3), 4, group=2)
    imported = check_against_onnxruntime(proto, tmp_path)
    matrix = original_weights(imported.module)["the.conv"]
    feeds = random_feeds(proto, 1)
    (y,) = session(proto).run(None, feeds)
    patch = feeds["x"][0, :, 2:5, 3:6].reshape(2, -1)  # [groups, channels of a group * kernel]
    expected = np.concatenate([matrix[:3] @ patch[0], matrix[3:] @ patch[1]])
    np.testing.assert_allclose(y[0, :, 2, 3], expected, rtol=1e-4, atol=1e-5)


@both
@pytest.mark.parametrize(("shape", "groups"), [((3, 4, 3), 1), ((4, 3, 2, 3), 2), ((4, 1, 2, 2), 4)])
def test_conv_transpose(shape: tuple[int, ...], groups: int, optimise: bool, tmp_path: Path) -> None:
    strides = [2] * (len(shape) - 2)
    proto = conv(shape, shape[0], "ConvTranspose", group=groups, strides=strides)
    layer = only_layer(check_against_onnxruntime(proto, tmp_path, optimise=optimise))
    kernel = int(np.prod(shape[2:]))
    assert layer.body.shape == (groups * shape[1] * kernel, shape[0] // groups)
    assert layer.origin.groups == groups
    assert layer.origin.products == 9 * (8 if len(shape) == 4 else 1)


def test_conv_transpose_matrix_spreads_one_pixel(tmp_path: Path) -> None:
    proto = conv((4, 3, 2, 3), 4, "ConvTranspose", group=2)
    imported = check_against_onnxruntime(proto, tmp_path)
    matrix = original_weights(imported.module)["the.conv"].reshape(2, 3 * 2 * 3, 2)
    x = np.zeros((1, 4, 9, 8), F)
    x[0, :, 4, 5] = pixel = weights(4)
    (y,) = session(proto).run(None, {"x": x})
    spread = np.concatenate([matrix[0] @ pixel[:2], matrix[1] @ pixel[2:]]).reshape(6, 2, 3)
    np.testing.assert_allclose(y[0, :, 4:6, 5:8], spread, rtol=1e-4, atol=1e-6)


@both
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("static", ["a", "b"])
def test_gemm(trans_a: int, trans_b: int, static: str, optimise: bool, tmp_path: Path) -> None:
    a, b = ((5, 4) if trans_a else (4, 5)), ((3, 5) if trans_b else (5, 3))
    free, fixed = (("a", a), ("b", b)) if static == "b" else (("b", b), ("a", a))
    proto = model(
        [node("Gemm", ["a", "b", "c"], ["y"], transA=trans_a, transB=trans_b, alpha=0.5, beta=2.0)],
        {free[0]: (F, free[1])},
        {"y": F},
        {fixed[0]: weights(*fixed[1]), "c": weights(4, 3)},
    )
    layer = only_layer(check_against_onnxruntime(proto, tmp_path, optimise=optimise))
    assert layer.body.shape == ((3, 5) if static == "b" else (4, 5))
    assert layer.origin.products == (4 if static == "b" else 3)


@both
@pytest.mark.parametrize(
    ("left", "right", "static", "groups", "shape", "products"),
    [
        ((2, 6, 5), (5, 3), "b", 1, (3, 5), 12),
        ((4, 5), (2, 5, 3), "a", 1, (4, 5), 6),
        ((2, 4, 5), (2, 5, 3), "b", 2, (6, 5), 4),
        ((7, 2, 4, 5), (2, 5, 3), "b", 2, (6, 5), 28),
        ((2, 4, 5), (7, 2, 5, 3), "a", 2, (8, 5), 21),
        ((2, 4, 5), (5,), "b", 1, (1, 5), 8),
        ((5,), (2, 5, 3), "a", 1, (1, 5), 6),
    ],
    ids=["right", "left", "stacked", "stacked-broadcast", "stacked-left", "vector", "vector-left"],
)
def test_matmul(
    left: tuple[int, ...], right: tuple[int, ...], static: str, groups: int, shape: tuple[int, int],
    products: int, optimise: bool, tmp_path: Path,
) -> None:  # fmt: skip
    fixed, free = (("b", right), ("a", left)) if static == "b" else (("a", left), ("b", right))
    proto = model(
        [node("MatMul", ["a", "b"], ["y"])], {free[0]: (F, free[1])}, {"y": F}, {fixed[0]: weights(*fixed[1])}
    )
    layer = only_layer(check_against_onnxruntime(proto, tmp_path, optimise=optimise))
    assert (layer.body.shape, layer.origin.groups, layer.origin.products) == (shape, groups, products)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_matmul_layouts_hold_the_products(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    size = st.integers(1, 4)
    stack = data.draw(st.lists(size, max_size=2).map(tuple))
    m, k, n = data.draw(size), data.draw(size), data.draw(size)
    right = data.draw(st.booleans())
    shape = (*stack, k, n) if right else (*stack, m, k)
    w, x = weights(*shape), weights(*stack, m, k) if right else weights(*stack, k, n)
    names = ["x", "w"] if right else ["w", "x"]
    proto = model([node("MatMul", names, ["y"])], {"x": (F, x.shape)}, {"y": F}, {"w": w})
    folder = tmp_path_factory.mktemp("layout")
    layer = only_layer(check_against_onnxruntime(proto, folder, feeds={"x": x}))
    groups = int(np.prod(stack))
    matrix = layer.body.values.reshape(groups, -1, k)
    vectors = (x.swapaxes(-1, -2) if right else x).reshape(groups, k, -1)
    products = np.einsum("gok,gkv->gov", matrix, vectors)  # [groups, outputs of a group, vectors]
    expected = (x @ w if right else w @ x).reshape(groups, m, n)
    np.testing.assert_allclose(products.swapaxes(1, 2) if right else products, expected, rtol=1e-4, atol=1e-5)


@both
@pytest.mark.parametrize(
    ("op", "attrs", "shape"),
    [
        ("FusedMatMul", {"transB": 1, "alpha": 0.25}, (3, 5)),
        ("FusedMatMul", {"transB": 0}, (5, 3)),
        ("FusedGemm", {"activation": "Relu", "transB": 1}, (3, 5)),
        ("GemmFastGelu", {}, (5, 3)),
    ],
)
def test_fused_products(
    op: str, attrs: dict[str, Any], shape: tuple[int, int], optimise: bool, tmp_path: Path
) -> None:
    names = ["x", "w", "c"] if op == "FusedGemm" else ["x", "w"]
    nodes = [node(op, names, ["y"], domain="com.microsoft", **attrs)]
    proto = model(nodes, {"x": (F, [4, 5])}, {"y": (F, 2)}, {"w": weights(*shape), "c": weights(3)})
    if op != "FusedGemm":
        del proto.graph.initializer[1]
    if op == "GemmFastGelu":  # no CPU kernel: mapped without onnxruntime's help
        path = tmp_path / "model.onnx"
        onnx.save(proto, path)
        imported = import_model(path, TARGET, optimise=optimise)
        assert any("cannot optimise" in note for note in imported.notes) == optimise
    else:
        imported = check_against_onnxruntime(proto, tmp_path, optimise=optimise)
    assert only_layer(imported).body.shape == (3, 5)


@both
def test_fused_conv_and_attention(optimise: bool, tmp_path: Path) -> None:
    nodes = [
        node("FusedConv", ["x", "w"], ["c"], activation="Relu", domain="com.microsoft"),
        node("Reshape", ["c", "dims"], ["t"]),
        node("Attention", ["t", "qkv", "bias"], ["y"], num_heads=2, domain="com.microsoft"),
    ]
    constants = {
        "w": weights(8, 3, 1, 1), "dims": np.array([0, 8, 8]), "qkv": weights(8, 24), "bias": weights(24),
    }  # fmt: skip
    proto = model(nodes, {"x": (F, ["n", 3, 4, 2])}, {"y": (F, 3)}, constants)
    imported = check_against_onnxruntime(proto, tmp_path, optimise=optimise)
    assert [x.body.shape for x in imported.module.layers] == [(8, 3), (24, 8)]
    assert imported.module.edges == (("FusedConv_0", "Attention_2"),)


@both
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent(op: str, gates: int, direction: str, optimise: bool, tmp_path: Path) -> None:
    directions = 2 if direction == "bidirectional" else 1
    hidden, inputs = 4, 3
    nodes = [
        node("MatMul", ["x", "m"], ["t"], "first"),
        node(op, ["t", "w", "r", "b"], ["all", "last"], "cell", hidden_size=hidden, direction=direction),
        node("MatMul", ["last", "v"], ["y"], "head"),
    ]
    constants = {
        "m": weights(5, inputs), "w": weights(directions, gates * hidden, inputs),
        "r": weights(directions, gates * hidden, hidden), "b": weights(directions, 2 * gates * hidden),
        "v": weights(hidden, 2),
    }  # fmt: skip
    proto = model(nodes, {"x": (F, [6, "batch", 5])}, {"y": F, "all": F}, constants)
    imported = check_against_onnxruntime(proto, tmp_path, optimise=optimise)
    _, w, r, _ = imported.module.layers
    assert (w.name, r.name) == ("cell.W", "cell.R")
    assert w.body.shape == (directions * gates * hidden, inputs)
    assert r.body.shape == (directions * gates * hidden, hidden)
    assert w.origin.groups == r.origin.groups == directions
    assert w.origin.products == r.origin.products == 6
    assert imported.module.edges == (("first", "cell.W"), ("cell.W", "cell.R"), ("cell.R", "head"))


@both
def test_bfloat16_is_mapped_although_onnxruntime_cannot_run_it(optimise: bool, tmp_path: Path) -> None:
    w = weights(5, 3).astype(helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16))
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": (w.dtype, [2, 5])}, {"y": w.dtype}, {"w": w})
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    imported = import_model(path, TARGET, optimise=optimise)
    layer = only_layer(imported)
    assert layer.origin.dtype == "bfloat16"
    np.testing.assert_array_equal(layer.body.values, w.T.astype(F))
    again = host_with_weights(imported.host, {layer.origin.tensor: layer_tensor(layer)})
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(again.graph.initializer[0]), w)
    assert any("onnxruntime cannot optimise" in note for note in imported.notes) == optimise


@both
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_float_types(dtype: str, optimise: bool, tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    proto = model(nodes, {"x": (dtype, ["n", 5])}, {"y": dtype}, {"w": weights(5, 3, dtype=dtype)})
    rtol = 1e-2 if dtype == "float16" else 1e-5
    layer = only_layer(check_against_onnxruntime(proto, tmp_path, optimise=optimise, rtol=rtol))
    # onnxruntime's graph computes half precision in float32 where its CPU kernels do
    assert layer.origin.dtype == ("float32" if dtype == "float16" and optimise else dtype)
    assert isinstance(layer.body, Float)
    assert layer.body.values.dtype == np.float32


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@both
def test_qlinear_conv(per_channel: bool, symmetric: bool, optimise: bool, tmp_path: Path) -> None:
    count = 4 if per_channel else ()
    dtype = np.int8 if per_channel else np.uint8
    zero = np.zeros(count, dtype) if symmetric else np.broadcast_to(np.array(5, dtype), count)
    constants: dict[str, Any] = {
        "xs": np.array(0.1, F), "xz": np.array(10, np.uint8), "w": integers(4, 3, 3, 3, dtype=dtype.__name__),
        "ws": np.abs(weights(*np.shape(zero))).astype(F) + F(0.01), "wz": zero, "ys": np.array(9.0, F),
        "yz": np.array(100, np.uint8),
    }  # fmt: skip
    nodes = [node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"])]
    proto = model(nodes, {"x": (np.uint8, ["n", 3, 6, 6])}, {"y": np.uint8}, constants)
    layer = only_layer(check_against_onnxruntime(proto, tmp_path, optimise=optimise, rtol=0))
    assert isinstance(layer.body, Quantized)
    assert layer.body.given
    assert layer.origin.dtype == dtype.__name__
    matrix = constants["w"].reshape(4, -1).astype(int)
    shift = np.asarray(constants["wz"]).reshape(-1, 1).astype(int)
    np.testing.assert_array_equal(layer.body.codes, matrix - shift)
    np.testing.assert_array_equal(
        np.broadcast_to(layer.at(Quantized).scale, 4), np.broadcast_to(constants["ws"].reshape(-1), 4)
    )
    info = np.iinfo(dtype)
    np.testing.assert_array_equal(
        layer.at(Quantized).limits[0], [info.min - shift[0, 0], info.max - shift[0, 0]]
    )


@both
@pytest.mark.parametrize("static", ["a", "b"])
@pytest.mark.parametrize("vector", [False, True])
def test_qlinear_matmul(static: str, vector: bool, optimise: bool, tmp_path: Path) -> None:
    count = {"a": 4, "b": 3}[static] if vector and static == "b" else ()
    zero = np.zeros(count, np.int8)
    w = integers(4, 5) if static == "a" else integers(5, 3)
    scales: dict[str, Any] = {
        "as": np.array(0.1, F),
        "az": np.array(3, np.uint8),
        "bs": np.array(0.2, F),
        "bz": np.array(1, np.uint8),
    }
    scales |= {f"{static}s": np.full(count, 0.3, F) + np.arange(np.size(zero), dtype=F).reshape(count)}
    scales |= {f"{static}z": zero}
    constants: dict[str, Any] = {**scales, static: w, "ys": np.array(40.0, F), "yz": np.array(128, np.uint8)}
    if static == "a":
        constants["az"], constants["a"] = zero.astype(np.uint8), w.astype(np.uint8)
    free = ("b", (5, 3)) if static == "a" else ("a", (4, 5))
    nodes = [node("QLinearMatMul", ["a", "as", "az", "b", "bs", "bz", "ys", "yz"], ["y"])]
    proto = model(nodes, {free[0]: (np.uint8, free[1])}, {"y": np.uint8}, constants)
    layer = only_layer(check_against_onnxruntime(proto, tmp_path, optimise=optimise, rtol=0))
    assert layer.body.shape == ((4, 5) if static == "a" else (3, 5))
    assert layer.at(Quantized).scale.shape == (np.size(scales[f"{static}s"]),)


@both
def test_conv_integer_and_matmul_integer(optimise: bool, tmp_path: Path) -> None:
    nodes = [
        node("ConvInteger", ["x", "w", "xz", "wz"], ["c"], "conv"),
        node("Cast", ["c"], ["f"], to=1),
        node("Relu", ["f"], ["r"]),
        node("Cast", ["r"], ["q"], to=2),
        node("MatMulInteger", ["q", "m", "", "mz"], ["y"], "product"),
    ]
    constants = {
        "w": integers(4, 2, 3, 3, dtype="uint8"), "xz": np.array(7, np.uint8), "wz": np.array(130, np.uint8),
        "m": integers(4, 3), "mz": np.array([1, -2, 3], np.int8),
    }  # fmt: skip
    proto = model(nodes, {"x": (np.uint8, ["n", 2, 5, 6])}, {"y": np.int32}, constants, opset=17)
    imported = check_against_onnxruntime(proto, tmp_path, optimise=optimise, rtol=0)
    first, second = imported.module.layers
    assert first.at(Quantized).zero_point.tolist() == [130]
    assert (first.at(Quantized).limits.tolist(), second.at(Quantized).limits[1].tolist()) == (
        [[-130, 125]],
        [-126, 129],
    )
    assert second.at(Quantized).zero_point.tolist() == [1, -2, 3]
    assert second.at(Quantized).scale.tolist() == [1.0]


@both
def test_dynamic_quantised_products(optimise: bool, tmp_path: Path) -> None:
    nodes = [
        node("DynamicQuantizeMatMul", ["x", "b", "bs", "bz"], ["t"], "dynamic", domain="com.microsoft"),
        node("DynamicQuantizeLinear", ["t"], ["q", "qs", "qz"]),
        node("MatMulIntegerToFloat", ["q", "m", "qs", "ms", "qz"], ["y"], "to float", domain="com.microsoft"),
    ]
    constants = {
        "b": integers(5, 4), "bs": np.array([0.1, 0.2, 0.3, 0.4], F), "bz": np.zeros(4, np.int8),
        "m": integers(4, 3), "ms": np.array(0.05, F),
    }  # fmt: skip
    proto = model(nodes, {"x": (F, [2, 5])}, {"y": (F, 2)}, constants)
    imported = check_against_onnxruntime(proto, tmp_path, optimise=optimise)
    assert [x.name for x in imported.module.layers] == ["dynamic", "to.float"]
    assert imported.module.layers[0].at(Quantized).scale.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_the_page_on_onnx_names_every_operator() -> None:
    page = (Path(__file__).parents[3] / "docs" / "onnx.md").read_text(encoding="utf-8")
    static = {op.name for op in operators().values() if op.weights is not None or op.refused}
    missing = {name for name in static if f"`{name}`" not in page}
    assert not missing


@both
def test_qgemm(optimise: bool, tmp_path: Path) -> None:
    names = ["a", "as", "az", "b", "bs", "bz", "", "ys", "yz"]
    constants = {
        "as": np.array(0.1, F), "az": np.array(3, np.uint8), "b": integers(3, 5),
        "bs": np.array([0.1, 0.2, 0.3], F), "bz": np.zeros(3, np.int8),
        "ys": np.array(9.0, F), "yz": np.array(128, np.uint8),
    }  # fmt: skip
    nodes = [node("QGemm", names, ["y"], transB=1, domain="com.microsoft")]
    proto = model(nodes, {"a": (np.uint8, [4, 5])}, {"y": (np.uint8, 2)}, constants)
    layer = only_layer(check_against_onnxruntime(proto, tmp_path, optimise=optimise, rtol=0))
    np.testing.assert_array_equal(layer.body.codes, constants["b"])
