"""-O3: budgets are kept, and judged on samples that were not tuned on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ir.errors import XbcError
from passes.base import Context
from passes.penalty import grades_of
from passes.pipeline import parse_pipeline
from xbc.budget.judge import expected_drop, severity_of, split
from xbc.budget.trial import COARSE, search
from xbc.chip import verify_program
from xbc.driver.compile import compile_model
from xbc.simulate.data import DataSet

MODELS = Path(__file__).parents[3] / "models"
CNN = MODELS / "digits_cnn.onnx"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("o3")
    with np.load(MODELS / "digits_calib.npz") as data:
        np.savez(folder / "few.npz", **{name: data[name][:60] for name in data})
    return compile_model(
        CNN,
        folder / "cnn.xbc",
        level=3,
        data=folder / "few.npz",
        report_data=MODELS / "digits_eval.npz",
        max_drop=2.0,
    )


def test_budget_is_kept_on_the_calibration_samples_and_writes_fall(tuned: object) -> None:
    summary = tuned.summary  # type: ignore[attr-defined]
    loss = summary["loss"]
    accepted = [point for point in loss["curve"] if point["accepted"]]
    assert accepted
    assert all(point["drop"] <= 0.02 for point in accepted)
    assert summary["writes"]["emitted"] == min(point["writes"] for point in accepted)
    assert summary["writes"]["emitted"] < summary["writes"]["scheduled"] / 2
    assert loss["samples"] == 597
    assert loss["calibration_samples"] == 60


def test_program_is_sound(tuned: object) -> None:
    assert verify_program(tuned.directory).ok  # type: ignore[attr-defined]


def test_error_bound_holds_for_every_layer(tmp_path: Path) -> None:
    done = compile_model(CNN, tmp_path / "cnn.xbc", level=3, max_error=0.6)
    for layer in done.module.layers:
        error = layer.body.effective_codes() - layer.body.codes  # type: ignore[attr-defined]
        assert np.sqrt(np.mean(error.astype(float) ** 2)) <= 0.6
    assert done.summary["writes"]["emitted"] < done.summary["writes"]["scheduled"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"level": 2, "max_drop": 1.0}, "belongs to -O3"),
        ({"level": 3, "max_drop": 1.0}, "needs --data"),
        ({"level": 3, "max_error": -1.0}, "must be positive"),
        ({"level": 3, "max_error": 1.0, "data": "x.npz"}, "exclude each other"),
        ({"level": 3, "report_data": "x.npz"}, "needs --data"),
    ],
)
def test_contradicting_budgets_are_refused(tmp_path: Path, options: dict[str, object], says: str) -> None:
    with pytest.raises(XbcError, match=says):
        compile_model(CNN, tmp_path / "no.xbc", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "no.xbc").exists()


def test_halves_share_no_sample() -> None:
    data = DataSet({"x": np.arange(7)}, np.arange(7))
    calibrate, report = split(data)
    assert not set(calibrate.inputs["x"]) & set(report.inputs["x"])
    assert calibrate.labels is not None
    assert list(calibrate.labels) == list(calibrate.inputs["x"])
    with pytest.raises(XbcError, match="1 sample"):
        split(DataSet({"x": np.zeros(1)}, None))


@pytest.mark.parametrize("start", [1e-3, 0.1, 7.0])
@pytest.mark.parametrize("limit", [1e-9, 0.004, 0.02, 0.1, 0.5, 3.0, 1e9])
@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_search_ends_and_brackets_the_limit(limit: float, start: float, slope: float) -> None:
    tried: list[float] = []

    def severity(value: float) -> float:
        tried.append(value)
        return float((limit / value) ** slope)

    search(severity, start)
    inside = [value for value in tried if value >= limit * (1 - 1e-9)]
    near = start / 20 < limit < start * 20
    assert len(tried) <= (9 if near else 13)
    assert min(inside) / limit < (1.35 if near else COARSE)


def test_search_survives_noise() -> None:
    """Whatever severities come, it ends, and it has tried a lower penalty than the first when that one fits."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        tried: list[tuple[float, float]] = []

        def severity(
            value: float, rng: np.random.Generator = rng, tried: list[tuple[float, float]] = tried
        ) -> float:
            tried.append((value, float(rng.exponential(0.1 / value))))
            return tried[-1][1]

        search(severity, 0.1)
        assert len(tried) <= 9
        if tried[0][1] <= 1:
            assert min(value for value, _ in tried) < 0.1


def test_severity_is_the_worst_share_of_its_limit() -> None:
    facts = {"agreement": 0.96, "drop": 0.005, "expected_drop": 0.002}
    assert severity_of(facts, 0.01) == pytest.approx(1.0)  # 4 % changed of 4 % allowed
    assert severity_of(facts | {"agreement": 1.0}, 0.01) == pytest.approx(0.5)
    assert severity_of(facts | {"agreement": 1.0, "expected_drop": 0.03}, 0.01) == pytest.approx(3.0)
    assert severity_of({"agreement": 0.98, "drop": None, "expected_drop": None}, 0.01) == pytest.approx(2.0)


def test_sensitivities_of_another_model_are_refused() -> None:
    from xbc.frontend import import_model
    from xbc.targets import load_target

    module = import_model(CNN, load_target("gather-128")).module
    module = parse_pipeline("quantize")[0].run(module, Context()).module
    with pytest.raises(XbcError, match="xbc sensitivity"):
        grades_of(module, {layer.name: np.zeros((1, 1), np.float32) for layer in module.layers})


def test_expected_drop_is_the_probability_of_the_right_class_that_is_lost() -> None:
    logits = np.log(np.array([[0.7, 0.3], [0.1, 0.9]]))
    other = np.array([[0.6, 0.4], [0.2, 0.8]])
    labels = np.array([0, 1])
    assert expected_drop(logits, other, labels) == pytest.approx(0.1)
    assert expected_drop(logits, logits + 5, labels) == pytest.approx(0)
    assert expected_drop(logits, other, None) is None
    assert expected_drop(np.ones((2, 1)), np.ones((2, 1)), labels) is None


def test_program_does_not_depend_on_threads(tmp_path: Path) -> None:
    with np.load(MODELS / "digits_calib.npz") as data:
        np.savez(tmp_path / "few.npz", **{name: data[name][:40] for name in data})
    manifests = []
    for threads in (1, 3):
        done = compile_model(
            CNN,
            tmp_path / f"{threads}.xbc",
            level=3,
            settings={"crossbars": 4},
            data=tmp_path / "few.npz",
            threads=threads,
        )
        manifests.append((done.directory / "manifest.json").read_bytes())
        assert done.summary["spent"].keys() == {"compiling", "sensitivities", "evaluations"}
        assert done.summary["spent"]["evaluations"]["times"] == len(done.summary["loss"]["curve"]) + 3
    assert manifests[0] == manifests[1]


def test_a_chip_that_holds_everything_writes_nothing(tmp_path: Path) -> None:
    done = compile_model(
        CNN,
        tmp_path / "o.xbc",
        level=3,
        settings={"crossbars": 700},
        data=MODELS / "digits_calib.npz",
        quantize="",
    )
    assert done.summary["writes"]["emitted"] == 0
    assert done.summary["loss"]["curve"][0]["reduction"] is None
    assert len(done.summary["loss"]["curve"]) == 1
