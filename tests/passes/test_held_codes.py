"""stick-bits and hold-codes: which cells may be stale, and what that costs."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ir import Placed, Programmed, XbcError, check_module
from passes.base import Context
from passes.counting import count_module
from passes.hold_codes import HoldCodes
from passes.inputs import Sensitivities
from passes.manager import finish
from passes.penalty import grades_of, layer_grades
from passes.pipeline import parse_pipeline
from passes.stick_bits import StickBits
from tests.passes.small import codes_body, compiled, module, random_codes, target

PLACE = "encode-signs,slice-bits,form-sections,sort-sections,deal-sections"
ENCODINGS = ["driver", "split", "differential", "offset", "twos-complement"]


def placed(
    seed: int = 0,
    shapes: Any = ((6, 9), (3, 5)),
    bits: int = 5,
    dtype: Any = "float32",
    limits: Any = None,
    **chip: Any,
) -> Any:
    rng = np.random.default_rng(seed)
    bodies = []
    for shape in shapes:
        codes = random_codes(rng, shape, bits - (limits is not None))
        bodies.append(codes_body(codes, bits, limits=limits))
    return compiled(PLACE, module(bodies, target(**{"columns": 48, **chip}), dtype=dtype))


def stuck(given_module: Any, context: Any = None, **options: Any) -> Any:
    done = StickBits(**options).run(given_module, context or Context()).module
    check_module(done)
    return done


def held(given_module: Any, context: Any = None, **options: Any) -> Any:
    done = HoldCodes(**options).run(given_module, context or Context()).module
    check_module(done)
    return done


def stored(done: Any) -> Any:
    return [layer.at(Programmed).stored for layer in done.layers]


def wanted(done: Any) -> Any:
    return [layer.at(Placed).wanted_words() for layer in done.layers]


def same(a: Any, b: Any) -> Any:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_full_fraction_and_no_columns_are_exact(encoding: Any) -> None:
    given_module = placed(encoding=encoding)
    for options in (
        {"fraction": 1.0}, {"columns": 0, "fraction": 0.0},
    ):  # fmt: skip
        done = stuck(given_module, **options)
        assert same(stored(done), wanted(done))
        for layer in done.layers:
            np.testing.assert_array_equal(layer.at(Programmed).effective_codes(), layer.body.codes)


def chip_held(done: Any, columns: Any, rounds: Any = 3) -> Any:
    """Levels held after every load and round, when stale-able cells that differ follow ``stored``: plain loops.

    Returns per round a list (layer, section, row, group, digit, level before, wanted, stored).
    """
    loads = []
    for layer in done.layers:
        body = layer.at(Programmed)
        loads += [
            (int(body.step[s]), int(body.crossbar[s]), layer.name, body, s) for s in range(body.sections)
        ]
    chip: dict[Any, Any] = {}
    out: list[Any] = []
    tables = {layer.name: (layer.body.cells.levels(layer.body.wanted_words()),
                           layer.body.cells.levels(layer.body.stored)) for layer in done.layers}  # fmt: skip
    for _ in range(rounds):
        events = []
        for _, crossbar, name, body, s in sorted(loads, key=lambda load: load[:2]):
            want, hold = tables[name]
            for r, g in np.ndindex(body.rows, body.group_width):
                if body.inputs[s, r] < 0 or body.outputs[s, g] < 0:
                    continue
                for d in range(body.cells.columns):
                    cell = crossbar, r, g * body.cells.columns + d
                    low = d % body.cells.slices >= body.cells.slices - columns
                    events.append((low, chip.get(cell, 0), int(want[s, r, g, d]), int(hold[s, r, g, d])))
                    chip[cell] = int(hold[s, r, g, d])
        out.append(events)
    return out


@given(
    seed=st.integers(0, 2**32 - 1), encoding=st.sampled_from(ENCODINGS), share=st.integers(1, 2),
    columns=st.integers(1, 3), fraction=st.sampled_from([0.0, 0.3, 0.5, 0.9]), crossbars=st.integers(1, 3),
    bits_per_cell=st.integers(1, 2),
)  # fmt: skip
@settings(max_examples=40)
def test_random_keeps_only_stale_low_cells_in_every_later_inference(
    seed: int, encoding: Any, share: Any, columns: Any, fraction: Any, crossbars: Any, bits_per_cell: Any
) -> None:
    share = 1 if encoding == "driver" else share
    given_module = placed(
        seed,
        bits=6,
        encoding=encoding,
        outputs_per_section=share,
        crossbars=crossbars,
        bits_per_cell=bits_per_cell,
    )
    done = stuck(given_module, Context(seed=seed), columns=columns, fraction=fraction)
    _, second, third = chip_held(done, columns)
    assert second == third
    for low, before, want, hold in second:
        assert hold in (want, before), "a cell holds what is neither wanted nor stale"
        if not low:
            assert hold == want
        if low and fraction == 0 and encoding in ("driver", "split"):  # no stale code leaves their limits
            assert hold == before, "fraction 0 writes no stale-able cell in the steady state"


def test_random_follows_its_seed_and_fraction() -> None:
    given_module = placed(1, shapes=((40, 60),), bits=8)
    runs = [stuck(given_module, Context(seed=s)) for s in (1, 1, 2)]
    assert same(stored(runs[0]), stored(runs[1]))
    assert not same(stored(runs[0]), stored(runs[2]))
    for fraction in (0.2, 0.5, 0.8):
        done = stuck(given_module, fraction=fraction)
        _, second, _ = chip_held(done, 3)
        due = [hold == want for low, before, want, hold in second if low and before != want]
        assert np.mean(due) == pytest.approx(fraction, abs=0.03)


def test_random_saves_writes_in_proportion() -> None:
    given_module = placed(2, shapes=((40, 60),), bits=8)
    writes = [count_module(stuck(given_module, fraction=f)).steady.total
              for f in (0.0, 0.5, 1.0)]  # fmt: skip
    assert writes[0] < writes[1] < writes[2]
    assert count_module(finish(given_module)).steady.total == writes[2]


def objective(done: Any, lambda_: Any, grade: Any = None) -> Any:
    """Steady writes plus lambda * squared code error of every stored number."""
    error = 0.0
    for layer in done.layers:
        body = layer.at(Programmed)
        exact = body.lower(Programmed, stored=body.wanted_words()).stored_codes()
        squares = (body.stored_codes().astype(float) - exact) ** 2
        if grade is not None:
            at = grade[layer.name]
            squares = (
                squares
                * at.outputs[body.outputs][:, None, :]
                * at.inputs[np.maximum(body.inputs, 0)][:, :, None]
            )
        error += squares.sum()
    return count_module(done).steady.total + lambda_ * error


@given(
    seed=st.integers(0, 2**32 - 1), lambda_=st.sampled_from([0.01, 0.1, 1.0]),
    encoding=st.sampled_from(["driver", "offset", "twos-complement", "split"]),
    crossbars=st.integers(1, 2), bits_per_cell=st.integers(1, 2),
)  # fmt: skip
@settings(max_examples=20)
def test_optimal_beats_exact_and_random_at_its_objective(
    seed: int, lambda_: Any, encoding: Any, crossbars: Any, bits_per_cell: Any
) -> None:
    given_module = placed(
        seed,
        shapes=((12, 16), (6, 8)),
        bits=5,
        encoding=encoding,
        crossbars=crossbars,
        bits_per_cell=bits_per_cell,
    )
    best = objective(held(given_module, lambda_=lambda_), lambda_)
    assert best <= objective(finish(given_module), lambda_)
    for columns in (1, 2):
        for fraction in (0.0, 0.5):
            stale = stuck(given_module, columns=columns, fraction=fraction)
            assert best <= objective(stale, lambda_)


def test_optimal_wide_numbers_keep_their_upper_digits() -> None:
    given_module = placed(3, shapes=((8, 16),), bits=11)
    done = held(given_module, lambda_=1e-4)
    body = done.layers[0].at(Programmed)
    np.testing.assert_array_equal(body.stored >> 8, body.wanted_words() >> 8)
    assert not same(stored(done), wanted(done))


def test_optimal_goes_from_exact_to_nothing_written() -> None:
    given_module = placed(4)
    assert same(stored(held(given_module, lambda_=1e6)), wanted(given_module))
    assert count_module(held(given_module, lambda_=1e-9)).steady.total == 0


def test_optimal_spares_the_dearer_direction() -> None:
    given_module = placed(5, shapes=((30, 32),), bits=6)
    even = count_module(held(given_module, lambda_=0.01)).steady
    skewed = HoldCodes(lambda_=0.01, set_cost=4.0, reset_cost=1.0)
    dear = count_module(skewed.run(given_module, Context()).module).steady
    assert 4 * dear.set + dear.reset < 4 * even.set + even.reset


def test_optimal_follows_the_grades() -> None:
    given_module = placed(6, shapes=((12, 16),), bits=6)
    rng = np.random.default_rng(0)
    outputs = np.where(np.arange(12) < 6, 100.0, 0.01).astype(np.float32)
    known = {"l0": np.outer(outputs, rng.uniform(0.9, 1.1, 16)).astype(np.float32)}
    graded = grades_of(given_module, known, "weight")
    step, context = HoldCodes(5.0, detail="weight"), Context(sensitivities=Sensitivities(known))
    outcome = step.run(given_module, context)
    done = outcome.module
    plain = held(given_module, lambda_=5.0)
    assert objective(done, 5.0, graded) < objective(plain, 5.0, graded)
    body = done.layers[0].at(Programmed)
    error = np.abs(body.effective_codes() - body.codes).sum(1)
    assert error[:6].sum() == 0
    assert error[6:].sum() > 0
    assert outcome.facts["survivor_windows_cut_short"] >= 0


def test_what_stays_in_zero_rows_cancels() -> None:
    """A weight of 0 has no sign: if its row always counted as +, stale magnitudes would add up to a bias."""
    rng = np.random.default_rng(3)
    codes = np.where(rng.random((64, 64)) < 0.7, 0, rng.integers(-15, 16, (64, 64)))
    given_module = compiled(PLACE, module([codes_body(codes, 4)], target(columns=4)))
    held = stuck(given_module, columns=3, fraction=0.1).layers[0].at(Programmed)
    left = held.effective_codes()[codes == 0]
    stale = np.abs(left).sum()
    assert stale > 100
    assert abs(left.sum()) < 0.2 * stale


@pytest.mark.parametrize("encoding", ["driver", "offset", "twos-complement", "differential"])
@pytest.mark.parametrize("dtype", ["int8", "float32"])
@pytest.mark.parametrize(("make", "options"), [(stuck, {"fraction": 0.3}), (held, {"lambda_": 0.03})])
def test_codes_stay_within_the_limits_of_the_host(encoding: Any, dtype: Any, make: Any, options: Any) -> None:
    rng = np.random.default_rng(7)
    codes = rng.integers(-15, 13, (24, 16))

    def effective(limits: Any) -> Any:
        body = codes_body(codes, 5, limits=limits)
        plain = "encode-signs{encoding=" + encoding + "},slice-bits,form-sections,deal-sections"
        placed_module = compiled(plain, module([body], target(columns=16), dtype=dtype))
        return make(placed_module, **options).layers[0].at(Programmed).effective_codes()

    narrow, wide = effective([[-15, 12]]), effective([[-16, 31]])
    assert narrow.min() >= -15
    assert narrow.max() <= 12
    assert ((wide < -15) | (wide > 12)).any(), "the example never leaves the limits: it shows nothing"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("bits", "bits_per_cell"), [(5, 2), (7, 4), (7, 3), (8, 3)])
def test_optimal_holds_no_number_beyond_the_bits(encoding: Any, bits: int, bits_per_cell: Any) -> None:
    """Digits of several bits can spell numbers that the format does not have."""
    rng = np.random.default_rng(0)
    chip = target(rows=8, columns=64, bits_per_cell=bits_per_cell, encoding=encoding)
    given_module = compiled(
        f"quantize{{bits={bits}}},{PLACE}", module([rng.standard_normal((24, 24)).astype(np.float32)], chip)
    )
    done = held(given_module, lambda_=0.02)
    assert count_module(done).steady.total < count_module(given_module).steady.total


def test_threads_change_nothing() -> None:
    given_module = placed(8, shapes=((20, 30), (9, 12)), crossbars=3)
    one = held(given_module, Context(threads=1), lambda_=0.05)
    assert one == held(given_module, Context(threads=2), lambda_=0.05)


def test_refusals() -> None:
    with pytest.raises(XbcError, match=r"columns = 9, but layer 'l0' stores a number in 5 columns"):
        StickBits(columns=9).run(placed(), Context())
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (HoldCodes, {"lambda_": 0.0}, "lambda = 0.0 must be positive"),
        (HoldCodes, {"set_cost": 0.0}, "set-cost = 0.0 is outside"),
        (HoldCodes, {"reset_cost": 2e6}, "reset-cost"),
        (HoldCodes, {"grades": (1.0, 0.0)}, "grades hold 0.0, each must be a positive number"),
        (StickBits, {"columns": -1}, "columns = -1"),
        (StickBits, {"fraction": 1.5}, "fraction = 1.5"),
    ]
    for kind, options, message in cases:
        with pytest.raises(XbcError, match=message):
            kind(**options)
    with pytest.raises(XbcError, match="3 grades are given, the module has 2 layers"):
        HoldCodes(grades=(1.0, 2.0, 3.0)).run(placed(), Context())
    with pytest.raises(XbcError, match="detail=weight has no effect without sensitivities"):
        HoldCodes(detail="weight").run(placed(), Context())


def test_grades_in_the_text_are_what_sensitivities_say() -> None:
    given_module = placed(11, shapes=((20, 30), (9, 12)))
    rng = np.random.default_rng(3)
    known = {"l0": rng.random((20, 30), np.float32), "l1": 9 * rng.random((9, 12), np.float32)}
    context = Context(sensitivities=Sensitivities(known))
    grades = layer_grades(given_module, context)
    assert grades[0] < 1 < grades[1]
    (again,) = parse_pipeline(str(HoldCodes(0.05, grades=grades)))
    assert again == HoldCodes(0.05, grades=grades)
    assert again.run(given_module, Context()).module == held(given_module, context, lambda_=0.05)
    assert again.run(given_module, Context()).module != held(given_module, lambda_=0.05)
