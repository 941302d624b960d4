"""The virtual chip against a plain loader, and against the module that was emitted."""

from __future__ import annotations

import importlib
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from ir.faulty import FaultyCells
from ir.module import Module
from ir.stages import Programmed
from tests.xbc.backend.programs import programs, small_program
from tests.xbc.recovery.loader import load_program
from xbc.backend import Program, emit_program
from xbc.chip import Chip, effective_codes, replay, verify_program


@given(programs())
@settings(max_examples=30)
def test_replay_equals_a_plain_loader(module: Module) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.xbc"
        emit_program(module, b"", path, provenance={})
        report = verify_program(path)
        assert report.ok, [str(p) for p in report.problems]
        program = Program.open(path)
        run = replay(program)
        _, again, oracle = load_program(path, program.manifest["target"], 3)
        assert again == oracle
        for cell, level in np.ndenumerate(run.chip.levels):
            assert oracle.levels.get(cell, 0) == level
        for cell, writes in np.ndenumerate(run.wear):
            assert oracle.wear.get(cell, 0) == writes
        for i, layer in enumerate(module.layers):
            codes = run.codes[layer.name]
            assert codes.dtype == np.int32
            assert np.array_equal(codes, layer.at(Programmed).effective_codes())
            for (output, source), code in np.ndenumerate(codes):
                assert oracle.codes[i, output, source] == code
        assert len(oracle.codes) == report.facts["weights"]


@given(programs(exact=True))
@settings(max_examples=15)
def test_exact_programs_hold_the_codes(module: Module) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.xbc"
        emit_program(module, b"", path, provenance={})
        codes = effective_codes(Program.open(path))
        assert list(codes) == [layer.name for layer in module.layers]
        for layer in module.layers:
            assert np.array_equal(codes[layer.name], layer.at(Programmed).codes)
        report = verify_program(path)
        assert report.ok
        assert report.facts["skipped"]["stuck"] == 0


def test_small_blocks_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "a.xbc"
    emit_program(small_program(), b"", whole, provenance={})
    facts = verify_program(whole).facts
    for module in ("walk", "rows"):
        monkeypatch.setattr(f"xbc.backend.{module}.GROUP_VALUES", 7)
    engine = importlib.import_module("xbc.chip.replay")
    monkeypatch.setattr(engine, "_IMAGE_BYTES", 50)
    monkeypatch.setattr(engine, "_CHUNK_WRITES", 9)
    pieces = tmp_path / "b.xbc"
    emit_program(small_program(), b"", pieces, provenance={})
    seen: list[int] = []
    report = verify_program(pieces, lambda what, done, total: seen.append(done))
    assert report.ok
    assert report.facts == facts
    assert seen == sorted(seen)
    assert (len(seen) > 10, seen[-1]) == (True, 26)


def test_wear_and_totals_of_a_program(tmp_path: Path) -> None:
    emit_program(small_program(), b"", tmp_path / "p", provenance={})
    facts = verify_program(tmp_path / "p").facts
    wear = facts["wear"]
    assert wear["max"] == facts["wear_max"]
    assert wear["mean"] == facts["steady"]["writes"] / (2 * 4 * 5)
    assert facts["full"] == facts["loads"] * 20 - facts["skipped"]["dont_care"]
    assert facts["steady"]["writes"] + sum(facts["skipped"].values()) == facts["loads"] * 20


def test_chip_holds_faulty_cells() -> None:
    chip = Chip(2, 2, 3, 2, FaultyCells([(1, 0, 2, 3)]))
    one = np.array([1, 1, 0])
    wrong = chip.apply(
        one, np.array([0, 1, 1]), np.array([2, 0, 1]), np.array([0, 0, 2]), np.array([1, 2, 3])
    )
    assert wrong.tolist() == [True, False, True]
    assert chip.levels.tolist() == [[[0, 0, 0], [0, 3, 0]], [[0, 0, 3], [2, 0, 0]]]
    assert chip.crc(1) == zlib.crc32(bytes([0, 0, 3, 2, 0, 0]))
