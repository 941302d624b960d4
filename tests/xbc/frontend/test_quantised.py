"""DequantizeLinear on weights: the model's own codes, scales and zero points are kept exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from ir.arrays import Array
from ir.layout import Layout
from ir.stages import Float, Quantized
from tests.xbc.frontend.oracle import TARGET, check_against_onnxruntime, integers, model, only_layer, weights
from xbc.frontend import import_model, layer_tensor
from xbc.frontend.grid import find_grid

node = helper.make_node
F = np.float32
both = pytest.mark.parametrize("optimise", [True, False])


def onnx_type(name: str) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, name.upper())))


def dequantised_conv(
    codes: Array, scale: Array, zero: Array, *, opset: int = 21, **attrs: Any
) -> onnx.ModelProto:
    nodes = [
        node("DequantizeLinear", ["q", "s", "z"], ["w"], **attrs),
        node("Conv", ["x", "w"], ["y"], "conv"),
    ]
    channels = codes.shape[1]
    return model(
        nodes,
        {"x": (F, ["n", channels, 6, 6])},
        {"y": F},
        {"q": codes, "s": scale, "z": zero},
        opset=opset,
        ir_version=10,
    )


@both
@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int4", "uint4"])
def test_weights_of_every_integer_type(dtype: str, axis: int | None, optimise: bool, tmp_path: Path) -> None:
    bits = int(dtype.split("int")[1])
    low = 0 if dtype.startswith("u") else -(2 ** (bits - 1))
    codes = np.random.default_rng(bits).integers(low, low + 2**bits, (4, 3, 3, 3)).astype(onnx_type(dtype))
    count = () if axis is None else 4
    scale = (np.arange(1, np.prod(count, dtype=int) + 1) * 0.013).astype(F).reshape(count)
    zero = np.full(count, low + 3).astype(codes.dtype)
    attrs = {} if axis is None else {"axis": axis}
    proto = dequantised_conv(codes, scale, zero, **attrs)
    layer = only_layer(check_against_onnxruntime(proto, tmp_path, optimise=optimise))
    body = layer.body
    assert isinstance(body, Quantized)
    assert body.given
    assert body.bits == bits
    assert body.codes.dtype == (np.int32 if dtype == "uint16" or (dtype == "int16") else np.int16)
    np.testing.assert_array_equal(body.codes, codes.astype(int).reshape(4, -1) - (low + 3))
    np.testing.assert_array_equal(body.scale, scale.reshape(-1))
    np.testing.assert_array_equal(body.limits[0], [low - (low + 3), low + 2**bits - 1 - (low + 3)])
    # exactly what onnxruntime dequantises to
    nodes = [node("DequantizeLinear", ["q", "s", "z"], ["y"], **attrs)]  # type: ignore[arg-type]
    direct = model(nodes, {}, {"y": F}, {"q": codes, "s": scale, "z": zero}, opset=21, ir_version=10)
    from tests.xbc.frontend.oracle import session

    np.testing.assert_array_equal(layer_tensor(layer), session(direct).run(None, {})[0])


@both
@pytest.mark.parametrize(
    ("shape", "axis", "nodes", "result"),
    [
        ((3, 5), 0, [("Transpose", {"perm": [1, 0]}, ())], (5, 3)),
        ((15,), None, [("Reshape", {}, ([5, 3],))], (5, 3)),
        ((1, 5, 1, 3), 3, [("Squeeze", {}, ([0, 2],))], (5, 3)),
        ((3, 1, 5), 0, [("Flatten", {"axis": 1}, ()), ("Transpose", {}, ())], (5, 3)),
        (
            (3, 5),
            0,
            [("Unsqueeze", {}, ([0],)), ("Transpose", {"perm": [0, 2, 1]}, ()), ("Identity", {}, ())],
            (1, 5, 3),
        ),
    ],
    ids=["transpose", "reshape", "squeeze", "flatten", "unsqueeze"],
)
def test_reshaped_dequantised_weights(
    shape: tuple[int, ...],
    axis: int | None,
    nodes: list[Any],
    result: tuple[int, ...],
    optimise: bool,
    tmp_path: Path,
) -> None:
    scale = np.array(0.5, F) if axis is None else np.array([0.1, 0.2, 0.4], F)
    constants: dict[str, Array] = {"q": integers(*shape), "s": scale}
    attrs = {} if axis is None else {"axis": axis}
    chain = [node("DequantizeLinear", ["q", "s"], ["t0"], **attrs)]  # type: ignore[arg-type]
    for at, (op, settings_, extra) in enumerate(nodes):
        names = [f"t{at}"]
        for values in extra:
            constants[f"c{at}"] = np.array(values, np.int64)
            names.append(f"c{at}")
        chain.append(node(op, names, [f"t{at + 1}"], **settings_))
    chain.append(node("MatMul", ["x", f"t{len(nodes)}"], ["y"], "product"))
    proto = model(chain, {"x": (F, [*([1] * (len(result) - 2)), 4, 5])}, {"y": F}, constants)
    layer = only_layer(check_against_onnxruntime(proto, tmp_path, optimise=optimise))
    assert isinstance(layer.body, Quantized)
    assert layer.body.shape == (3, 5)
    assert layer.at(Quantized).scale.shape == scale.reshape(-1).shape


@both
def test_half_precision_scales_and_cast(optimise: bool, tmp_path: Path) -> None:
    nodes = [
        node("DequantizeLinear", ["q", "s"], ["w"]),
        node("Cast", ["w"], ["h"], to=10),
        node("MatMul", ["x", "h"], ["y"], "product"),
    ]
    constants = {"q": integers(5, 3), "s": np.array(0.0123, F)}
    proto = model(nodes, {"x": ("float16", [4, 5])}, {"y": "float16"}, constants)
    layer = only_layer(check_against_onnxruntime(proto, tmp_path, optimise=optimise, rtol=2e-3))
    assert isinstance(layer.body, Quantized)
    np.testing.assert_array_equal(layer.body.codes, constants["q"].T)


@both
def test_conv_transpose_with_a_scale_per_channel(optimise: bool, tmp_path: Path) -> None:
    nodes = [
        node("DequantizeLinear", ["q", "s"], ["w"], axis=1),
        node("ConvTranspose", ["x", "w"], ["y"], "up", group=2),
    ]
    constants = {"q": integers(4, 3, 2, 2), "s": np.array([0.1, 0.2, 0.3], F)}
    proto = model(nodes, {"x": (F, ["n", 4, 5, 5])}, {"y": F}, constants)
    layer = only_layer(check_against_onnxruntime(proto, tmp_path, optimise=optimise))
    assert layer.body.shape == (2 * 3 * 4, 2)
    np.testing.assert_array_equal(layer.at(Quantized).scale, np.tile(np.repeat(constants["s"], 4), 2))


@pytest.mark.parametrize("axis", [0, 1])
def test_scales_along_inputs_are_listed(axis: int, tmp_path: Path) -> None:
    shape = {0: (5, 3), 1: (3, 5)}[axis]
    nodes = [
        node("DequantizeLinear", ["q", "s"], ["w"], axis=axis),
        node("Gemm", ["x", "w"], ["y"], transB=axis),
    ]
    scale = np.linspace(0.1, 0.5, 5, dtype=F)
    proto = model(nodes, {"x": (F, [4, 5])}, {"y": F}, {"q": integers(*shape), "s": scale})
    imported = check_against_onnxruntime(proto, tmp_path)
    assert not imported.module.layers
    (entry,) = imported.module.unmapped
    assert "along the inputs" in entry.reason
    assert entry.weights == 15


@both
def test_blocked_scales_are_listed(optimise: bool, tmp_path: Path) -> None:
    nodes = [
        node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=2),
        node("MatMul", ["x", "w"], ["y"]),
    ]
    constants = {"q": integers(4, 3), "s": weights(2, 3)}
    proto = model(nodes, {"x": (F, [2, 4])}, {"y": F}, constants, opset=21, ir_version=10)
    imported = check_against_onnxruntime(proto, tmp_path, optimise=optimise)
    (entry,) = imported.module.unmapped
    assert "block" in entry.reason


def test_scale_computed_at_run_time_is_listed(tmp_path: Path) -> None:
    nodes = [
        node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "xz"], ["y"]),
    ]
    constants = {
        "xs": np.array(0.1, F),
        "xz": np.array(3, np.uint8),
        "w": integers(4, 3, 1, 1),
        "wz": np.array(0, np.int8),
    }
    constants["ys"] = np.array(1.0, F)
    inputs = {"x": (np.uint8, [1, 3, 4, 4]), "ws": (F, [])}
    proto = model(nodes, inputs, {"y": np.uint8}, constants)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    imported = import_model(path, TARGET)
    assert not imported.module.layers
    assert "run time" in imported.module.unmapped[0].reason


def test_weights_on_a_grid_in_a_quantised_graph_keep_their_codes(tmp_path: Path) -> None:
    codes = integers(4, 3, 3, 3)
    codes[:, 0, 0, 0] = 127
    scale = np.array([0.013, 0.02, 0.5, 1.7], F)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("Conv", ["d", "w"], ["y"], "conv"),
    ]
    w = np.maximum(codes, -127).astype(F) * scale[:, None, None, None]
    constants = {"s": np.array(0.1, F), "z": np.array(128, np.uint8), "w": w}
    imported = check_against_onnxruntime(
        model(nodes, {"x": (F, ["n", 3, 5, 5])}, {"y": F}, constants), tmp_path, rtol=0
    )
    body = only_layer(imported).body
    assert isinstance(body, Quantized)
    assert body.given
    np.testing.assert_array_equal(body.codes, np.maximum(codes, -127).reshape(4, -1))
    np.testing.assert_array_equal(body.scale, scale)
    assert any("grid" in note for note in imported.notes)


def test_weights_off_the_grid_stay_float(tmp_path: Path) -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("Conv", ["d", "w"], ["y"], "conv"),
    ]
    constants = {"s": np.array(0.1, F), "z": np.array(128, np.uint8), "w": weights(4, 3, 3, 3)}
    imported = check_against_onnxruntime(
        model(nodes, {"x": (F, ["n", 3, 5, 5])}, {"y": F}, constants), tmp_path
    )
    assert isinstance(only_layer(imported).body, Float)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_found_grid_is_exact(data: st.DataObject) -> None:
    outputs, inputs = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 40))
    low = data.draw(st.integers(-255, 0))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    codes = rng.integers(low, low + 255, (outputs, inputs), endpoint=True)
    per_output = data.draw(st.booleans())
    scale = np.exp(rng.uniform(-20, 5, outputs if per_output else 1)).astype(F)
    values = codes.astype(F) * scale[:, None]
    if data.draw(st.booleans()):  # move one weight off the grid by one unit in the last place
        values[0, 0] = np.nextafter(values[0, 0], F(np.inf))
    grid = find_grid(values)
    if grid is not None:
        np.testing.assert_array_equal(grid.codes.astype(F) * grid.scale[:, None], values)
        low, high = grid.limits
        assert low <= grid.codes.min() <= grid.codes.max() <= high
        assert high - low == 255


def test_float_weights_have_no_grid() -> None:
    assert find_grid(weights(20, 30)) is None
    assert find_grid(weights(20, 1)) is None
    grid = find_grid(np.zeros((2, 3), F))
    assert grid is not None
    assert not grid.codes.any()


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_layouts_round_trip(data: st.DataObject) -> None:
    split = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    perm = data.draw(st.permutations(range(len(split))))
    layout = Layout(tuple(split), tuple(split), tuple(perm), data.draw(st.integers(0, len(split))))
    tensor = weights(*split)
    np.testing.assert_array_equal(layout.to_tensor(layout.to_matrix(tensor)), tensor)
