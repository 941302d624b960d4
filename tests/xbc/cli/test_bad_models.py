"""Models that nobody vouches for, and disks that are full: one sentence, exit code 2, nothing left behind."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.xbc.cli.conftest import Runner, tiny_network


def weight(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def invalid_graph(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "nowhere"


def missing_external(model: onnx.ModelProto) -> None:
    outside(model, "absent.bin")


def leaving_external(model: onnx.ModelProto) -> None:
    outside(model, "../secret.bin")


def outside(model: onnx.ModelProto, location: str) -> None:
    tensor = weight(model, "matrix")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def poisoned(value: float) -> Callable[[onnx.ModelProto], None]:
    def spoil(model: onnx.ModelProto) -> None:
        tensor = weight(model, "matrix")
        values = numpy_helper.to_array(tensor).copy()
        values[2, 3] = value
        tensor.CopyFrom(numpy_helper.from_array(values, "matrix"))

    return spoil


def zero_size(model: onnx.ModelProto) -> None:
    weight(model, "kernel").CopyFrom(numpy_helper.from_array(np.zeros((0, 1, 3, 3), np.float32), "kernel"))


def unknown_domain(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "com.nobody"
    model.opset_import.append(helper.make_opsetid("com.nobody", 1))


def no_weights(model: onnx.ModelProto) -> None:
    del model.graph.node[2:]
    del model.graph.node[0]
    model.graph.node[0].input[0] = "image"
    model.graph.node[0].output[0] = "logits"
    del model.graph.initializer[:]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 1, 4, 4]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (invalid_graph, "nowhere"),
        (missing_external, "absent.bin"),
        (leaving_external, "leaves the model's folder"),
        (poisoned(np.nan), "NaN"),
        (poisoned(np.inf), "infinite"),
        (zero_size, "a layer of no weights"),
        (unknown_domain, "com.nobody"),
        (no_weights, "has no layer that a crossbar can hold: it holds no product with static weights"),
    ],
)
def test_bad_model(
    xbc: Runner, tmp_path: Path, spoil: Callable[[onnx.ModelProto], None], message: str
) -> None:
    (tmp_path.parent / "secret.bin").write_bytes(bytes(5 * 64 * 4))
    model = tiny_network()
    spoil(model)
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    result = xbc("compile", "bad.onnx")
    assert result.code == 2
    assert message in result.sentence
    assert "bad.onnx" in result.sentence or "layer" in result.sentence or "node" in result.sentence
    assert {p.name for p in tmp_path.iterdir()} == {"bad.onnx"}


@pytest.mark.parametrize("size", [100, 1500, 3000])
def test_no_room_on_the_disk(model: Path, tmp_path: Path, size: int) -> None:
    """Files may not grow beyond ``size`` bytes: the write that hits it fails as on a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    done = subprocess.run(
        [sys.executable, "-m", "xbc", "compile", model, "-O0", "-o", "out"],
        cwd=tmp_path, capture_output=True, text=True, check=False, preexec_fn=limit,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("xbc: error: ")
    assert len(done.stderr.splitlines()) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.onnx"}
