"""The manifest's own command builds the same program again; its pipeline alone gives the same writes."""

import hashlib
import json
import shlex
from pathlib import Path

import pytest

from passes.counting import count_module
from passes.manager import finish, run_pipeline
from passes.pipeline import parse_pipeline
from tests.xbc.cli.conftest import Runner
from xbc.driver.compile import compile_model
from xbc.frontend import import_model
from xbc.targets import load_target, target_text

SMALL = ["--set", "crossbars=3", "--set", "rows=16"]


def contents(program: Path) -> dict[str, str]:
    return {
        str(file.relative_to(program)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(program.rglob("*"))
        if file.is_file() and file.name != "manifest.json"
    }


@pytest.mark.parametrize(
    "options",
    [
        ["-O0", *SMALL],
        ["-O1", *SMALL, "--seed", "7"],
        ["-O2", *SMALL, "--quantize", "bits=5,granularity=channel"],
        ["-O2", "-t", "chips/mine.toml"],
        ["-O2", *SMALL, "-t", "isaac-128", "--set", "encoding=differential", "--set", "columns=16"],
        ["-O3", *SMALL, "--max-error", "0.4"],
        ["-O3", "-t", "chips/mine.toml", "--set", "write.set_pj=2.5", "--spare", "0.5"],
        ["-O3", *SMALL, "--data", "set.npz", "--max-drop", "20"],
        [
            "-O3",
            *SMALL,
            "--data",
            "set.npz",
            "--max-drop",
            "20",
            "--sensitivities",
            "sens.npz",
            "--quantize",
            "",
        ],
        ["--passes", "quantize,slice-bits,form-sections,deal-sections,stick-bits", *SMALL, "--seed", "3"],
    ],
    ids=lambda options: " ".join(options),
)
def test_command_and_pipeline_are_the_program(
    xbc: Runner, model: Path, data: Path, tmp_path: Path, options: list[str]
) -> None:
    (tmp_path / "chips").mkdir()
    text = (
        target_text("gather-128")
        .replace("rows = 128", "rows = 24")
        .replace("crossbars = 1\n", "crossbars = 2\n")
    )
    assert text != target_text("gather-128")
    for place in ("chips/mine.toml", "mine.toml"):
        (tmp_path / place).write_text(text)
    if "sens.npz" in options:
        made = xbc("sensitivity", model, "--data", data, "-o", "sens.npz")
        assert made.code == 0, made.err
    result = xbc("compile", model, *options, "-o", "first.xbc", "--json")
    assert result.code == 0, result.err
    provenance = json.loads((tmp_path / "first.xbc" / "manifest.json").read_text())["provenance"]
    words = shlex.split(provenance["command"])
    assert words[0] == "xbc"
    again = xbc(*words[1:], "-o", "second.xbc", "--json")
    assert again.code == 0, again.err
    assert contents(tmp_path / "second.xbc") == contents(tmp_path / "first.xbc")
    chip = load_target("./first.xbc")
    module = import_model(model, chip).module
    run = run_pipeline(module, parse_pipeline(provenance["pipeline"]))
    if "--seed" not in options:
        assert count_module(finish(run.module)).steady.total == result.json()["writes"]["emitted"]


def test_a_chip_made_in_python_is_found_in_the_program(xbc: Runner, model: Path, tmp_path: Path) -> None:
    chip = load_target("gather-128", {"rows": 24, "name": "mine"})
    compile_model(model, tmp_path / "p.xbc", target=chip, settings={"crossbars": 2})
    before = contents(tmp_path / "p.xbc")
    command = json.loads((tmp_path / "p.xbc" / "manifest.json").read_text())["provenance"]["command"]
    assert "--target ./p.xbc" in command
    again = xbc(*shlex.split(command)[1:], "-o", "q.xbc", "-q")
    assert again.code == 0, again.err
    assert contents(tmp_path / "q.xbc") == before
    (tmp_path / "empty").mkdir()
    assert "no compiled program" in xbc("compile", model, "-t", "./empty").sentence
