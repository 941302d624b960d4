"""Comparison of outputs: counts against numpy, intervals against their definition and by coverage."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ir.errors import XbcError
from xbc.simulate.metrics import Z95, Comparison, paired_interval, wilson_interval


def test_wilson_interval_is_where_the_score_test_turns() -> None:
    assert wilson_interval(0, 10)[0] == pytest.approx(0, abs=1e-12)
    assert wilson_interval(10, 10)[1] == pytest.approx(1)
    for hits, samples in ((0, 10), (3, 10), (81, 263), (10, 10)):
        for bound in wilson_interval(hits, samples):
            if 1e-9 < bound < 1 - 1e-9:  # |p^ - p| = z * sqrt(p (1 - p) / n)
                assert abs(hits / samples - bound) == pytest.approx(
                    Z95 * math.sqrt(bound * (1 - bound) / samples)
                )


def test_paired_interval_by_hand() -> None:
    # b = 10.5, c = 4.5, n = 102
    middle, half = 6 / 102, 1.959964 * math.sqrt(15 - 36 / 102) / 102
    assert paired_interval(10, 4, 100) == pytest.approx((middle - half, middle + half), abs=1e-6)
    low, high = paired_interval(0, 0, 500)
    assert low == -high
    assert 0 < high < 0.005


@pytest.mark.parametrize(
    ("samples", "lost", "gained"), [(200, 0.03, 0.01), (500, 0.01, 0.01), (100, 0.2, 0.1)]
)
def test_paired_interval_covers_the_true_difference(samples: int, lost: float, gained: float) -> None:
    rng = np.random.default_rng(11)
    draws = rng.multinomial(samples, [lost, gained, 1 - lost - gained], size=4000)
    inside = [
        low <= lost - gained <= high for low, high in (paired_interval(b, c, samples) for b, c, _ in draws)
    ]
    assert 0.93 < np.mean(inside) < 0.99


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
def test_intervals_hold_their_estimate(counts: tuple[int, int, int]) -> None:
    b, c, n = counts
    if b + c <= n:
        low, high = paired_interval(b, c, n)
        assert -1 <= low <= (b - c) / (n + 2) <= high <= 1
    low, high = wilson_interval(b, n)
    assert 0 <= low <= b / n + 1e-12
    assert b / n - 1e-12 <= high <= 1


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(1, 9), st.integers(0, 2**31))
def test_streaming_equals_numpy(samples: int, classes: int, piece: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((samples, classes)).astype(np.float32)
    b = a + rng.standard_normal(a.shape).astype(np.float32)
    labels = rng.integers(0, classes, samples)
    comparison = Comparison(labels)
    for at in range(0, samples, piece):
        comparison.add({"y": a[at : at + piece]}, {"y": b[at : at + piece]})
    result = comparison.result()
    right, also = a.argmax(1) == labels, b.argmax(1) == labels
    assert result["samples"] == samples
    assert result["reference"] == right.mean()
    assert result["compiled"] == also.mean()
    assert result["drop"] == pytest.approx(right.mean() - also.mean())
    assert result["agreement"] == (a.argmax(1) == b.argmax(1)).mean()
    difference = (a.astype(np.float64) - b).ravel()
    assert result["max_abs_error"] == pytest.approx(np.abs(difference).max())
    assert result["rms_error"] == pytest.approx(math.sqrt(np.mean(difference**2)))
    lost, gained = int((right & ~also).sum()), int((also & ~right).sum())
    assert result["interval"] == list(paired_interval(lost, gained, samples))
    assert json.loads(json.dumps(result)) == result


def test_without_labels() -> None:
    a = np.eye(4, dtype=np.float32)
    b = a.copy()
    b[0] = [0, 1, 0, 0]
    comparison = Comparison()
    comparison.add({"y": a, "z": a}, {"y": b, "z": a})
    result = comparison.result()
    assert result["metric"] == "agreement"
    assert result["reference"] is result["compiled"] is result["drop"] is None
    assert result["agreement"] == 0.75
    assert result["interval"] == list(wilson_interval(3, 4))
    assert result["outputs"]["z"]["max_abs_error"] == 0.0
    assert result["max_abs_error"] == 1.0


def test_outputs_of_one_value_have_no_decision() -> None:
    comparison = Comparison()
    comparison.add({"y": np.zeros((3, 1))}, {"y": np.ones((3, 1))})
    result = comparison.result()
    assert result["agreement"] is result["interval"] is None
    assert result["rms_error"] == 1.0
    with pytest.raises(XbcError, match="one value per sample"):
        Comparison(np.zeros(3, np.int64)).add({"y": np.zeros((3, 1))}, {"y": np.zeros((3, 1))})


@pytest.mark.parametrize("axis", [1, 2])
def test_a_label_per_position(axis: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 3, 7))
    labels = rng.integers(0, 3 if axis == 1 else 7, (5, 7) if axis == 1 else (5, 3))
    comparison = Comparison(labels)
    comparison.add({"y": a}, {"y": b})
    assert comparison.result()["reference"] == (a.argmax(axis) == labels).mean()
    assert comparison.decisions == labels.size
    with pytest.raises(XbcError, match="suit no class axis"):
        Comparison(np.zeros((5, 4), np.int64)).add({"y": a}, {"y": b})


def test_values_that_are_not_finite_are_counted_apart() -> None:
    a = np.array([[1.0, np.nan, np.inf, -np.inf, 5.0]])
    b = np.array([[2.0, np.nan, np.inf, np.inf, np.nan]])
    comparison = Comparison()
    comparison.add({"y": a}, {"y": b})
    result = comparison.result()
    assert result["non_finite"] == 2
    assert result["max_abs_error"] == 1.0
    assert json.dumps(result, allow_nan=False)


def test_what_does_not_fit() -> None:
    y = np.zeros((2, 3))
    with pytest.raises(XbcError, match="label 3 is no class"):
        Comparison(np.array([0, 3])).add({"y": y}, {"y": y})
    with pytest.raises(XbcError, match="label -1"):
        Comparison(np.array([0, -1])).add({"y": y}, {"y": y})
    with pytest.raises(XbcError, match="does not match"):
        Comparison().add({"y": y}, {"y": y[:1]})
    with pytest.raises(XbcError, match="1 labels for more samples"):
        Comparison(np.array([0])).add({"y": y}, {"y": y})
    with pytest.raises(XbcError, match="no output 'q'"):
        Comparison(primary="q").add({"y": y}, {"y": y})
    with pytest.raises(XbcError, match="no samples"):
        Comparison().result()
