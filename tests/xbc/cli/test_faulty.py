"""Chips with faulty cells through the command line: every level, the read-back that maps them, the next program."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ir.stages import Programmed
from tests.xbc.cases import MODELS
from tests.xbc.cli.conftest import Runner
from xbc.backend import Program
from xbc.chip import replay
from xbc.targets import load_target
from xbc.targets.text import target_toml

ONE = ("--set", "crossbars=4", "--set", "faulty=[[0,3,2,1]]")


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3"])
def test_one_faulty_cell_at_every_level(xbc: Runner, level: str) -> None:
    made = xbc("compile", str(MODELS / "digits_lstm.onnx"), *ONE, level, "-o", "one.xbc", "--json", "--quiet")
    assert made.code == 0, made.err
    faults = json.loads(made.out)["faults"]
    assert (faults["cells"], faults["crossbars"], faults["weights_held"]) == (1, 1, 0)
    assert xbc("verify", "one.xbc").code == 0
    manifest = json.loads(Path("one.xbc/manifest.json").read_text())
    assert manifest["provenance"]["facts"]["avoid-faults"]["rms_error"] == 0.0
    assert "avoid-faults" in manifest["provenance"]["pipeline"]


def test_the_table_and_the_report_say_it(xbc: Runner) -> None:
    made = xbc("compile", str(MODELS / "digits_lstm.onnx"), *ONE, "-O1", "-o", "one.xbc", "--quiet")
    said = " ".join(made.out.split())
    assert "faulty cells 1 on 1 crossbars: " in said
    assert "0 weights held (RMS code error 0 LSB)" in said
    assert xbc("report", "one.xbc", "-o", "one.html", "--quiet").code == 0
    assert "rows exchanged, 0 weights held" in Path("one.html").read_text()


def test_a_read_back_makes_the_next_chip(xbc: Runner) -> None:
    target = load_target("isaac-128", {"crossbars": 3, "faulty": [[1, 2, 3, 1], [2, 5, 5, 0]]})
    Path("old.toml").write_text(target_toml(target))
    assert load_target("old.toml") == target
    model = str(MODELS / "digits_lstm.onnx")
    assert xbc("compile", model, "-t", "old.toml", "-O1", "-o", "old.xbc", "--quiet").code == 0
    levels = replay(Program.open(Path("old.xbc"))).chip.levels.copy()
    stuck = {(0, 7, 9): 1 - int(levels[0, 7, 9]), (1, 2, 3): 0}
    for cell, level in stuck.items():
        levels[cell] = level
    np.save("levels.npy", levels)
    found = xbc("readback", "old.xbc", "--levels", "levels.npy", "--faulty", "new.toml")
    assert found.code == 0, found.err
    said = " ".join(found.out.split())
    assert "3 faulty cells -> new.toml" in said
    assert "xbc compile MODEL.onnx -t new.toml" in said
    new = load_target("new.toml")
    assert list(new.faulty) == [(0, 7, 9, stuck[0, 7, 9]), (1, 2, 3, 0), (2, 5, 5, 0)]
    assert xbc("compile", model, "-t", "new.toml", "-O1", "-o", "new.xbc", "--quiet").code == 0
    assert xbc("verify", "new.xbc").code == 0
    run = replay(Program.open(Path("new.xbc")))
    assert all(run.chip.levels[cell] == level for cell, level in stuck.items())
    for layer in Program.open(Path("new.xbc")).module().layers:
        np.testing.assert_array_equal(run.codes[layer.name], layer.at(Programmed).effective_codes())


def test_every_shipped_chip_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("gather-128", "isaac-128", "pcm-256", "rram-64"):
        many = [[0, r, c, 1] for r in range(64) for c in range(8)]
        for target in (load_target(name), load_target(name, {"faulty": many, "description": 'a "b" \\ c'})):
            Path("t.toml").write_text(target_toml(target))
            assert load_target("t.toml") == target
