"""The other commands on the tiny model: output, JSON, bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from tests.xbc.cli.conftest import Runner, tiny_network


def test_inspect(xbc: Runner, program: Path) -> None:
    shown = xbc("inspect", program)
    assert shown.code == 0, shown.err
    for text in ("conv", "gemm", "4 x 9", "5 x 64", "Wear", "Every node with static weights is mapped."):
        assert text in shown.out
    assert "whether the tables fit them: xbc verify" in shown.out
    facts = xbc("inspect", program, "--json").json()
    assert [row["name"] for row in facts["layers"]] == ["conv", "gemm"]
    assert sum(row["writes"] for row in facts["layers"]) > 0
    assert sum(entry["cells"] for entry in facts["wear"]["histogram"]) == 128 * 8
    assert len(facts["wear"]["mean_by_digit"]) == 8
    assert np.mean(facts["wear"]["mean_by_digit"]) == pytest.approx(facts["wear"]["mean"], abs=1e-3)


def test_picture_of_a_layer_is_what_the_tables_say(xbc: Runner, program: Path) -> None:
    facts = xbc("inspect", program, "--layer", "gemm", "--section", 1, "--rows", 128, "--json").json()
    now, then = facts["section"], facts["following"]
    assert now["step"] + 1 == then["step"]
    changed = 0
    for before, after in zip(now["rows"], then["rows"], strict=True):
        if before["input"] is not None:
            assert int(before["cells"], 2) == abs(before["code"])
        for mark, old, new in zip(after["changes"], before["cells"], after["cells"], strict=False):
            assert mark == ("+" if new > old else "-" if new < old else ".")
            changed += mark != "."
    loads = subprocess.run(
        [sys.executable, "-c", READ_LOADS, program / "loads.parquet", str(then["step"])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert changed == json.loads(loads.stdout)
    drawn = xbc("inspect", program, "--layer", "gemm", "--rows", 2).out
    assert "section 0: output" in drawn
    assert "next load there: section 1" in drawn


READ_LOADS = """
import sys, json, pyarrow.parquet as pq
rows = [r for r in pq.read_table(sys.argv[1]).to_pylist() if r["step"] == int(sys.argv[2])]
print(json.dumps(sum(r["set"] + r["reset"] for r in rows)))
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny.xbc", "--layer", "con"], "no layer 'con'"),
        (["tiny.xbc", "--layer", "conv", "--section", "99"], "section 99 is not among them"),
        (["tiny.xbc", "--rows", "0"], "0"),
        (["absent.xbc"], "absent.xbc"),
        ([], "PROGRAM.xbc"),
    ],
)
def test_inspect_bad_input(xbc: Runner, program: Path, arguments: list[str], message: str) -> None:
    result = xbc("inspect", *arguments)
    assert result.code == 2
    assert message in result.sentence


def test_opt_writes_what_it_prints(xbc: Runner, program: Path, tmp_path: Path) -> None:
    printed = xbc("opt", program)
    assert printed.code == 0, printed.err
    assert printed.out.startswith("xir ")
    passes = "sort-sections,order-sections{method=sum},deal-sections,stick-bits{fraction=0.25}"
    done = xbc("opt", program / "program.xir", "--passes", passes, "-o", "new.xir", "--json")
    assert done.code == 0, done.err
    facts = done.json()
    assert facts["stage"] == "programmed"
    assert [step["name"] for step in facts["passes"]] == [
        "sort-sections",
        "order-sections",
        "deal-sections",
        "stick-bits",
    ]
    assert facts["passes"][-1]["writes"] < facts["passes"][-2]["writes"]
    again = xbc("opt", "new.xir")
    assert again.code == 0
    assert (tmp_path / "new.xir").read_text().splitlines()[1:] == again.out.splitlines()[1:], (
        "but for the digest"
    )
    assert xbc("inspect", "new.xir", "--json").json()["layers"][0]["stage"] == "programmed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny.xbc", "--passes", "sort"], "unknown pass 'sort'"),
        (["tiny.xbc", "--passes", "sort-sections,,"], "cannot read the pipeline"),
        (["tiny.xbc", "--passes", "sort-sections{"], "cannot read the pipeline"),
        (["tiny.xbc", "-o", "no/where.xir"], "does not exist"),
        (["tiny.onnx"], "tiny.onnx"),
        (["absent.xir"], "absent.xir"),
    ],
)
def test_opt_bad_input(xbc: Runner, program: Path, arguments: list[str], message: str) -> None:
    result = xbc("opt", *arguments)
    assert result.code == 2
    assert message in result.sentence
    assert result.out == ""


def test_passes(xbc: Runner) -> None:
    from passes.table import PASSES

    listed = xbc("passes").out
    facts = xbc("passes", "--json").json()
    assert [entry["name"] for entry in facts["passes"]] == list(PASSES)
    assert all(name in listed for name in PASSES)
    assert "-O2" in facts["levels"]
    for name in PASSES:
        page = xbc("passes", name)
        assert page.code == 0
        assert page.out.startswith(name + "\n")
        assert "Needs stage" in page.out
    unexplained = [
        f"{p['name']}: {o['name']}" for p in facts["passes"] for o in p["options"] if not o["meaning"]
    ]
    assert not unexplained, f"say in the docstring's Options block what they mean: {unexplained}"
    assert "did you mean 'quantize'" in xbc("passes", "quantise").sentence


def test_targets(xbc: Runner, tmp_path: Path) -> None:
    from xbc.targets import list_targets, load_target

    listed = xbc("targets").out
    assert all(name in listed for name in list_targets())
    assert [chip["name"] for chip in xbc("targets", "--json").json()] == list_targets()
    (tmp_path / "copy.toml").write_text(xbc("targets", "pcm-256").out)
    assert load_target("copy.toml") == load_target("pcm-256")
    (tmp_path / "plain.toml").write_text(xbc("targets", "pcm-256", "--set", "crossbars=2").out)
    assert load_target("plain.toml") == load_target("pcm-256", {"crossbars": 2})
    assert "unknown target" in xbc("targets", "chip").sentence


def test_verify(xbc: Runner, program: Path) -> None:
    good = xbc("verify", program)
    assert (good.code, good.err) == (0, "")
    assert "is sound" in good.out
    facts = xbc("verify", program, "--json").json()
    assert facts["ok"] is True
    assert facts["problems"] == []
    writes = program / "writes.parquet"
    content = bytearray(writes.read_bytes())
    content[len(content) // 2] ^= 1
    writes.write_bytes(content)
    bad = xbc("verify", program)
    assert bad.code == 1
    assert "writes.parquet" in bad.out
    broken = xbc("verify", program, "--json")
    assert broken.code == 1
    assert broken.json()["problems"][0]["file"] == "writes.parquet"
    assert xbc("simulate", program, "--inputs", "x.npz").code == 2
    assert "absent" in xbc("verify", "absent").sentence


def quantised_by_hand(model: Path, images: np.ndarray) -> np.ndarray:
    """Outputs of the model whose weights were rounded to 8-bit magnitudes and a sign outside xbc."""
    network = onnx.load(model)
    for tensor in network.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim > 1:
            scale = np.float32(np.abs(values).max() / 255)
            rounded = (np.rint(values / scale) * scale).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    session = ort.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": images})[0])


def test_evaluate_against_the_model(xbc: Runner, program: Path, model: Path, data: Path) -> None:
    facts = xbc("evaluate", program, "--data", data, "--model", model, "--json").json()
    keys = {
        "metric",
        "samples",
        "reference",
        "compiled",
        "drop",
        "interval",
        "agreement",
        "max_abs_error",
        "rms_error",
    }
    assert facts.keys() >= keys
    assert (facts["metric"], facts["samples"], facts["reference_is"]) == ("top-1", 40, "model")
    with np.load(data) as arrays:
        images, labels = arrays["image"], arrays["labels"]
    (logits,) = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"image": images})
    assert facts["reference"] == pytest.approx(np.mean(np.argmax(logits, axis=1) == labels))
    quantised = np.abs(quantised_by_hand(model, images) - logits).max()
    assert facts["max_abs_error"] == pytest.approx(quantised, abs=1e-4), "quantisation, and nothing more"
    told = xbc("evaluate", program, "--data", data, "--model", model).out
    assert "top-1:" in told
    assert "95 % interval" in told


def test_evaluate_without_model_or_labels(xbc: Runner, program: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "plain.npz", anything=draw.normal(size=(7, 1, 4, 4)).astype(np.float32))
    facts = xbc("evaluate", program, "--data", "plain.npz", "--json").json()
    assert (facts["metric"], facts["samples"], facts["reference_is"]) == ("agreement", 7, "exact-codes")
    assert facts["max_abs_error"] == 0.0, "-O1 is lossless"
    assert facts["agreement"] == 1.0
    assert xbc("evaluate", program, "--data", "plain.npz", "--limit", 3, "--json").json()["samples"] == 3


def test_simulate(xbc: Runner, program: Path, model: Path, data: Path, tmp_path: Path) -> None:
    done = xbc("simulate", program, "--inputs", data, "-o", "y.npz")
    assert done.code == 0, done.err
    with np.load(data) as arrays:
        images = arrays["image"]
    with np.load(tmp_path / "y.npz", allow_pickle=False) as outputs:
        np.testing.assert_allclose(outputs["logits"], quantised_by_hand(model, images), atol=1e-4)
    facts = xbc("simulate", program, "--inputs", data, "--limit", 2, "--json").json()
    assert facts["outputs"][0]["shape"] == [2, 5]
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.onnx", "tiny.xbc", "set.npz", "y.npz"}


def test_data_bad_input(xbc: Runner, program: Path, data: Path, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 1, 4, 4), np.float32), b=np.zeros(3))
    np.savez(tmp_path / "shape.npz", image=np.zeros((2, 1, 5, 5), np.float32))
    np.savez(tmp_path / "range.npz", image=np.zeros((2, 1, 4, 4), np.float32), labels=np.array([0, 9]))
    np.savez(tmp_path / "short.npz", image=np.zeros((2, 1, 4, 4), np.float32), labels=np.array([0]))
    np.savez(tmp_path / "objects.npz", image=np.array([None, {}], dtype=object))
    (tmp_path / "text.npz").write_text("no archive")
    for name, message in [
        ("two.npz", "holds no array for the model's input 'image'"),
        ("shape.npz", "image"),
        ("range.npz", "label 9"),
        ("short.npz", "labels"),
        ("objects.npz", "Python objects"),
        ("text.npz", "not a readable .npz"),
        ("absent.npz", "does not exist"),
    ]:
        result = xbc("evaluate", program, "--data", name)
        assert result.code == 2, name
        assert message in result.sentence
    assert "--data" in xbc("evaluate", program).sentence
    assert "--inputs" in xbc("simulate", program).sentence
    assert (
        "no output 'probabilities'"
        in xbc("evaluate", program, "--data", data, "--output", "probabilities").sentence
    )
    onnx.save(tiny_network(seed=5), tmp_path / "other.onnx")
    assert (
        "is not the model that" in xbc("evaluate", program, "--data", data, "--model", "other.onnx").sentence
    )
    assert "does not exist" in xbc("simulate", program, "--inputs", data, "-o", "no/where.npz").sentence
    assert "is a folder" in xbc("simulate", program, "--inputs", data, "-o", ".").sentence
    assert "holds no manifest.json" in xbc("evaluate", tmp_path, "--data", data).sentence
