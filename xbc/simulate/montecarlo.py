"""Repeating a measurement on several chips: mean, interval, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from ir.errors import XbcError
from ir.progress import Progress

LEAST_TRIALS = 3
"""An interval of fewer values is not worth stopping for."""


@dataclass(frozen=True)
class Estimate:
    """A mean over trials.

    Fields:
        values: one per trial.
        interval: 95 % interval of the mean (Student's t); infinite for a single trial.
        stopped: the interval was narrow enough before all trials were done.
    """

    values: tuple[float, ...]
    mean: float
    interval: tuple[float, float]
    stopped: bool = False

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.interval[1] - self.interval[0]) / 2

    def of_a_share(self) -> Estimate:
        """The same for values that are shares: no mean of them lies outside 0..1, however few they are."""
        low, high = self.interval
        return replace(self, interval=(max(0.0, low), min(1.0, high)))


def estimate(values: list[float], stopped: bool = False) -> Estimate:
    """Mean and interval of independent values."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(tuple(values), mean, (-math.inf, math.inf), stopped)
    deviation = float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return Estimate(tuple(values), mean, (mean - half, mean + half), stopped)


def monte_carlo(
    trial: Callable[[int], float], trials: int, *, narrow: float | None = None, progress: Progress | None =
    None
) -> Estimate:  # fmt: skip
    """Runs ``trial(0)``, ``trial(1)``, ... and summarises what they return.

    Args:
        trials: at most so many.
        narrow: stop when the interval's half width is at most this (after ``LEAST_TRIALS``).
    Raises: XbcError for a number of trials below 1.
    """
    if trials < 1:
        raise XbcError(f"trials = {trials} must be at least 1")
    values: list[float] = []
    for number in range(trials):
        values.append(float(trial(number)))
        if progress is not None:
            progress("trials", number + 1, trials)
        if narrow is not None and len(values) >= LEAST_TRIALS and number + 1 < trials:
            so_far = estimate(values)
            if so_far.half_width <= narrow:
                return estimate(values, stopped=True)
    return estimate(values)
