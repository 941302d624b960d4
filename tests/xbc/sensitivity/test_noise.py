"""The programming-noise Monte-Carlo: its distribution, its pairing, its interval."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir.errors import XbcError
from ir.target import Device
from passes.manager import run_pipeline
from passes.pipeline import parse_pipeline
from xbc.frontend import import_model
from xbc.sensitivity.noise import Noise, Outcome, ProgrammingTrial, write_cycles
from xbc.targets import load_target

MODELS = Path(__file__).parents[3] / "models"


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_deviation_is_that_of_the_sum_over_devices(bits: int, devices: Any, verified: Any, seed: int) -> None:
    noise = Noise(0.2, 0.05, bits, devices)
    rng = np.random.default_rng(seed)
    sigma = [noise.sigma_verified if i < verified else noise.sigma_programmed for i in range(devices)]
    draws = np.sum([rng.normal(0, s, 20_000) * 2.0 ** (-i * bits) for i, s in enumerate(sigma)], axis=0)
    assert draws.std() == pytest.approx(noise.deviation(verified), rel=0.05)


def test_noise_of_a_target_with_and_without_errors() -> None:
    assert Noise.of_target(Device(sigma_programmed=0.2, sigma_verified=0.01), 2, 4) == Noise(0.2, 0.01, 2, 4)
    assert Noise.of_target(Device(), 1, 8) == Noise(0.1, 0.03, 1, 8)


@pytest.fixture(scope="module")
def trial() -> Any:
    imported = import_model(MODELS / "digits_cnn.onnx", load_target("gather-128"))
    module = run_pipeline(imported.module, parse_pipeline("quantize")).module
    data = np.load(MODELS / "digits_eval.npz")
    model = dataclasses.replace(imported, module=module)
    return ProgrammingTrial(model, data["image"][:200], data["labels"][:200], Noise(0.3, 0.03, 4, 2))


def everything(trial: Any, value: Any) -> Any:
    return {layer.name: np.full(layer.body.shape, value) for layer in trial.layers}


def test_errors_scale_with_the_largest_weight_and_the_selection(trial: Any) -> None:
    errors = trial.errors(3)
    plain = trial.program(errors, everything(trial, False), 2)
    checked = trial.program(errors, everything(trial, True), 2)
    half = trial.program(errors, everything(trial, True), 1)
    for layer in trial.layers:
        name = layer.origin.tensor
        exact = trial.tensors[name]
        largest = np.abs(exact).max()
        shift = layer.origin.layout.to_matrix(plain[name] - exact)
        np.testing.assert_allclose(
            shift, errors[layer.name] * largest * trial.noise.deviation(0), rtol=1e-3, atol=1e-6
        )
        ratio = np.std(checked[name] - exact) / np.std(plain[name] - exact)
        assert ratio == pytest.approx(0.1, rel=1e-3)
        assert np.std(half[name] - exact) > np.std(checked[name] - exact)


def test_verifying_helps_and_programmings_are_paired(trial: Any) -> None:
    found = trial.run({"none": everything(trial, False), "all": everything(trial, True)}, 5)
    again = trial.run({"all": everything(trial, True)}, 5)
    np.testing.assert_array_equal(found["all"].accuracies, again["all"].accuracies)
    assert found["all"].mean > found["none"].mean
    assert trial.accuracy() >= found["all"].mean - 0.02


def test_a_continued_run_equals_an_unbroken_one(trial: Any) -> None:
    selections = {"all": everything(trial, True), "none": everything(trial, False)}
    whole = trial.run(selections, 4, images=50)
    first, rest = trial.run(selections, 1, images=50), trial.run(selections, 3, seed=1, images=50)
    for name, outcome in whole.items():
        np.testing.assert_array_equal(
            outcome.accuracies, np.concatenate([first[name].accuracies, rest[name].accuracies])
        )


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(0.8, 0.05, 100)
    better, worse = Outcome(shared + 0.01 + rng.normal(0, 0.001, 100)), Outcome(shared)
    gain = better.against(worse)
    assert gain.mean == pytest.approx(0.01, abs=1e-3)
    assert gain.half_width < 0.05 * better.half_width
    with pytest.raises(XbcError, match="cannot pair 100 programmings with 99"):
        better.against(Outcome(shared[:99]))


def test_interval_covers_the_mean_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        outcome = Outcome(rng.normal(0.9, 0.02, 10))
        hits += abs(outcome.mean - 0.9) <= outcome.half_width
    assert 0.92 < hits / 400 < 0.98
    assert Outcome(np.array([0.5])).half_width == float("inf")


def test_write_cycles() -> None:
    assert write_cycles(1.0, 2, 2, 10, 1) == 1
    assert write_cycles(0.0, 2, 2, 10, 1) == pytest.approx(0.1)
    assert write_cycles(0.5, 1, 2, 10, 1) == pytest.approx(0.325)


def test_labels_are_needed(trial: Any) -> None:
    imported = import_model(MODELS / "digits_cnn.onnx", load_target("gather-128"))
    with pytest.raises(XbcError, match="one label for each sample"):
        ProgrammingTrial(imported, trial.x, trial.labels[:3], trial.noise)
