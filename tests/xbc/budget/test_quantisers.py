"""-O3 quantises float weights so that the fewest writes remain, and keeps grids that a model has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ir.errors import XbcError
from ir.stages import Quantized
from passes.pipeline import LEVELS
from xbc.budget.quantisers import Candidate, finalists, some_layers
from xbc.driver.compile import Compiled, compile_model

INPUTS, HIDDEN, CLASSES, SAMPLES = 256, 320, 10, 80


def network(folder: Path, spread: float) -> tuple[Path, Path]:
    """Two dense layers whose first has outputs of scales ``1 .. spread`` that the second undoes; data with labels."""
    rng = np.random.default_rng(0)
    scale = np.geomspace(1, spread, HIDDEN)
    rng.shuffle(scale)
    first = (rng.laplace(size=(INPUTS, HIDDEN)) / np.sqrt(INPUTS) * scale).astype(np.float32)
    second = (rng.laplace(size=(HIDDEN, CLASSES)) / scale[:, None]).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "b"], ["y"], name="second"),
        ],
        "scales",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(first, "a"), numpy_helper.from_array(second, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "scales.onnx")
    x = rng.normal(size=(SAMPLES, INPUTS)).astype(np.float32)
    y = np.maximum(x @ first, 0) @ second
    np.savez(folder / "set.npz", x=x, labels=y.argmax(1))
    return folder / "scales.onnx", folder / "set.npz"


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    folder = tmp_path_factory.mktemp("channels")
    model, data = network(folder, 30.0)
    return compile_model(model, folder / "out.xbc", level=3, data=data, report_data=data, max_drop=10.0)


def test_channel_scales_are_chosen_where_outputs_differ(channels: Compiled) -> None:
    summary = channels.summary
    rows = {row["quantize"]: row for row in summary["loss"]["quantizers"]}
    chosen = [name for name, row in rows.items() if row["chosen"]]
    assert len(chosen) == 1
    assert "granularity=channel" in chosen[0]
    assert rows[chosen[0]]["writes"] == summary["writes"]["emitted"]
    assert summary["pipeline"].startswith(f"quantize{{{chosen[0]}}},")
    assert any(len(layer.at(Quantized).scale) > 1 for layer in channels.module.layers)
    manifest = json.loads((channels.directory / "manifest.json").read_text())
    assert summary["loss"]["quantizers"] == _find(manifest, "quantizers")


def _find(tree: object, key: str) -> Any:
    if isinstance(tree, dict):
        if key in tree:
            return tree[key]
        for value in tree.values():
            if (found := _find(value, key)) is not None:
                return found
    return None


def test_one_scale_is_chosen_where_outputs_are_alike(tmp_path: Path) -> None:
    model, data = network(tmp_path, 1.0)
    done = compile_model(model, tmp_path / "o.xbc", level=3, data=data, report_data=data, max_drop=10.0)
    chosen = next(row for row in done.summary["loss"]["quantizers"] if row["chosen"])
    assert "granularity" not in chosen["quantize"]


def test_choice_leaves_no_more_writes_than_the_default(channels: Compiled, tmp_path: Path) -> None:
    model, data = network(tmp_path, 30.0)
    fixed = compile_model(
        model, tmp_path / "o.xbc", level=3, data=data, report_data=data, max_drop=10.0, quantize=""
    )
    assert fixed.summary["loss"]["quantizers"] == []
    assert all(len(layer.at(Quantized).scale) == 1 for layer in fixed.module.layers)
    assert channels.summary["writes"]["emitted"] < fixed.summary["writes"]["emitted"]


@pytest.mark.parametrize("level", [0, 2])
def test_quantize_options_hold_at_every_level(tmp_path: Path, level: int) -> None:
    model, _ = network(tmp_path, 2.0)
    done = compile_model(model, tmp_path / "o.xbc", level=level, quantize="granularity=channel,bits=6")
    assert done.summary["pipeline"].startswith("quantize{bits=6,granularity=channel}")
    assert [len(layer.at(Quantized).scale) for layer in done.module.layers] == [HIDDEN, CLASSES]


def test_refusals(tmp_path: Path) -> None:
    model, _ = network(tmp_path, 2.0)
    with pytest.raises(XbcError, match="belong to a level"):
        compile_model(model, tmp_path / "o.xbc", pipeline=LEVELS[0], quantize="bits=6")
    with pytest.raises(XbcError, match="no option 'bit'"):
        compile_model(model, tmp_path / "o.xbc", quantize="bit=6")


def test_finalists_are_the_first_and_a_near_second() -> None:
    a, b, c = Candidate("range=mse", 0.0, 100), Candidate("", 0.0, 109), Candidate("bits=7", 0.0, 111)
    assert finalists([a, b, c]) == [a, b]
    assert finalists([a, c, b]) == [a]
    assert finalists([Candidate("", 2.0, None), Candidate("range=mse", 1.0, None)])[0].options == "range=mse"


def test_sample_of_layers_is_bounded_and_in_order(channels: Compiled) -> None:
    module = channels.module
    assert [x.name for x in some_layers(module).layers] == [x.name for x in module.layers]
