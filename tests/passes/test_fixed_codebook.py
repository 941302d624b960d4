"""fixed-codebook: nothing is rewritten, and the weights take the levels that fit them best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from ir import Placed, XbcError, check_module
from passes.counting import count_module
from passes.fixed_codebook import FixedCodebook
from passes.manager import finish
from passes.solvers.codebook import fit_outputs
from tests.passes.small import assert_each_weight_once, compiled, module, target


@given(
    seed=st.integers(0, 2**32 - 1), n=st.integers(1, 9), rows=st.integers(1, 5), more=st.integers(0, 2),
)  # fmt: skip
def test_the_assignment_is_that_of_an_assignment_solver(seed: int, n: int, rows: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    copies = -(-n // rows) + more
    values = -np.sort(-np.abs(rng.normal(size=(1, n))), axis=1)
    levels = -np.sort(-rng.integers(0, 6, rows).astype(np.float64))
    scale, place, error = np.array([0.5]), np.zeros((1, n), np.int16), np.zeros(1)
    fit_outputs(values, levels, copies, scale, place, error)
    assert np.bincount(place[0], minlength=rows).max() <= copies
    found = float(((values[0] - scale[0] * levels[place[0]]) ** 2).sum())
    assert error[0] == pytest.approx(found, abs=1e-9)
    slots = np.repeat(levels, copies)
    cost = (values[0][:, None] - 0.5 * slots[None, :]) ** 2  # at the scale that it began with
    best = float(cost[linear_sum_assignment(cost)].sum())
    assert found <= best + 1e-9
    cost = (values[0][:, None] - scale[0] * slots[None, :]) ** 2
    assert found <= float(cost[linear_sum_assignment(cost)].sum()) * (1 + 1e-3) + 1e-9


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    shapes=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 11)), min_size=1, max_size=3),
    crossbars=st.integers(1, 6), books=st.integers(1, 3), spare=st.sampled_from([0.0, 0.5]),
)  # fmt: skip
def test_nothing_is_rewritten(
    seed: int, shapes: list[tuple[int, int]], crossbars: int, books: int, spare: float
) -> None:
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    chip = target(crossbars=crossbars)
    text = f"fixed-codebook{{books={min(books, crossbars)},spare={spare}}}"
    done = finish(compiled(text, module(weights, chip)))
    check_module(done)
    assert count_module(done).steady.total == 0
    words: dict[tuple[int, int], int] = {}
    for layer, wanted in zip(done.layers, weights, strict=True):
        body = layer.at(Placed)
        assert_each_weight_once(body)
        stored = body.wanted_words()[:, :, 0]
        for s, r in zip(*np.nonzero(body.driven()), strict=True):
            assert words.setdefault((int(body.crossbar[s]), int(r)), int(stored[s, r])) == stored[s, r]
        held = body.codes * body.scale[:, None]
        assert ((held == 0) | (np.sign(held) == np.sign(wanted))).all()
        assert (np.square(held - wanted).sum(1) <= np.square(wanted).sum(1) * (1 + 1e-5)).all()


def test_equal_weights_are_met_exactly() -> None:
    grid = np.arange(1, 9, dtype=np.float32)
    done = compiled("fixed-codebook{rounds=30}", module([np.stack([grid, -3 * grid])], target(rows=8)))
    body = done.layers[0].at(Placed)
    np.testing.assert_allclose(body.codes * body.scale[:, None], [grid, -3 * grid], rtol=0.05)


def test_what_it_needs() -> None:
    weights = [np.ones((2, 4), np.float32)]
    with pytest.raises(XbcError, match="weights cannot choose rows on target 'small'"):
        compiled("fixed-codebook", module(weights, target(routing="block")))
    with pytest.raises(XbcError, match="books = 2, but the chip has 1 "):
        compiled("fixed-codebook{books=2}", module(weights, target()))
    with pytest.raises(XbcError, match="takes int8 weights of one scale"):
        compiled("fixed-codebook", module(weights, target(), dtype="int8"))
    with pytest.raises(XbcError, match=r"books = 65 is outside 1\.\.64"):
        FixedCodebook(books=65)
