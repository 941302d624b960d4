"""The integer engine against int64 matrix products and against crossbars read cell by cell."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ir.cells import DIGITS, ENCODINGS
from ir.errors import XbcError
from ir.target import Converters, Target
from tests.xbc.simulate.building import code_limits, programmed_layer, read_crossbars
from xbc.simulate.converters import Coding
from xbc.simulate.engine import IntegerEngine


@st.composite
def cases(draw, exact):  # type: ignore[no-untyped-def]
    encoding = draw(st.sampled_from([*sorted(ENCODINGS), DIGITS]))
    bits = draw(st.integers(2, 8))
    bits_per_cell = draw(st.integers(1, 4))
    rows = draw(st.integers(1, 12))
    gated = draw(st.booleans())
    wide = 1 if encoding == "driver" or gated else draw(st.integers(1, 4))
    groups = draw(st.sampled_from([1, 1, 2]))
    outputs, inputs = draw(st.integers(1, 5)) * groups, draw(st.integers(1, 30))
    target = Target(
        "t", rows, 64, bits_per_cell, crossbars=2, outputs_per_section=wide,
        encoding="offset" if encoding == DIGITS else encoding, adders="any",
        routing="gather" if gated else "block", row_gating=gated,
    )  # fmt: skip
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    low, high = code_limits(encoding, bits)
    codes = rng.integers(low, high, (outputs, inputs), endpoint=True)
    layer = programmed_layer(
        codes, target, encoding, bits=bits, groups=groups, seed=seed, shuffle=draw(st.booleans()),
        disturb=draw(st.sampled_from([0.0, 0.3])), flip=draw(st.booleans()), gated=gated,
    )  # fmt: skip
    signed = draw(st.booleans())
    input_bits = draw(st.integers(2, 8))
    coding = Coding(input_bits, signed)
    vectors = draw(st.integers(1, 4))
    x = rng.integers(coding.low, coding.high, (groups, inputs, vectors), endpoint=True).astype(np.int32)
    dac_bits = draw(st.integers(1, input_bits))
    full = rows * (2**bits_per_cell - 1) * (2**dac_bits - 1)
    converters = Converters(
        dac_bits=dac_bits, input_bits=input_bits,
        adc_bits=full.bit_length() if exact else draw(st.integers(1, 6)),
        adc_range=draw(st.sampled_from(["full", "clipped"])),
        adc_rounding=draw(st.sampled_from(["nearest", "floor"])),
        signed_inputs=draw(st.sampled_from(["twos-complement", "offset"])),
    )  # fmt: skip
    return layer, target, converters, coding, x


@given(case=cases(exact=True))
@settings(max_examples=120, deadline=None)
def test_ideal_converters_give_the_integer_product(case) -> None:  # type: ignore[no-untyped-def]
    layer, target, converters, coding, x = case
    outputs, groups = layer.body.shape[0], layer.origin.groups
    weights = layer.body.effective_codes().astype(np.int64).reshape(groups, outputs // groups, -1)
    wanted = weights @ x.astype(np.int64)
    for adc in (True, False):
        engine = IntegerEngine(layer, target, converters, adc=adc)
        got = engine.product(x, coding)
        assert np.array_equal(got, wanted.reshape(outputs, -1))
        assert engine.counts.clipped == 0


@given(case=cases(exact=False))
@settings(max_examples=120, deadline=None)
def test_any_converters_give_what_the_cells_give(case) -> None:  # type: ignore[no-untyped-def]
    layer, target, converters, coding, x = case
    dac_top = 2 ** min(converters.dac_bits, coding.bits) - 1
    if coding.signed and converters.signed_inputs == "twos-complement":
        dac_top = 2 ** min(converters.dac_bits, coding.bits - 1) - 1
    full = target.rows * (2**target.bits_per_cell - 1) * dac_top
    wanted = read_crossbars(
        layer, x, input_bits=coding.bits, signed=coding.signed, dac_bits=converters.dac_bits,
        adc_bits=converters.adc_bits, full_scale=full if converters.adc_range == "full" else 0,
        offset_inputs=converters.signed_inputs == "offset", floor_rounding=converters.adc_rounding == "floor",
    )  # fmt: skip
    got = IntegerEngine(layer, target, converters, threads=2).product(x, coding)
    scale = max(1.0, float(np.abs(wanted).max()))
    assert np.allclose(got, wanted.astype(float), rtol=0, atol=1e-9 * scale)


@given(case=cases(exact=False))
@settings(max_examples=30, deadline=None)
def test_calibration_counts_every_column_sum(case) -> None:  # type: ignore[no-untyped-def]
    layer, target, converters, coding, x = case
    converters = dataclasses.replace(converters, adc_range="calibrated", columns_per_adc=64)
    engine = IntegerEngine(layer, target, converters, calibrated=None)
    histogram = engine.calibrate(x, coding)
    # an ADC that covers the largest sum seen, one code per unit, converts these inputs without error
    top = int(np.flatnonzero(histogram[0]).max())
    fine = dataclasses.replace(converters, adc_bits=max(1, top.bit_length()))
    got = IntegerEngine(layer, target, fine, calibrated=(top,)).product(x, coding)
    assert np.array_equal(got, IntegerEngine(layer, target, adc=False, converters=fine).product(x, coding))
    with pytest.raises(XbcError, match="calibration"):
        IntegerEngine(layer, target, fine).product(x, coding)


def test_wide_words_and_inputs_stay_exact() -> None:
    target = Target("t", 128, 64, 1, outputs_per_section=2, encoding="offset", routing="block")
    rng = np.random.default_rng(3)
    codes = rng.integers(-(2**15), 2**15, (6, 300))
    layer = programmed_layer(codes, target, "offset", bits=16)
    x = rng.integers(-(2**15), 2**15, (1, 300, 5)).astype(np.int32)
    converters = Converters(input_bits=16, adc_bits=8)
    got = IntegerEngine(layer, target, converters).product(x, Coding(16, True))
    assert np.array_equal(got, codes.astype(np.int64) @ x[0].astype(np.int64))


@pytest.mark.parametrize("bits_per_cell", [1, 2])
def test_many_columns_on_the_same_rows(bits_per_cell: int) -> None:
    """Enough columns that sums over subsets of rows are shared: same result as cell by cell."""
    target = Target("t", 21, 64, bits_per_cell, outputs_per_section=16, encoding="offset", routing="block")
    codes = np.random.default_rng(2).integers(-8, 8, (19, 30))
    layer = programmed_layer(codes, target, "offset", bits=4, shuffle=True, disturb=0.2, flip=True)
    x = np.random.default_rng(3).integers(-8, 8, (1, 30, 3)).astype(np.int32)
    before = x.copy()
    for signed_inputs in ("twos-complement", "offset"):
        converters = Converters(
            input_bits=4, dac_bits=2, adc_bits=3, signed_inputs=signed_inputs, adc_range="full"
        )
        full = 21 * (2**bits_per_cell - 1) * 3
        wanted = read_crossbars(
            layer, x, input_bits=4, signed=True, dac_bits=2, adc_bits=3, full_scale=full,
            offset_inputs=signed_inputs == "offset",
        )  # fmt: skip
        engine = IntegerEngine(layer, target, converters)
        assert np.allclose(engine.product(x, Coding(4, True)), wanted.astype(float), rtol=0, atol=1e-6)
        assert np.count_nonzero(engine.plan(Coding(4, True)).factor[0]) >= 32  # type: ignore[index]
        assert np.array_equal(x, before)


def test_clipping_is_counted_and_saturates() -> None:
    target = Target("t", 8, 4, 1, encoding="unipolar", routing="block")
    layer = programmed_layer(np.array([[1] * 8, [1, 1, 1, 0, 0, 0, 0, 0]]), target, "unipolar", bits=1)
    converters = Converters(input_bits=1, adc_bits=2, adc_range="clipped")
    engine = IntegerEngine(layer, target, converters)
    ones = np.ones((1, 8, 1), np.int32)
    # eight ones against a top code of 3; the second column sums to 3 and is exact
    assert engine.product(ones, Coding(1, False)).ravel().tolist() == [3.0, 3.0]
    assert (engine.counts.conversions, engine.counts.clipped) == (2, 1)


def test_quantisation_step_has_its_closed_form() -> None:
    """Full range over 100 rows with 5 bits: codes are 100/31 apart, the error is uniform over one step."""
    target = Target("t", 100, 1, 1, encoding="unipolar", routing="block")
    layer = programmed_layer(np.ones((1, 100)), target, "unipolar", bits=1)
    rng = np.random.default_rng(0)
    x = (rng.random((1, 100, 20000)) < rng.random(20000)).astype(np.int32)
    got = IntegerEngine(layer, target, Converters(input_bits=1, adc_bits=5)).product(x, Coding(1, False))
    error = got[0] - x[0].sum(axis=0)
    step = 100 / 31
    assert np.abs(error).max() <= step / 2
    assert np.allclose(got / step, np.rint(got / step), atol=1e-9)
    assert error.var() == pytest.approx(step**2 / 12, rel=0.1)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((1, 7, 2), np.int32), "takes 1 x 8 inputs"),
        (np.full((1, 8, 2), 4, np.int32), "outside the 0..3"),
        (np.full((1, 8, 2), -1, np.int32), "outside the 0..3"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(codes, message) -> None:  # type: ignore[no-untyped-def]
    target = Target("t", 8, 4, 1, encoding="unipolar", routing="block")
    layer = programmed_layer(np.ones((2, 8)), target, "unipolar", bits=1)
    engine = IntegerEngine(layer, target, Converters(input_bits=2, adc_bits=4))
    with pytest.raises(XbcError, match=message):
        engine.product(codes, Coding(2, False))


def test_contradictory_converters_are_refused() -> None:
    target = Target("t", 8, 4, 1, encoding="unipolar", routing="block")
    layer = programmed_layer(np.ones((2, 8)), target, "unipolar", bits=1)
    with pytest.raises(XbcError, match="dac_bits = 4 is above input_bits = 2"):
        IntegerEngine(layer, target, Converters(input_bits=2, dac_bits=4))
