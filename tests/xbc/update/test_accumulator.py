"""The accumulator: nothing is lost, nothing below the threshold is written."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir.errors import XbcError
from xbc.update.accumulator import FRACTION_BITS, check_threshold, settle, to_fixed

ONE = 1 << FRACTION_BITS


@given(
    seed=st.integers(0, 2**32 - 1),
    threshold=st.floats(1e-3, 5),
    spread=st.floats(1e-3, 10),
    steps=st.integers(1, 12),
)
def test_written_plus_accumulated_is_requested_exactly(
    seed: int, threshold: Any, spread: Any, steps: Any
) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-7, 8, 50).astype(np.int16)
    start = codes.astype(np.int64) * ONE
    accumulator = np.zeros(50, np.int64)
    requested = np.zeros(50, np.int64)
    for _ in range(steps):
        request = to_fixed(spread * rng.standard_normal(50))
        requested += request
        accumulator += request
        before, pending = codes, accumulator
        codes, accumulator = settle(codes, accumulator, threshold=threshold, low=-7, high=7)
        assert codes.dtype == np.int16
        assert (codes >= -7).all()
        assert (codes <= 7).all()
        assert (codes.astype(np.int64) * ONE + accumulator == start + requested).all()
        below = np.abs(pending) < round(threshold * ONE)
        assert (codes[below] == before[below]).all()
        free = ~below & (codes > -7) & (codes < 7)
        assert (np.abs(accumulator[free]) <= ONE // 2).all()


def test_by_hand() -> None:
    codes = np.array([0, 0, 0, 0, 3, 5])
    pending = to_fixed(np.array([0.99, 1.0, -1.5, 2.6, 1.0, 4.0]))
    new, left = settle(codes, pending, threshold=1.0, low=-3, high=6)
    np.testing.assert_array_equal(new, [0, 1, -2, 3, 4, 6])
    np.testing.assert_allclose(left / ONE, [0.99, 0, 0.5, -0.4, 0, 3.0], atol=1e-5)


@given(st.floats(-1e6, 1e6))
def test_fixed_point_is_nearest(value: Any) -> None:
    assert abs(int(to_fixed(np.array(value))) / ONE - value) <= 0.5 / ONE + 1e-9


@pytest.mark.parametrize("threshold", [0, -1, float("nan"), float("inf"), 2.0**31])
def test_threshold_must_be_positive_and_finite(threshold: Any) -> None:
    with pytest.raises(XbcError, match="threshold"):
        check_threshold(threshold)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0**31])
def test_requests_must_be_finite(value: Any) -> None:
    with pytest.raises(XbcError, match="not finite"):
        to_fixed(np.array([0.0, value]))
