from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ir import Module, Placed, Programmed, Quantized, XbcError, check_module
from passes.base import Context
from passes.counting import count_module, natural_module
from passes.inputs import DAMPING, Moments
from passes.solvers.trellis import NEAREST, SCALE, hold_run, joint_tables
from passes.solvers.viterbi import PACKED
from tests.passes.small import codes_body, compiled, module, random_codes, target

START = "quantize,encode-signs,slice-bits,form-sections,order-sections{method=rank},deal-sections{method=contiguous}"
CHIP: dict[str, Any] = {
    "rows": 6, "columns": 16, "outputs_per_section": 2, "encoding": "offset", "routing": "block", "crossbars": 2,
    "adders": "any",
}  # fmt: skip
LIST = "24 12 6 3 -24 -12"


def moments_of(seed: int, inputs: int, groups: int = 1) -> Moments:
    x = np.random.default_rng(seed).normal(size=(groups, inputs, 3 * inputs))
    x[:, 1:] += x[:, :-1]
    return Moments.of((x @ x.swapaxes(1, 2)).astype(np.float32))


def bits7(codes: np.ndarray) -> Quantized:
    return codes_body(codes, bits=7)


def network(seed: int, shapes: list[tuple[int, int]], groups: int = 1, **chip: Any) -> tuple[Module, Context]:
    rng = np.random.default_rng(seed)
    given_module = module(
        [bits7(random_codes(rng, shape, 6)) for shape in shapes], target(**CHIP | chip), groups
    )
    moments = {
        layer.name: moments_of(seed + i, layer.body.shape[1], groups)
        for i, layer in enumerate(given_module.layers)
    }
    return given_module, Context(moments=moments)


def programs(given_module: Module) -> list[Programmed]:
    return [layer.at(Programmed) for layer in given_module.layers]


def run_of(seed: int, loads: int, inputs: int, values: np.ndarray, penalty: float) -> dict[str, Any]:
    """Arguments of ``hold_run`` for one column group, rows in order, and what it finds."""
    rng = np.random.default_rng(seed)
    wanted = rng.uniform(values.min(), values.max(), (loads, inputs)).astype(np.float32)
    a = rng.normal(size=(inputs, 2 * inputs))
    inverse = np.linalg.inv(a @ a.T / inputs)
    width = int(np.log2(len(values)))
    words, held = np.zeros((loads, inputs, 1), np.uint8), np.zeros((loads, inputs), np.float32)
    outputs = np.arange(loads)[:, None]
    rows = np.broadcast_to(np.arange(inputs), (loads, inputs)).copy()
    state = np.full((inputs, 1), -1, np.int64)
    forced = hold_run(
        outputs, rows, wanted, inverse, True, np.full(loads, penalty * PACKED, np.float32), values.astype(np.float32),
        width, 1, PACKED, PACKED, state, words, held,
    )  # fmt: skip
    assert forced == 0
    return {
        "wanted": wanted.astype(np.float64),
        "inverse": inverse,
        "words": words[:, :, 0],
        "held": held,
        "state": state,
    }


def flips(words: tuple[int, ...]) -> int:
    return sum((a ^ b).bit_count() for a, b in itertools.pairwise(words))


@given(
    seed=st.integers(0, 2**32 - 1),
    loads=st.integers(1, 4),
    inputs=st.integers(1, 3),
    penalty=st.floats(0.01, 3),
)
@settings(max_examples=25, deadline=None)
def test_every_row_is_the_cheapest_of_all_chains(seed: int, loads: int, inputs: int, penalty: float) -> None:
    """Exhaustive search over a row's words; errors are spread as the formula of optimal brain surgery says."""
    digits = np.random.default_rng(seed).integers(1, 5, 3) * np.array([1, 1, -1])
    values = np.array([sum(d for bit, d in enumerate(digits) if word >> bit & 1) for word in range(8)], float)
    found = run_of(seed, loads, inputs, values, penalty)
    now = found["wanted"].copy()
    for row in range(inputs):
        rest = np.linalg.inv(np.linalg.inv(found["inverse"])[row:, row:])  # inputs before are fixed
        weight = penalty / rest[0, 0]
        nearest = values[np.abs(values[None] - now[:, row, None]).argmin(axis=1)]
        reach = np.sqrt(NEAREST / weight)  # see NEAREST
        target_of = nearest + np.clip(now[:, row] - nearest, -reach, reach)

        def price(words: tuple[int, ...], weight: float = weight, wanted: np.ndarray = target_of) -> float:
            return flips(words) + weight * float(((values[list(words)] - wanted) ** 2).sum())

        best = min(map(price, itertools.product(range(8), repeat=loads)))
        mine = tuple(int(word) for word in found["words"][:, row])
        assert price(mine) <= best + 1e-3 * (1 + best)
        np.testing.assert_array_equal(found["held"][:, row], values[list(mine)])
        error = now[:, row] - values[list(mine)]
        now[:, row:] -= error[:, None] * rest[0] / rest[0, 0]


@given(seed=st.integers(0, 2**32 - 1), loads=st.integers(1, 9), inputs=st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_dear_errors_make_it_gptq(seed: int, loads: int, inputs: int) -> None:
    """With errors too dear for any write to matter: round to the nearest, correct the rest, go on."""
    values = np.arange(16.0)
    found = run_of(seed, loads, inputs, values, 1e6)
    factor = np.linalg.cholesky(found["inverse"]).T  # upper, as in GPTQ
    weights = found["wanted"].copy()
    for row in range(inputs):
        rounded = np.clip(np.rint(weights[:, row]), 0, 15)
        near = np.abs(np.abs(weights[:, row] - np.floor(weights[:, row])) - 0.5) < 1e-3
        assert (np.abs(found["held"][:, row] - rounded) <= near).all()
        error = (weights[:, row] - found["held"][:, row]) / factor[row, row]
        weights[:, row:] -= error[:, None] * factor[row, row:]


@given(seed=st.integers(0, 2**32 - 1), penalty=st.floats(1e-3, 10), bits=st.integers(1, 2))
@settings(max_examples=10, deadline=None)
def test_tables_hold_the_cheapest_step(seed: int, penalty: float, bits: int) -> None:
    rng = np.random.default_rng(seed)
    values, grid = rng.integers(-9, 10, 16).astype(float), np.arange(-3.0, 4)
    cost, best = np.zeros((1, 16, 7), np.int32), np.zeros((1, 16, 7), np.uint8)
    joint_tables(np.array([penalty]), grid, values, bits, cost, best)
    digit = (np.arange(16)[:, None] >> np.arange(0, 4, bits)) & (2**bits - 1)
    writes = (digit[:, None] != digit[None]).sum(-1)
    for w, number in enumerate(grid):
        prices = writes + penalty * (values - number) ** 2
        np.testing.assert_allclose(
            cost[0, :, w] / SCALE, np.minimum(prices.min(axis=1), 2**14 / SCALE), atol=1 / SCALE
        )
        assert (
            np.take_along_axis(prices, best[0, :, w, None].astype(int), 1)[:, 0] <= prices.min(axis=1) + 1e-9
        ).all()


@given(
    seed=st.integers(0, 2**32 - 1), lambda_=st.sampled_from([0.003, 0.05, 1.0]), match=st.booleans(),
    groups=st.integers(1, 2), encoding=st.sampled_from(["offset", "twos-complement", "digits"]),
)  # fmt: skip
@settings(max_examples=12, deadline=None)
def test_a_program_of_the_same_weights(
    seed: int, lambda_: float, match: bool, groups: int, encoding: str
) -> None:
    """The verifier passes it, threads do not matter, and what is counted is not above the natural order."""
    chip = {} if encoding == "digits" else {"encoding": encoding}
    given_module, context = network(seed, [(6, 15), (4, 7)], groups, **chip)
    digits = f",choose-digits{{digits={LIST}}}" if encoding == "digits" else ""
    start = START.replace(",form-sections", f"{digits},form-sections")
    text = f"{start},trellis{{lambda={lambda_},match={str(match).lower()}}}"
    done = compiled(text, given_module, context)
    check_module(done)
    for body in programs(done):
        if encoding == "digits":
            assert body.digits == tuple(int(word) for word in LIST.split())
    alone = compiled(text, given_module, Context(threads=1, moments=context.moments))
    assert alone == done
    if lambda_ < 0.01 and encoding != "digits":
        assert count_module(done).steady.total <= count_module(natural_module(done)).steady.total


def test_exact_where_errors_are_dear() -> None:
    given_module, context = network(3, [(6, 15), (5, 9)])
    done = compiled(f"{START},trellis{{lambda=1e5}}", given_module, context)
    for layer, body in zip(given_module.layers, programs(done), strict=True):
        np.testing.assert_array_equal(body.effective_codes(), layer.body.codes)  # type: ignore[attr-defined]


def test_feedback_makes_sums_closer() -> None:
    """Held at few writes, the outputs are nearer to the wanted ones than without feedback."""
    given_module, context = network(5, [(32, 24)])
    assert context.moments is not None
    factor = context.moments["l0"].factor[0].astype(np.float64)
    second = np.linalg.inv(factor.T @ factor)
    error = {}
    for feedback in ("true", "false"):
        done = compiled(
            f"{START},trellis{{lambda=0.02,feedback={feedback},match=false}}", given_module, context
        )
        body = programs(done)[0]
        off = (body.effective_codes() - body.codes).astype(np.float64)
        error[feedback] = float(np.einsum("oi,ij,oj->", off, second, off))
    assert error["true"] < 0.9 * error["false"]


def test_what_is_loaded_stays_when_later_inputs_change() -> None:
    given_module, context = network(7, [(6, 18)])
    text = f"{START},trellis{{lambda=0.05}}"
    before = programs(compiled(text, given_module, context))[0]
    layer = given_module.layers[0]
    codes = layer.body.codes.copy()  # type: ignore[attr-defined]
    codes[:, 12:] = -codes[:, 12:]
    after = programs(compiled(text, module([bits7(codes)], given_module.target), context))[0]
    np.testing.assert_array_equal(before.effective_codes()[:, :12], after.effective_codes()[:, :12])
    assert (before.effective_codes()[:, 12:] != after.effective_codes()[:, 12:]).any()


def test_what_it_cannot_decide() -> None:
    given_module, context = network(1, [(6, 15)])
    mixed = START.replace("{method=rank}", "{method=natural}")
    wide, _ = network(1, [(2, 6)], columns=32, encoding="differential")
    fixed, _ = network(1, [(2, 6)], adders="fixed")
    with pytest.raises(XbcError, match="returns to a block of inputs of layer 'l0'"):
        compiled(f"{mixed},trellis", given_module, context)
    with pytest.raises(XbcError, match="second moments of layer 'l0' are those of another model"):
        compiled(f"{START},trellis", given_module, Context(moments={"l0": moments_of(0, 14)}))
    with pytest.raises(XbcError, match="its words have 14 bits"):
        compiled(f"{START},trellis", wide)
    with pytest.raises(XbcError, match="fixed adders"):
        compiled(f"{START},choose-digits{{digits=1 2}}", fixed)
    with pytest.raises(XbcError, match="integers separated by blanks"):
        compiled(f"{START},choose-digits{{digits=1 x}}", given_module)


@pytest.mark.parametrize(("adders", "powers_only"), [("powers", True), ("any", False)])
def test_chosen_digits(adders: str, powers_only: bool) -> None:
    """Lists are what the adders have, and are only taken where they pay."""
    given_module, context = network(2, [(32, 24), (16, 12)], adders=adders)
    placed = compiled(f"{START},choose-digits{{lambda=0.02}}", given_module, context)
    check_module(placed)
    lists = [layer.at(Placed).digits for layer in placed.layers]
    assert any(lists)
    for digits in filter(None, lists):
        assert len(digits) == layer_columns(placed)
        if powers_only:
            assert all(abs(d).bit_count() == 1 for d in digits)
    held = {
        text: count_module(
            compiled(f"{START}{text},trellis{{lambda=0.02}}", given_module, context)
        ).steady.total
        for text in ("", ",choose-digits{lambda=0.02}")
    }
    assert held[",choose-digits{lambda=0.02}"] < held[""]
    fixed, _ = network(2, [(32, 24)], adders="fixed")
    assert compiled(f"{START},choose-digits", fixed).layers[0].at(Placed).digits is None


def layer_columns(given_module: Module) -> int:
    return given_module.layers[0].at(Placed).cells.columns


def test_factors_are_those_of_the_damped_moment() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 40))
    second = x @ x.swapaxes(1, 2)
    found = Moments.of(second.astype(np.float32))
    for group in range(2):
        damped = second[group] + DAMPING * np.trace(second[group]) / 5 * np.eye(5)
        factor = found.factor[group].astype(np.float64)
        np.testing.assert_allclose(factor.T @ factor, np.linalg.inv(damped), rtol=1e-4, atol=1e-7)
        assert (np.tril(factor, -1) == 0).all()
    dead = Moments.of(np.zeros((1, 3, 3), np.float32))
    np.testing.assert_allclose(dead.factor[0], np.eye(3) * DAMPING**-0.5, rtol=1e-6)
