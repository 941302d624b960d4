"""Plans of residency against exhaustive search over resident subsets and load steps."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ir import Placed, check_module
from passes.base import Context
from passes.counting import count_module
from passes.deal_sections import DealSections
from passes.residency import GAP, LayerCost, best_plan, spread
from tests.passes.small import assert_each_weight_once, compiled, module, random_codes, target

layer_costs = st.builds(
    LayerCost,
    sections=st.integers(0, 9), within=st.floats(0, 10), change=st.floats(0, 50),
    read_ns=st.floats(1, 100), within_ns=st.floats(0, 20), change_ns=st.floats(0, 90),
)  # fmt: skip


def exhaustive(costs: Any, crossbars: Any, limit_ns: Any) -> Any:
    """Fewest writes over every resident subset and every number of load steps of the others."""
    choices = [
        [0] * (c.sections <= crossbars) + list(range(1, c.sections + 1)) if c.sections else [0] for c in costs
    ]
    best = np.inf
    for steps in product(*choices):
        kept = sum(c.sections for c, k in zip(costs, steps, strict=True) if not k)
        widest = max((-(-c.sections // k) for c, k in zip(costs, steps, strict=True) if k), default=0)
        if (
            kept + widest > crossbars
            or sum(c.time_ns(k) for c, k in zip(costs, steps, strict=True)) > limit_ns
        ):
            continue
        best = min(best, sum(c.writes(k) for c, k in zip(costs, steps, strict=True)))
    return best


@settings(max_examples=60, deadline=None)
@given(costs=st.lists(layer_costs, min_size=1, max_size=4), crossbars=st.integers(2, 12),
       time=st.sampled_from([1.0, 1.1, 1.5, 4.0]))  # fmt: skip
def test_no_plan_is_better(costs: Any, crossbars: Any, time: Any) -> None:
    base = spread(costs, crossbars)
    plan = best_plan(costs, crossbars, time)
    rounding = 1e-6
    assert plan.proven
    assert plan.time_ns <= base.time_ns * time * (1 + rounding) + rounding
    kept = sum(costs[i].sections for i in plan.resident)
    assert all(kept + -(-c.sections // k) <= crossbars for c, k in zip(costs, plan.steps, strict=True) if k)
    # a little less time than allowed: times are rounded to ten millionths
    found = exhaustive(costs, crossbars, base.time_ns * time * (1 - rounding))
    assert plan.writes <= found * (1 + GAP) + base.writes * rounding + rounding


def formed(seed: int, shapes: Any, crossbars: Any, **chip: Any) -> Any:
    rng = np.random.default_rng(seed)
    text = "encode-signs,slice-bits,form-sections,sort-sections,order-sections{bound=0}"
    return compiled(
        text, module([random_codes(rng, s, 4) for s in shapes], target(crossbars=crossbars, **chip))
    )


def crossbars_of(layer: Any) -> Any:
    return set(layer.at(Placed).crossbar.tolist())


def test_a_resident_layer_shares_no_crossbar_and_writes_nothing() -> None:
    given_module = formed(1, [(12, 16), (3, 8), (2, 8), (4, 8)], 16)
    outcome = DealSections(resident="cost", time=2.0).run(given_module, Context())
    done, facts = outcome.module, outcome.facts
    check_module(done)
    assert facts["resident_layers"], "the example keeps no layer: it shows nothing"
    counts = count_module(done)
    for layer in done.layers:
        assert_each_weight_once(layer.at(Placed))
        if layer.name in facts["resident_layers"]:
            assert counts.layer_writes[layer.name] == 0
            assert len(crossbars_of(layer)) == layer.at(Placed).sections
            others = set().union(*(crossbars_of(x) for x in done.layers if x.name != layer.name))
            assert not crossbars_of(layer) & others
    free = count_module(DealSections(resident="free").run(given_module, Context()).module)
    assert counts.steady.total < free.steady.total


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), crossbars=st.integers(2, 60), routing=st.sampled_from(["gather", "block"])
)
def test_any_number_of_crossbars(seed: int, crossbars: Any, routing: Any) -> None:
    given_module = formed(seed, [(6, 9), (3, 4), (9, 5), (1, 1)], crossbars, routing=routing)
    outcome = DealSections(resident="cost").run(given_module, Context(threads=1))
    done, estimates = outcome.module, outcome.facts
    check_module(done)
    sections = sum(layer.at(Placed).sections for layer in done.layers)
    if crossbars >= sections:
        assert count_module(done).steady.total == 0
    assert estimates["estimated_time_ns"][1] <= 1.1 * estimates["estimated_time_ns"][0] + 1
    assert done == DealSections().run(given_module, Context(threads=2)).module


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": 0.9}, r"time = 0\.9 must be at least 1"),
        ({"resident": "cost", "slowdown": 2.0}, "resident=cost has time"),
    ],
)
def test_bad_options(options: Any, message: str) -> None:
    with pytest.raises(Exception, match=message):
        DealSections(**options)
