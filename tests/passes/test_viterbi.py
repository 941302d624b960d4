"""The dynamic programme of partial reprogramming against a full transition matrix and exhaustive search."""

from itertools import product
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.hold_codes import WINDOW
from passes.solvers.viterbi import LANES, PACKED, UNIT, hold_block, hold_rows, reference


def cost_of(held: Any, wanted: Any, weight: Any, values: Any, bits: int, up: Any, down: Any) -> Any:
    """Plain accounting of one row with a free start."""
    total = 0.0
    for t, state in enumerate(held):
        total += weight[t] * float(values[state] - wanted[t]) ** 2
        if t == 0:
            continue
        before, after = int(held[t - 1]), int(state)
        while before or after:
            a, b = before % 2**bits, after % 2**bits
            total += up * (a < b) + down * (a > b)
            before, after = before >> bits, after >> bits
    return total


def solve(*problem: Any, window: int) -> Any:
    """``hold_rows`` on ``[steps, lanes]`` with costs in writes."""
    wanted, weight, lengths, width, values, bits, up, down = problem
    held = np.full(wanted.shape, 255, np.uint8)
    start = np.full(LANES, -1, np.int64)
    forced = hold_rows(
        wanted.astype(np.float32), (weight * PACKED).astype(np.float32), lengths, width, values, bits,
        int(PACKED * up), int(PACKED * down), window, start, held,
    )  # fmt: skip
    return held, forced


@st.composite
def problems(draw: Any, widths: Any = (1, 2, 3, 4, 6, 8), most_steps: Any = 30) -> Any:
    bits = draw(st.sampled_from([1, 2, 3, 4]))
    width = draw(st.sampled_from([w for w in widths if w % bits == 0] or [bits]))
    steps = draw(st.integers(1, most_steps))
    up, down = draw(st.sampled_from([(1.0, 1.0), (1.0, 0.25), (0.5, 1.0)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    states = 1 << width
    values = np.arange(states, dtype=np.float32)
    if draw(st.booleans()):  # as a two's complement number: the upper half is negative
        values = np.where(values >= states / 2, values - states, values).astype(np.float32)
    wanted = rng.integers(0, states, (steps, LANES))
    if draw(st.booleans()):  # a slow walk
        wanted = np.abs(np.cumsum(rng.integers(-2, 3, (steps, LANES)), 0)) % states
    scale = draw(st.sampled_from([0.0, 0.001, 0.05, 0.5, 20.0]))
    weight = scale * rng.random((steps, LANES)) * (rng.random((steps, LANES)) < 0.9)
    lengths = rng.integers(1, steps + 1, LANES)
    lengths[0] = steps
    return values[wanted], weight, lengths, width, values, bits, up, down


@given(problem=problems())
@settings(max_examples=80)
def test_kernel_costs_what_the_reference_costs(problem: Any) -> None:
    wanted, weight, lengths, width, values, bits, up, down = problem
    held, forced = solve(*problem, window=256)
    assert forced == 0
    for lane in range(0, LANES, 5):
        n = lengths[lane]
        found = cost_of(held[:n, lane], wanted[:n, lane], weight[:n, lane], values, bits, up, down)
        path, best = reference(wanted[:n, lane], weight[:n, lane], width, values, bits, up, down)
        again = cost_of(path, wanted[:n, lane], weight[:n, lane], values, bits, up, down)
        assert abs(again - best) < 1e-9
        rounding = n * (2 / UNIT + 1e-6 * (1 + best))
        assert best - 1e-6 <= found <= best + rounding


@given(problem=problems(widths=(4, 8), most_steps=90), window=st.sampled_from([24, 40]))
@settings(max_examples=25)
def test_small_windows_are_exact_while_survivors_merge(problem: Any, window: Any) -> None:
    wanted, weight, lengths, _, values, bits, up, down = problem
    held, forced = solve(*problem, window=window)
    whole, _ = solve(*problem, window=256)
    if forced == 0:
        for lane in range(LANES):
            n = lengths[lane]
            costs = [cost_of(h[:n, lane], wanted[:n, lane], weight[:n, lane], values, bits, up, down)
                     for h in (held, whole)]  # fmt: skip
            assert abs(costs[0] - costs[1]) <= n * 4 / UNIT


def test_small_windows_merge_on_ordinary_penalties() -> None:
    """Without this the property above might hold of nothing."""
    rng = np.random.default_rng(0)
    values = np.arange(256, dtype=np.float32)
    wanted = rng.integers(0, 256, (400, LANES)).astype(np.float32)
    weight = np.full((400, LANES), 1.0)
    lengths = np.full(LANES, 400)
    held, forced = solve(wanted, weight, lengths, 8, values, 1, 1.0, 1.0, window=32)
    whole, _ = solve(wanted, weight, lengths, 8, values, 1, 1.0, 1.0, window=400)
    assert forced == 0
    np.testing.assert_array_equal(held, whole)


def test_windows_cut_short_cost_little() -> None:
    rng = np.random.default_rng(0)
    values = np.arange(256, dtype=np.float32)
    wanted = np.clip(rng.normal(90, 40, (700, LANES)), 0, 255).astype(np.uint8).astype(np.float32)
    weight = np.full((700, LANES), 0.003)
    lengths = np.full(LANES, 700)
    held, forced = solve(wanted, weight, lengths, 8, values, 1, 1.0, 1.0, window=WINDOW)
    assert forced > 0
    for lane in (0, 7):
        args = wanted[:, lane], weight[:, lane], values, 1, 1.0, 1.0
        _, best = reference(wanted[:, lane], weight[:, lane], 8, values, 1, 1.0, 1.0)
        assert best - 1e-6 <= cost_of(held[:, lane], *args) <= 1.005 * best


def test_survivors_that_cannot_merge_are_counted() -> None:
    """Rows whose weights do not matter are held for ever: any start is as good, nothing merges."""
    values = np.arange(4, dtype=np.float32)
    wanted = np.zeros((100, LANES), np.float32)
    held, forced = solve(
        wanted, np.zeros((100, LANES)), np.full(LANES, 100), 2, values, 1, 1.0, 1.0, window=16
    )
    assert forced > 0
    assert (held == held[0]).all()


@given(problem=problems(widths=(1, 2, 3), most_steps=4))
@settings(max_examples=40)
def test_kernel_and_reference_equal_exhaustive_search(problem: Any) -> None:
    wanted, weight, lengths, width, values, bits, up, down = problem
    if width > 3:
        return
    n = lengths[0]
    held, _ = solve(*problem, window=16)
    args = wanted[:n, 0], weight[:n, 0], values, bits, up, down
    best = min(cost_of(path, *args) for path in product(range(1 << width), repeat=int(n)))
    _, found = reference(wanted[:n, 0], weight[:n, 0], width, values, bits, up, down)
    assert abs(found - best) < 1e-9
    assert cost_of(held[:n, 0], *args) <= best + n * (2 / UNIT + 1e-6 * (1 + best))


def test_a_given_start_is_kept_to() -> None:
    values = np.arange(16, dtype=np.float32)
    wanted = np.full((1, LANES), 15.0, np.float32)
    held = np.zeros((1, LANES), np.uint8)
    start = np.full(LANES, -1, np.int64)
    start[0] = 0
    hold_rows(
        wanted, np.full((1, LANES), 0.001 * PACKED, np.float32), np.ones(LANES, np.int64), 4, values, 1,
        PACKED, PACKED, 8, start, held,
    )  # fmt: skip
    assert held[0, 0] == 0  # 225 squared units at 0.001 cost less than any write
    assert held[0, 1] == 15  # a free start writes nothing


def test_heavy_penalties_hold_what_is_wanted() -> None:
    rng = np.random.default_rng(1)
    values = np.arange(256, dtype=np.float32)
    wanted = rng.integers(0, 256, (200, LANES)).astype(np.float32)
    held, forced = solve(
        wanted, np.full(wanted.shape, 1e6), np.full(LANES, 200), 8, values, 1, 1.0, 1.0, window=64
    )
    assert forced == 0
    np.testing.assert_array_equal(held, wanted)


def test_block_skips_rows_that_do_not_care() -> None:
    """A don't-care row of a load takes no part: its neighbours in time meet as if the load were not there."""
    wanted = np.array([[3, 0], [0, 5], [3, 2]], np.uint8)
    driven = np.array([[True, True], [False, True], [True, True]])
    held = np.full((3, 2), 77, np.uint8)
    forced = hold_block(
        np.array([0, 1, 2]), wanted, driven, 1, np.full(3, 100.0 * PACKED, np.float32),
        np.zeros((3, 0), np.float32), 0, 3, np.arange(8, dtype=np.float32), 1, PACKED, PACKED, 256, 32, held,
    )  # fmt: skip
    assert forced == 0
    assert held.tolist() == [[3, 0], [77, 5], [3, 2]]
