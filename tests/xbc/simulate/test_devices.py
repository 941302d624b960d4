"""Device models against their closed forms."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ir.cells import DIGITS, ENCODINGS
from ir.faulty import FaultyCells
from ir.module import Module
from ir.stages import Placed, Programmed
from ir.target import Converters, Device, Target
from passes.place import place
from tests.xbc.simulate.building import code_limits, programmed_layer
from xbc.simulate.analog import AnalogEngine
from xbc.simulate.converters import Coding
from xbc.simulate.devices import ChipTrial, Levels
from xbc.simulate.engine import IntegerEngine

LOW, HIGH = 2e-6, 2e-5
WINDOW = HIGH - LOW


def chip(bits_per_cell: int = 2, rows: int = 64, columns: int = 32, **device: object) -> Target:
    return Target(
        "t", rows, columns, bits_per_cell, outputs_per_section=4, encoding="unipolar", routing="block",
        device=Device(g_min_siemens=LOW, g_max_siemens=HIGH, **device),  # type: ignore[arg-type]
    )  # fmt: skip


def programmed_module(target: Target, codes, bits: int) -> Module:  # type: ignore[no-untyped-def]
    layer = programmed_layer(codes, target, "unipolar", bits=bits)
    return Module("m", target, (layer,))


def cells_of(target: Target, seed: int = 0, outputs: int = 64, inputs: int = 1024):  # type: ignore[no-untyped-def]
    """(levels, conductances) of a big layer of random levels, each cell of it written once."""
    rng = np.random.default_rng(5)
    top = 2**target.bits_per_cell
    sections = -(-outputs // target.outputs_per_section) * -(-inputs // target.rows)
    target = dataclasses.replace(target, crossbars=sections)
    codes = rng.integers(0, top, (outputs, inputs))
    module = programmed_module(target, codes, target.bits_per_cell)
    (_, values) = next(ChipTrial(module, seed, 0).conductances())
    body = module.layers[0].body
    assert isinstance(body, Programmed)
    return body.cells.levels(body.stored), values.astype(np.float64)


@pytest.mark.parametrize("low_level", [1.0, 0.25])
def test_programming_error_is_normal_with_a_spread_that_follows_the_level(low_level: float) -> None:
    levels, g = cells_of(chip(sigma_verified=0.02, error_low_level=low_level))
    for level in range(4):
        error = (g[levels == level] - LOW - WINDOW * level / 3) / WINDOW
        n = error.size
        wanted = 0.02 * (low_level + (1 - low_level) * level / 3)
        assert abs(error.mean()) < 4 * wanted / math.sqrt(n)
        assert error.std() == pytest.approx(wanted, rel=4 / math.sqrt(2 * n))
        assert (np.abs(error) < wanted).mean() == pytest.approx(0.6827, abs=4 * 0.5 / math.sqrt(n))


def test_lognormal_error_keeps_the_median() -> None:
    levels, g = cells_of(chip(sigma_verified=0.1, error_law="lognormal"))
    for level in range(4):
        logs = np.log(g[levels == level] / (LOW + WINDOW * level / 3))
        assert abs(logs.mean()) < 4 * 0.1 / math.sqrt(logs.size)
        assert logs.std() == pytest.approx(0.1, rel=4 / math.sqrt(2 * logs.size))


def test_write_verify_keeps_errors_inside_its_window() -> None:
    from scipy.stats import truncnorm

    for window in (0.05, 0.01):
        levels, g = cells_of(chip(sigma_verified=0.03, verify_window=window))
        error = (g - LOW - WINDOW * levels / 3) / WINDOW
        assert np.abs(error).max() <= window * (1 + 1e-6)
        wanted = truncnorm(-window / 0.03, window / 0.03, scale=0.03).std()
        assert error.std() == pytest.approx(wanted, rel=4 / math.sqrt(2 * error.size))


def test_unverified_writes_err_by_their_own_spread() -> None:
    target = chip(1, sigma_verified=0.01, sigma_programmed=0.05)
    codes = np.ones((64, 512), np.int64)
    sections = 16 * 8
    module = programmed_module(dataclasses.replace(target, crossbars=sections), codes, 1)
    layer = module.layers[0]
    body = layer.at(Programmed)
    verify = np.zeros_like(body.stored)
    verify[::2] = 1
    module = module.with_layers([layer.with_body(body.lower(Programmed, verify=verify))])
    (_, g) = next(ChipTrial(module, 0, 0).conductances())
    error = (g - HIGH) / WINDOW
    assert error[::2].std() == pytest.approx(0.01, rel=0.05)
    assert error[1::2].std() == pytest.approx(0.05, rel=0.05)


def test_set_and_reset_have_their_own_spread_and_unwritten_cells_keep_their_error() -> None:
    """One crossbar sees levels 0 -> 1 (SET), 1 -> 1 (not written), 1 -> 0 (RESET)."""
    target = chip(1, rows=512, columns=4, sigma_verified=0.02, set_error=2.0, reset_error=0.5)
    ones, zeros = np.ones((4, 512)), np.zeros((4, 512))
    module = programmed_module(target, np.concatenate([ones, ones, zeros]).astype(np.int64), 1)
    module = place(module, [np.zeros(3, np.int32)])
    layer = module.layers[0]
    module = module.with_layers(
        [layer.with_body(layer.at(Placed).lower(Programmed, stored=layer.at(Placed).wanted_words()))]
    )
    (_, g) = next(ChipTrial(module, 3, 0).conductances())
    assert ((g[0] - HIGH) / WINDOW).std() == pytest.approx(0.04, rel=0.08)
    assert np.array_equal(g[0], g[1])
    assert ((g[2] - LOW) / WINDOW).std() == pytest.approx(0.01, rel=0.08)


def test_drift_follows_its_power_law() -> None:
    levels, g = cells_of(chip(drift_exponent=0.05, retention_s=3600.0))
    assert np.allclose(g, (LOW + WINDOW * levels / 3) * 3600**-0.05, rtol=1e-6)
    levels, g = cells_of(chip(drift_exponent=0.05, drift_spread=0.01, retention_s=3600.0))
    exponents = -np.log(g / (LOW + WINDOW * levels / 3)) / math.log(3600)
    assert exponents.mean() == pytest.approx(0.05, rel=0.01)
    assert exponents.std() == pytest.approx(0.01, rel=0.03)


def test_stuck_cells_come_in_their_fractions_and_listed_ones_are_there() -> None:
    levels, g = cells_of(chip(1, stuck_low=0.02, stuck_high=0.01))
    wrong_low = (levels == 1) & (g < HIGH / 2)
    wrong_high = (levels == 0) & (g > HIGH / 2)
    assert wrong_low.sum() / (levels == 1).sum() == pytest.approx(0.02, rel=0.15)
    assert wrong_high.sum() / (levels == 0).sum() == pytest.approx(0.01, rel=0.2)
    target = dataclasses.replace(chip(1, rows=8, columns=4), faulty=FaultyCells([(0, 3, 1, 0)]))
    (_, g) = next(ChipTrial(programmed_module(target, np.ones((4, 8), np.int64), 1), 0, 0).conductances())
    assert g[0, 3, 1, 0] == pytest.approx(LOW)
    assert (g > HIGH / 2).sum() == 31


def test_a_trial_is_fixed_by_its_seed_and_number() -> None:
    target = chip(sigma_verified=0.05)
    module = programmed_module(target, np.ones((8, 40), np.int64), 2)
    draws = [next(ChipTrial(module, *key).conductances())[1] for key in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert not np.array_equal(draws[0], draws[3])


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_perfect_devices_are_the_integer_engine(data) -> None:  # type: ignore[no-untyped-def]
    encoding = data.draw(st.sampled_from([*sorted(ENCODINGS), DIGITS]))
    bits, bits_per_cell = data.draw(st.integers(2, 6)), data.draw(st.integers(1, 3))
    gated = data.draw(st.booleans())
    target = Target(
        "t", data.draw(st.integers(2, 12)), 64, bits_per_cell, row_gating=gated,
        outputs_per_section=1 if encoding == "driver" or gated else data.draw(st.integers(1, 3)),
        encoding="offset" if encoding == DIGITS else encoding, adders="any",
    )  # fmt: skip
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    low, high = code_limits(encoding, bits)
    groups = data.draw(st.sampled_from([1, 2]))
    codes = rng.integers(low, high, (3 * groups, data.draw(st.integers(1, 20))), endpoint=True)
    layer = programmed_layer(
        codes, target, encoding, bits=bits, groups=groups, disturb=0.2, flip=True, gated=gated
    )
    coding = Coding(4, data.draw(st.booleans()))
    x = rng.integers(coding.low, coding.high, (groups, codes.shape[1], 3), endpoint=True)
    converters = Converters(
        input_bits=4, dac_bits=data.draw(st.integers(1, 3)), adc_bits=data.draw(st.integers(2, 8)),
        signed_inputs=data.draw(st.sampled_from(["twos-complement", "offset"])),
    )  # fmt: skip
    (_, g) = next(ChipTrial(Module("m", target, (layer,)), 0, 0).conductances())
    for adc in (True, False):
        wanted = IntegerEngine(layer, target, converters, adc=adc).product(x, coding)
        got = AnalogEngine(layer, target, g, converters=converters, adc=adc).product(x, coding)
        assert np.allclose(got, wanted, rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()))


def test_programming_error_propagates_through_shift_and_add() -> None:
    """Without ADC: error variance of a weight = sum over digits of (digit weight x level error)^2."""
    sigma = 0.02
    target = chip(2, rows=64, columns=32, sigma_verified=sigma)
    codes = np.random.default_rng(0).integers(0, 256, (64, 256))
    sections = 16 * 4
    module = programmed_module(dataclasses.replace(target, crossbars=sections, columns=32), codes, 8)
    layer = module.layers[0]
    (_, g) = next(ChipTrial(module, 0, 0).conductances())
    engine = AnalogEngine(layer, target, g, adc=False)
    assert engine.weights is not None
    error = engine.weights - codes
    per_level = sigma * Levels.of(target).top
    wanted = per_level * math.sqrt(sum(float(w) ** 2 for w in layer.at(Programmed).cells.cell_weights))
    assert error.std() == pytest.approx(wanted, rel=0.03)


def test_read_noise_has_the_same_variance_read_by_read_and_folded() -> None:
    noise = 0.1
    target = chip(2, rows=32, columns=32, read_noise=noise)
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (4, 32))
    layer = programmed_module(target, codes, 8).layers[0]
    (_, g) = next(ChipTrial(Module("m", target, (layer,)), 0, 0).conductances())
    x = np.repeat(rng.integers(0, 16, (1, 32, 1)), 4000, axis=2)
    converters = Converters(input_bits=4, dac_bits=1, adc_bits=16)
    body = layer.at(Programmed)
    unit = g[0].astype(np.float64) * noise / Levels.of(target).step  # [rows, G, columns]
    power = sum(4.0**j * ((x[0, :, 0] >> j) & 1) for j in range(4))
    weights = body.cells.cell_weights.astype(float)
    analog = np.einsum("r,rgd,d->g", power, unit**2, weights**2)
    folded = AnalogEngine(layer, target, g, converters=converters, adc=False).product(x, Coding(4, False))
    assert np.allclose(folded.var(axis=1), analog, rtol=0.12)
    assert np.allclose(folded.mean(axis=1), codes @ x[0, :, 0], atol=4 * np.sqrt(analog.max() / 4000))
    # read by read every conversion adds the variance of rounding, 1/12
    rounding = sum(4.0**j for j in range(4)) * (weights**2).sum() / 12
    read = AnalogEngine(layer, target, g, converters=converters).product(x, Coding(4, False))
    assert np.allclose(read.var(axis=1), analog + rounding, rtol=0.12)


def test_a_missing_reference_column_adds_the_lowest_conductance_to_every_cell() -> None:
    target = chip(1, rows=16, columns=8, reference_column=False)
    codes = np.random.default_rng(0).integers(0, 2, (2, 16))
    layer = programmed_module(target, codes, 1).layers[0]
    (_, g) = next(ChipTrial(Module("m", target, (layer,)), 0, 0).conductances())
    x = np.ones((1, 16, 1), np.int64)
    got = AnalogEngine(layer, target, g, converters=Converters(input_bits=1), adc=False).product(
        x, Coding(1, False)
    )
    assert np.allclose(got[:, 0], codes.sum(axis=1) + 16 * LOW / WINDOW, rtol=1e-6)
