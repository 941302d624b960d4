"""xbc sensitivity, update and rescale: output, JSON, bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.xbc.cli.conftest import Runner, tiny_network
from xbc.backend import Program
from xbc.chip import replay
from xbc.chip.replay import steady_totals

PIPELINE = "quantize,encode-signs,slice-bits,form-sections,deal-sections"


def finetuned(model: Path, path: Path) -> Path:
    proto = onnx.load(model)
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim > 1:
            tensor.CopyFrom(numpy_helper.from_array((values * np.float32(1.02)), tensor.name))
    onnx.save(proto, path)
    return path


def test_sensitivities_reach_the_program(xbc: Runner, model: Path, data: Path, tmp_path: Path) -> None:
    found = xbc("sensitivity", model, "--data", data, "-o", "s.npz", "--json", "-q")
    assert found.code == 0, found.err
    facts = found.json()
    assert [row["weights"] for row in facts["layers"]] == [36, 320]
    assert sum(row["share"] for row in facts["layers"]) == pytest.approx(1)
    costs = {}
    for fraction in (0, 0.2, 1):
        text = f"{PIPELINE},select-write-verify{{fraction={fraction}}}"
        done = xbc(
            "compile", model, "--sensitivities", "s.npz", "--passes", text, "-o", "m.xbc", "--json", "-q",
            "--set", "write.trials_verified=10",
        )  # fmt: skip
        assert done.code == 0, done.err
        costs[fraction] = done.json()["energy_pj"]
        assert xbc("verify", "m.xbc").code == 0
    assert costs[0] < costs[0.2] < costs[1] / 2


def test_sensitivity_refuses_what_does_not_fit(xbc: Runner, model: Path, data: Path, tmp_path: Path) -> None:
    assert "does not exist" in xbc("sensitivity", "no.onnx", "--data", data).sentence
    assert "does not exist" in xbc("sensitivity", model, "--data", "no.npz").sentence
    np.savez(tmp_path / "bad.npz", x=np.zeros((2, 3), np.float32))
    assert "the model's input" in xbc("sensitivity", model, "--data", "bad.npz").sentence
    arrays = dict(np.load(data))
    arrays["labels"] = arrays["labels"] + 100
    np.savez(tmp_path / "labels.npz", **arrays)
    result = xbc("sensitivity", model, "--data", "labels.npz", "--loss", "empirical")
    assert result.code == 2
    assert "out of range" in result.sentence
    assert "is a folder" in xbc("sensitivity", model, "--data", data, "-o", tmp_path).sentence
    assert not list(tmp_path.glob("*.sens.npz"))
    xbc("sensitivity", model, "--data", data, "-o", "s.npz", "-q")
    other = tmp_path / "other.onnx"
    onnx.save(tiny_network(seed=9), other)
    result = xbc("compile", other, "-O3", "--sensitivities", "s.npz", "-o", "m.xbc")
    assert result.code == 2
    assert "SHA-256" in result.sentence
    assert not (tmp_path / "m.xbc").exists()


def test_update_writes_little_and_says_what(xbc: Runner, model: Path, tmp_path: Path) -> None:
    assert xbc("compile", model, "-o", "v1.xbc", "-q", "--set", "crossbars=100").code == 0
    new = finetuned(model, tmp_path / "v2.onnx")
    result = xbc("update", "v1.xbc", new, "-o", "v2.xbc", "--json", "-q")
    assert result.code == 0, result.err
    facts = result.json()
    assert facts["version"] == 2
    assert 0 < facts["weights_written"] < facts["weights_asked"] <= facts["weights"] == 356
    assert xbc("verify", "v2.xbc").code == 0
    text = xbc("update", "v2.xbc", new, "-o", "v3.xbc", "-q")
    assert "0 cells written once" in text.out
    assert "compile" not in text.out, "the network is not swapped: nothing is written in any inference"


def test_update_says_what_every_inference_costs_from_now_on(xbc: Runner, model: Path, tmp_path: Path) -> None:
    """A swapped network: levels that were sorted and matched no longer fit each other."""
    before = xbc("compile", model, "-o", "v1.xbc", "--json", "-q").json()
    draw = np.random.default_rng(0)
    proto = onnx.load(model)
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim > 1:
            other = draw.permutation(values.ravel()).reshape(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(other, tensor.name))
    onnx.save(proto, tmp_path / "v2.onnx")
    facts = xbc("update", "v1.xbc", "v2.onnx", "-o", "v2.xbc", "--json", "-q").json()
    replayed = steady_totals(replay(Program.open(tmp_path / "v2.xbc")))
    assert facts["steady_writes_deployed"] == before["writes"]["emitted"]
    assert facts["wear_max_deployed"] == before["wear"]["max"]
    assert facts["steady_writes"] == replayed["steady"]["writes"]
    assert facts["wear_max"] == replayed["wear_max"]
    assert facts["steady_writes"] > 1.5 * facts["steady_writes_deployed"] > 0
    text = xbc("update", "v1.xbc", "v2.onnx", "-o", "v3.xbc", "-q").out
    now = f"every inference: {facts['steady_writes_deployed']:,} cell writes before, {facts['steady_writes']:,} now"
    assert now in text
    assert f"worst cell {facts['wear_max_deployed']} before, {facts['wear_max']} now" in text
    assert "xbc compile v2.onnx" in text
    same = xbc("update", "v1.xbc", model, "-o", "v4.xbc", "-q").out
    assert f"{before['writes']['emitted']:,} cell writes before, {before['writes']['emitted']:,} now" in same
    assert "xbc compile" not in same


def test_update_explains_the_limit(xbc: Runner, model: Path, tmp_path: Path) -> None:
    assert xbc("compile", model, "-O0", "-o", "v1.xbc", "-q").code == 0
    proto = onnx.load(model)
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(values * np.float32(1.5), tensor.name))
    onnx.save(proto, tmp_path / "v2.onnx")
    facts = xbc("update", "v1.xbc", "v2.onnx", "-o", "v2.xbc", "--json", "-q").json()
    assert facts["limited"] > 0
    text = xbc("update", "v1.xbc", "v2.onnx", "-o", "v3.xbc", "-q").out
    assert f"{facts['limited']} weights are at the limit: the new value does not fit the range" in text


def test_update_refuses_what_does_not_fit(xbc: Runner, model: Path, tmp_path: Path) -> None:
    assert xbc("compile", model, "-o", "v1.xbc", "-q").code == 0
    for threshold in ("0", "-1", "nan"):
        result = xbc("update", "v1.xbc", model, "-o", "v2.xbc", f"--threshold={threshold}")
        assert result.code == 2
        assert "must be above 0" in result.sentence
    assert xbc("update", "nowhere.xbc", model, "-o", "v2.xbc").code == 2
    assert xbc("update", "v1.xbc", "no.onnx", "-o", "v2.xbc").code == 2
    assert "itself" in xbc("update", "v1.xbc", model, "-o", "v1.xbc").sentence
    assert not (tmp_path / "v2.xbc").exists()


def test_rescale_both_ways(xbc: Runner, model: Path, data: Path, tmp_path: Path) -> None:
    done = xbc("rescale", model, "-o", "u.onnx", "--data", data, "--balance", "both", "--json")
    assert done.code == 0, done.err
    facts = done.json()
    assert facts["largest_difference"] < 1e-5
    assert facts["weight_spread"][1] <= facts["weight_spread"][0] + 1e-6
    done = xbc("rescale", model, "-o", "p.onnx", "--data", data, "--unipolar")
    assert done.code == 0, done.err
    assert "2 matrices made non-negative" in done.out
    text = "quantize,encode-signs{encoding=unipolar},slice-bits,form-sections,deal-sections"
    assert xbc("compile", "p.onnx", "--passes", text, "-o", "p.xbc", "-q").code == 0
    assert xbc("verify", "p.xbc").code == 0
    assert "needs calibration" in xbc("rescale", model, "-o", "x.onnx", "--balance", "both").sentence
    assert "cannot write" in xbc("rescale", model, "-o", tmp_path).sentence
    assert not (tmp_path / "x.onnx").exists()
