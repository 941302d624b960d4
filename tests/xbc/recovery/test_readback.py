"""Faults in a read-back: found exactly, followed exactly, repaired exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ir.cells import CellFormat
from ir.errors import XbcError
from tests.xbc.cases import CHIPS, Case
from xbc.backend import Program
from xbc.chip import effective_codes
from xbc.recovery.readback import compare, expected_levels, follow, read_levels, repair_table

Cases = Callable[[str], Case]
FAULTS = 12
"""Read-backs per chip; benchmarks/power_cuts.py does 500 of each."""


def disturbed(levels: np.ndarray, top: int, cells: int, draw: np.random.Generator) -> np.ndarray:
    out = levels.copy()
    flat = out.reshape(-1)
    where = draw.choice(flat.size, cells, replace=False)
    flat[where] = (flat[where] + draw.integers(1, top + 1, cells)) % (top + 1)
    return out


def computed_codes(
    one: Case, levels: np.ndarray, load: int, inference: str, stuck: np.ndarray
) -> dict[str, np.ndarray]:
    """Codes of every layer in the inference that follows, by walking the tables one write at a time."""
    program, chip = one.program, levels.copy()
    module = program.module()
    totals = {layer.name: np.zeros(layer.body.shape, np.int64) for layer in module.layers}
    order = [(i, inference) for i in range(load + 1, len(one.loads))] + [
        (i, "steady") for i in range(load + 1)
    ]
    sections = pq.read_table(program.folder / "sections.parquet").to_pylist()
    for i, run in order:
        entry = one.loads[i]
        bar = chip[entry["crossbar"]]
        for w in one.writes[entry["write_start"] : entry["write_start"] + entry["write_count"]]:
            if (
                w["phase"] != (2 if run == "first" else 1)
                and not stuck[entry["crossbar"], w["row"], w["column"]]
            ):
                bar[w["row"], w["column"]] = w["after"]
        s = sections[i]
        layer = program.layers[s["layer"]]
        cells = CellFormat(layer.encoding, layer.bits, layer.bits_per_cell)
        for r, source in enumerate(s["inputs"]):
            gated = layer.scope == "layer"
            for g, listed in [(0, r)] if gated else [(g, g) for g in range(len(s["outputs"]))]:
                sink = s["outputs"][listed]
                if source < 0 or sink < 0:
                    continue
                held = bar[r, g * cells.columns : (g + 1) * cells.columns]
                word = cells.words(held[None])[0]
                word ^= (s["flip"] or [0] * len(s["outputs"]))[g]
                code = int(cells.decode(np.array([word]), s["offset"][listed])[0])
                if s["signs"]:
                    code *= s["signs"][r]
                elif s["polarity"]:
                    code *= s["polarity"]
                totals[layer.name][sink, source] += code
    return totals


@pytest.mark.parametrize("chip", CHIPS)
def test_faults_are_found_and_repaired(chip: str, case: Cases) -> None:
    one = case(chip)
    program, top = one.program, 2**one.program.target.bits_per_cell - 1
    draw = np.random.default_rng(3)
    for _ in range(FAULTS):
        load, run = int(draw.integers(-1, len(one.loads))), ("first", "steady")[draw.integers(2)]
        expected = expected_levels(program, load, run)
        if load >= 0:
            bar = one.loads[load]["crossbar"]
            np.testing.assert_array_equal(expected[bar], one.images(run)[load])
        found = disturbed(expected, top, int(draw.integers(1, 12)), draw)
        deviations = compare(program, found, np.ones(found.shape, np.bool_), load, run)
        np.testing.assert_array_equal(
            np.stack([deviations.crossbar, deviations.row, deviations.column]), np.nonzero(found != expected)
        )
        table, hopeless = repair_table(program, deviations)
        assert hopeless == 0
        for w in table.to_pylist():
            assert found[w["crossbar"], w["row"], w["column"]] == w["before"]
            found[w["crossbar"], w["row"], w["column"]] = w["after"]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("stuck", [False, True], ids=["soft", "stuck"])
@pytest.mark.parametrize("chip", CHIPS)
def test_their_effect_is_what_a_walk_through_the_tables_gives(chip: str, stuck: bool, case: Cases) -> None:
    one = case(chip)
    program, top = one.program, 2**one.program.target.bits_per_cell - 1
    codes = effective_codes(program)
    draw = np.random.default_rng(4)
    changed = 0
    for load, run in ((-1, "steady"), (len(one.loads) // 3, "first")):
        expected = expected_levels(program, load, run)
        found = disturbed(expected, top, 25, draw)
        deviations = compare(program, found, np.ones(found.shape, np.bool_), load, run)
        effect = follow(program, deviations, stuck)
        held = found != expected if stuck else np.zeros(found.shape, np.bool_)
        wanted = computed_codes(one, found, load, run, held)
        got = effect.codes(program, codes)
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name], name)
        changed += len(effect.change)
        assert not (stuck and effect.healed.any())
    assert changed > 0


def test_measurement_files(case: Cases, tmp_path: Path) -> None:
    one = case("pairs")
    program: Program = one.program
    expected = expected_levels(program, 5, "steady")
    np.save(tmp_path / "all.npy", expected)
    levels, measured = read_levels(tmp_path / "all.npy", program)
    assert measured.all()
    np.testing.assert_array_equal(levels, expected)
    cells = {"crossbar": [0, 1], "row": [3, 4], "column": [5, 6], "level": [1, 2]}
    path = tmp_path / "some.parquet"
    pq.write_table(pa.table(cells), path)
    levels, measured = read_levels(path, program)
    assert measured.sum() == 2
    assert levels[1, 4, 6] == 2

    def sentence(name: str = "some.parquet") -> str:
        with pytest.raises(XbcError) as error:
            read_levels(tmp_path / name, program)
        return str(error.value)

    for change, wanted in (
        ({"row": [3, 64]}, "row 1: row 64 is outside 0..63"),
        ({"level": [1, 4]}, "level 4 is outside 0..3"),
        ({"crossbar": [0, -1]}, "crossbar -1"),
        ({"level": [1.5, 2.0]}, "must hold integers"),
        ({"crossbar": [0, 0], "row": [3, 3], "column": [5, 5]}, "twice"),
    ):
        pq.write_table(pa.table({**cells, **change}), path)
        assert wanted in sentence()
    pq.write_table(pa.table({k: cells[k] for k in ("crossbar", "row", "column")}), path)
    assert "no column 'level'" in sentence()
    path.write_bytes(b"no parquet")
    assert "cannot read" in sentence()
    np.save(tmp_path / "all.npy", expected[:, :5])
    assert "has shape" in sentence("all.npy")
    np.save(tmp_path / "all.npy", np.array([{}]), allow_pickle=True)
    assert "cannot read" in sentence("all.npy")
    assert "cannot read" in sentence("none.parquet")
    with pytest.raises(XbcError, match="outside -1"):
        expected_levels(program, len(one.loads), "steady")
