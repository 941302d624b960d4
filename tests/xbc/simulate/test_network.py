"""Whole networks with ideal converters against integer arithmetic done outside the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ir.errors import XbcError
from ir.module import Module
from ir.stages import Programmed
from ir.target import Target
from tests.xbc.simulate.networks import (
    BLOCK,
    GATHER,
    MODELS,
    compiled,
    effective_model,
    onnxruntime_outputs,
    saved,
    simulated,
    value,
)
from xbc.operators import operators, table
from xbc.simulate.network import CrossbarSession, converter_settings
from xbc.simulate.partition import Crossbar

rng = np.random.default_rng(0)


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
        y: Any
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
        assert np.abs(got - array).max() < 1e-3 * np.abs(array).max()
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
        ({"adc_range": "calibrated"}, "'calibrated' needs calibration inputs"),
        ({"input_range": "shared"}, "'shared' needs calibration inputs"),
        ({"adc_range": "shared"}, "'shared' needs calibration inputs"),
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


def test_shared_ranges_are_the_largest_of_all_layers() -> None:
    host, module = compiled(MODELS / "digits_cnn.onnx")
    data = np.load(MODELS / "digits_calib.npz")
    sessions = {}
    for word in ("calibrated", "shared"):
        settings = converter_settings(module.target, {"adc_range": word, "input_range": word})
        session = sessions[word] = CrossbarSession(host, module, converters=settings)
        name = session.inputs[0].name
        session.calibrate({name: data[name][:50] - 0.25})
    own, shared = sessions["calibrated"], sessions["shared"]
    reach = max(max(-x.extremes.low, x.extremes.high) for x in own.layers.values())
    lows = set()
    for name, layer in shared.layers.items():
        assert layer.extremes.high == reach
        lows.add(layer.extremes.low)
        assert (layer.extremes.low < 0) == (own.layers[name].extremes.low < 0)
    assert lows == {0.0, -reach}  # the input has negative values, what follows a ReLU has none
    assert len(set(shared.ranges.values())) == 1
    assert {len(r) for r in shared.ranges.values()} == {1}
    again = CrossbarSession(host, module, converters=shared.converters)
    again.adopt(shared.calibration())
    x = {shared.inputs[0].name: data[shared.inputs[0].name][:5]}
    for a, b in zip(shared.run(x), again.run(x), strict=True):
        np.testing.assert_array_equal(a, b)


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


def test_what_cannot_be_simulated_is_named_and_ideal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operator that the front end maps is simulated; a new one would first be missing from this table."""
    host, module = compiled(MODELS / "digits_cnn.onnx")
    monkeypatch.delitem(table._table(), ("", "Gemm"))
    session = CrossbarSession(host, module)
    gemms = [layer.name for layer in module.layers if layer.origin.op_type == "Gemm"]
    assert gemms
    assert [name for name, _ in session.left] == gemms
    assert "operator Gemm has no crossbar simulation" in session.notes[0]
    assert f"{len(gemms)} of {len(module.layers)} layers compute with ideal weights" in session.notes[0]
    name = session.inputs[0].name
    feeds = {name: np.load(MODELS / "digits_eval.npz")[name][:4]}
    wanted = onnxruntime_outputs(effective_model(host, module), feeds)
    assert np.allclose(session._session.run(None, feeds)[0], wanted[0], atol=0.1 * np.abs(wanted[0]).max())


GPU_ONLY = {("com.microsoft", "GemmFastGelu"), ("com.microsoft", "FusedMatMulActivation")}
"""onnxruntime has no processor kernel for these: such a model runs at no fidelity."""


def test_every_mapped_operator_is_simulated() -> None:
    for key, operator in operators().items():
        ways = [operator.simulate is not None, operator.expand is not None, key in GPU_ONLY]
        assert sum(ways) == (operator.weights is not None), key
