"""match-rows: lossless, minimal against scipy's assignment, closing loads included."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from ir import Placed, Programmed, XbcError, check_module
from passes import matchers
from passes.base import Context
from passes.column_groups import place_columns
from passes.counting import count_module, load_runs
from passes.manager import finish
from passes.match_rows import MatchRows, closing_loads
from passes.matchers import far_layer
from passes.solvers.joint import cost_tables, match_joint
from passes.solvers.joint_rows import match_joint_rows
from passes.solvers.matching import (
    assign_exact,
    assign_greedy,
    digit_mask,
    match_loads,
    sort_by,
    word_distance,
)
from passes.solvers.transport import put, transport
from tests.passes.small import assert_each_weight_once, codes_body, compiled, module, random_codes, target

PLACE = "encode-signs,slice-bits,form-sections,deal-sections{method=interleaved}"


def changes(levels: Any, held: Any) -> Any:
    """``[items, places]`` cells that differ between rows of levels."""
    return (levels[:, None] != held[None]).reshape(len(levels), len(held), -1).sum(2)


@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.integers(1, 9),
    more=st.integers(0, 4),
    top=st.sampled_from([2, 9, 10**6]),
)
def test_assignment_equals_scipy(seed: int, m: Any, more: Any, top: Any) -> None:
    cost = np.random.default_rng(seed).integers(0, top, (m, m + more)).astype(np.int32)
    i, j = linear_sum_assignment(cost)
    for solve in (assign_exact, assign_greedy):
        if solve is assign_greedy and top > 9:
            continue
        place, item = np.full(m, -1), np.full(m + more, -1)
        solve(cost, m, m + more, place, item)
        assert len(set(place.tolist())) == m
        assert [item[p] for p in place] == list(range(m))
        assert (item >= 0).sum() == m
        found = cost[np.arange(m), place].sum()
        assert found == cost[i, j].sum() if solve is assign_exact else found >= cost[i, j].sum()


@given(
    seed=st.integers(0, 2**32 - 1),
    items=st.integers(1, 12),
    places=st.integers(1, 12),
    top=st.sampled_from([2, 9, 10**6]),
    spare=st.integers(0, 4),
    settled=st.booleans(),
)
def test_transport_equals_assignment_of_single_units(
    seed: int, items: Any, places: Any, top: Any, spare: Any, settled: Any
) -> None:
    rng = np.random.default_rng(seed)
    cost = rng.integers(0, top, (items, places))
    supply = rng.integers(0, 5, items)
    room = rng.multinomial(supply.sum() + spare, np.full(places, 1 / places))
    row, column = linear_sum_assignment(np.repeat(np.repeat(cost, supply, 0), room, 1))
    flow, members, count = (
        np.zeros((places, items), int),
        np.zeros((places, items), int),
        np.zeros(places, int),
    )
    wanted, given_room = supply.copy(), room.copy()
    if settled and (cost == 0).any():  # some stand in places of cost 0 beforehand
        a, b = np.argwhere(cost == 0)[0]
        units = min(supply[a], room[b])
        supply[a], room[b] = supply[a] - units, room[b] - units
        if units:
            put(flow, members, count, b, a, units)
    packed = cost.astype(np.int64) << 4 | np.arange(places)
    transport(packed, supply, room, items, places, 4, flow, members, count, np.zeros((6, 16), np.int64))
    assert (flow >= 0).all()
    assert (flow.sum(0) == wanted).all()
    assert (flow.sum(1) <= given_room).all()
    assert (flow.T * cost).sum() == np.repeat(np.repeat(cost, wanted, 0), given_room, 1)[row, column].sum()


@given(seed=st.integers(0, 2**32 - 1), closing=st.booleans())
@settings(max_examples=30)
def test_joint_matching_of_two_loads_is_optimal(seed: int, closing: Any) -> None:
    """Every load has the cost of scipy's assignment of all rows under the joint tables."""
    rng = np.random.default_rng(seed)
    rows, states = 12, 16
    cost, best = np.zeros((states, states), np.int64), np.zeros((states, states), np.uint8)
    cost_tables(0.2, 4, 1, 1.0, 1.0, np.arange(states, dtype=np.float32), cost, best)
    words = rng.integers(0, states, (3, rows)).astype(np.uint32)
    state, first = np.zeros((1, rows), np.uint8), np.full((1, rows), -1, np.int64)
    counts = np.array([rows, rng.integers(1, rows + 1), rows])
    last = np.array([False, False, closing])
    for s in range(3):
        before, start, place = state[0].copy(), first[0].copy(), np.zeros((3, rows), np.int32)
        match_joint(
            np.array([s]), np.zeros(3, np.int32), last, words, counts, cost, best, 0, 1, state, first, place
        )
        n = counts[s]
        price = cost[words[s, :n]][:, before]
        if last[s]:
            back = cost[start[None, :], best[words[s, :n]][:, before]]
            price = price + np.where(start[None, :] >= 0, back, 0)
        i, j = linear_sum_assignment(price)
        assert len(set(place[s, :n].tolist())) == n
        assert price[np.arange(n), place[s, :n]].sum() == price[i, j].sum()
        assert (state[0][place[s, :n]] == best[words[s, :n], before[place[s, :n]]]).all()


@given(seed=st.integers(0, 2**32 - 1), closing=st.booleans())
@settings(max_examples=30)
def test_joint_matching_of_wide_rows_is_optimal(seed: int, closing: Any) -> None:
    """The same for rows of three numbers, one of whose column groups may be empty."""
    rng = np.random.default_rng(seed)
    rows, states, groups = 10, 16, 3
    wanted, best_of = np.zeros((states, states), np.int64), np.zeros((states, states), np.uint8)
    cost_tables(0.2, 4, 1, 1.0, 1.0, np.arange(states, dtype=np.float32), wanted, best_of)
    cost, best = np.ascontiguousarray(wanted.T.astype(np.int32)), np.ascontiguousarray(best_of.T)
    words = rng.integers(0, states, (3, rows, groups)).astype(np.uint8)
    outputs = np.where(rng.random((3, groups)) < 0.2, -1, 1).astype(np.int32)
    state, first = np.zeros((2, rows, groups), np.uint8), np.full((2, rows, groups), -1, np.int32)
    counts = np.array([rows, rng.integers(1, rows + 1), rows])
    last = np.array([False, False, closing])
    for s in range(3):
        before, start, place = state[1].copy(), first[1].copy(), np.zeros((3, rows), np.int32)
        match_joint_rows(
            np.array([s]), np.ones(3, np.int32), last, words, counts, outputs, cost, best, 0, 2, state, first, place
        )  # fmt: skip
        n, used = counts[s], outputs[s] >= 0
        price = cost[before[None], words[s, :n, None]]
        if last[s]:
            price = price + np.where(start >= 0, cost[best[before[None], words[s, :n, None]], start[None]], 0)
        price = price[:, :, used].sum(axis=2)
        i, j = linear_sum_assignment(price)
        at = place[s, :n]
        assert len(set(at.tolist())) == n
        assert price[np.arange(n), at].sum() == price[i, j].sum()
        assert (state[1][at][:, used] == best[before[at], words[s, :n]][:, used]).all()
        assert (state[1][:, ~used] == before[:, ~used]).all(), "an empty column group was written"
        assert (state[0] == 0).all()


def test_wide_rows_match_jointly() -> None:
    """A pass over two outputs per section writes less at less error than exact matching before the programme."""
    chip = {"rows": 16, "columns": 32, "crossbars": 1, "encoding": "offset", "outputs_per_section": 2}
    module = placed(3, [(8, 40), (6, 30)], bits=6, **chip)
    figures = []
    for match in ("match-rows", "match-rows{lambda=0.1}"):
        done = compiled(f"{match},hold-codes{{lambda=0.05}}", module)
        error = sum(
            float(((layer.at(Programmed).effective_codes() - layer.at(Programmed).codes) ** 2).sum())
            for layer in done.layers
        )
        figures.append(count_module(done).steady.total + 0.05 * error)
    assert figures[1] < 0.97 * figures[0]


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 70))
def test_sort_is_stable(seed: int, n: Any) -> None:
    key = np.random.default_rng(seed).integers(0, 12, n)
    order = np.arange(n)
    sort_by(key, order, n)
    assert order.tolist() == np.argsort(key, kind="stable").tolist()


@given(a=st.integers(0, 2**32 - 1), b=st.integers(0, 2**32 - 1), bits=st.integers(1, 4))
def test_word_distance_counts_digits(a: Any, b: Any, bits: int) -> None:
    digits = [(a >> s & (2**bits - 1)) != (b >> s & (2**bits - 1)) for s in range(0, 64, bits)]
    assert word_distance(np.uint32(a), np.uint32(b), bits, np.uint64(digit_mask(bits))) == sum(digits)


@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 7), columns=st.integers(1, 6), bits=st.integers(1, 4),
    loads=st.integers(1, 5), skew=st.booleans(),
)  # fmt: skip
def test_every_load_is_a_minimum_assignment(
    seed: int, rows: Any, columns: Any, bits: int, loads: Any, skew: Any
) -> None:
    rng = np.random.default_rng(seed)
    top = min(2 ** (bits * columns), 6 if skew else 2**24)  # few words: many are equal
    words = rng.integers(0, top, (loads, rows)).astype(np.uint32)
    counts = rng.integers(1, rows + 1, loads)
    closing = np.zeros(loads, bool)
    closing[-1] = loads > 1
    place = np.zeros((loads, rows), np.int32)
    state, first = np.zeros((1, rows), np.uint32), np.full((1, rows), -1, np.int64)
    total = match_loads(
        np.arange(loads), np.zeros(loads, np.int32), closing, words, counts, bits, np.uint64(digit_mask(bits)),
        True, 0, 1, state, first, place,
    )  # fmt: skip

    def digits(w: Any) -> Any:
        return (np.asarray(w, np.int64)[:, None] >> np.arange(0, 24, bits)) & (2**bits - 1)

    held, start, written = np.zeros(rows, np.int64), np.full(rows, -1, np.int64), 0
    for s in range(loads):
        n = counts[s]
        cost = changes(digits(words[s, :n]), digits(held))
        moved = cost.copy()
        if closing[s]:
            cost = cost + changes(digits(words[s, :n]), digits(np.maximum(start, 0))) * (start >= 0)
        spots = place[s, :n]
        assert len(set(spots.tolist())) == n
        i, j = linear_sum_assignment(cost)
        assert cost[np.arange(n), spots].sum() == cost[i, j].sum()
        written += moved[np.arange(n), spots].sum()
        held[spots] = words[s, :n]
        fresh = spots[start[spots] < 0]
        start[fresh] = held[fresh]
    assert total == written
    np.testing.assert_array_equal(state[0], held)


def placed(seed: int, shapes: Any, bits: int = 4, groups: Any = 1, mixed: Any = False, **chip: Any) -> Any:
    rng = np.random.default_rng(seed)
    bodies = [codes_body(random_codes(rng, s, bits + (mixed and i % 2)), bits + (mixed and i % 2))
              for i, s in enumerate(shapes)]  # fmt: skip
    return compiled(PLACE, module(bodies, target(**chip), groups))


@given(
    seed=st.integers(0, 2**32 - 1),
    encoding=st.sampled_from(["driver", "split", "differential", "offset", "twos-complement"]),
    share=st.integers(1, 2), bits_per_cell=st.integers(1, 4), crossbars=st.integers(1, 3), mixed=st.booleans(),
    step=st.sampled_from([MatchRows(), MatchRows(method="greedy"), MatchRows(lambda_=0.2)]),
)  # fmt: skip
@settings(max_examples=40)
def test_lossless_under_every_encoding(
    seed: int,
    encoding: Any,
    share: Any,
    bits_per_cell: Any,
    crossbars: Any,
    mixed: Any,
    step: MatchRows,
) -> None:
    share = 1 if encoding == "driver" else share
    given_module = placed(
        seed, [(4, 7), (2, 5)], mixed=mixed, encoding=encoding, outputs_per_section=share, columns=24,
        bits_per_cell=bits_per_cell, crossbars=crossbars,
    )  # fmt: skip
    if step.lambda_ and far_layer([(layer, layer.at(Placed)) for layer in given_module.layers]):
        with pytest.raises(XbcError, match="lambda has no effect"):
            step.run(given_module, Context())
        return
    done = step.run(given_module, Context(threads=2)).module
    check_module(done)
    for before, after in zip(finish(given_module).layers, finish(done).layers, strict=True):
        np.testing.assert_array_equal(
            after.at(Programmed).effective_codes(), before.at(Programmed).effective_codes()
        )
        np.testing.assert_array_equal(after.at(Programmed).effective_codes(), before.at(Placed).codes)
        assert_each_weight_once(after.at(Placed))
        np.testing.assert_array_equal(after.at(Placed).outputs, before.at(Placed).outputs)
        for a, b in zip(after.at(Placed).inputs, before.at(Placed).inputs, strict=True):
            assert sorted(a) == sorted(b)
    again = step.run(given_module, Context(threads=1)).module
    assert again == done, "the result depends on the number of threads"


def replay(body: Any) -> Any:
    """Cells that change at each load of a single crossbar, from blank cells, by plain loops."""
    held: dict[Any, Any] = {}
    out: list[Any] = []
    levels = body.cells.levels(body.wanted_words())
    for s in np.argsort(body.step):
        out.append(0)
        for r in range(body.rows):
            for g in range(body.group_width):
                if body.inputs[s, r] < 0 or body.outputs[s, g] < 0:
                    continue
                for d, level in enumerate(levels[s, r, g].tolist()):
                    out[-1] += level != held.get((r, g, d), 0)
                    held[r, g, d] = level
    return out


@given(seed=st.integers(0, 2**32 - 1), share=st.integers(1, 2), bits=st.integers(1, 4))
@settings(max_examples=40)
def test_no_load_of_driven_rows_writes_more_than_before(seed: int, share: Any, bits: int) -> None:
    """But for the last one, which looks at the first one of the next inference too."""
    given_module = placed(
        seed, [(6, 8)], bits_per_cell=bits, encoding="twos-complement", outputs_per_section=share, columns=12
    )
    done = MatchRows().run(given_module, Context()).module
    before, after = (replay(m.layers[0].at(Placed)) for m in (given_module, done))
    assert all(a <= b for a, b in zip(after[:-1], before[:-1], strict=True))


@given(seed=st.integers(0, 2**32 - 1), bits=st.integers(1, 4))
@settings(max_examples=40)
def test_two_loads_are_optimal_together(seed: int, bits: int) -> None:
    given_module = placed(seed, [(2, 4)], bits_per_cell=bits)
    done = MatchRows().run(given_module, Context()).module
    assert count_module(done).steady.total <= count_module(given_module).steady.total


@pytest.mark.parametrize(
    "chip", [{}, {"encoding": "twos-complement", "outputs_per_section": 2, "columns": 12}]
)
def test_saves_writes_and_greedy_is_close(chip: Any) -> None:
    given_module = placed(3, [(40, 64)], rows=16, **chip)
    natural, exact, greedy = (
        count_module(m).steady.total
        for m in (given_module, MatchRows().run(given_module, Context()).module,
                  MatchRows(method="greedy").run(given_module, Context()).module)
    )  # fmt: skip
    assert exact < 0.9 * natural
    assert greedy < 1.05 * exact


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_words_and_vectors_agree(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """Two loads are matched optimally together, so both paths must reach the same count."""
    for seed in range(10):
        given_module = placed(seed, [(2, 4)], bits_per_cell=bits)
        words = count_module(MatchRows().run(given_module, Context()).module).steady.total
        with monkeypatch.context() as patch:
            patch.setattr(matchers, "Words", matchers.Rows)
            assert count_module(MatchRows().run(given_module, Context()).module).steady.total == words


def test_closing_loads_by_hand() -> None:
    given_module = placed(0, [(3, 4), (1, 4)], crossbars=2)
    # l0: sections 0, 2 on crossbar 0, section 1 on crossbar 1; l1: crossbar 0
    pairs = [(layer, layer.at(Placed)) for layer in given_module.layers]
    closing = closing_loads(pairs, list(load_runs(pairs)))
    assert [c.tolist() for c in closing] == [[False, False, False], [True]]


@pytest.mark.parametrize(("width", "bits"), [(3, 1), (4, 2), (3, 3)])
def test_joint_cost_tables_by_enumeration(width: Any, bits: int) -> None:
    states, weight, up, down = 1 << width, 0.13, 1.0, 0.7
    values = np.arange(states, dtype=np.float32)
    cost, best = np.zeros((states, states), np.int64), np.zeros((states, states), np.uint8)
    cost_tables(weight, width, bits, up, down, values, cost, best)
    digits = (np.arange(states)[:, None] >> np.arange(0, width, bits)) & (2**bits - 1)
    writes = (digits[:, None] < digits[None]).sum(2) * up + (digits[:, None] > digits[None]).sum(2) * down
    for u in range(states):
        for w in range(states):
            options = writes[u] + weight * (values - w) ** 2
            assert cost[w, u] == pytest.approx(options.min() * 4096, abs=1)
            assert options[best[w, u]] == pytest.approx(options.min())


def test_refusals() -> None:
    with pytest.raises(XbcError, match="fixed routing"):
        MatchRows().run(placed(0, [(2, 4)], routing="fixed"), Context())
    with pytest.raises(XbcError, match=r"lambda = -1 must not be negative"):
        MatchRows(lambda_=-1)


@given(seed=st.integers(0, 2**32 - 1), share=st.integers(2, 4))
@settings(max_examples=20)
def test_outputs_move_between_column_groups_and_nothing_else(seed: int, share: Any) -> None:
    chip = {"rows": 8, "columns": 32, "crossbars": 2, "encoding": "offset", "outputs_per_section": share}
    given_module = placed(seed, [(9, 20), (7, 13)], bits=5, **chip)
    pairs = [(layer, layer.at(Placed)) for layer in given_module.layers]
    for (_, before), after in zip(pairs, place_columns(pairs, 2), strict=True):
        assert (np.sort(before.outputs, axis=1) == np.sort(after.outputs, axis=1)).all()
        assert (before.inputs == after.inputs).all()
        assert_each_weight_once(after)
        short = (before.outputs < 0).any(axis=1)
        assert (before.outputs[short] == after.outputs[short]).all()


def test_likest_columns_follow_each_other() -> None:
    """Two sections with the same two columns in turned order: the second turns back, and nothing is written."""
    codes = np.array([[1, 2, 3, 4], [9, 8, 7, 6], [9, 8, 7, 6], [1, 2, 3, 4]])
    chip = target(rows=4, columns=16, crossbars=1, encoding="offset", outputs_per_section=2)
    done = compiled(PLACE, module([codes_body(codes, 5)], chip))
    writes = [
        count_module(compiled(f"match-rows{{columns={on}}}", done)).steady.total for on in ("true", "false")
    ]
    assert writes[0] == 0 < writes[1]
