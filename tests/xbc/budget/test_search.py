"""The search for a penalty: brackets the budget's edge from both sides, from wherever it begins."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xbc.budget.trial import COARSE, NOTHING_LEFT, search


def tried(edge: float, slope: float, first: float, exact_from: float = np.inf) -> list[tuple[float, float]]:
    """(penalty, severity) of every program, where the severity is 1 at ``edge``."""
    seen: list[tuple[float, float]] = []

    def severity(lambda_: float) -> float:
        share = 0.0 if lambda_ >= exact_from else float((edge / lambda_) ** slope)
        seen.append((lambda_, share))
        return share

    search(severity, first)
    return seen


@given(
    edge=st.floats(-9, 9).map(lambda x: 10.0**x),
    slope=st.floats(0.3, 2.0),
    first=st.floats(-6, 6).map(lambda x: 10.0**x),
)
def test_the_edge_is_bracketed_from_any_beginning(edge: float, slope: float, first: float) -> None:
    seen = tried(edge, slope, first)
    inside = min(x for x, share in seen if share <= 1)
    outside = max(x for x, share in seen if share > 1)
    assert outside < inside <= outside * COARSE * 1.01
    assert len(seen) <= 25


@given(first=st.floats(-6, 6).map(lambda x: 10.0**x))
def test_an_edge_that_jumps_is_found(first: float) -> None:
    """Above some penalty nothing is held: far steps that land there are no end."""
    seen = tried(50.0, 1.0, first, exact_from=400.0)
    assert 50.0 <= min(x for x, share in seen if share <= 1) <= 50.0 * COARSE * 1.01


def test_the_search_ends_where_nothing_can_help() -> None:
    seen: list[float] = []

    def never(lambda_: float) -> float:
        seen.append(lambda_)
        return 1e9

    search(never, 0.1)
    assert max(seen) == 1e12
    assert len(seen) <= 12
    seen.clear()
    search(lambda lambda_: seen.append(lambda_) or NOTHING_LEFT, 0.1)  # type: ignore[func-returns-value]
    assert seen == [0.1]
