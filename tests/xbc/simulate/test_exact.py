"""Products of 8-bit integers against integer numpy: every operator and pair of types, optimised or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tests.xbc.frontend.oracle import integers, model
from xbc.simulate import host as host_module
from xbc.simulate.exact import exact, has_products, saturates
from xbc.simulate.host import HostSession, _open

F, S8, U8, I32 = np.float32, np.int8, np.uint8, np.int32
MS = "com.microsoft"
TYPES = [(U8, S8), (S8, S8), (S8, U8), (U8, U8)]
node = helper.make_node


def extreme(dtype: Any, *shape: int) -> np.ndarray:
    """Codes of which most are the largest: pairs of products that do not fit 16 bits."""
    out = integers(*shape, dtype=np.dtype(dtype).name)
    return np.where(np.arange(out.size).reshape(shape) % 4 != 0, np.iinfo(dtype).max, out).astype(dtype)


def convolved(x: np.ndarray, w: np.ndarray, groups: int = 1) -> np.ndarray:
    """Integer convolution of ``[N, C, H, W]`` with ``[O, C / groups, 3, 3]``."""
    per_in, per_out = x.shape[1] // groups, len(w) // groups
    out = np.zeros((len(x), len(w), x.shape[2] - 2, x.shape[3] - 2), np.int64)
    for g in range(groups):
        mine, own = x[:, g * per_in : (g + 1) * per_in], slice(g * per_out, (g + 1) * per_out)
        for i in range(3):
            for j in range(3):
                part = mine[:, :, i : i + out.shape[2], j : j + out.shape[3]].astype(np.int64)
                out[:, own] += np.einsum("nchw,oc->nohw", part, w[own, :, i, j].astype(np.int64))
    return out


def requantised(acc: np.ndarray, dtype: Any, scale: Any) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.clip(np.rint(acc.astype(F) * F(scale)) + 3, info.min, info.max).astype(dtype)


def check(built: onnx.ModelProto, feeds: dict[str, Any], wanted: np.ndarray, off: int = 0) -> None:
    """The output with and without graph optimisation; ``off``: by which a code may differ, for ties."""
    rewritten = exact(built)
    assert not rewritten.unknown
    for level in (ort.GraphOptimizationLevel.ORT_ENABLE_ALL, ort.GraphOptimizationLevel.ORT_DISABLE_ALL):
        (got,) = _open(rewritten.model, 1, level).run(None, feeds)
        assert got.dtype == wanted.dtype or wanted.dtype == np.int64
        assert int(np.abs(got.astype(np.int64) - wanted).max()) <= off, level
    np.testing.assert_array_equal(HostSession(built).run(feeds)["y"], got)


def test_the_published_case() -> None:
    x, w = np.full((2, 16), 255, U8), np.full((16, 3), 127, S8)
    built = model(
        [node("MatMulInteger", ["x", "w"], ["y"])], {"x": (U8, ["n", 16])}, {"y": (I32, 2)}, {"w": w}
    )
    session = HostSession(built)
    assert (session.run({"x": x})["y"] == 518160).all()
    assert len(session.notes) == int(saturates())


@pytest.mark.parametrize(("a", "b"), TYPES)
@pytest.mark.parametrize("static", [True, False])
def test_matrix_products(a: Any, b: Any, static: bool) -> None:
    x, w = extreme(a, 5, 64), extreme(b, 64, 6)
    xz, wz = a(3), b(-5 if b is S8 else 130)
    acc = (x.astype(np.int64) - 3) @ (w.astype(np.int64) - int(wz))
    constants = {"xz": xz, "wz": wz}
    inputs: dict[str, Any] = {"x": (a, ["n", 64])}
    feeds = {"x": x}
    if static:
        constants["w"] = w
    else:
        inputs["w"], feeds["w"] = (b, [64, 6]), w

    def built(op: str, operands: list[str], out: Any, domain: str = "", **scales: Any) -> onnx.ModelProto:
        nodes = [node(op, operands, ["y"], op, domain=domain)]
        return model(nodes, inputs, {"y": out}, constants | scales)

    for first, second in ((True, True), (False, False)):
        shifted = (x.astype(np.int64) - 3 * first) @ (w.astype(np.int64) - int(wz) * second)
        operands = ["x", "w", "xz" if first else "", "wz" if second else ""]
        while not operands[-1]:
            operands.pop()
        whole = exact(built("MatMulInteger", operands, I32)).model
        got = _open(whole, 1, ort.GraphOptimizationLevel.ORT_ENABLE_ALL).run(None, feeds)[0]
        np.testing.assert_array_equal(got, shifted)
    s = {"s": F(0.5), "t": F(2), "ys": F(np.abs(acc).max() / 120), "yz": a(3)}
    scale = F(1) / s["ys"]
    linear = ["x", "s", "xz", "w", "t", "wz", "ys", "yz"]
    check_all = [
        (built("QLinearMatMul", linear, a, **s), requantised(acc, a, scale), 1),
        (built("QGemm", [*linear[:6], "", "ys", "yz"], a, MS, **s), requantised(acc, a, scale), 1),
        (built("QGemm", linear[:6], F, MS, **s), acc, 0),
        (built("MatMulIntegerToFloat", ["x", "w", "s", "t", "xz", "wz"], F, MS, **s), acc, 0),
    ]
    if not static:
        check_all = check_all[:1]  # QGemm and MatMulIntegerToFloat are made from static weights
    for whole, wanted, off in check_all:
        for level in (ort.GraphOptimizationLevel.ORT_ENABLE_ALL, ort.GraphOptimizationLevel.ORT_DISABLE_ALL):
            (got,) = _open(exact(whole).model, 1, level).run(None, feeds)
            assert int(np.abs(got.astype(np.int64) - wanted).max()) <= off, whole.graph.node[0].op_type


@pytest.mark.parametrize(("a", "b"), TYPES)
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_convolutions(a: Any, b: Any, groups: int) -> None:
    x, w = extreme(a, 4, 6, 5, 5), extreme(b, 12, 6 // groups, 3, 3)
    acc = convolved(x, w, groups)
    s = {"s": F(0.5), "t": F(2), "ys": F(np.abs(acc).max() / 120), "yz": a(3), "xz": a(0), "wz": b(0), "w": w}
    inputs = {"x": (a, ["n", 6, 5, 5])}
    linear = ["x", "s", "xz", "w", "t", "wz", "ys", "yz"]
    check(
        model([node("QLinearConv", linear, ["y"], group=groups)], inputs, {"y": (a, 4)}, s),
        {"x": x}, requantised(acc, a, F(1) / s["ys"]), off=1,
    )  # fmt: skip
    integer = model([node("ConvInteger", ["x", "w"], ["y"], group=groups)], inputs, {"y": (I32, 4)}, {"w": w})
    check(integer, {"x": x}, acc)


@pytest.mark.parametrize("b", [S8, U8])
def test_a_dynamically_quantised_product(b: Any) -> None:
    x = np.tile(np.array([0, 255, 255, 255], F), (3, 16))
    w = extreme(b, 64, 6)
    wanted = x.astype(np.int64) @ w.astype(np.int64)
    fused = [node("DynamicQuantizeMatMul", ["x", "w", "one"], ["y"], domain=MS)]
    check(model(fused, {"x": (F, ["n", 64])}, {"y": (F, 2)}, {"w": w, "one": F(1)}), {"x": x}, wanted)
    parts = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("Transpose", ["q"], ["qt"], perm=[1, 0]),
        node("Transpose", ["qt"], ["r"], perm=[1, 0]),
        node("MatMulInteger", ["r", "w", "z"], ["i"]),
        node("Cast", ["i"], ["y"], to=1),
    ]
    check(model(parts, {"x": (F, ["n", 64])}, {"y": (F, 2)}, {"w": w}), {"x": x}, wanted)


@pytest.mark.parametrize(("a", "b"), TYPES)
@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_qdq_is_computed_as_written(a: Any, b: Any, op: str) -> None:
    x, w = extreme(a, 5, 64), extreme(b, 64, 6)
    acc = x.astype(np.int64) @ w.astype(np.int64)
    step = F(np.abs(acc).max() / 120)
    nodes = [
        node("DequantizeLinear", ["x", "one"], ["xf"]),
        node("DequantizeLinear", ["w", "one"], ["wf"]),
        node(op, ["xf", "wf"], ["yf"]),
        node("QuantizeLinear", ["yf", "ys", "yz"], ["y"]),
    ]
    constants = {"w": w, "one": F(1), "ys": step, "yz": a(3)}
    built = model(nodes, {"x": (a, ["n", 64])}, {"y": (a, 2)}, constants)
    check(built, {"x": x}, requantised(acc, a, F(1) / step), off=1)


def in_branches(product: onnx.NodeProto) -> onnx.ModelProto:
    """The node in both bodies of an If."""
    info = helper.make_tensor_value_info("inner", TensorProto.INT32, None)
    inner = helper.make_node(product.op_type, list(product.input), ["inner"])
    body = helper.make_graph([inner], "body", [], [info])
    nodes = [node("If", ["c"], ["y"], then_branch=body, else_branch=body)]
    inputs = {"x": (U8, [2, 16]), "c": (bool, [])}
    return model(nodes, inputs, {"y": (I32, 2)}, {"w": np.full((16, 3), 127, S8)})


def test_bodies_and_functions() -> None:
    x = np.full((2, 16), 255, U8)
    product = node("MatMulInteger", ["x", "w"], ["y"])
    built = in_branches(product)
    feeds = {"x": x, "c": np.array(True)}
    (got,) = _open(exact(built).model, 1, ort.GraphOptimizationLevel.ORT_ENABLE_ALL).run(None, feeds)
    assert (got == 518160).all()
    call = node("Product", ["x", "w"], ["y"], domain="own")
    built = model([call], {"x": (U8, ["n", 16])}, {"y": (I32, 2)}, {"w": np.full((16, 3), 127, S8)})
    opset = [helper.make_opsetid("", 17)]
    built.functions.append(helper.make_function("own", "Product", ["x", "w"], ["y"], [product], opset))
    assert (HostSession(built).run({"x": x})["y"] == 518160).all()


def test_files_with_their_weights_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.full((1024, 3), 127, S8)
    built = model(
        [node("MatMulInteger", ["x", "w"], ["y"])], {"x": (U8, ["n", 1024])}, {"y": (I32, 2)}, {"w": w}
    )
    path = tmp_path / "m.onnx"
    onnx.save(built, path, save_as_external_data=True, size_threshold=100)
    assert has_products(path)
    monkeypatch.chdir(tmp_path)
    for name in (path, "m.onnx"):
        assert (HostSession(name).run({"x": np.full((1, 1024), 255, U8)})["y"] == 255 * 127 * 1024).all()
    monkeypatch.setattr(host_module, "SIDE_FILE_BYTES", 1000)
    loaded = onnx.load(path)
    assert (HostSession(loaded).run({"x": np.full((1, 1024), 255, U8)})["y"] == 255 * 127 * 1024).all()
    plain = tmp_path / "plain.onnx"
    onnx.save(model([node("Relu", ["x"], ["y"])], {"x": (F, ["n", 2])}, {"y": F}), plain)
    assert not has_products(plain)


def test_what_is_left_alone() -> None:
    w = extreme(U8, 16, 3)
    product = node("MatMulInteger", ["x", "w"], ["y"], "product")
    built = model([product], {"x": (U8, ["n", 16])}, {"y": I32}, {"w": w})
    assert exact(built).model is built
    signed = model([product], {"x": (U8, ["n", 16])}, {"y": I32}, {"w": extreme(S8, 16, 3)})
    assert exact(signed, skip={"product"}).model is signed
    assert exact(signed).changed == ["product"]
    body = helper.make_graph(
        [node("Identity", ["x"], ["q"])], "b", [], [helper.make_tensor_value_info("q", U8_, None)]
    )
    odd = [
        node("If", ["c"], ["q"], then_branch=body, else_branch=body),
        node("MatMulInteger", ["q", "w"], ["y"], "p"),
    ]
    inputs = {"x": (U8, [2, 16]), "c": (bool, [])}
    left = exact(model(odd, inputs, {"y": I32}, {"w": extreme(S8, 16, 3)}))
    assert left.unknown == ["p"]
    assert "unknown type (first node: 'p')" in left.notes()[0]


U8_ = TensorProto.UINT8
