"""After power cuts at random writes nothing is lost and no finished load is done again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ir.errors import XbcError
from tests.xbc.cases import CHIPS, Case
from tests.xbc.recovery.power_cuts import WAYS, begin, interrupted_inference
from xbc.backend.stream import start_levels
from xbc.recovery.journal import HEADER, RECORD, Journal, read_journal
from xbc.recovery.resume import (
    decide,
    locate,
    misfits,
    position_from_read_back,
    position_of_journal,
    rest_of,
)

Cases = Callable[[str], Case]
CUTS = 10
"""Inferences per chip and way; benchmarks/power_cuts.py does 500 of each."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chip", CHIPS)
def test_interrupted_inferences_end_as_undisturbed_ones(
    chip: str, way: str, case: Cases, tmp_path: Path
) -> None:
    program = case(chip).program
    draw = np.random.default_rng([CUTS, *chip.encode()])
    outcomes = [interrupted_inference(program, tmp_path / "journal", draw, way) for _ in range(CUTS)]
    assert sum(o.wrong_cells for o in outcomes) == 0
    assert sum(o.redone_loads for o in outcomes) == 0
    assert sum(o.cuts for o in outcomes) >= CUTS
    if way != "journal":  # what stands in the cells is not written again; a cut cell may be right by chance
        assert all(-o.cuts <= o.extra_writes <= 0 for o in outcomes)
    assert sum(o.ambiguous for o in outcomes) <= CUTS // 5


def test_a_chip_between_two_inferences_has_nothing_left(case: Cases, tmp_path: Path) -> None:
    program = case("pairs").program
    begin(program, tmp_path / "j", 0, range(program.total("loads")))
    position = position_of_journal(program, read_journal(tmp_path / "j", program))
    assert position.inference == "first"
    assert position.done.all()
    assert list(rest_of(program, position)) == []
    found = locate(program, start_levels(program, "steady"), "first")
    assert found[-1].done.all()


def test_a_cut_in_the_first_load_of_a_later_inference(case: Cases, tmp_path: Path) -> None:
    """No record says that it began: the number or the read-back has to, and together they may not disagree."""
    program = case("pairs").program
    loads = program.total("loads")
    begin(program, tmp_path / "j", 0, range(loads))
    state = read_journal(tmp_path / "j", program)
    with pytest.raises(
        XbcError, match="give --number 1 when it may have, --number 0 when not, or a read-back"
    ):
        decide(program, state)
    assert decide(program, state, 0)[0].done.all()
    position, number = decide(program, state, 1)
    assert (position.inference, number, int(position.done.sum())) == ("steady", 1, 0)
    chip = start_levels(program, "steady")
    assert decide(program, state, None, chip)[0].done.all()
    ids, _, part = next(rest_of(program, position))
    bar, stop = int(part.crossbar[0]), int(part.write_at[1]) // 2
    assert ids[0] == 0
    chip[bar, part.row[:stop], part.column[:stop]] = part.after[:stop]
    position, number = decide(program, state, None, chip)
    assert (position.inference, number, int(position.done.sum())) == ("steady", 1, 0)
    assert position.uncertain(program)[0]
    with pytest.raises(XbcError, match=r"does not fit the journal: .* cells that no begun load writes"):
        decide(program, state, 0, chip)
    chip[:, -1, -1] ^= 1
    assert len(misfits(program, position, chip)) >= 1
    with pytest.raises(XbcError, match=r"does not fit the journal.*repair them first"):
        decide(program, state, None, chip)


def test_a_foreign_state_fits_nowhere(case: Cases) -> None:
    program = case("gather").program
    levels = start_levels(program, "steady")
    draw = np.random.default_rng(1)
    noise = draw.integers(0, 2, levels.shape).astype(np.uint8)
    with pytest.raises(XbcError, match="fits no point of the steady inference"):
        position_from_read_back(program, noise, "steady")
    with pytest.raises(XbcError, match="has shape"):
        position_from_read_back(program, levels[:1], "steady")
    with pytest.raises(XbcError, match="which is no level"):
        position_from_read_back(program, levels + np.float32(0.5), "steady")
    with pytest.raises(XbcError, match="which is out of range"):
        position_from_read_back(program, levels + 7, "steady")


def test_journal_faults_are_named(case: Cases, tmp_path: Path) -> None:
    program, other = case("pairs").program, case("gather").program
    path = tmp_path / "j"
    with Journal(path, program, durable=False) as journal:
        for load in range(6):
            journal.finish(0, load)
    good = path.read_bytes()

    def sentence(raw: bytes) -> str:
        path.write_bytes(raw)
        with pytest.raises(XbcError) as error:
            read_journal(path, program)
        return str(error.value)

    at = HEADER.size
    assert "another program" in sentence(Path(_journal(other, tmp_path)).read_bytes())
    assert "no journal" in sentence(b"hello, world")
    assert "no journal" in sentence(b"NOPE" + good[4:])
    assert "use newer xbc" in sentence(good[:4] + b"\x09\0" + good[6:])
    assert "header" in sentence(good[:20] + b"\xff" + good[21:])
    assert "record 2 " in sentence(good[: at + 2 * RECORD.size] + b"\xff" * 12 + good[at + 3 * RECORD.size :])
    with pytest.raises(XbcError, match="cannot read the journal"):
        read_journal(tmp_path / "none", program)
    for cut in range(RECORD.size):  # what a power cut leaves of the last record
        path.write_bytes(good[: len(good) - cut])
        state = read_journal(path, program)
        assert state.records == (6 if cut == 0 else 5)
        assert state.done.sum() == state.records
    for size in range(HEADER.size):  # ... or of the header
        path.write_bytes(good[:size])
        assert read_journal(path, program).records == 0
    with Journal(path, program, durable=False) as journal:
        journal.finish(0, 0)
    assert read_journal(path, program).records == 1


def test_journals_that_contradict_the_program_are_refused(case: Cases, tmp_path: Path) -> None:
    program = case("pairs").program
    loads = program.total("loads")
    later = int(np.flatnonzero(program.loads["previous"] >= 0)[0])
    for records, wanted in (
        ([(0, later)], "before load"),
        ([(0, 0), (0, 0)], "finishes a load twice"),
        ([(0, 0), (1, 0)], "before its end"),
        ([(0, loads)], "does not have"),
        ([(1, 0), (0, 1)], "does not have"),
    ):
        path = tmp_path / "j"
        path.unlink(missing_ok=True)
        with Journal(path, program, durable=False) as journal:
            for inference, load in records:
                journal.finish(inference, load)
        with pytest.raises(XbcError, match=wanted):
            read_journal(path, program)
    begin(program, tmp_path / "j", 0, [])
    state = read_journal(tmp_path / "j", program)
    with pytest.raises(XbcError, match="not at the start of 5"):
        position_of_journal(program, state, 5)


def _journal(program: object, tmp_path: Path) -> str:
    path = tmp_path / "other"
    Journal(path, program, durable=False).close()  # type: ignore[arg-type]
    return str(path)
