"""-O3 where rows are shared and the adders take digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ir.stages import Programmed
from xbc.backend import Program
from xbc.chip import effective_codes, verify_program
from xbc.driver.compile import Compiled, compile_model

MODELS = Path(__file__).parents[3] / "models"


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    folder = tmp_path_factory.mktemp("wide")
    for name, samples in (("calib", 40), ("eval", 60)):
        with np.load(MODELS / f"digits_{name}.npz") as data:
            np.savez(folder / f"{name}.npz", **{key: data[key][:samples] for key in data})
    return compile_model(
        MODELS / "digits_cnn.onnx", folder / "cnn.xbc", target="isaac-128", settings={"adders": "any"}, level=3,
        data=folder / "calib.npz", report_data=folder / "eval.npz", max_drop=3.0,
    )  # fmt: skip


def test_the_budget_is_kept_and_writes_fall(held: Compiled) -> None:
    writes = held.summary["writes"]
    accepted = [point for point in held.summary["loss"]["curve"] if point["accepted"]]
    assert writes["emitted"] == min(point["writes"] for point in accepted)
    assert writes["emitted"] < writes["natural"] / 3
    assert "choose-digits{lambda=" in held.summary["pipeline"]


def test_the_program_computes_with_the_digits(held: Compiled) -> None:
    """The virtual chip, which knows the column weights from the layers table alone, finds the compiler's codes."""
    assert verify_program(held.directory).ok
    program = Program.open(held.directory)
    assert any(row.encoding == "digits" for row in program.layers)
    replayed = effective_codes(program)
    for layer in held.module.layers:
        np.testing.assert_array_equal(replayed[layer.name], layer.at(Programmed).effective_codes())
