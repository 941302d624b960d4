"""order-sections: paths, their lower bounds and proofs against exhaustive search."""

import subprocess
import sys
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ir import Sectioned, XbcError, check_module
from ir.cells import CellFormat
from passes.base import Context
from passes.order_sections import OrderSections, join, metric_kind
from passes.solvers.ascent import path_bound, sparse_bound
from passes.solvers.bounds import held_karp_bound, useful_edges
from passes.solvers.circuit import shortest_path
from passes.solvers.features import HISTOGRAM_GROUPS, Metric
from passes.solvers.routing import improve_path
from passes.solvers.tour import greedy_path, improve, nearest_lists, path_length, short_path
from passes.sort_sections import by_rank
from tests.passes.small import assert_each_weight_once, compiled, module, random_codes, target

FORM = "encode-signs,slice-bits,form-sections,sort-sections"


def shortest(cost: Any) -> Any:
    n = len(cost)
    return min(path_length(cost, np.array(p)) for p in permutations(range(n)) if p[0] <= p[-1])


@st.composite
def costs(draw: Any, most: Any = 7) -> Any:
    """Symmetric distances; metric, random (no triangle inequality) or with many ties."""
    n = draw(st.integers(2, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["cells", "random", "ties"]))
    if kind == "cells":
        points = rng.integers(0, 2, (n, 12))
        cost = (points[:, None] != points[None]).sum(2)
    else:
        cost = rng.integers(0, 4 if kind == "ties" else 1000, (n, n))
        cost = np.triu(cost, 1) + np.triu(cost, 1).T
    return cost.astype(np.uint16)


@example(
    cost=np.array(
        [[0, 6, 6, 5, 8, 6], [6, 0, 4, 5, 4, 8], [6, 4, 0, 7, 6, 6], [5, 5, 7, 0, 7, 7], [8, 4, 6, 7, 0, 6],
         [6, 8, 6, 7, 6, 0]], np.uint16,
    )
)  # fmt: skip
@given(cost=costs())
@settings(max_examples=40)
def test_bound_optimum_found_and_proof(cost: Any) -> None:
    path = short_path(cost)
    assert sorted(path.tolist()) == list(range(len(cost)))
    length, best = path_length(cost, path), shortest(cost)
    bound = path_bound(cost, path)
    assert bound <= best <= length
    proof = shortest_path(cost, path, bound)
    assert sorted(proof.path.tolist()) == list(range(len(cost)))
    assert proof.optimal
    assert proof.bound == path_length(cost, proof.path) == best


def test_a_proof_does_not_look_at_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program must not depend on the load of the machine: only deterministic time may end a proof."""
    from passes.solvers import circuit

    seen = []
    solve = circuit.cp_model.CpSolver.solve  # type: ignore[attr-defined]

    def spy(self: Any, model: Any) -> Any:
        seen.append((self.parameters.max_time_in_seconds, self.parameters.max_deterministic_time))
        return solve(self, model)

    monkeypatch.setattr(circuit.cp_model.CpSolver, "solve", spy)  # type: ignore[attr-defined]
    cost = np.array([[0, 9, 1, 8], [9, 0, 7, 1], [1, 7, 0, 2], [8, 1, 2, 0]], np.uint16)
    shortest_path(cost, np.arange(4), 0, seconds=0.5)
    assert seen == [(float("inf"), 0.5)]


INTERRUPT = """
import signal
import numpy as np
from passes.solvers.circuit import shortest_path

cost = np.array([[0, 9, 1, 8], [9, 0, 7, 1], [1, 7, 0, 2], [8, 1, 2, 0]], np.uint16)
assert shortest_path(cost, np.arange(4), 0).optimal
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("caught")
"""


def test_ctrl_c_unwinds_after_a_proof() -> None:
    """CP-SAT's own handler would leave the signal to kill the process, half-written files and all."""
    done = subprocess.run([sys.executable, "-c", INTERRUPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "caught\n"), done.stderr


@given(cost=costs())
@settings(max_examples=30)
def test_edges_of_a_shorter_path_are_kept(cost: Any) -> None:
    n = len(cost)
    if n < 3:
        return
    upper = path_length(cost, greedy_path(cost, 0)) + 1
    bound, edges, ends = useful_edges(cost, upper)
    assert bound <= shortest(cost)
    for order in permutations(range(n)):
        path = np.array(order)
        if path_length(cost, path) < upper:
            assert edges[path[:-1], path[1:]].all()
            assert ends[path[0]]
            assert ends[path[-1]]


@given(cost=costs(most=25))
def test_local_search_reports_its_saving_and_never_lengthens(cost: Any) -> None:
    path = greedy_path(cost, 0)
    before = path_length(cost, path)
    saved = improve(cost, path, nearest_lists(cost, 5), 30)
    assert sorted(path.tolist()) == list(range(len(cost)))
    assert path_length(cost, path) == before - saved <= before


def test_greedy_takes_the_nearest_with_ties_to_the_lower_index() -> None:
    cost = np.array([[0, 2, 2, 9], [2, 0, 5, 1], [2, 5, 0, 3], [9, 1, 3, 0]], np.uint16)
    assert greedy_path(cost, 0).tolist() == [0, 1, 3, 2]
    assert nearest_lists(cost, 2).tolist() == [[1, 2], [3, 0], [0, 3], [1, 2]]


def test_router_keeps_ends_and_never_lengthens() -> None:
    rng = np.random.default_rng(3)
    points = rng.integers(0, 2, (9, 30))
    cost = (points[:, None] != points[None]).sum(2).astype(np.uint16)
    path = np.arange(9)
    better, capped = improve_path(cost, path, 50, 60.0)
    assert not capped, "the solution limit is no time cap"
    assert improve_path(cost, path, 10**9, 0.05)[1], "a search without another limit meets the time cap"
    assert sorted(better.tolist()) == list(range(9))
    assert (better[0], better[-1]) == (0, 8)
    assert path_length(cost, better) < path_length(cost, path)


def ordered(given_module: Any, context: Any = None, **options: Any) -> Any:
    outcome = OrderSections(**options).run(given_module, context or Context(threads=1))
    check_module(outcome.module)
    return outcome.module, outcome.facts or None


def walked(body: Any, kind: Any) -> Any:
    metric = Metric(kind, body.wanted_words(), body.driven(), body.cells)
    return path_length(metric.matrix(np.arange(body.sections)), np.arange(body.sections))


def coded(seed: int, shapes: Any, bits: int = 4, **chip: Any) -> Any:
    rng = np.random.default_rng(seed)
    given_module = module([random_codes(rng, s, bits) for s in shapes], target(**chip))
    return compiled(FORM, given_module)


@given(
    seed=st.integers(0, 2**32 - 1), outputs=st.integers(1, 6), routing=st.sampled_from(["gather", "block"])
)
@settings(max_examples=15)
def test_small_layers_are_ordered_optimally_and_the_facts_are_true(
    seed: int, outputs: Any, routing: Any
) -> None:
    given_module = coded(seed, [(outputs, 4)], routing=routing)
    body = given_module.layers[0].at(Sectioned)
    kind = metric_kind(given_module.target)
    done, facts = ordered(given_module)
    after = done.layers[0].at(Sectioned)
    assert_each_weight_once(after)
    metric = Metric(kind, body.wanted_words(), body.driven(), body.cells)
    best = shortest(metric.matrix(np.arange(body.sections))) if outputs > 1 else 0
    assert walked(after, kind) == best
    if outputs > 1:
        assert facts["network"]["length"] == facts["network"]["lower_bound"] == best
        assert facts["network"]["proven_optimal"] == facts["network"]["groups"] == 1


@pytest.mark.parametrize("method", ["greedy", "local", "routing"])
@pytest.mark.parametrize("metric", ["cells", "multiset"])
def test_paths_are_no_longer_than_the_formed_order(method: Any, metric: Any) -> None:
    given_module = coded(1, [(30, 12), (9, 7)])
    done, facts = ordered(
        given_module, method=method, metric=metric, **({"effort": 20} if method == "routing" else {})
    )
    for before, after in zip(given_module.layers, done.layers, strict=True):
        length = walked(after.at(Sectioned), metric)
        assert length <= walked(by_rank(before.at(Sectioned)), metric)
        assert facts["layers"][after.name]["length"] == length
        assert facts["layers"][after.name]["lower_bound"] <= length
        assert_each_weight_once(after.at(Sectioned))


def test_threads_change_nothing() -> None:
    given_module = coded(2, [(25, 9), (40, 6), (3, 4), (12, 12)])
    for options in ({}, {"group": 16}, {"metric": "cells", "group": 8}):
        one, facts_of_one = ordered(given_module, Context(threads=1), **options)
        two, facts_of_two = ordered(given_module, Context(threads=2), **options)
        assert one == two
        assert facts_of_one == facts_of_two


def test_large_layers_are_ordered_in_groups() -> None:
    given_module = coded(4, [(30, 4)])
    done, facts = ordered(given_module, group=8)
    assert facts["layers"]["l0"]["groups"] == 4
    assert_each_weight_once(done.layers[0].at(Sectioned))


@given(seed=st.integers(0, 2**32 - 1), cut=st.lists(st.integers(1, 4), min_size=1, max_size=4))
@settings(max_examples=25)
def test_joined_paths_take_the_cheapest_directions(seed: int, cut: Any) -> None:
    body = coded(seed, [(sum(cut), 4)]).layers[0].at(Sectioned)
    metric = Metric("cells", body.wanted_words(), body.driven(), body.cells)
    cost = metric.matrix(np.arange(body.sections))
    paths = np.split(np.random.default_rng(seed).permutation(body.sections), np.cumsum(cut)[:-1])
    best = min(
        path_length(cost, np.concatenate([p[::-1] if turn >> i & 1 else p for i, p in enumerate(paths)]))
        for turn in range(1 << len(paths))
    )
    assert path_length(cost, join(metric, list(paths))) == best


def test_natural_rank_and_sum() -> None:
    given_module = coded(5, [(7, 9)])
    body = given_module.layers[0].at(Sectioned)
    assert ordered(given_module, method="natural")[0] is given_module
    rank = ordered(given_module, method="rank")[0].layers[0].at(Sectioned)
    assert [*zip(rank.rank, rank.outputs[:, 0], strict=True)] == sorted(
        zip(body.rank, body.outputs[:, 0], strict=True)
    )
    done, facts = ordered(given_module, method="sum")
    summed = done.layers[0].at(Sectioned)
    keys = [*zip(summed.rank, summed.wanted_words().sum((1, 2)), strict=True)]
    assert keys == sorted(keys)
    assert facts is None


def test_metrics_against_plain_counts() -> None:
    body = coded(6, [(6, 7)], bits_per_cell=2, rows=3).layers[0].at(Sectioned)
    words = body.wanted_words()
    levels = body.cells.levels(words)
    cells = Metric("cells", words, body.driven(), body.cells).matrix(np.arange(body.sections))
    bags = Metric("multiset", words, body.driven(), body.cells).matrix(np.arange(body.sections))
    for a in range(body.sections):
        for b in range(body.sections):
            assert cells[a, b] == (levels[a] != levels[b]).sum()
            mine = [levels[s][body.driven()[s], 0] for s in (a, b)]
            expected = sum(
                abs(int((mine[0][:, d] >= level).sum()) - int((mine[1][:, d] >= level).sum()))
                for d in range(body.cells.columns) for level in range(1, 4)
            )  # fmt: skip
            held = [words[s, body.driven()[s], 0] for s in (a, b)]
            expected += sum(abs(int((held[0] == w).sum()) - int((held[1] == w).sum())) for w in range(256))
            assert bags[a, b] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [({"group": 7}, "group = 7"), ({"bound": -1}, "bound = -1"), ({"window": 3}, "window = 3"),
     ({"effort": 0}, "effort = 0"), ({"seconds": 0.0}, "seconds = 0.0")],
)  # fmt: skip
def test_options_out_of_range(options: Any, message: str) -> None:
    with pytest.raises(XbcError, match=f"order-sections: {message}"):
        OrderSections(**options)


@pytest.mark.parametrize("groups", [2, 4, 5])
def test_distances_of_column_groups_add_up(groups: Any) -> None:
    rng = np.random.default_rng(groups)
    cells = CellFormat("offset", 8, 1)
    words = rng.integers(0, 256, (6, 9, groups)).astype(np.uint8)
    driven = rng.random((6, 9)) < 0.8
    everything = np.arange(6)
    wide = Metric("multiset", words, driven, cells).matrix(everything)
    single = sum(
        Metric("multiset", words[:, :, g : g + 1], driven, cells).matrix(everything) for g in range(groups)
    )
    if groups <= HISTOGRAM_GROUPS:
        assert (wide == single).all()
        return
    ones = (cells.levels(words) * driven[:, :, None, None]).sum(axis=1, dtype=np.int64).reshape(6, -1)
    assert (wide == abs(ones[:, None] - ones[None]).sum(axis=2)).all()


def test_routing_ends_with_its_time() -> None:
    """Without time every window keeps its local path and is counted; with time none is."""
    given_module = coded(4, [(60, 8), (50, 8)])
    local, _ = ordered(given_module, method="local", bound=0)
    for cap in ("layer_seconds", "total_seconds"):
        done, found = ordered(given_module, method="routing", window=20, bound=0, **{cap: 1e-9})
        assert done == local
        assert found["network"]["time_caps"] > 0
    plenty = {"total_seconds": 600, "layer_seconds": 600}
    _, found = ordered(given_module, method="routing", window=20, bound=0, effort=5, **plenty)
    assert found["network"]["time_caps"] == 0


@pytest.mark.parametrize("cap", ["layer_seconds", "total_seconds"])
def test_negative_caps_are_refused(cap: Any) -> None:
    with pytest.raises(XbcError, match=f"{cap.replace('_', '-')} = -1.0 must not be negative"):
        OrderSections(**{cap: -1.0})  # type: ignore[arg-type]


@given(cost=costs())
@settings(max_examples=40)
def test_the_sparse_bound_never_exceeds_the_optimum(cost: Any) -> None:
    if len(cost) < 3:
        return
    path = short_path(cost)
    length = path_length(cost, path)
    assert sparse_bound(cost, path, length, 20, 0.0) <= shortest(cost) + 1e-6


def test_the_sparse_bound_is_as_good_as_the_dense_one() -> None:
    at = np.random.default_rng(4).integers(0, 400, (300, 3))
    cost = np.abs(at[:, None] - at[None]).sum(2).astype(np.uint16)
    path = short_path(cost)
    length = path_length(cost, path)
    dense = held_karp_bound(cost, float(length), 80, 0.02, np.zeros(300))
    assert 0.995 * dense <= sparse_bound(cost, path, length, 80, 0.02) <= length
