"""A tiny model, its data, and the command line run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """The one line that a bad input gets."""
        lines = self.err.splitlines()
        assert len(lines) == 1, f"expected one line on stderr, got:\n{self.err}"
        assert lines[0].startswith("xbc: error: "), lines[0]
        return lines[0].removeprefix("xbc: error: ")


Runner = Callable[..., Result]


@pytest.fixture
def xbc(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runner:
    """``xbc("compile", "tiny.onnx")`` in a folder of its own."""
    from xbc.cli.main import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


def tiny_network(seed: int = 0) -> onnx.ModelProto:
    """Conv, Relu, Gemm: 4 x 1 x 3 x 3 and 5 x 64 weights."""
    draw = np.random.default_rng(seed)
    kernel = draw.normal(size=(4, 1, 3, 3)).astype(np.float32)
    matrix = draw.normal(size=(5, 64)).astype(np.float32)
    bias = draw.normal(size=5).astype(np.float32)
    nodes = [
        helper.make_node(
            "Conv", ["image", "kernel"], ["a"], name="conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3]
        ),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Flatten", ["b"], ["c"], name="flatten"),
        helper.make_node("Gemm", ["c", "matrix", "bias"], ["logits"], name="gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(a, n) for a, n in [(kernel, "kernel"), (matrix, "matrix"), (bias, "bias")]],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_network(), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    draw = np.random.default_rng(1)
    path = tmp_path / "set.npz"
    images = draw.normal(size=(40, 1, 4, 4)).astype(np.float32)
    np.savez(path, image=images, labels=draw.integers(0, 5, 40))
    return path


@pytest.fixture
def program(xbc: Runner, model: Path, tmp_path: Path) -> Path:
    """The tiny model compiled with -O1."""
    result = xbc("compile", model, "-O1", "-o", "tiny.xbc", "--json")
    assert result.code == 0, result.err
    return tmp_path / "tiny.xbc"
