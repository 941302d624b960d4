"""What a penalty will cost, seen on some of the crossbars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ir.module import Module
from ir.stages import Placed, Programmed
from passes.base import Context
from passes.counting import count_module
from passes.manager import run_pipeline
from passes.pipeline import LEVELS, parse_pipeline
from xbc.budget.forecast import (
    RATIOS,
    SHARED_RATIOS,
    Forecast,
    predicted_loss,
    sample,
    shares_rows,
)
from xbc.budget.judge import effective_codes
from xbc.budget.steps import hold_steps
from xbc.budget.trial import squared_errors
from xbc.frontend import import_model
from xbc.targets import load_target

CNN = Path(__file__).parents[3] / "models" / "digits_cnn.onnx"


def placed(crossbars: int, target: str = "gather-128") -> Module:
    module = import_model(CNN, load_target(target).override({"crossbars": crossbars})).module
    return run_pipeline(module, parse_pipeline(LEVELS[2])[:-1], Context()).module


@pytest.mark.parametrize(("crossbars", "share"), [(4, 4), (8, 2), (2, 1)])
def test_sample_holds_the_loads_of_some_crossbars(crossbars: int, share: int) -> None:
    whole = placed(crossbars)
    part = sample(whole, share)
    for a, b in zip(whole.layers, part.layers, strict=True):
        full, some = a.at(Placed), b.at(Placed)
        assert set(np.unique(some.crossbar)) <= set(range(share // 2, crossbars, share))
        assert some.sections == np.isin(full.crossbar, np.unique(some.crossbar)).sum()
        assert np.array_equal(some.codes, full.codes)


def test_forecast_of_everything_is_the_compile() -> None:
    """A sample of all crossbars predicts exactly what the passes then do."""
    whole, context = placed(4), Context()
    outlook = Forecast(whole, context, share=1)(0.05, 4.0)
    done = run_pipeline(whole, hold_steps(whole, 0.05, 4.0, ()), context).module
    assert outlook.writes == count_module(done).steady.total
    assert outlook.loss == pytest.approx(
        predicted_loss(done, squared_errors(done, effective_codes(done)), context)
    )
    error = sum(
        np.square(x.at(Programmed).effective_codes() - x.at(Programmed).codes, dtype=float).sum()
        for x in done.layers
    )
    assert outlook.loss == pytest.approx(error / 2)


@pytest.mark.parametrize("wanted", [10000.0, 30000.0])
def test_penalty_is_found_for_a_predicted_loss(wanted: float) -> None:
    forecast = Forecast(placed(1), Context(), share=1)
    outlook = forecast.at_loss(wanted, 4.0, 0.1)
    assert wanted / 2 < forecast(outlook.lambda_, 4.0).loss < wanted * 2
    assert forecast.best(wanted, 0.1).writes <= outlook.writes


@pytest.mark.parametrize(("target", "ratios"), [("gather-128", RATIOS), ("isaac-128", SHARED_RATIOS)])
def test_ratios_depend_on_shared_rows(target: str, ratios: tuple[float, ...]) -> None:
    outlook = Forecast(placed(2, target), Context(), share=1).best(20000.0, 0.1)
    assert outlook.ratio in ratios
    assert shares_rows(placed(2, target)) == (ratios is SHARED_RATIOS)


def test_sample_without_writes_ends_the_search() -> None:
    """On this many crossbars every section stays where it is."""
    forecast = Forecast(placed(4096), Context())
    assert forecast.at_loss(1.0, 4.0, 0.1).writes == 0
