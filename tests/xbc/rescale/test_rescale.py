"""Function-preserving transforms, proven by onnxruntime; uniform quantisation; one-signed sections."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ir.errors import XbcError
from ir.stages import Encoded, Quantized, Sectioned
from passes.manager import run_pipeline
from passes.pipeline import parse_pipeline
from xbc.frontend import import_model
from xbc.rescale.proof import check_same_function, largest_difference
from xbc.rescale.scaling import rescale_model, spread
from xbc.rescale.unipolar import unipolar_model
from xbc.targets import load_target

MODELS = Path(__file__).parents[3] / "models"
TARGET = load_target("gather-128")


def random_network(path: Any, rng: Any) -> Any:
    """Convolutions, norms, a residual sum, pooling, a concat, dense layers of random sizes and scales."""
    channels = int(rng.integers(2, 5))
    weights, nodes = {}, []

    def conv(name: str, x: Any, inputs: Any, outputs: Any, kernel: Any, bias: Any = True) -> Any:
        weights[f"{name}.w"] = rng.standard_normal((outputs, inputs, kernel, kernel)) * 10 ** rng.uniform(
            -1, 1
        )
        names = [x, f"{name}.w"]
        if bias:
            weights[f"{name}.b"] = rng.standard_normal(outputs)
            names.append(f"{name}.b")
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", names, [f"{name}.y"], name=name, pads=pads))
        return f"{name}.y"

    def act(op: Any, x: Any, *constants: Any, **attributes: Any) -> Any:
        nodes.append(helper.make_node(op, [x, *constants], [f"{x}.{op}"], **attributes))
        return f"{x}.{op}"

    def norm(op: Any, x: Any, width: Any, *names: Any, **attributes: Any) -> Any:
        values = {n: rng.standard_normal(width) for n in names}
        values |= {"var": rng.uniform(0.1, 4, width)} if "var" in names else {}
        weights.update({f"{x}.{n}": v for n, v in values.items()})
        return act(op, x, *(f"{x}.{n}" for n in names), **attributes)

    x = conv("c1", "x", 2, channels, 3)
    if rng.integers(2):
        x = norm("BatchNormalization", x, channels, "gain", "shift", "mean", "var")
    x = act("Relu", x)
    y = act("Relu", conv("c2", x, channels, channels, 3, bias=bool(rng.integers(2))))
    y = conv("c3", y, channels, channels, 1)
    nodes.append(helper.make_node("Add", [x, y], ["sum"]))
    z = act("Relu", "sum") if rng.integers(2) else act("LeakyRelu", "sum", alpha=0.1)
    z = act("MaxPool", z, kernel_shape=[2, 2], strides=[2, 2])
    if rng.integers(2):  # no convolution in front that could take it in
        z = norm("BatchNormalization", z, channels, "gain", "shift", "mean", "var")
    side = act("Sigmoid", conv("c4", z, channels, 2, 1))
    nodes.append(helper.make_node("Concat", [z, side], ["both"], axis=1))
    f = (
        act("GlobalAveragePool", "both")
        if rng.integers(2)
        else act("AveragePool", "both", kernel_shape=[3, 3])
    )
    f = act("Flatten", f)
    weights["g.w"] = rng.standard_normal((5, channels + 2))
    weights["g.b"] = rng.standard_normal(5)
    nodes.append(helper.make_node("Gemm", [f, "g.w", "g.b"], ["h"], name="gemm", transB=1, beta=0.5))
    weights["m.w"] = rng.standard_normal((5, 3)) * 30
    h = norm("LayerNormalization", "h", 5, "gain", "shift") if rng.integers(2) else "h"
    nodes.append(helper.make_node("MatMul", [act("Relu", h), "m.w"], ["z"], name="matmul"))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 6, 6])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), balance=st.sampled_from(["weights", "activations", "both"]))
def test_rescaling_preserves_the_function(
    tmp_path_factory: pytest.TempPathFactory, seed: int, balance: Any
) -> None:
    rng = np.random.default_rng(seed)
    imported = import_model(random_network(tmp_path_factory.mktemp("r") / "m.onnx", rng), TARGET)
    x = rng.standard_normal((8, 2, 6, 6)).astype(np.float32)
    done = rescale_model(imported, balance=balance, calibration=x)
    onnx.checker.check_model(done.model)
    assert largest_difference(imported, done.model, x) < 1e-5
    if balance == "weights":
        assert spread(done.after) <= spread(done.before) * 1.001


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_reference_columns_preserve_the_function_and_leave_no_negative_weight(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("u")
    imported = import_model(random_network(folder / "m.onnx", rng), TARGET)
    x = rng.standard_normal((8, 2, 6, 6)).astype(np.float32)
    done = unipolar_model(imported)
    onnx.checker.check_model(done.model)
    assert largest_difference(imported, done.model, x) < 1e-4
    assert len(done.made) + len(done.found) == len(imported.module.layers)
    onnx.save(done.model, folder / "u.onnx")
    again = import_model(folder / "u.onnx", TARGET)
    pipeline = "quantize,encode-signs{encoding=unipolar},slice-bits,form-sections,deal-sections"
    module = run_pipeline(again.module, parse_pipeline(pipeline)).module
    assert {layer.at(Encoded).encoding for layer in module.layers} == {"unipolar"}


@given(seed=st.integers(0, 2**32 - 1), outputs=st.integers(1, 4))
@settings(max_examples=15)
def test_sections_with_a_polarity_contain_one_sign(
    tmp_path_factory: pytest.TempPathFactory, seed: int, outputs: Any
) -> None:
    rng = np.random.default_rng(seed)
    imported = import_model(random_network(tmp_path_factory.mktemp("s") / "m.onnx", rng), TARGET)
    target = TARGET.override(
        {"encoding": "split", "outputs_per_section": outputs, "columns": 8 * outputs, "rows": 8}
    )
    import dataclasses

    module = dataclasses.replace(imported.module, target=target)
    module = run_pipeline(module, parse_pipeline("quantize,encode-signs,slice-bits,form-sections")).module
    for layer in module.layers:
        body = layer.at(Sectioned)
        assert set(np.unique(body.polarity)) <= {-1, 1}
        codes = body.section_codes()
        assert (codes * body.polarity[:, None, None] >= 0).all()


def test_a_chain_becomes_exactly_uniform_and_survives_few_bits(tmp_path: Path) -> None:
    imported = import_model(MODELS / "digits_cnn.onnx", TARGET)
    done = rescale_model(imported)
    assert spread(done.before) > 5
    assert spread(done.after) < 1.001
    onnx.save(done.model, tmp_path / "u.onnx")
    again = import_model(tmp_path / "u.onnx", TARGET)
    plain = run_pipeline(again.module, parse_pipeline("quantize{bits=4}")).module
    uniform = run_pipeline(again.module, parse_pipeline("quantize{bits=4,scale=uniform}")).module
    scales = {float(layer.at(Quantized).scale[0]) for layer in uniform.layers}
    assert len(scales) == 1
    for a, b in zip(plain.layers, uniform.layers, strict=True):
        assert np.abs(a.at(Quantized).codes.astype(int) - b.at(Quantized).codes).max() <= 1
    lost = run_pipeline(imported.module, parse_pipeline("quantize{bits=4,scale=uniform}")).module
    used = [np.abs(layer.at(Quantized).codes).max() for layer in lost.layers]
    assert min(used) < 15  # without rescaling a uniform scale leaves levels unused


def constants_everywhere(path: Any, rng: Any, captured: Any) -> Any:
    """Constants in Expand, Concat and Sum on the way of a factor; a control flow that reads a scaled tensor."""
    weights = {f"w{i}": rng.standard_normal((4, 4)) * 10.0**i for i in range(3)}
    weights |= {n: rng.standard_normal((1, k, 4)) for n, k in (("token", 1), ("more", 1), ("place", 5))}
    ints = {"one": np.array([2, 1, 4], np.int64)}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Expand", ["token", "one"], ["c"], name="expand"),
        helper.make_node("Concat", ["c", "b"], ["d"], name="concat", axis=1),
        helper.make_node("Expand", ["more", "one"], ["e"], name="expand2"),
        helper.make_node("Concat", ["d", "e"], ["f"], name="concat2", axis=1),
        helper.make_node("Sum", ["f", "place"], ["g"], name="sum"),
        helper.make_node("MatMul", ["g", "w1"], ["h"], name="second"),
        helper.make_node("Relu", ["h"], ["i"], name="relu2"),
        helper.make_node("MatMul", ["i", "w2"], ["y"], name="third"),
    ]  # fmt: skip
    if captured:
        inner = [helper.make_node("Add", ["b", "b"], ["twice"])], [helper.make_node("Exp", ["b"], ["twice"])]
        out = helper.make_tensor_value_info("twice", TensorProto.FLOAT, [2, 3, 4])
        bodies = [helper.make_graph(n, "body", [], [out]) for n in inner]
        nodes.append(
            helper.make_node("If", ["flag"], ["z"], name="if", then_branch=bodies[0], else_branch=bodies[1])
        )
    ports = (("y", 5), ("z", 3))[: 1 + captured]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, k, 4]) for n, k in ports]
    constants = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    constants += [numpy_helper.from_array(v, n) for n, v in (ints | {"flag": np.array(False)}).items()]
    x = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])]
    graph = helper.make_graph(nodes, "net", x, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.mark.parametrize("captured", [False, True])
def test_constants_on_the_way_are_scaled_and_bodies_read_the_true_tensor(
    tmp_path: Path, captured: Any
) -> None:
    rng = np.random.default_rng(0)
    imported = import_model(constants_everywhere(tmp_path / "m.onnx", rng, captured), TARGET)
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    done = rescale_model(imported)
    onnx.checker.check_model(done.model)
    assert check_same_function(imported, done.model, x) < 1e-5
    assert spread(done.after) < (11 if captured else 1.001)  # without: 100
    assert spread(done.before) > 50


@pytest.mark.parametrize("opset", [9, 11, 13, 18])
def test_reference_columns_in_every_opset(tmp_path: Path, opset: Any) -> None:
    rng = np.random.default_rng(0)
    shapes = {"c": (3, 2, 3, 3), "cb": (3,), "m": (48, 5), "n": (5, 4), "nb": (4,)}
    constants = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "c", "cb"], ["a"], name="conv"),
        helper.make_node("Flatten", ["a"], ["b"], name="flatten"),
        helper.make_node("Gemm", ["b", "m", "bias"], ["d"], name="gemm"),
        helper.make_node("Gemm", ["d", "n", "nb"], ["y"], name="last", beta=0.5),
    ]
    ports = [("x", [2, 2, 6, 6]), ("y", [2, 4])]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in ports)
    nodes.insert(2, helper.make_node("ReduceMax", ["b"], ["bias"], name="max", keepdims=1))
    tensors = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "net", [x], [y], tensors),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "m.onnx")
    imported = import_model(tmp_path / "m.onnx", TARGET)
    done = unipolar_model(imported)
    onnx.checker.check_model(done.model)
    assert (
        check_same_function(imported, done.model, rng.standard_normal((2, 2, 6, 6)).astype(np.float32)) < 1e-5
    )
    assert done.made == ("conv", "last")
    assert done.left == {"gemm": "its bias is computed"}


@pytest.mark.parametrize("transform", [lambda m: rescale_model(m).model, lambda m: unipolar_model(m).model])
def test_names_that_the_model_has_already_are_not_taken(tmp_path: Path, transform: Any) -> None:
    rng = np.random.default_rng(3)
    path = random_network(tmp_path / "m.onnx", rng)
    imported = import_model(path, TARGET)
    model, changed = onnx.load(path), transform(imported)

    def names(graph: Any) -> Any:
        return {t.name for t in graph.initializer} | {
            n for node in graph.node for n in (node.name, *node.output)
        }

    new = sorted(
        names(changed.graph) - names(imported.host.graph) - {x.origin.tensor for x in imported.module.layers}
    )
    assert len(new) > 2
    for name in new:  # the same network with all these names in use
        model.graph.node.append(helper.make_node("Neg", ["x"], [name], name=name))
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, 6, 6]))
    onnx.save(model, tmp_path / "full.onnx")
    imported = import_model(tmp_path / "full.onnx", TARGET)
    changed = transform(imported)
    onnx.checker.check_model(changed)
    assert len(names(changed.graph)) > len(names(imported.host.graph))
    assert check_same_function(imported, changed, rng.standard_normal((8, 2, 6, 6)).astype(np.float32)) < 1e-4


def test_another_function_is_refused() -> None:
    imported = import_model(MODELS / "digits_cnn.onnx", TARGET)
    x = np.random.default_rng(0).random((4, 1, 8, 8)).astype(np.float32)
    changed = rescale_model(imported).model
    for tensor in changed.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4:
            tensor.CopyFrom(numpy_helper.from_array(values * np.float32(1.1), tensor.name))
    with pytest.raises(XbcError, match="computes something else"):
        check_same_function(imported, changed, x)
    for tensor in changed.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4:
            tensor.CopyFrom(numpy_helper.from_array(values * np.float32(np.nan), tensor.name))
    with pytest.raises(XbcError, match="by up to inf"):
        check_same_function(imported, changed, x)


def test_keep_unipolar_takes_layers_without_a_negative_code(tmp_path: Path) -> None:
    imported = import_model(MODELS / "digits_cnn.onnx", TARGET)
    onnx.save(unipolar_model(imported).model, tmp_path / "u.onnx")
    again = import_model(tmp_path / "u.onnx", TARGET)
    module = run_pipeline(again.module, parse_pipeline("quantize,encode-signs{keep-unipolar=true}")).module
    encodings = {layer.name: layer.at(Encoded).encoding for layer in module.layers}
    assert sorted(set(encodings.values())) == ["driver", "unipolar"]
    assert [n for n, e in encodings.items() if e == "driver"] == ["depthwise.conv.Conv"]
    with pytest.raises(XbcError, match="not unipolar"):
        run_pipeline(again.module, parse_pipeline("quantize,encode-signs{encoding=unipolar}"))


def test_bad_input_is_refused() -> None:
    quantised = import_model(MODELS / "digits_cnn_qdq.onnx", TARGET)
    with pytest.raises(XbcError, match="quantised already"):
        rescale_model(quantised)
    with pytest.raises(XbcError, match="quantised already"):
        unipolar_model(quantised)
    with pytest.raises(XbcError, match="calibration"):
        rescale_model(import_model(MODELS / "digits_cnn.onnx", TARGET), balance="both")
    with pytest.raises(XbcError, match="scale=uniform"):
        run_pipeline(quantised.module, parse_pipeline("quantize{scale=uniform}"))
    with pytest.raises(XbcError, match="excludes granularity"):
        parse_pipeline("quantize{scale=uniform,granularity=channel}")


@pytest.mark.parametrize("model", ["lenet_mnist", "cifar10_resnet20", "deit_tiny_patch16_224"])
def test_real_models(shared_data: Path, model: Any) -> None:
    imported = import_model(shared_data / "models" / f"{model}.onnx", TARGET)
    shape = [d.dim_value for d in imported.host.graph.input[0].type.tensor_type.shape.dim][1:]
    x = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    for balance in ("weights", "activations", "both"):
        done = rescale_model(imported, balance=balance, calibration=x)
        assert largest_difference(imported, done.model, x) < 1e-4
    assert spread(done.after) < spread(done.before)
    assert largest_difference(imported, unipolar_model(imported).model, x) < 1e-3
