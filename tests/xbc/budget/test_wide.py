"""Level 3 where rows are shared and the adders take digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ir.stages import Programmed
from xbc.backend import Program
from xbc.chip import effective_codes, verify_program
from xbc.driver.compile import Compiled, compile_model

MODELS = Path(__file__).parents[3] / "models"
CNN = MODELS / "digits_cnn.onnx"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Compiled]:
    folder = tmp_path_factory.mktemp("wide")
    with np.load(MODELS / "digits_calib.npz") as data:
        np.savez(folder / "few.npz", **{name: data[name][:60] for name in data})
    return {
        adders: compile_model(
            CNN, folder / f"{adders}.xbc", target="isaac-128", settings={"adders": adders}, level=3,
            data=folder / "few.npz", report_data=MODELS / "digits_eval.npz", max_drop=2.0,
        )
        for adders in ("fixed", "any")
    }  # fmt: skip


def test_digits_and_feedback_write_less_within_the_same_budget(pair: dict[str, Compiled]) -> None:
    writes = {adders: done.summary["writes"]["emitted"] for adders, done in pair.items()}
    natural = {done.summary["writes"]["natural"] for done in pair.values()}
    assert len(natural) == 1
    assert writes["any"] < 0.75 * writes["fixed"]
    accepted = [point for point in pair["any"].summary["loss"]["curve"] if point["accepted"]]
    assert writes["any"] == min(point["writes"] for point in accepted)
    assert "choose-digits{lambda=" in pair["any"].summary["pipeline"]


def test_the_program_computes_with_the_digits(pair: dict[str, Compiled]) -> None:
    """The virtual chip, which knows the column weights from the layers table alone, finds the compiler's codes."""
    done = pair["any"]
    assert verify_program(done.directory).ok
    program = Program.open(done.directory)
    replayed = effective_codes(program)
    assert any(row.encoding == "digits" for row in program.layers)
    for layer in done.module.layers:
        np.testing.assert_array_equal(replayed[layer.name], layer.at(Programmed).effective_codes())
