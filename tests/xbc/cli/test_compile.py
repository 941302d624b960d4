"""xbc compile: output, JSON, bad input, interruption."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.xbc.cli.conftest import Runner

KEYS = {
    "model", "target", "weights", "layers", "sections", "loads", "writes", "first_deployment", "reduction",
    "set", "reset", "wear", "lifetime_inferences", "energy_pj", "time_ns", "row_map_bytes", "unmapped",
    "seconds", "passes",
}  # fmt: skip


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_default_output_is_named_after_the_model_and_lies_here(
    xbc: Runner, model: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "models"
    elsewhere.mkdir()
    model.rename(elsewhere / "net.onnx")
    result = xbc("compile", elsewhere / "net.onnx")
    assert result.code == 0, result.err
    assert (tmp_path / "net.xbc" / "manifest.json").is_file()
    assert "net.onnx on gather-128: 356 weights in 2 layers" in result.out
    for count in ("full", "natural", "scheduled", "emitted"):
        assert re.search(rf"^{count} .* [\d,]+ ", result.out, re.MULTILINE)


def test_json(xbc: Runner, model: Path) -> None:
    result = xbc("compile", model, "-O1", "--json")
    facts = result.json()
    assert facts.keys() >= KEYS
    four = {"full", "natural", "scheduled", "emitted"}
    assert set(facts["writes"]) == set(facts["first_deployment"]) == four
    assert set(facts["wear"]) == {"max", "p99", "mean"}
    assert (facts["model"], facts["target"], facts["weights"], facts["layers"]) == (
        "tiny.onnx",
        "gather-128",
        356,
        2,
    )
    assert facts["sections"] == facts["loads"] == 4 + 5
    assert facts["writes"]["full"] == 356 * 8
    assert facts["writes"]["emitted"] == facts["writes"]["scheduled"] == facts["set"] + facts["reset"]
    assert facts["reduction"] == pytest.approx(facts["writes"]["natural"] / facts["writes"]["emitted"])
    assert facts["lifetime_inferences"] == pytest.approx(1e6 / facts["wear"]["max"])
    assert all(step.keys() >= {"name", "seconds", "writes"} for step in facts["passes"])
    assert facts["passes"][-1]["writes"] == facts["writes"]["emitted"]


def test_the_gap_of_the_order_is_told(xbc: Runner, model: Path) -> None:
    order = xbc("compile", model, "--json").json()["order"]
    assert order["lower_bound"] <= order["length"]
    assert order["proven_optimal"] == order["groups"] == 2, "two small groups"
    assert "order of loads above the optimum at most 0.0 % (2 of 2 groups proven)" in re.sub(
        " +", " ", xbc("compile", model).out
    )
    assert xbc("compile", model, "-O0", "--json").json()["order"] is None
    assert "not bounded" in xbc("compile", model, "-O0").out


def test_the_programs_that_were_tried_are_shown(xbc: Runner) -> None:
    models = Path(__file__).parents[3] / "models"
    done = xbc(
        "compile", models / "digits_cnn.onnx", "-O3", "--data", models / "digits_calib.npz", "-o", "o.xbc"
    )
    assert done.code == 0, done.err
    curve = json.loads(Path("o.xbc/manifest.json").read_text())["provenance"]["facts"]["loss"]["curve"]
    table = done.out.split("Tried on the calibration samples")[1].split("reduction (natural")[0]
    for point in curve:
        row = next(line for line in table.splitlines() if line.startswith(f"{point['lambda']:.4g} "))
        assert f" {point['writes']:,} " in row
        assert row.rstrip().endswith("within" if point["accepted"] else "beyond")
        assert point["accepted"] == (point["severity"] <= 1)
    assert {point["accepted"] for point in curve} == {True, False}


def test_same_input_same_bytes(xbc: Runner, model: Path, tmp_path: Path) -> None:
    text = "quantize,encode-signs,slice-bits,form-sections,sort-sections,deal-sections,stick-bits"
    for name, seed, threads in (("a", 3, 1), ("b", 3, 2), ("c", 4, 1)):
        done = xbc("compile", model, "--passes", text, "--seed", seed, "--threads", threads, "-o", name)
        assert done.code == 0, done.err
    a, b, c = (snapshot(tmp_path / name) for name in "abc")
    assert a == b
    assert a["program.xir"] != c["program.xir"]


@pytest.mark.parametrize("target", ["gather-128", "isaac-128", "pcm-256", "rram-64"])
def test_default_level_gives_the_same_bytes(xbc: Runner, model: Path, tmp_path: Path, target: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copy = elsewhere / model.name
    copy.write_bytes(model.read_bytes())
    for name, source, threads in (("a", model, 1), ("b", copy, 2)):
        done = xbc("compile", source, "-t", target, "--set", "rows=16", "--threads", threads, "-o", name)
        assert done.code == 0, done.err
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_the_program_names_no_path_and_no_time(xbc: Runner, model: Path, tmp_path: Path) -> None:
    assert xbc("compile", model, "-O0", "-o", "out").code == 0
    manifest = (tmp_path / "out" / "manifest.json").read_text()
    assert str(tmp_path) not in manifest
    assert "seconds" not in manifest
    assert "--target gather-128" in manifest


def test_set_and_target_file(xbc: Runner, model: Path, tmp_path: Path) -> None:
    (tmp_path / "chip.toml").write_text('name = "mine"\nrows = 16\ncolumns = 8\n')
    facts = xbc("compile", model, "-t", "chip.toml", "--set", "crossbars=3", "-O0", "--json").json()
    assert facts["target"] == "mine"
    assert facts["sections"] == 4 + 5 * 4


def test_pipeline_without_placement_is_completed_and_says_so(
    xbc: Runner, model: Path, tmp_path: Path
) -> None:
    text = "quantize{bits=6},slice-bits,form-sections,sort-sections,order-sections"
    facts = xbc("compile", model, "--passes", text, "--json").json()
    assert facts["pipeline"] == text + ",deal-sections"
    assert facts["passes"][-1]["name"] == "deal-sections"
    assert (tmp_path / "tiny.xbc").is_dir()


def test_printing_and_timing_go_to_stderr(xbc: Runner, model: Path) -> None:
    result = xbc(
        "compile",
        model,
        "-O1",
        "--json",
        "--time-passes",
        "--print-after",
        "slice-bits",
        "--print-before",
        "quantize",
    )
    result.json()
    assert result.err.count("// after slice-bits\nxir ") == 1
    assert result.err.count("// before quantize\nxir ") == 1
    assert re.search(r"s +[\d.]+%  quantize$", result.err, re.MULTILINE)
    every = xbc("compile", model, "-O0", "--print-after", "all", "--quiet")
    assert every.err.count("// after ") == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-O7"], "unknown level -O7; known: -O0, -O1, -O2"),
        (["-Ofast"], "'fast' is not a valid integer"),
        (["-O1", "--passes", "quantize"], "exclude each other"),
        (["--passes", ""], "the pipeline is empty"),
        (["--passes", "quantise"], "did you mean 'quantize'"),
        (["--passes", "quantize{bits=eight}"], "'eight' is not of type int"),
        (["--passes", "quantize{bits=99}"], "bits"),
        (["--passes", "quantize{depth=3}"], "no option 'depth'"),
        (["--passes", "quantize,form-sections"], "pass 'form-sections' needs layers at stage 'sliced'"),
        (
            ["--passes", "quantize,slice-bits"],
            "ends at stage 'sliced', a program needs sections: go on with form-sections",
        ),
        (["--target", "isaac"], "did you mean 'isaac-128'"),
        (["--target", "none.toml"], "cannot read target file none.toml"),
        (["--set", "crossbarz=4"], "no key 'crossbarz'; did you mean 'crossbars'?"),
        (["--spare", "nan"], "spare = nan must be a number from 0 to 8"),
        (["--spare", "-1"], "spare = -1 must be a number from 0 to 8"),
        (["--passes", "quantize,quantize"], "(passes already run: quantize); leave this quantize out"),
        (["--set", "crossbars=few"], "crossbars = 'few' must be an int"),
        (["--set", "columns=4"], "one weight of layer"),
        (["--seed", "-1"], "-1"),
        (["--threads", "0"], "0"),
        (["--nonsense"], "No such option '--nonsense'"),
        (["--print-after", "sort"], "unknown pass 'sort'"),
        (["-o", "no/such/folder/out"], "does not exist"),
        (["-o", "tiny.onnx"], "a file of that name is there"),
        (["-o", "full"], "it holds other files than a program"),
    ],
)
def test_bad_options(xbc: Runner, model: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    before = snapshot(tmp_path)
    result = xbc("compile", model, *arguments)
    assert result.code == 2
    assert message in result.sentence
    assert result.out == ""
    assert snapshot(tmp_path) == before, "something was left behind"
    assert {p.name for p in tmp_path.iterdir()} == {"full", "tiny.onnx"}


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07\x12"])
def test_not_a_model(xbc: Runner, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    result = xbc("compile", "bad.onnx")
    assert result.code == 2
    assert "bad.onnx" in result.sentence
    assert {p.name for p in tmp_path.iterdir()} == {"bad.onnx"}


def test_missing_model_and_folder(xbc: Runner, tmp_path: Path) -> None:
    assert "does not exist" in xbc("compile", "absent.onnx").sentence
    assert "folder" in xbc("compile", tmp_path).sentence
    assert "MODEL.onnx" in xbc("compile").sentence


def test_truncated_model_keeps_the_good_result(
    xbc: Runner, model: Path, program: Path, tmp_path: Path
) -> None:
    before = snapshot(program)
    model.write_bytes(model.read_bytes()[:-50])
    assert xbc("compile", model, "-o", program).code == 2
    assert snapshot(program) == before


def test_a_program_is_replaced(xbc: Runner, model: Path, program: Path) -> None:
    before = snapshot(program)
    assert xbc("compile", model, "-O0", "-o", program).code == 0
    assert snapshot(program) != before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(xbc: Runner, model: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "not writable" in xbc("compile", model, "-o", locked / "out").sentence


SLOW = """
import sys, time
import xbc.cli.main as main
import xbc.backend.emit as emit

def slow(*arguments, **keywords):
    print("emitting", flush=True)
    time.sleep(60)

emit._write_tables = slow
main.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_in_the_middle(model: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The signal arrives while tables are written: one line at most, nothing left, the old result intact."""
    old = tmp_path / "out"
    started = subprocess.run(
        [sys.executable, "-m", "xbc", "compile", model, "-O0", "-o", old],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert started.stderr == b""
    before = snapshot(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, "compile", str(model), "-O0", "-o", str(old)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "emitting\n"
        time.sleep(0.1)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert err.strip() == f"xbc: {word}; no output was changed"
    assert snapshot(tmp_path) == before
    assert {p.name for p in tmp_path.iterdir()} == {"out", "tiny.onnx"}


@pytest.mark.parametrize("level", ["-O2", "-O3"])
def test_differential_pairs_are_chosen_freely(xbc: Runner, model: Path, level: str) -> None:
    small = ["--set", "crossbars=1", "--set", "rows=8", "--set", "columns=16"]
    chip = ["-t", "isaac-128", "--set", "encoding=differential", *small]
    plain = xbc("compile", model, *chip, "-O1", "--json").json()
    result = xbc("compile", model, *chip, level, "--json", "-o", "free.xbc")
    facts = result.json()
    last = "choose-pairs" if level == "-O2" else "hold-pairs{"
    assert ",match-pairs" in facts["pipeline"]
    assert f",{last}" in facts["pipeline"]
    assert facts["writes"]["emitted"] < facts["writes"]["scheduled"] <= plain["writes"]["emitted"]
    verified = xbc("verify", "free.xbc")
    assert verified.code == 0, verified.err


def test_sections_are_cut_as_asked(xbc: Runner, tmp_path: Path) -> None:
    """Spare sections and fewer outputs per section: fewer writes, more reads, the same baseline."""
    cnn = Path(__file__).parents[3] / "models" / "digits_cnn.onnx"
    facts = {}
    for name, target, words in (
        ("usual", "gather-128", []), ("spare", "gather-128", ["--spare", "0.5"]),
        ("shared", "isaac-128", []), ("narrow", "isaac-128", ["--outputs-per-section", "2"]),
    ):  # fmt: skip
        result = xbc(
            "compile", cnn, "-t", target, "--set", "crossbars=4", *words, "-o", f"{name}.xbc", "--json", "-q"
        )
        assert result.code == 0, result.err
        facts[name] = json.loads(result.out)
        verified = xbc("verify", f"{name}.xbc")
        assert verified.code == 0, verified.err
    for less, more in (("spare", "usual"), ("narrow", "shared")):
        assert facts[less]["writes"]["natural"] == facts[more]["writes"]["natural"]
        assert facts[less]["writes"]["emitted"] < 0.9 * facts[more]["writes"]["emitted"]
        assert facts[less]["reads"]["per_inference"] > facts[more]["reads"]["per_inference"]
        assert facts[less]["reads"]["natural"] == facts[more]["reads"]["natural"]
    assert "sort-sections{spare=0.5}" in facts["spare"]["pipeline"]
    assert "form-sections{outputs=2}" in facts["narrow"]["pipeline"]


def test_kernels_that_are_built_are_told_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels of the test's own, which no cache holds; the outer one builds the inner one."""
    from numba import njit

    from xbc.cli.kernels import kernel_builds

    for terminal, quiet, said in ((True, False, 1), (True, True, 0), (False, False, 0)):
        inner = njit(lambda x: x + 1)
        outer = njit(lambda x, inner=inner: inner(x) * 2)
        monkeypatch.setattr("sys.stderr.isatty", lambda there=terminal: there)
        with kernel_builds(quiet) as first:
            assert outer(1) == 4
        assert first.seconds > 0
        assert capsys.readouterr().err.count("building kernels (once per installation)") == said
    with kernel_builds(False) as second:
        assert outer(1) == 4
    assert second.seconds == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-O0", "--spare", "0.5"], "-O0 does not: use -O1 to -O3"),
        (
            ["--passes", "quantize", "--spare", "1"],
            r"in a pipeline say form-sections{outputs=...} and sort-sections",
        ),
        (["--sensitivities", "sens.npz"], "no pass of this pipeline uses them; give -O3"),
        (["--outputs-per-section", "2"], "outputs = 2, but on target 'gather-128' at most 1 outputs share"),
    ],
)
def test_options_that_cannot_be(
    xbc: Runner, model: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    result = xbc("compile", model, *words)
    assert result.code == 2
    assert message in " ".join(result.err.split())
    assert not list(tmp_path.glob("*.xbc"))
