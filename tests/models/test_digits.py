"""The shipped digits models are what models/README.md says they are."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto, helper, numpy_helper

from models import digits

FOLDER = Path(digits.__file__).parent
MODELS = sorted(path.name for path in FOLDER.glob("*.onnx"))
EVALUATION = digits.Images.load(FOLDER / "digits_eval.npz")
CALIBRATION = digits.Images.load(FOLDER / "digits_calib.npz")

# by hand from the architectures: kernels and matrices, no biases, norms or positions
CNN = 9 * 32 + 2 * 9 * 32 * 32 + 9 * 32 * 64 + 9 * 64 + 64 * 128 + 128 * 10
WEIGHTS = {
    "digits_cnn.onnx": CNN,
    "digits_cnn_qdq.onnx": CNN,
    "digits_vit.onnx": 4 * 64 + 3 * (4 * 64 * 64 + 2 * 64 * 128) + 64 * 10,
    "digits_lstm.onnx": 4 * 64 * (8 + 64) + 64 * 10,
    "digits_bulk.onnx": 9 * 12 + 9 * 12 * 24 + 96 * 10,
}


def readme_rows() -> dict[str, list[str]]:
    """First column of the README's tables without backticks -> its other cells."""
    rows = {}
    for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            rows[first.strip("`")] = cells
    return rows


def texts(message: Message) -> Iterator[str]:
    """Every text inside a protobuf message; tensor contents (raw bytes) are not text."""
    for field, value in message.ListFields():
        values: Iterable[Any] = (value,) if isinstance(value, str | bytes | int | float | Message) else value
        for item in values:
            if isinstance(item, Message):
                yield from texts(item)
            elif field.type == FieldDescriptor.TYPE_STRING:
                yield item
            elif field.type == FieldDescriptor.TYPE_BYTES and field.name != "raw_data":
                yield item.decode("utf-8", "replace")


def test_every_shipped_model_is_listed() -> None:
    assert set(MODELS) == set(WEIGHTS) == {name for name in readme_rows() if name.endswith(".onnx")}


@pytest.mark.parametrize("name", MODELS)
def test_model_is_valid_and_small(name: str) -> None:
    assert (FOLDER / name).stat().st_size < 1_000_000
    model = onnx.load(FOLDER / name)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", digits.OPSET)]
    (entry,), (result,) = model.graph.input, model.graph.output
    for value, shape in ((entry, ("image", "batch", 1, 8, 8)), (result, ("logits", "batch", 10))):
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert (value.name, *dims) == shape
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT


@pytest.mark.parametrize("name", MODELS)
def test_readme_states_the_measured_numbers(name: str) -> None:
    weights, _, correct, accuracy, interval, script, _ = readme_rows()[name]
    model = onnx.load(FOLDER / name)
    assert int(weights.replace(",", "")) == WEIGHTS[name] == digits.static_weights(model)

    measured, n = digits.correct_answers(FOLDER / name, EVALUATION), len(EVALUATION)
    assert int(correct) == measured
    assert accuracy == f"{100 * measured / n:.2f} %"
    z, share = 1.959964, measured / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert interval == f"{100 * (centre - half):.2f} to {100 * (centre + half):.2f} %"
    assert (FOLDER / script.strip("`")).is_file()


@pytest.mark.parametrize("name", MODELS)
def test_batch_size_is_free(name: str) -> None:
    session = ort.InferenceSession(str(FOLDER / name), providers=["CPUExecutionProvider"])
    (together,) = session.run(None, {"image": EVALUATION.image[:5]})
    alone = [session.run(None, {"image": EVALUATION.image[i : i + 1]})[0] for i in range(5)]
    # an int8 activation on the edge between two codes may fall either way
    tolerance = 0.2 if "qdq" in name else 1e-4
    np.testing.assert_allclose(together, np.concatenate(alone), atol=tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_no_path_inside_a_model(name: str) -> None:
    found = list(texts(onnx.load(FOLDER / name)))
    assert "image" in found
    assert [text for text in found if re.search(r"[/\\]|\.py\b|::", text)] == []


def test_texts_finds_what_it_looks_for() -> None:
    node = helper.make_node("Relu", ["image"], ["logits"], name="/a", doc_string="b.py")
    node.attribute.append(helper.make_attribute("c", "/d"))
    node.metadata_props.add(key="e", value="/f")
    assert {"/a", "b.py", "/d", "/f"} <= set(texts(node))


def test_evaluation_and_calibration_data() -> None:
    for name, images in (("digits_eval.npz", EVALUATION), ("digits_calib.npz", CALIBRATION)):
        assert len(images) == int(readme_rows()[name][0])
        assert images.image.shape == (len(images), 1, 8, 8)
        assert images.image.dtype == np.float32
        assert (images.image.min(), images.image.max()) == (0, 1)
        assert images.labels.shape == (len(images),)
        assert images.labels.dtype == np.int64
        assert set(images.labels) == set(range(10))
        with zipfile.ZipFile(FOLDER / name) as archive:
            assert archive.namelist() == ["image.npy", "labels.npy"]
    everything = np.concatenate([EVALUATION.image, CALIBRATION.image]).reshape(-1, 64)
    assert len(np.unique(everything, axis=0)) == len(everything)


def test_data_are_the_split_of_the_bundled_digits() -> None:
    pytest.importorskip("sklearn", reason="making the split again needs the extra 'train' (scikit-learn)")
    split = digits.split_digits()
    for made, shipped in ((split.test, EVALUATION), (split.calibration, CALIBRATION)):
        np.testing.assert_array_equal(made.image, shipped.image)
        np.testing.assert_array_equal(made.labels, shipped.labels)
    parts = {image.tobytes() for image in np.concatenate([split.rest.image, split.calibration.image])}
    assert parts == {image.tobytes() for image in split.train.image}
    assert parts.isdisjoint({image.tobytes() for image in split.test.image})
    correct = int(readme_rows()["baseline: nearest training image"][2])
    assert digits.nearest_neighbour(split.train, split.test) == correct


def test_quantised_cnn_has_the_folded_weights_of_the_cnn() -> None:
    cnn, quantised = (onnx.load(FOLDER / name) for name in ("digits_cnn.onnx", "digits_cnn_qdq.onnx"))
    value = {tensor.name: numpy_helper.to_array(tensor) for tensor in cnn.graph.initializer}
    code = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantised.graph.initializer}
    convolutions = [node.input[1] for node in cnn.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 6
    for name in convolutions:
        norm = name.replace(".conv.weight", ".norm.")
        gain = value[norm + "weight"] / np.sqrt(value[norm + "running_var"] + 1e-5)
        folded = value[name] * gain.reshape(-1, 1, 1, 1)
        codes, scale, zero = (
            code[f"ConvBnFusion_W_{name}_{kind}"] for kind in ("quantized", "scale", "zero_point")
        )
        assert codes.dtype == np.int8
        assert scale.shape == (len(codes),)
        assert not zero.any()
        error = np.abs(codes * scale.reshape(-1, 1, 1, 1) - folded) / scale.reshape(-1, 1, 1, 1)
        assert error.max() < 0.501


def codes_of_matrices(file: Path) -> list[np.ndarray]:
    """The weights of every Conv and Gemm over a third of the largest one: codes -3 .. 3 of 2-bit device pairs."""
    graph = onnx.load(file).graph
    value = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [value[node.input[1]] for node in graph.node if node.op_type in ("Conv", "Gemm")]
    return [weight / (np.abs(weight).max() / 3) for weight in weights]


def test_weights_trained_on_devices_are_device_levels() -> None:
    matrices = codes_of_matrices(FOLDER / "digits_bulk.onnx")
    assert len(matrices) == 3
    for codes in matrices:
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-5)
        assert len(np.unique(np.rint(codes))) == 7


def test_training_on_devices_learns_with_accumulators_only(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs the extra 'train' (torch)")
    pytest.importorskip("sklearn", reason="training needs the extra 'train' (scikit-learn)")
    correct = {}
    for writer in ("threshold", "every-batch"):
        command = [sys.executable, str(FOLDER / "train_digits_bulk.py"), "--epochs", "15", "--writer", writer]
        done = subprocess.run([*command, "--out", str(tmp_path / writer)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        correct[writer] = digits.correct_answers(tmp_path / writer / "digits_bulk.onnx", EVALUATION)
        for codes in codes_of_matrices(tmp_path / writer / "digits_bulk.onnx"):
            np.testing.assert_allclose(codes, np.rint(codes), atol=1e-5)
    assert correct["threshold"] > 0.9 * len(EVALUATION)
    assert correct["every-batch"] < 0.5 * len(EVALUATION)


def test_tidy_drops_paths_and_names_weights_after_their_node() -> None:
    weight = numpy_helper.from_array(np.ones((8, 10), np.float32), "onnx::MatMul_7")
    weight.doc_string = "/somewhere/script.py"
    node = helper.make_node("MatMul", ["image", weight.name], ["logits"], name="/blocks.0/query/MatMul")
    node.doc_string = "/somewhere/script.py(3): forward"
    node.metadata_props.add(key="stack_trace", value="/somewhere/script.py")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [weight],
        doc_string="/somewhere",
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.unused", 1)]
    model = digits.tidy(helper.make_model(graph, opset_imports=opsets, ir_version=8, doc_string="/somewhere"))
    assert not [text for text in texts(model) if "/" in text or ".py" in text]
    assert [opset.domain for opset in model.opset_import] == [""]
    assert model.graph.node[0].name == "blocks.0.query.MatMul"
    assert list(model.graph.node[0].input) == ["image", "blocks.0.query.weight"]
    assert digits.static_weights(model) == 80
