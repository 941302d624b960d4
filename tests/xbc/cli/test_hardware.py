"""emit, resume and readback as a hardware team calls them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from jsonschema import Draft202012Validator

from tests.xbc.cli.conftest import Runner
from xbc.backend import Program
from xbc.backend.manifest import render, self_digest
from xbc.export.package import shipped
from xbc.recovery.journal import Journal
from xbc.recovery.readback import expected_levels
from xbc.recovery.rest import read_rest


def test_emit(xbc: Runner, program: Path, tmp_path: Path) -> None:
    found = xbc("emit", program, "--format", "csv", "-o", "out", "--json")
    assert found.code == 0, found.err
    facts = found.json()
    assert facts["loads"] == len((tmp_path / "out" / "loads.csv").read_text().splitlines()) - 1
    assert facts["bytes"] == sum((tmp_path / "out" / n).stat().st_size for n in ("loads.csv", "writes.csv"))
    again = xbc("emit", program, "--format", "binary", "-o", "out")  # replaces the older export
    assert again.code == 0, again.err
    assert (tmp_path / "out" / "program.xbcs").exists()
    assert not (tmp_path / "out" / "loads.csv").exists()
    assert "outside 1.." in xbc("emit", program, "-f", "npy", "-o", "o", "--loads", "0").sentence
    assert "no export of xbc" in xbc("emit", program, "-f", "npy", "-o", program).sentence
    assert "xyz" in xbc("emit", program, "-f", "xyz", "-o", "o").sentence
    assert "not a directory" in xbc("emit", "none.xbc", "-f", "csv", "-o", "o").sentence


def test_resume(xbc: Runner, program: Path, tmp_path: Path) -> None:
    opened = Program.open(program)
    with Journal(tmp_path / "j", opened, durable=False) as journal:
        for load in range(3):
            journal.finish(0, load)
    found = xbc("resume", program, "--journal", "j", "-o", "rest", "--json")
    assert found.code == 0, found.err
    description, loads, writes = read_rest(tmp_path / "rest")
    Draft202012Validator(json.loads(shipped("export.schema.json"))).validate(description)
    assert loads["load"].tolist() == list(range(3, opened.total("loads")))
    assert description["writes_left"] == len(writes["load"]) == found.json()["writes_left"]
    levels = expected_levels(opened, 2, "first")
    np.save(tmp_path / "levels.npy", levels)
    for bar, row, column, before, after in zip(
        loads["crossbar"][np.searchsorted(loads["load"], writes["load"])],
        *(writes[name] for name in ("row", "column", "before", "after")),
        strict=True,
    ):
        assert levels[bar, row, column] == before
        levels[bar, row, column] = after
    np.testing.assert_array_equal(levels, expected_levels(opened, opened.total("loads") - 1, "first"))
    said = xbc("resume", program, "--levels", "levels.npy", "--inference", "first", "-o", "rest")
    assert said.code == 0, said.err
    assert f"3 of {opened.total('loads')} loads are finished" in said.out
    assert "needs a journal, levels, or both" in xbc("resume", program, "-o", "rest").sentence
    assert "inference says which" in xbc("resume", program, "--levels", "levels.npy", "-o", "rest").sentence


def test_readback(xbc: Runner, program: Path, data: Path, tmp_path: Path) -> None:
    opened = Program.open(program)
    levels = expected_levels(opened, opened.total("loads") - 1, "steady")
    np.save(tmp_path / "good.npy", levels)
    found = xbc("readback", program, "--levels", "good.npy", "--json")
    assert found.code == 0, found.err
    assert found.json()["cells_deviating"] == 0
    levels[0, :9, :] ^= 1
    np.save(tmp_path / "bad.npy", levels)
    call = ("readback", program, "--levels", "bad.npy", "--stuck", "--data", data, "-o", "repair.parquet")
    facts = xbc(*call, "--json").json()
    assert facts["cells_deviating"] == facts["repair_writes"] == 9 * levels.shape[2]
    assert {row["layer"] for row in facts["layers"]} == {"conv", "gemm"}
    assert facts["evaluation"]["rms_error"] > 0
    repair = pq.read_table(tmp_path / "repair.parquet")
    assert repair.column_names == ["crossbar", "row", "column", "before", "after", "verify"]
    text = xbc(*call).out
    assert "cells deviate" in text
    assert "repair: 72 writes" in text
    assert "outside -1.." in xbc("readback", program, "--levels", "bad.npy", "--load", "9999").sentence
    assert "cannot read" in xbc("readback", program, "--levels", "none.npy").sentence


def test_readback_tells_types_from_ranges(xbc: Runner, program: Path, tmp_path: Path) -> None:
    opened = Program.open(program)
    levels = expected_levels(opened, opened.total("loads") - 1, "steady")

    def said(changed: np.ndarray) -> str:
        np.save(tmp_path / "levels.npy", changed)
        return xbc("readback", program, "--levels", "levels.npy").sentence

    np.save(tmp_path / "float.npy", levels.astype(np.float64))
    assert xbc("readback", program, "--levels", "float.npy", "--json").json()["cells_deviating"] == 0
    for value, wanted in ((2, "out of range"), (-1, "out of range"), (0.5, "no level"), (np.nan, "no level")):
        wrong = levels.astype(np.float64)
        wrong[0, 3, 5] = value
        assert f"holds {float(value)} at [0, 3, 5] (crossbar, row, column), which is {wanted}" in said(wrong)
    assert "which is out of range" in said(levels + np.uint8(2))
    assert "type complex128; give integers 0 to 1" in said(levels.astype(np.complex128))
    np.savez(tmp_path / "levels.npz", levels=levels)
    assert "give the levels as .npy or Parquet" in xbc("readback", program, "--levels", "levels.npz").sentence


def test_wear_and_report(xbc: Runner, program: Path, data: Path, tmp_path: Path) -> None:
    facts = xbc("wear", program, "--json").json()
    assert facts["writes_per_inference"] == Program.open(program).total("steady.writes")
    assert [row["endurance"] for row in facts["lifetimes"]] == [1e5, 1e6, 1e7, 1e8, 1e9]
    assert "no plan in the program" in xbc("wear", program).out
    (tmp_path / "e.json").write_text(xbc("evaluate", program, "--data", data, "--json").out)
    said = xbc("report", program, "-o", "r.html", "--evaluation", "e.json", "--plots", "plots", "--json")
    assert said.code == 0, said.err
    assert said.json()["bytes"] == (tmp_path / "r.html").stat().st_size
    assert all((tmp_path / path).is_file() for path in said.json()["plots"])
    both = xbc("report", program, program, "-o", "c.html")
    assert both.code == 0, both.err
    assert "belongs to one program" in xbc("report", program, program, "--evaluation", "e.json").sentence
    assert "at most four" in xbc("report", *[program] * 5).sentence


COMMANDS = {
    "emit": ("emit", "bad", "-f", "csv", "-o", "out"),
    "resume": ("resume", "bad", "--journal", "j", "-o", "out"),
    "readback": ("readback", "bad", "--levels", "l.npy"),
    "wear": ("wear", "bad"),
    "report": ("report", "bad", "-o", "out.html"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_bad_programs_get_one_sentence(name: str, xbc: Runner, program: Path, tmp_path: Path) -> None:
    def edited(change: dict[str, object]) -> None:
        manifest = json.loads((program / "manifest.json").read_text())
        manifest |= change
        manifest["self_sha256"] = self_digest(manifest)
        (tmp_path / "bad" / "manifest.json").write_bytes(render(manifest))

    files = json.loads((program / "manifest.json").read_text())["files"]
    writes = (program / "writes.parquet").read_bytes()
    faults = {
        "missing": (lambda bad: (bad / "loads.parquet").unlink(), "is missing"),
        "truncated": (lambda bad: (bad / "writes.parquet").write_bytes(writes[:-7]), "bytes instead of"),
        "damaged": (lambda bad: (bad / "writes.parquet").write_bytes(writes[:-1] + b"x"), "is damaged"),
        "foreign": (lambda bad: (bad / "extra").write_text(""), "does not belong"),
        "newer": (lambda bad: edited({"format_version": 9}), "use newer xbc"),
        "hostile": (
            lambda bad: edited({"files": {**files, "../evil": files["host.onnx"]}}),
            "no program has",
        ),
        "empty": (lambda bad: shutil.rmtree(bad), "not a directory"),
    }
    for fault, (spoil, sentence) in faults.items():
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(program, tmp_path / "bad")
        spoil(tmp_path / "bad")
        found = xbc(*COMMANDS[name])
        assert found.code == 2, (fault, found.err)
        assert sentence in found.sentence, fault
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "out.html").exists()
