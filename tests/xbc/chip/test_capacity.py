"""Networks larger than the chip, and chips larger than the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.xbc.cases import MODELS
from xbc.backend import Program
from xbc.chip import verify_program
from xbc.driver.compile import compile_model
from xbc.schedule import program_costs, schedule


@pytest.mark.parametrize("level", [0, 1])
def test_a_chip_of_one_small_array_runs_a_network_a_hundred_times_its_size(
    level: int, tmp_path: Path
) -> None:
    settings = {"rows": 16, "columns": 8, "crossbars": 1}
    done = compile_model(MODELS / "digits_cnn.onnx", tmp_path / "p.xbc", settings=settings, level=level)
    assert done.summary["weights"] > 300 * 16
    assert verify_program(done.directory).ok


def test_a_chip_that_holds_the_network_is_never_written_again(tmp_path: Path) -> None:
    done = compile_model(
        MODELS / "digits_lstm.onnx", tmp_path / "p.xbc", settings={"crossbars": 1200}, level=1
    )
    program = Program.open(done.directory)
    totals = program.manifest["totals"]
    assert totals["first"]["writes"] > 0
    assert totals["steady"]["writes"] == 0
    assert verify_program(done.directory).ok
    found = schedule(program_costs(program), program.target.crossbars)
    assert found.write_pj == 0
    assert found.critical_write_ns == 0


def test_more_crossbars_mean_fewer_writes(tmp_path: Path) -> None:
    writes = []
    for crossbars in (8, 64, 512):
        done = compile_model(
            MODELS / "digits_lstm.onnx",
            tmp_path / f"{crossbars}.xbc",
            settings={"crossbars": crossbars},
            level=1,
        )
        writes.append(done.summary["writes"]["emitted"])
    assert writes[2] < writes[1]
