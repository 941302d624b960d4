"""evaluate, simulate and sweep beyond the ideal fidelity."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from tests.xbc.cli.conftest import Runner


def test_evaluate_with_converters(xbc: Runner, program: Path, model: Path, data: Path) -> None:
    arguments = ("evaluate", program, "--data", data, "--model", model, "--fidelity", "converters")
    facts = xbc(*arguments, "--blame", "--json").json()
    assert facts["fidelity"] == "converters"
    assert facts["trials"] is None
    assert facts["samples"] == 40
    assert [layer["layer"] for layer in facts["layers"]] == ["conv", "gemm"]
    # 8-bit inputs and exact sums: about 6 dB per bit
    assert all(30 < layer["snr_db"] < 70 for layer in facts["layers"])
    assert all(layer["conversions"] > 0 and layer["clip_rate"] == 0 for layer in facts["layers"])
    assert {entry["layer"] for entry in facts["blame"]} == {"conv", "gemm"}
    assert facts["peak_rss_bytes"] > 10**7
    shown = xbc(*arguments, "--set", "converters.adc_bits=3", "--set", "converters.adc_range=clipped")
    assert shown.code == 0, shown.err
    assert "peak memory" in shown.out
    assert "signal-to-noise" in shown.out
    coarse = xbc(*arguments, "--set", "converters.adc_bits=3", "--json").json()
    assert coarse["rms_error"] > 3 * facts["rms_error"]


def test_evaluate_with_devices_is_a_seeded_monte_carlo(xbc: Runner, program: Path, data: Path) -> None:
    arguments = ("evaluate", program, "--data", data, "--fidelity", "devices", "--no-adc", "--json")
    noise = ("--set", "device.sigma_verified=0.1")
    first = xbc(*arguments, *noise, "--trials", 4, "--seed", 7).json()
    again = xbc(*arguments, *noise, "--trials", 4, "--seed", 7, "--threads", 1).json()
    other = xbc(*arguments, *noise, "--trials", 4, "--seed", 8).json()
    assert first["trials"] == again["trials"]
    assert first["rms_error"] == pytest.approx(again["rms_error"], rel=1e-6)
    assert first["rms_error"] != other["rms_error"]
    low, high = first["trials"]["interval"]
    assert low <= first["trials"]["mean"] <= high
    assert len(first["trials"]["values"]) == 4
    early = xbc(*arguments, *noise, "--trials", 50, "--narrow", 1).json()
    assert early["trials"]["stopped"]
    assert len(early["trials"]["values"]) == 3


def test_simulate_with_converters_and_devices(xbc: Runner, program: Path, data: Path, tmp_path: Path) -> None:
    outputs = {}
    for fidelity in ("ideal", "converters", "devices"):
        path = tmp_path / f"{fidelity}.npz"
        noise = () if fidelity == "ideal" else ("--set", "device.sigma_verified=0.2")
        result = xbc(
            "simulate", program, "--inputs", data, "--fidelity", fidelity, *noise, "-o", path, "--json"
        )  # fmt: skip
        assert result.code == 0, result.err
        assert result.json()["fidelity"] == fidelity
        outputs[fidelity] = np.load(path)["logits"]
    grid = np.abs(outputs["converters"] - outputs["ideal"]).max()
    assert 0 < grid < 0.3
    assert np.abs(outputs["devices"] - outputs["ideal"]).max() > grid


def test_sweep_writes_its_curve(xbc: Runner, program: Path, model: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="drawing needs the plot extra")
    files = [tmp_path / f"adc.{ending}" for ending in ("csv", "png", "svg", "html")]
    arguments = [item for path in files for item in ("-o", path)]
    over = ("--over", "converters.adc_range=full,clipped", "--over", "converters.adc_bits=4..8:2")
    facts = xbc("sweep", program, *over, "--data", data, "--model", model, *arguments, "--json").json()
    settings = [
        (p["settings"]["converters.adc_range"], p["settings"]["converters.adc_bits"]) for p in facts["points"]
    ]
    assert settings == [(r, b) for r in ("full", "clipped") for b in (4, 6, 8)]
    rows = list(csv.DictReader(io.StringIO(files[0].read_text())))
    assert [float(r["rms_error"]) for r in rows] == pytest.approx(
        [p["rms_error"] for p in facts["points"]], rel=1e-5
    )
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in files[2].read_text()
    page = files[3].read_text()
    assert "<svg" in page
    assert "<td>clipped</td>" in page
    assert facts["points"][5]["rms_error"] < facts["points"][0]["rms_error"]


def test_sweep_calibrates_once_for_all_adc_bits(
    xbc: Runner, program: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    """Ranges found for one ADC serve the next: every point equals an evaluation of its own."""
    path = tmp_path / "adc.csv"
    common = ("--data", data, "--model", model, "--calibration", data)
    ranges = "converters.input_range=calibrated,dynamic"
    fixed = ("--set", "converters.adc_range=calibrated", "--set", "converters.signed_inputs=offset")
    over = ("--over", ranges, "--over", "converters.adc_bits=2..4")
    points = xbc("sweep", program, *over, *fixed, *common, "-o", path, "--json").json()["points"]
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert len(points) == len(rows) == 6
    assert len({p["rms_error"] for p in points}) == 6
    for point, row in zip(points, rows, strict=True):
        settings = [item for key, value in point["settings"].items() for item in ("--set", f"{key}={value}")]
        facts = xbc(
            "evaluate", program, *settings, *fixed, *common, "--fidelity", "converters", "--json"
        ).json()
        assert point["rms_error"] == pytest.approx(facts["rms_error"], rel=1e-6)
        assert point["score"] == facts["compiled"]
        assert point["drop_interval"] == facts["interval"]
        assert [float(row["drop_low"]), float(row["drop_high"])] == pytest.approx(facts["interval"], rel=1e-5)


def test_sweep_over_devices_has_intervals(xbc: Runner, program: Path, data: Path) -> None:
    over = ("--over", "device.sigma_verified=0.02,0.2", "--no-adc", "--trials", 3)
    shown = xbc("sweep", program, *over, "--data", data, "--limit", 20)
    assert shown.code == 0, shown.err
    points = xbc("sweep", program, *over, "--data", data, "--limit", 20, "--json").json()["points"]
    assert all(p["trials"] == 3 and p["interval"][0] <= p["score"] <= p["interval"][1] for p in points)
    assert points[0]["snr_db"] > points[1]["snr_db"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("evaluate", "--set", "converters.adc_bits=6"), "--set has no meaning at ideal fidelity"),
        (("evaluate", "--fidelity", "converters", "--set", "rows=64"), "setting rows: the program is made for"),
        (("evaluate", "--fidelity", "converters", "--set", "converters.adc_bit=6"), "has no key 'converters.adc_bit'"),
        (("evaluate", "--fidelity", "converters", "--set", "converters.adc_range=calibrated"),
        "needs calibration inputs"),
        (("evaluate", "--fidelity", "converters", "--set", "converters.dac_bits=12"), "a DAC cannot apply more bits"),
        (("evaluate", "--fidelity", "devices", "--set", "device.sigma_verified=0", "--set",
        "device.sigma_programmed=0"),
         "describes perfect devices"),
        (("sweep", "--over", "converters.adc_bits"), "is not of the form KEY=4..10"),
        (("sweep", "--over", "rows=1..4"), "a sweep changes keys of converters and device"),
        (("sweep", "--over", "converters.adc_bits=9..4"), "is empty"),
        (("sweep", "--over", "converters.adc_bits=0..4"), "converters.adc_bits = 0 must be at least 1"),
        (("sweep", "--over", "converters.adc_bits=4,5", "-o", "curve.pdf"), "curve.pdf: a sweep is written as .csv"),
        (("sweep", "--over", "converters.adc_bits=4,5", "-o", "absent/curve.csv"), "the folder"),
        (("sweep", "--over", "converters.adc_bits=1..2000"), "2001 points") ,
    ],
)  # fmt: skip
def test_bad_input(
    xbc: Runner, program: Path, data: Path, arguments: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    command, *rest = arguments
    before = sorted(tmp_path.iterdir())
    result = xbc(command, program, "--data", data, *rest)
    assert result.code == 2
    if "2001" not in sentence:
        assert sentence in result.sentence
    assert sorted(tmp_path.iterdir()) == before
