"""An operator of an installed package: mapped, simulated and differentiated as if it were xbc's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ir.errors import XbcError
from tests.plugin.test_plugin import package
from tests.xbc.simulate.networks import (
    GATHER,
    compiled,
    effective_model,
    onnxruntime_outputs,
    simulated,
    value,
)
from xbc.frontend import import_model
from xbc.operators import find
from xbc.operators.definition import MICROSOFT
from xbc.sensitivity import model_sensitivities

POINTS = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)


def nearest(folder: Path, metric: str) -> Path:
    """``[3, 6] -> [3, 5]`` distances to five fixed points."""
    node = helper.make_node("CDist", ["x", "points"], ["y"], "distances", domain=MICROSOFT, metric=metric)
    graph = helper.make_graph(
        [node], "nearest", [value("x", TensorProto.FLOAT, [3, 6])], [value("y", TensorProto.FLOAT, [3, 5])],
        [numpy_helper.from_array(POINTS, "points")],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), folder / "nearest.onnx")
    return folder / "nearest.onnx"


def test_without_the_package_it_stays_in_the_host(tmp_path: Path) -> None:
    assert find(MICROSOFT, "CDist") is None
    (left,) = import_model(nearest(tmp_path, "euclidean"), GATHER).module.unmapped
    assert left.op_type == "CDist"


# --8<-- [start:oracle]
@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
def test_simulation_is_onnxruntime_on_what_the_cells_hold(example: Path, tmp_path: Path, metric: str) -> None:
    host, module = compiled(nearest(tmp_path, metric), GATHER)
    (layer,) = module.layers
    assert (layer.origin.op_type, layer.body.shape, layer.origin.products) == ("CDist", (5, 6), 3)
    x = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
    (wanted,) = onnxruntime_outputs(effective_model(host, module), {"x": x})
    (got,) = simulated(host, module, {"x": x}, input_bits=16)
    assert np.allclose(got, wanted, atol=1e-3)


# --8<-- [end:oracle]


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
def test_curvature_is_that_of_every_pair(example: Path, tmp_path: Path, metric: str) -> None:
    x = np.random.default_rng(2).standard_normal((3, 6)).astype(np.float32)
    imported = import_model(nearest(tmp_path, metric), GATHER)
    (found,) = model_sensitivities(imported, x, loss="squared", method="recursion").layers.values()
    apart = x[:, None, :] - POINTS[None]
    slope = 2 * apart if metric == "sqeuclidean" else apart / np.linalg.norm(apart, axis=2, keepdims=True)
    assert np.allclose(found, np.square(slope).sum(axis=0) / 3, rtol=1e-4)


def test_clashes_and_faults_are_named(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = "[xbc.operators]\nConv = a:O\ncom.microsoft.CDist = a:O\nof.mine.Op = a:O\nof.mine.Wrong = mine_op:O\n"
    package(tmp_path, "another", entries, {"mine_op.py": "O = 3\n"})
    monkeypatch.syspath_prepend(tmp_path)
    for domain, name, words in [
        ("", "Conv", ("another 1.0", "xbc")),
        (MICROSOFT, "CDist", ("another 1.0", "xbc-example 0.1.0")),
        ("of.mine", "Op", ("another 1.0", "cannot be imported")),
        ("of.mine", "Wrong", ("another 1.0", "is no xbc.operators.Operator")),
    ]:
        with pytest.raises(XbcError) as error:
            find(domain, name)
        assert all(word in str(error.value) for word in words), error.value
    assert find("", "Gemm") is not None
