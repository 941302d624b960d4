"""The auction: every row a column of its own, and how near the cheapest it ends."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from passes.solvers.assignment import GRAIN, assign, assign_ortools


@given(
    seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12), extra=st.integers(0, 6),
    top=st.sampled_from([1, 3, 40, 1000, 2**29]),
)  # fmt: skip
def test_within_the_stated_distance_of_the_cheapest(seed: int, n: Any, extra: Any, top: Any) -> None:
    cost = np.random.default_rng(seed).integers(0, top, (n, n + extra))
    column = assign(cost)
    assert len(set(column.tolist())) == n
    rows, best = linear_sum_assignment(cost)
    assert cost[np.arange(n), column].sum() <= cost[rows, best].sum() + n / GRAIN
    if n < GRAIN:
        assert cost[np.arange(n), column].sum() == cost[rows, best].sum()
    exact = assign_ortools(cost)
    assert len(set(exact.tolist())) == n
    assert cost[np.arange(n), exact].sum() == cost[rows, best].sum()


@pytest.mark.parametrize("columns", [300, 340])
def test_nearly_equal_columns(columns: Any) -> None:
    rng = np.random.default_rng(7)
    cost = np.abs(rng.normal(size=(300, 1)) * 30 - rng.normal(size=(1, columns)) * 30).astype(np.int32) // 4
    column = assign(cost)
    rows, best = linear_sum_assignment(cost)
    assert cost[np.arange(300), column].sum() <= cost[rows, best].sum() + 300 / GRAIN
    np.testing.assert_array_equal(column, assign(cost))
