"""deal-sections: who loads what and when."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ir import Placed, Sectioned, XbcError, check_module
from passes.base import Context
from passes.counting import count_module
from passes.deal_sections import DealSections
from passes.place import contiguous_crossbars, interleaved_crossbars, steps_on
from tests.passes.small import assert_each_weight_once, compiled, module, random_codes, target

FORM = "encode-signs,slice-bits,form-sections,sort-sections{cut=rank},order-sections{method=sum}"


def formed(seed: int, shapes: Any, crossbars: Any, **chip: Any) -> Any:
    rng = np.random.default_rng(seed)
    given_module = module([random_codes(rng, s, 4) for s in shapes], target(crossbars=crossbars, **chip))
    return compiled(FORM, given_module)


def runs_of(body: Any) -> Any:
    """Crossbar -> sections in the order of their loads."""
    order = np.argsort(body.step, kind="stable")
    return {int(c): order[body.crossbar[order] == c] for c in np.unique(body.crossbar)}


shapes = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 9)), min_size=1, max_size=3)


@given(
    seed=st.integers(0, 2**32 - 1), shapes=shapes, crossbars=st.integers(1, 6),
    method=st.sampled_from(["auto", "contiguous", "interleaved", "assign"]),
    slowdown=st.sampled_from([1.0, 1.5, 3.0]), routing=st.sampled_from(["gather", "block"]),
    resident=st.sampled_from(["auto", "free"]),
)  # fmt: skip
def test_each_section_once_and_layers_one_after_the_other(
    seed: int, shapes: Any, crossbars: Any, method: Any, slowdown: Any, routing: Any, resident: Any
) -> None:
    """With ``resident=free`` slowdown bounds a layer's steps; a plan may take more where the time allows it."""
    given_module = formed(seed, shapes, crossbars, routing=routing)
    options: dict[str, Any] = {"resident": resident} if method == "assign" else {}
    if options.get("resident") == "free":
        options["slowdown"] = slowdown
    step = DealSections(method=method, **options)
    done = step.run(given_module, Context(threads=2)).module
    check_module(done)
    last = -1
    for before, after in zip(given_module.layers, done.layers, strict=True):
        body = after.at(Placed)
        assert body.sections == before.at(Sectioned).sections
        assert_each_weight_once(body)
        assert len({*zip(body.step.tolist(), body.crossbar.tolist(), strict=True)}) == body.sections
        assert body.step.min() == last + 1
        fewest = -(-body.sections // crossbars)
        steps = int(body.step.max()) - last
        if method in ("contiguous", "interleaved"):
            assert steps == fewest
        elif resident == "free":
            assert steps <= max(fewest, int(slowdown * fewest))
        for c, loads in runs_of(body).items():
            assert 0 <= c < crossbars
            assert (np.diff(body.step[loads]) == 1).all()
        last = int(body.step.max())


@given(sections=st.integers(0, 40), crossbars=st.integers(1, 9))
def test_dealing_rules(sections: Any, crossbars: Any) -> None:
    runs = contiguous_crossbars(sections, crossbars)
    assert (np.diff(runs) >= 0).all()
    sizes = np.bincount(runs, minlength=crossbars)
    assert sizes.max() - sizes.min() <= 1
    turns = interleaved_crossbars(sections, crossbars)
    assert turns.tolist() == [i % crossbars for i in range(sections)]
    for bars in (runs, turns):
        seen: dict[Any, Any] = {}
        for bar, step in zip(bars.tolist(), steps_on(bars).tolist(), strict=True):
            assert step == seen.get(bar, 0)
            seen[bar] = step + 1


@pytest.mark.parametrize("slowdown", [1.0, 2.0, 4.0])
def test_slowdown_uses_fewer_crossbars(slowdown: Any) -> None:
    given_module = formed(1, [(10, 8)], 5)  # 20 sections: 4 steps on all crossbars
    body = (
        DealSections(method="assign", slowdown=slowdown)
        .run(given_module, Context())
        .module.layers[0]
        .at(Placed)
    )
    runs = runs_of(body)
    assert len(runs) == -(-20 // int(4 * slowdown))
    assert max(map(len, runs.values())) - min(map(len, runs.values())) <= 1


def test_assigned_runs_are_runs_of_the_path_either_way_round() -> None:
    given_module = formed(2, [(9, 8), (5, 12), (7, 4)], 4)
    done = DealSections(method="assign").run(given_module, Context()).module
    turned = 0
    for before, after in zip(given_module.layers, done.layers, strict=True):
        path = [(*o, *i) for o, i in zip(*map(np.ndarray.tolist, (before.body.outputs, before.body.inputs)),
                                         strict=True)]  # fmt: skip
        body = after.at(Placed)
        for loads in runs_of(body).values():
            at = [path.index((*body.outputs[s], *body.inputs[s])) for s in loads]
            steps = set(np.diff(at).tolist())
            assert steps in ({1}, {-1}, set())
            turned += steps == {-1}
    assert turned > 0, "the example turns no run: it shows nothing"


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_threads_change_nothing(seed: int) -> None:
    given_module = formed(seed, [(9, 8), (5, 12), (7, 4)], 4)
    one = DealSections().run(given_module, Context(threads=1)).module
    assert one == DealSections().run(given_module, Context(threads=2)).module


def test_both_solvers_save_writes() -> None:
    plain, found = 0, {"auction": 0, "ortools": 0}
    for seed in range(8):
        given_module = formed(seed, [(12, 8), (3, 8), (8, 12), (2, 4)], 8)
        plain += count_module(
            DealSections(method="contiguous").run(given_module, Context()).module
        ).steady.total
        for solver in found:
            step = DealSections(method="assign", solver=solver)  # type: ignore[arg-type]
            found[solver] += count_module(step.run(given_module, Context()).module).steady.total
    assert max(found.values()) < plain


def test_one_crossbar_follows_the_path() -> None:
    given_module = formed(3, [(6, 8), (3, 5)], 1)
    done = DealSections().run(given_module, Context()).module
    steps = np.concatenate([layer.at(Placed).step for layer in done.layers])
    assert steps.tolist() == list(range(len(steps)))
    np.testing.assert_array_equal(
        done.layers[0].at(Placed).inputs, given_module.layers[0].at(Sectioned).inputs
    )


def test_slowdown_below_one_is_refused() -> None:
    with pytest.raises(XbcError, match=r"slowdown = 0\.5 must be at least 1"):
        DealSections(slowdown=0.5)
