"""Function-preserving transforms, proven by onnxruntime; uniform quantisation; one-signed sections."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ir.errors import XbcError
from ir.stages import Quantized, Sectioned
from passes.manager import run_pipeline
from passes.pipeline import parse_pipeline
from xbc.frontend import import_model
from xbc.rescale.proof import largest_difference
from xbc.rescale.scaling import rescale_model, spread
from xbc.rescale.unipolar import unipolar_model
from xbc.targets import load_target

MODELS = Path(__file__).parents[3] / "models"
TARGET = load_target("gather-128")


def random_network(path, rng):
    """Convolutions, a residual sum, pooling, a concat, dense layers of random sizes and scales."""
    channels = int(rng.integers(2, 5))
    weights, nodes = {}, []

    def conv(name, x, inputs, outputs, kernel, bias=True):
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

    def act(op, x, **attributes):
        nodes.append(helper.make_node(op, [x], [f"{x}.{op}"], **attributes))
        return f"{x}.{op}"

    x = act("Relu", conv("c1", "x", 2, channels, 3))
    y = act("Relu", conv("c2", x, channels, channels, 3, bias=bool(rng.integers(2))))
    y = conv("c3", y, channels, channels, 1)
    nodes.append(helper.make_node("Add", [x, y], ["sum"]))
    z = act("Relu", "sum") if rng.integers(2) else act("LeakyRelu", "sum", alpha=0.1)
    z = act("MaxPool", z, kernel_shape=[2, 2], strides=[2, 2])
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
    nodes.append(helper.make_node("MatMul", [act("Relu", "h"), "m.w"], ["z"], name="matmul"))
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
def test_rescaling_preserves_the_function(tmp_path_factory, seed, balance):
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
def test_reference_columns_preserve_the_function_and_leave_no_negative_weight(tmp_path_factory, seed):
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
    assert {layer.at(Quantized).encoding for layer in module.layers} == {"unipolar"}


@given(seed=st.integers(0, 2**32 - 1), outputs=st.integers(1, 4))
@settings(max_examples=15)
def test_sections_with_a_polarity_contain_one_sign(tmp_path_factory, seed, outputs):
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


def test_a_chain_becomes_exactly_uniform_and_survives_few_bits(tmp_path):
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


def test_keep_unipolar_takes_layers_without_a_negative_code(tmp_path):
    imported = import_model(MODELS / "digits_cnn.onnx", TARGET)
    onnx.save(unipolar_model(imported).model, tmp_path / "u.onnx")
    again = import_model(tmp_path / "u.onnx", TARGET)
    module = run_pipeline(again.module, parse_pipeline("quantize,encode-signs{keep-unipolar=true}")).module
    encodings = {layer.name: layer.at(Quantized).encoding for layer in module.layers}
    assert sorted(set(encodings.values())) == ["driver", "unipolar"]
    assert [n for n, e in encodings.items() if e == "driver"] == ["depthwise.conv.Conv"]
    with pytest.raises(XbcError, match="not unipolar"):
        run_pipeline(again.module, parse_pipeline("quantize,encode-signs{encoding=unipolar}"))


def test_bad_input_is_refused():
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
def test_real_models(shared_data, model):
    imported = import_model(shared_data / "models" / f"{model}.onnx", TARGET)
    shape = [d.dim_value for d in imported.host.graph.input[0].type.tensor_type.shape.dim][1:]
    x = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    done = rescale_model(imported, balance="both", calibration=x)
    assert largest_difference(imported, done.model, x) < 1e-4
    assert spread(done.after) < spread(done.before)
    assert largest_difference(imported, unipolar_model(imported).model, x) < 1e-3
