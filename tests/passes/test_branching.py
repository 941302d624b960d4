"""Branch and bound over 1-trees: the same lengths as exhaustive search and CP-SAT, and honest limits."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.solvers.branching import branch_path
from passes.solvers.circuit import shortest_path
from passes.solvers.tour import path_length


def symmetric(seed: int, n: Any, top: Any) -> Any:
    cost = np.triu(np.random.default_rng(seed).integers(0, top, (n, n)), 1)
    return (cost + cost.T).astype(np.int64)


def clustered(seed: int, n: Any) -> Any:
    """Distances of points in a plane: long thin instances with many near ties."""
    at = np.random.default_rng(seed).integers(0, 60, (n, 2))
    return np.abs(at[:, None] - at[None, :]).sum(2).astype(np.int64)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 6), top=st.sampled_from([1, 2, 5, 1000, 65536]))
def test_shortest_of_all_orders(seed: int, n: Any, top: Any) -> None:
    cost = symmetric(seed, n, top)
    path, bound, proven = branch_path(cost, np.random.default_rng(seed).permutation(n), 0, 10**6)
    shortest = min(path_length(cost, np.array(order)) for order in permutations(range(n)))
    assert proven
    assert sorted(path.tolist()) == list(range(n))
    assert path_length(cost, path) == bound == shortest


@pytest.mark.parametrize(("seed", "n"), [(1, 14), (2, 18), (3, 22), (4, 26)])
def test_same_as_cp_sat(seed: int, n: Any) -> None:
    cost = clustered(seed, n)
    path, bound, proven = branch_path(cost, np.arange(n), 0, 10**6)
    proof = shortest_path(cost, path, 0, work=60.0)
    assert proven
    assert proof.optimal
    assert path_length(cost, path) == bound == proof.bound


def test_the_work_limit_leaves_a_bound_below_the_path() -> None:
    cost = clustered(5, 40)
    path, bound, proven = branch_path(cost, np.arange(40), 7, 3)
    assert not proven
    np.testing.assert_array_equal(path, np.arange(40))
    best = branch_path(cost, path, 7, 10**6)
    assert best[2]
    assert 7 <= bound <= best[1] < path_length(cost, path)


@pytest.mark.parametrize("seed", range(12))
def test_forty_sections_are_proven(seed: int) -> None:
    cost = clustered(seed, 40)
    path, bound, proven = branch_path(cost, np.arange(40), 0, 5_000_000)
    assert proven
    assert path_length(cost, path) == bound


@given(seed=st.integers(0, 2**32 - 1), work=st.integers(1, 300_000))
def test_any_limit_leaves_a_path_and_a_bound(seed: int, work: Any) -> None:
    """Points with many near ties may need more than any limit: what is returned then is no worse than the start."""
    cost = clustered(seed, 40)
    start = path_length(cost, np.arange(40))
    path, bound, proven = branch_path(cost, np.arange(40), 0, work)
    assert sorted(path.tolist()) == list(range(40))
    length = path_length(cost, path)
    assert bound == length if proven else bound <= length <= start
