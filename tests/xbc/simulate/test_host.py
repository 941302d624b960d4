"""Sessions: batching, fixed and free dims, several inputs and outputs, large models, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from ir.errors import XbcError
from tests.xbc.frontend.oracle import TARGET, model, weights
from xbc.frontend import host_with_weights, import_model, module_tensors
from xbc.simulate import host as host_module
from xbc.simulate.data import DataSet
from xbc.simulate.host import HostSession
from xbc.simulate.ideal import compiled_model, evaluate, simulate
from xbc.simulate.plan import LARGEST_BATCH, VALUES_PER_RUN
from xbc.simulate.samples import SampleAxis

node = helper.make_node
F = np.float32


def product(batch: Any = "batch", w: np.ndarray | None = None) -> onnx.ModelProto:
    w = weights(5, 3) if w is None else w
    return model([node("MatMul", ["x", "w"], ["y"], "dense")], {"x": (F, [batch, 5])}, {"y": F}, {"w": w})


@pytest.mark.parametrize("batch", ["batch", 1, 4])
@pytest.mark.parametrize("samples", [1, 4, 10])
def test_every_sample_is_run_once(batch: Any, samples: int) -> None:
    w, x = weights(5, 3), weights(samples, 5)
    session = HostSession(product(batch, w))
    seen: list[tuple[str, int, int]] = []
    out = session.run({"x": x}, batch=3 if batch == "batch" else None, progress=lambda *a: seen.append(a))
    np.testing.assert_allclose(out["y"], x @ w, rtol=1e-5, atol=1e-6)
    size = batch if isinstance(batch, int) else 3
    assert [done for _, done, _ in seen] == [min(k, samples) for k in range(size, samples + size, size)]
    assert all(total == samples for _, _, total in seen)


def test_a_free_batch_is_limited_by_the_input_size() -> None:
    session = HostSession(product())
    next(session.stream({"x": weights(1000, 5)}))
    assert (session.plan.size, session.plan.padded) == (LARGEST_BATCH, False)
    wide = HostSession(model([node("Relu", ["x"], ["y"])], {"x": (F, ["n", None])}, {"y": F}))
    next(wide.stream({"x": np.zeros((3, VALUES_PER_RUN // 2), F)}))
    assert (wide.plan.size, wide.plan.padded) == (2, False)


def test_integer_and_scalar_inputs_and_several_outputs() -> None:
    nodes = [
        node("Cast", ["i"], ["f"], to=1),
        node("Mul", ["x", "s"], ["t"]),
        node("Add", ["t", "f"], ["y"]),
        node("ReduceSum", ["x", "axes"], ["z"], keepdims=0),
    ]
    inputs = {"x": (F, ["n", 3]), "i": (np.int64, ["n", 3]), "s": (F, [])}
    session = HostSession(model(nodes, inputs, {"y": F, "z": F}, {"axes": np.array([1])}))
    x, i = weights(7, 3), np.arange(21).reshape(7, 3)
    out = session.run({"x": x, "i": i, "s": np.array(2.0)}, batch=2)
    np.testing.assert_allclose(out["y"], x * 2 + i, rtol=1e-6)
    np.testing.assert_allclose(out["z"], x.sum(1), rtol=1e-5, atol=1e-6)
    feeds, _ = session.feeds({"x": x, "i": i, "s": np.array(2.0)})
    assert [f.part(0, 2, 2).shape for f in feeds] == [(2, 3), (2, 3), ()]


def test_outputs_without_a_batch_axis_are_stacked() -> None:
    nodes = [node("ReduceSum", ["x"], ["y"], keepdims=0), node("Relu", ["x"], ["z"])]
    proto = model(nodes, {"x": (F, ["n", 3])}, {"y": F, "z": F})
    session = HostSession(proto, axis=SampleAxis(proto, "0"))
    x = weights(5, 3)
    out = session.run({"x": x}, batch=2)
    assert session.notes == ("--sample-axis 0: rows are dealt to runs, but ReduceSum 'y' combines them",)
    np.testing.assert_allclose(out["y"], x.sum(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(out["z"], np.maximum(x, 0))


def test_an_output_may_have_its_samples_on_another_axis() -> None:
    proto = model([node("Transpose", ["x"], ["y"], perm=[1, 0])], {"x": (F, ["n", 2])}, {"y": F})
    x = weights(6, 2)
    out = HostSession(proto).run({"x": x}, batch=2)  # two samples per run make [2, 2] of either meaning
    np.testing.assert_array_equal(out["y"], x.T)


def test_whole_inputs_per_sample() -> None:
    nodes = [node("Add", ["x", "s"], ["y"])]
    session = HostSession(model(nodes, {"x": (F, ["n", 3]), "s": (F, [2, "n", 3])}, {"y": F}))
    x, s = weights(4, 1, 3), weights(4, 2, 1, 3)
    np.testing.assert_array_equal(session.run({"x": x, "s": s})["y"], x[:, None] + s)


def test_a_batch_on_another_axis_asks_for_whole_inputs() -> None:
    nodes = [node("Add", ["x", "s"], ["y"])]
    session = HostSession(model(nodes, {"x": (F, ["n", 3]), "s": (F, [2, "n", 3])}, {"y": F}))
    with pytest.raises(
        XbcError, match=r"'s' float32 \[2, free, 3\] is not the samples'.* one more axis in front"
    ):
        session.run({"x": weights(4, 3), "s": weights(2, 4, 3)})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"needs an array for its input 'x' float32 \[free, 5\]"),
        (
            {"x": np.zeros((2, 4), F)},
            r"shape \[2, 4\], which does not suit the input 'x' float32 \[free, 5\]",
        ),
        ({"x": np.zeros(5, F)}, "does not suit"),
        ({"x": np.zeros((0, 5), F)}, "no samples"),
        ({"x": np.zeros((2, 5), complex)}, "complex128"),
        ({"x": np.zeros((2, 5), object)}, "object"),
    ],
)
def test_arrays_that_do_not_suit(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(XbcError, match=message):
        HostSession(product()).run(arrays)


def test_differing_sample_counts() -> None:
    proto = model([node("Add", ["a", "b"], ["y"])], {"a": (F, ["n", 3]), "b": (F, ["n", 3])}, {"y": F})
    with pytest.raises(XbcError, match="'a' has 2, 'b' has 3"):
        HostSession(proto).run({"a": weights(2, 3), "b": weights(3, 3)})


def test_integers_are_not_made_of_floats() -> None:
    proto = model([node("Neg", ["a"], ["y"])], {"a": (np.int64, ["n"])}, {"y": np.int64})
    with pytest.raises(XbcError, match="float32"):
        HostSession(proto).run({"a": weights(2)})


def test_a_fixed_batch_without_a_batch_axis_behind_it_is_refused() -> None:
    proto = model([node("ReduceSum", ["x"], ["y"], keepdims=0)], {"x": (F, [4, 3])}, {"y": F})
    with pytest.raises(XbcError, match="no batch axis"):
        HostSession(proto).run({"x": weights(8, 3)})


def test_runtime_failures_are_one_sentence() -> None:
    proto = model(
        [node("Gather", ["w", "i"], ["y"], axis=0)], {"i": (np.int64, ["n"])}, {"y": F}, {"w": weights(3, 2)}
    )
    with pytest.raises(XbcError, match="onnxruntime fails to run the model") as caught:
        HostSession(proto).run({"i": np.array([99])})
    assert "\n" not in str(caught.value)


def test_models_onnxruntime_cannot_load() -> None:
    proto = model(
        [node("GemmFastGelu", ["x", "w"], ["y"], domain="com.microsoft")],
        {"x": (F, [1, 5])},
        {"y": (F, 2)},
        {"w": weights(5, 3)},
    )
    with pytest.raises(XbcError, match="onnxruntime cannot load the chip"):
        HostSession(proto, name="the chip")


def test_optimisation_given_up_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = host_module._open

    def fragile(source: Any, threads: int, level: Any, *folder: Any) -> Any:
        if level != host_module.ort.GraphOptimizationLevel.ORT_DISABLE_ALL:  # type: ignore[attr-defined]
            raise RuntimeError("fusion\nfailed")
        return real(source, threads, level)

    monkeypatch.setattr(host_module, "_open", fragile)
    session = HostSession(product())
    assert session.notes == (
        "onnxruntime cannot optimise the model, it runs unoptimised and slower: fusion failed",
    )
    assert session.run({"x": weights(2, 5)})["y"].shape == (2, 3)


def test_large_models_go_through_a_side_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "SIDE_FILE_BYTES", 1000)
    w, x = weights(50, 40), weights(3, 50)
    nodes = [node("MatMul", ["x", "w"], ["t"]), node("Add", ["t", "b"], ["y"])]
    proto = model(nodes, {"x": (F, ["n", 50])}, {"y": F}, {"w": w, "b": np.ones(40, F)})
    kept = proto.SerializeToString()
    np.testing.assert_allclose(HostSession(proto).run({"x": x})["y"], x @ w + 1, rtol=1e-4, atol=1e-5)
    assert proto.SerializeToString() == kept


def test_runs_repeat_bit_by_bit() -> None:
    w, x = weights(300, 200), weights(50, 300)
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": (F, ["n", 300])}, {"y": F}, {"w": w})
    first, second = (HostSession(proto, threads=2).run({"x": x})["y"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


class Stored:
    """A replayed layer, as the emitted layers table describes it."""

    def __init__(self, layer: Any) -> None:
        self.name, self.tensor = layer.name, layer.origin.tensor
        self.dtype, self.layout = layer.origin.dtype, layer.origin.layout
        self.scale, self.zero_point = layer.body.scale, layer.body.zero_point


def quantised(tmp_path: Path) -> tuple[Path, Any]:
    nodes = [
        node("DequantizeLinear", ["q", "s"], ["d"], axis=1),
        node("MatMul", ["x", "d"], ["h"], "hidden"),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "e"], ["y"], "head"),
        node("DequantizeLinear", ["p", "t"], ["e"]),
    ]
    nodes = [nodes[0], nodes[4], *nodes[1:4]]
    rng = np.random.default_rng(3)
    constants = {
        "q": rng.integers(-128, 128, (8, 6)).astype(np.int8), "s": np.linspace(0.01, 0.1, 6, dtype=F),
        "p": rng.integers(-128, 128, (6, 4)).astype(np.int8), "t": np.array(0.02, F),
    }  # fmt: skip
    path = tmp_path / "model.onnx"
    onnx.save(model(nodes, {"x": (F, ["n", 8])}, {"y": F}, constants), path)
    return path, import_model(path, TARGET)


def test_evaluate_compares_effective_codes_with_the_model(tmp_path: Path) -> None:
    path, imported = quantised(tmp_path)
    layers = [Stored(x) for x in imported.module.layers]
    codes = {x.name: x.body.codes for x in imported.module.layers}
    x = weights(100, 8)
    exact = compiled_model(imported.host, layers, codes)
    labels = HostSession(path).run({"x": x})["y"].argmax(1)
    seen: list[int] = []
    same = evaluate(path, exact, DataSet({"x": x}, labels), progress=lambda _, done, n: seen.append(done))
    assert seen[-1] == 100
    assert (same["metric"], same["samples"], same["reference"], same["compiled"]) == ("top-1", 100, 1.0, 1.0)
    assert same["agreement"] == 1.0
    assert same["max_abs_error"] < 1e-4
    worse = {name: np.where(c > 0, c // 2, c) for name, c in codes.items()}
    moved = compiled_model(imported.host, layers, worse)
    result = evaluate(path, moved, DataSet({"x": x}, labels), batch=7)
    y, z = HostSession(path).run({"x": x})["y"], simulate(moved, DataSet({"x": x}))[0]["y"]
    assert result["compiled"] == pytest.approx(float((z.argmax(1) == labels).mean()))
    assert result["drop"] == pytest.approx(1 - result["compiled"])
    assert result["max_abs_error"] == pytest.approx(float(np.abs(y - z).max()), rel=1e-4)
    assert result["interval"][0] <= result["drop"] <= result["interval"][1]
    unlabelled = evaluate(path, moved, DataSet({"x": x}))
    assert unlabelled["metric"] == "agreement"
    assert unlabelled["agreement"] == result["agreement"] == result["compiled"]


def test_effective_codes_equal_quantisation_outside(tmp_path: Path) -> None:
    path, imported = quantised(tmp_path)
    layers = [Stored(x) for x in imported.module.layers]
    rng = np.random.default_rng(5)
    codes = {x.name: rng.integers(-100, 100, x.body.shape) for x in imported.module.layers}
    proto = onnx.load(path)
    for tensor, name in (("q", "hidden"), ("p", "head")):
        (item,) = [t for t in proto.graph.initializer if t.name == tensor]
        item.CopyFrom(onnx.numpy_helper.from_array(codes[name].T.astype(np.int8).copy(), tensor))
    x = weights(20, 8)
    expected = HostSession(proto).run({"x": x})["y"]
    actual = HostSession(compiled_model(imported.host, layers, codes)).run({"x": x})["y"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_evaluate_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path, imported = quantised(tmp_path)
    compiled = host_with_weights(imported.host, module_tensors(imported.module))
    x = weights(10, 8)
    with pytest.raises(XbcError, match="10 samples but 9 labels"):
        evaluate(path, compiled, DataSet({"x": x}, np.zeros(9, np.int64)))
    with pytest.raises(XbcError, match="no output 'z'; its outputs: 'y'"):
        evaluate(path, compiled, DataSet({"x": x}), output="z")
    with pytest.raises(XbcError, match="label 4 is no class"):
        evaluate(path, compiled, DataSet({"x": x}, np.full(10, 4)))
    other = model([node("Relu", ["x"], ["z"])], {"x": (F, ["n", 8])}, {"z": F})
    with pytest.raises(XbcError, match="other outputs than the reference"):
        evaluate(path, other, DataSet({"x": x}))
    with pytest.raises(XbcError, match="'hidden' has no replayed codes"):
        compiled_model(imported.host, [Stored(x) for x in imported.module.layers], {})
