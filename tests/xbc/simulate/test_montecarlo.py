"""Means over trials: interval, early stop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ir.errors import XbcError
from xbc.simulate.montecarlo import LEAST_TRIALS, estimate, monte_carlo


def test_interval_is_students() -> None:
    result = estimate([1.0, 2.0, 3.0, 4.0])
    # t(0.975, 3) = 3.182446, standard deviation sqrt(5 / 3)
    half = 3.182446305 * math.sqrt(5 / 3) / 2
    assert result.mean == 2.5
    assert result.interval == pytest.approx((2.5 - half, 2.5 + half))
    assert estimate([0.3]).interval == (-math.inf, math.inf)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    runs = [estimate(list(rng.normal(3, 2, 6))).interval for _ in range(2000)]
    assert np.mean([low <= 3 <= high for low, high in runs]) == pytest.approx(0.95, abs=0.015)


def test_trials_stop_when_the_interval_is_narrow_and_never_too_early() -> None:
    seen: list[int] = []

    def steady(number: int) -> float:
        seen.append(number)
        return 0.5 + 0.001 * (number % 2)

    result = monte_carlo(steady, 100, narrow=0.01)
    assert result.stopped
    assert seen == list(range(LEAST_TRIALS))
    wide = monte_carlo(lambda n: float(n), 6, narrow=0.01)
    assert not wide.stopped
    assert len(wide.values) == 6
    with pytest.raises(XbcError, match="at least 1"):
        monte_carlo(steady, 0)


def test_the_interval_of_a_share_lies_within_it() -> None:
    """Two trials of a top-1 near 1: Student's t over one degree of freedom reaches far beyond."""
    few = estimate([0.9219, 0.9688])
    assert few.interval[1] > 1.2
    assert few.of_a_share().interval == (few.interval[0], 1.0)
    assert estimate([0.3]).of_a_share().interval == (0, 1)
    assert few.of_a_share().mean == few.mean
