"""Differential pairs of free representation: cheapest for every state, exact in every code."""

from typing import Any

import numpy as np
import pytest

from ir import Programmed, XbcError
from passes.base import Context
from passes.counting import count_module
from passes.hold_pairs import ChoosePairs, HoldPairs
from passes.match_rows import MatchPairs, MatchRows
from passes.pairs import free_pairs
from passes.pipeline import level_pipeline
from passes.solvers.pairs import PAIR_SCALE, error_costs, nearest, pair_tables
from tests.passes.small import codes_body, compiled, module, target

PLACE = "encode-signs{encoding=differential},slice-bits,form-sections,deal-sections{method=interleaved}"


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_tables_against_all_pairs(bits: int) -> None:
    cost, best = pair_tables(bits)
    top = (1 << bits) - 1
    pairs = np.arange(1 << 2 * bits)
    difference = (pairs >> bits) - (pairs & top)
    cells = np.array([[bin(a ^ b).count("1") for b in pairs] for a in pairs])
    for wanted in range(-top, top + 1):
        ways = difference == wanted
        np.testing.assert_array_equal(cost[:, wanted + top], cells[:, ways].min(axis=1))
        chosen = best[:, wanted + top].astype(int)
        assert ways[chosen].all()
        np.testing.assert_array_equal(cells[pairs, chosen], cost[:, wanted + top])


@pytest.mark.parametrize("weight", [0.02, 0.3, 2.0, 50.0])
@pytest.mark.parametrize(("low", "high"), [(-7, 7), (-5, 6)])
def test_nearest_against_all_pairs(weight: Any, low: Any, high: Any) -> None:
    cost, best = pair_tables(3)
    errors = error_costs(3, weight)
    pairs = np.arange(64)
    difference = (pairs >> 3) - (pairs & 7)
    for held in pairs:
        cells = np.array([bin(held ^ b).count("1") for b in pairs])
        for wanted in range(low, high + 1):
            total = cells + weight * (difference - wanted) ** 2
            total[(difference < low) | (difference > high)] = np.inf
            at, units = nearest(cost[held], wanted + 7, errors, low + 7, high + 7)
            assert units / PAIR_SCALE == pytest.approx(total.min(), abs=1 / PAIR_SCALE)
            assert total[best[held, at]] == pytest.approx(total.min(), abs=1 / PAIR_SCALE)


def placed(
    seed: int, crossbars: Any = 2, outputs_per_section: Any = 2, shapes: Any = ((8, 13), (1, 6))
) -> Any:
    rng = np.random.default_rng(seed)
    chip = target(rows=4, columns=12, crossbars=crossbars, encoding="differential",
                  outputs_per_section=outputs_per_section)  # fmt: skip
    return compiled(PLACE, module([codes_body(rng.integers(-7, 8, s), 3) for s in shapes], chip))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("crossbars", [1, 3])
def test_codes_stay_exact_and_fewer_cells_are_written(seed: int, crossbars: Any) -> None:
    plain = placed(seed, crossbars)
    free = ChoosePairs().run(plain, Context()).module
    matched = MatchPairs().run(plain, Context()).module
    both = ChoosePairs().run(matched, Context()).module
    for done in (free, both):
        for layer in done.layers:
            body = layer.at(Programmed)
            np.testing.assert_array_equal(body.effective_codes(), body.codes)
    exact = count_module(plain).first.total
    assert count_module(both).first.total < count_module(free).first.total < exact


def test_matching_sees_the_pairs_that_will_be_chosen() -> None:
    """Greedy per load, so not always best at the end; but matching for canonical pairs is worse on average."""
    ours = theirs = 0
    for seed in range(6):
        plain = placed(seed, crossbars=1)
        for step in (MatchPairs(), MatchRows()):
            matched = step.run(plain, Context()).module
            done = ChoosePairs().run(matched, Context()).module
            writes = count_module(done).first.total
            ours, theirs = (ours + writes, theirs) if step == MatchPairs() else (ours, theirs + writes)
    assert ours < theirs


def test_near_pairs_trade_error_for_writes() -> None:
    plain = placed(1)
    writes, errors = [], []
    for lambda_ in (10.0, 0.5, 0.05):
        matched = MatchPairs(lambda_).run(plain, Context()).module
        done = HoldPairs(lambda_).run(matched, Context()).module
        writes.append(count_module(done).first.total)
        bodies = [layer.at(Programmed) for layer in done.layers]
        errors.append(sum(int(((b.effective_codes() - b.codes) ** 2).sum()) for b in bodies))
        for body in bodies:
            assert np.abs(body.effective_codes()).max() <= 7
    assert errors[0] == 0 < errors[1] < errors[2]
    assert writes[0] > writes[1] > writes[2]


@pytest.mark.parametrize(
    ("peaks", "bits_per_cell", "free"), [((100, 90), 1, True), ((100, 7), 1, False), ((300, 290), 1, False),
                                         ((100, 90), 2, False)],
)  # fmt: skip
def test_levels_choose_pairs_only_where_all_layers_are_alike(
    peaks: Any, bits_per_cell: Any, free: Any
) -> None:
    chip = target(columns=32, encoding="differential", outputs_per_section=1, bits_per_cell=bits_per_cell)
    bodies = [
        codes_body(np.array([[peak, -3, 1]]), 1 + peak.bit_length(), limits=[[-peak, peak]]) for peak in peaks
    ]
    given_module = module(bodies, chip)
    assert free_pairs(given_module) == free
    placed_module = compiled(PLACE, given_module)
    assert free_pairs(placed_module) == free
    if free:
        MatchPairs().run(placed_module, Context())


def test_o2_ends_with_pairs_where_they_are_free() -> None:
    assert str(level_pipeline(2, pairs=True)).endswith(",deal-sections,match-pairs,choose-pairs")
    assert level_pipeline(1, pairs=True) == level_pipeline(1)


@pytest.mark.parametrize(
    ("encoding", "bits_per_cell", "message"),
    [("offset", 1, "layer 'l0' is offset"), ("differential", 2, "2-bit cells: set encoding=differential")],
)
def test_refusals(encoding: Any, bits_per_cell: Any, message: str) -> None:
    chip = target(columns=16, bits_per_cell=bits_per_cell, outputs_per_section=1)
    given_module = compiled(
        PLACE.replace("differential", encoding), module([codes_body(np.ones((2, 3), int), 4)], chip)
    )
    for step in (MatchPairs(), ChoosePairs()):
        with pytest.raises(XbcError, match=message):
            step.run(given_module, Context())
