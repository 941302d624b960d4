"""Accuracy against write cycles when only some weights are write-verified (SWIM, arXiv 2202.08395).

    XBC_DATA=<folder> python benchmarks/papers/swim_write_verify.py lenet --sigma 0.3 --json out.json --svg out.svg

The data for the sensitivities is never the data of the reported accuracy.  Write cycles are normalised: 1 is
write-verify of every weight at 10 pulses each; an unverified weight gets 1 pulse.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from plot import line_chart

from passes.base import Context
from passes.manager import run_pipeline
from passes.pipeline import parse_pipeline
from passes.select_write_verify import SelectWriteVerify, select
from xbc.frontend import import_model
from xbc.sensitivity import model_sensitivities
from xbc.sensitivity.noise import Noise, ProgrammingTrial, write_cycles
from xbc.targets import load_target

DATA = Path(os.environ.get("XBC_DATA", Path(__file__).parents[3] / "shared" / "data"))
MODELS = {
    "lenet": "lenet_mnist",
    "resnet20": "cifar10_resnet20",
    "deit": "deit_tiny_patch16_224",
    "resnet50": "resnet50_v1p5_w8dq",
}
PLACE = "encode-signs,slice-bits,form-sections,deal-sections"
TRIALS_VERIFIED, TRIALS_UNVERIFIED = 10.0, 1.0
FRACTIONS = (0.05, 0.1, 0.3, 0.5)


def load(name: str, calibration: int, samples: int) -> tuple[Any, Any, Any, Any]:
    """(calibration x, y, evaluation x, y), disjoint."""
    sys.path.insert(0, str(DATA))
    import load as shared

    x, y = shared.load(MODELS[name])
    if name == "lenet":
        train = np.load(DATA / "sets" / "mnist_train.npz", allow_pickle=False)
        pick = np.random.default_rng(0).permutation(len(train["y"]))[:calibration]
        own = (train["x"][pick].astype(np.float32) / 255)[:, None], train["y"][pick].astype(np.int64)
        return *own, x[:samples], y[:samples]
    mixed = np.random.default_rng(0).permutation(len(y))
    a, b = mixed[:calibration], mixed[calibration : calibration + samples]
    return x[a], y[a], x[b], y[b]


def point(row: dict[str, Any]) -> tuple[float, float, float]:
    """Cycles, top-1 and half width of its interval, the latter two in %."""
    return row["cycles"], 100 * row["mean"], 100 * row["half"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--sigma", type=float, default=0.1, help="error of an unverified device")
    parser.add_argument("--verified", type=float, default=0.03, help="error of a verified device")
    parser.add_argument("--bits", type=int, default=4, help="of one device; 8-bit weights")
    parser.add_argument("--granularity", choices=["tensor", "channel"], default="tensor")
    parser.add_argument("--methods", nargs="*", default=["swim", "magnitude", "random"])
    parser.add_argument("--fractions", nargs="*", type=float, default=list(FRACTIONS))
    parser.add_argument("--variance", choices=["layer", "equal"], default="layer")
    parser.add_argument("--sensitivity", choices=["gradient", "recursion"], default="gradient")
    parser.add_argument("--programmings", type=int, default=100)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--images", type=int, help="samples drawn anew for every programming (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    o = parser.parse_args()
    cx, cy, x, y = load(o.model, o.calibration, o.samples)
    imported = import_model(DATA / "models" / f"{MODELS[o.model]}.onnx", load_target("gather-128"))
    quantised = run_pipeline(
        imported.module, parse_pipeline(f"quantize{{granularity={o.granularity}}}")
    ).module
    model = dataclasses.replace(imported, module=quantised)
    start = time.perf_counter()
    hessian = model_sensitivities(model, cx, threads=o.threads, method=o.sensitivity)
    seconds = time.perf_counter() - start
    module = run_pipeline(quantised, parse_pipeline(PLACE)).module
    masks = {
        "none": select(module, {x.name: np.zeros(x.body.shape, np.float32) for x in module.layers}, 0),
        "all": select(module, {x.name: np.zeros(x.body.shape, np.float32) for x in module.layers}, 1),
    }
    for method in o.methods:
        found = (
            model_sensitivities(model, cx, cy, loss="empirical", method=o.sensitivity)
            if method == "second-moment"
            else hessian
        )
        context = Context(data={"sensitivities": found.layers, "sensitivities_loss": found.loss})
        for fraction in o.fractions:
            step = SelectWriteVerify(method=method, fraction=fraction, variance=o.variance)
            masks[f"{method} {fraction:g}"] = select(module, step.scores(module, context), fraction)
    noise = Noise(o.sigma, o.verified, o.bits, 8 // o.bits)
    trial = ProgrammingTrial(model, x, y, noise, threads=o.threads)
    exact = trial.accuracy()

    def progress(what: str, done: int, total: int) -> None:
        print(f"{what} {done}/{total}", file=sys.stderr, flush=True)

    outcomes = trial.run(masks, o.programmings, images=o.images, progress=progress)
    rows = []
    for name, outcome in outcomes.items():
        method, _, text = name.partition(" ")
        fraction = {"none": 0.0, "all": 1.0}.get(method, float(text or 0))
        cycles = write_cycles(fraction, noise.devices, noise.devices, TRIALS_VERIFIED, TRIALS_UNVERIFIED)
        rows.append(
            {
                "method": method,
                "fraction": fraction,
                "cycles": cycles,
                "mean": outcome.mean,
                "half": outcome.half_width,
            }
        )
    facts = {
        "model": o.model, "n": len(y), "calibration": len(cx), "programmings": o.programmings, "exact": exact,
        "noise": dataclasses.asdict(noise), "granularity": o.granularity, "sensitivity_seconds": seconds,
        "variance": o.variance, "sensitivity": o.sensitivity,
        "images_per_programming": o.images or len(y), "rows": rows,
    }  # fmt: skip
    if o.json:
        o.json.write_text(json.dumps(facts, indent=1) + "\n")
    if o.svg:
        ends = {r["method"]: point(r) for r in rows if r["method"] in ("none", "all")}
        series = {
            m: [ends["none"], *(point(r) for r in rows if r["method"] == m), ends["all"]] for m in o.methods
        }
        title = f"{o.model}: top-1 after programming, n={len(y)}, {o.programmings} programmings"
        o.svg.write_text(
            line_chart(title, "normalised write cycles", "top-1 in %", series, {"exact": 100 * exact})
        )
    print(f"{o.model}: exact {100 * exact:.2f} %, n={len(y)}, {o.programmings} programmings, {noise}")
    print(f"sensitivities of {len(cx)} samples: {seconds:.1f} s")
    for r in rows:
        mean, half = 100 * r["mean"], 100 * r["half"]
        print(
            f"{r['method']:14s} {r['fraction']:5.2f}  cycles {r['cycles']:.3f}  {mean:6.2f} +- {half:.2f} %"
        )


if __name__ == "__main__":
    main()
