"""Accuracy against write cycles when only some weights are write-verified (SWIM, arXiv 2202.08395).

    XBC_DATA=<folder> python benchmarks/papers/swim_write_verify.py lenet --sigma 0.3 --json out.json --svg out.svg

The data for the sensitivities is never the data of the reported accuracy.  Write cycles are normalised: 1 is
write-verify of every weight at 10 pulses each; an unverified weight gets 1 pulse.  With --json the accuracy of every
programming is kept, and the same command continues a run that was stopped.
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

from ir.arrays import Array
from ir.module import Module
from passes.base import Context
from passes.manager import run_pipeline
from passes.pipeline import parse_pipeline
from passes.select_write_verify import SelectWriteVerify, select
from xbc.frontend import Imported, import_model
from xbc.sensitivity import model_sensitivities
from xbc.sensitivity.noise import Noise, Outcome, ProgrammingTrial, write_cycles
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
RANKINGS: dict[str, dict[str, Any]] = {
    "swim": {"sensitivity": "gradient", "variance": "layer"},
    "swim-noise": {"sensitivity": "gradient", "variance": "layer", "noise": True},
    "swim-high": {"sensitivity": "gradient", "variance": "layer", "noise": True, "devices": 1},
    "swim-equal": {"sensitivity": "gradient", "variance": "equal"},
    "swim-published": {"sensitivity": "recursion", "variance": "equal"},
    "second-moment": {"sensitivity": "gradient", "variance": "layer"},
    "magnitude": {},
    "random": {},
}
"""What a ranking is made of; ``swim-published`` is S alone, by the recursion, as in the paper; ``swim-noise`` takes
S at weights with the error of unverified writes, ``swim-high`` too, and verifies only the high-order device."""


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


def selections(
    model: Imported, module: Module, x: Array, y: Array, o: argparse.Namespace
) -> tuple[dict[str, dict[str, Array]], dict[str, float]]:
    """Masks by "ranking fraction", and the seconds that each kind of sensitivity took."""
    none = {layer.name: np.zeros(layer.body.shape, np.float32) for layer in module.layers}
    masks = {"none 0": select(module, none, 0), "all 1": select(module, none, 1)}
    known: dict[tuple[str, str, float], Any] = {}
    seconds: dict[str, float] = {}
    for name in o.methods:
        recipe = RANKINGS[name]
        data = None
        if recipe:
            loss = "empirical" if name == "second-moment" else "cross-entropy"
            noise = o.sigma if recipe.get("noise") else 0.0
            key = (recipe["sensitivity"], loss, noise)
            if key not in known:
                start = time.process_time()
                known[key] = model_sensitivities(
                    model, x, y if loss == "empirical" else None,
                    loss=loss, method=key[0], noise=noise, threads=o.threads,
                )  # fmt: skip
                seconds[f"{key[0]} {loss}, noise {noise:g}"] = time.process_time() - start
            data = known[key]
        method: Any = "swim" if name.startswith("swim") else name
        for fraction in o.fractions:
            step = SelectWriteVerify(
                method=method, fraction=fraction, variance=recipe.get("variance", "layer")
            )
            masks[f"{name} {fraction:g}"] = select(
                module, step.scores(module, Context(sensitivities=data)), fraction
            )
    return masks, seconds


def row(name: str, outcomes: dict[str, Outcome], noise: Noise) -> dict[str, Any]:
    """One line of the table; accuracies and differences to verifying everything in %."""
    method, fraction = name.split()
    mine, gap = outcomes[name], outcomes[name].against(outcomes["all 1"])
    verified = RANKINGS.get(method, {}).get("devices", noise.devices)
    cycles = write_cycles(float(fraction), verified, noise.devices, TRIALS_VERIFIED, TRIALS_UNVERIFIED)
    return {
        "method": method, "fraction": float(fraction), "cycles": cycles,
        "mean": 100 * mine.mean, "half": 100 * mine.half_width,
        "against_all": 100 * gap.mean, "against_all_half": 100 * gap.half_width,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--sigma", type=float, default=0.1, help="error of an unverified device")
    parser.add_argument("--verified", type=float, default=0.03, help="error of a verified device")
    parser.add_argument("--bits", type=int, default=4, help="of one device; 8-bit weights")
    parser.add_argument("--granularity", choices=["tensor", "channel"], default="tensor")
    parser.add_argument(
        "--methods", nargs="*", choices=list(RANKINGS), default=["swim", "magnitude", "random"]
    )
    parser.add_argument("--fractions", nargs="*", type=float, default=list(FRACTIONS))
    parser.add_argument("--programmings", type=int, default=100)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--images", type=int, help="samples drawn anew for every programming (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="results; continues what it holds already")
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this long")
    o = parser.parse_args()
    cx, cy, x, y = load(o.model, o.calibration, o.samples)
    imported = import_model(DATA / "models" / f"{MODELS[o.model]}.onnx", load_target("gather-128"))
    quantised = run_pipeline(
        imported.module, parse_pipeline(f"quantize{{granularity={o.granularity}}}")
    ).module
    model = dataclasses.replace(imported, module=quantised)
    module = run_pipeline(quantised, parse_pipeline(PLACE)).module
    masks, seconds = selections(model, module, cx, cy, o)
    noise = Noise(o.sigma, o.verified, o.bits, 8 // o.bits)
    trial = ProgrammingTrial(model, x, y, noise, threads=o.threads)
    facts: dict[str, Any] = {
        "model": o.model, "n": len(y), "calibration": len(cx), "granularity": o.granularity,
        "noise": dataclasses.asdict(noise), "images_per_programming": o.images or len(y),
        "exact": 100 * trial.accuracy(),
    }  # fmt: skip
    devices = {name: RANKINGS.get(name.split()[0], {}).get("devices", noise.devices) for name in masks}
    found: dict[str, list[float]] = {name: [] for name in masks}
    if o.json and o.json.exists():
        kept = json.loads(o.json.read_text())
        if {k: kept.get(k) for k in facts} != facts or list(kept["accuracies"]) != list(found):
            raise SystemExit(f"{o.json} holds another experiment: give another file")
        found = kept["accuracies"]
    deadline = time.monotonic() + 60 * o.minutes
    while (done := len(found["all 1"])) < o.programmings and time.monotonic() < deadline:
        for name, outcome in trial.run(masks, 1, seed=done, images=o.images, devices=devices).items():
            found[name].append(float(outcome.accuracies[0]))
        print(f"programming {done + 1}/{o.programmings}", file=sys.stderr, flush=True)
        if o.json:
            o.json.write_text(json.dumps({**facts, "accuracies": found}) + "\n")
    outcomes = {name: Outcome(np.array(values)) for name, values in found.items()}
    count = len(found["all 1"])
    rows = [row(name, outcomes, noise) for name in masks]
    if o.svg:
        points = {r["method"]: [] for r in rows}
        for r in rows:
            points[r["method"]].append((r["cycles"], r["mean"], r["half"]))
        series = {m: [*points["none"], *points[m], *points["all"]] for m in o.methods}
        title = f"{o.model}: top-1 after programming, n={len(y)}, {count} programmings"
        o.svg.write_text(
            line_chart(title, "normalised write cycles", "top-1 in %", series, {"exact": facts["exact"]})
        )
    print(f"{o.model}: exact {facts['exact']:.2f} %, n={len(y)}, {count} programmings, {noise}")
    for kind, value in seconds.items():
        print(f"sensitivities ({kind}) of {len(cx)} samples: {value:.1f} s of processor time")
    for r in rows:
        print(
            f"{r['method']:14s} {r['fraction']:5.2f}  cycles {r['cycles']:.3f}  {r['mean']:6.2f} +- {r['half']:.2f} %"
            f"   against all {r['against_all']:+6.2f} +- {r['against_all_half']:.2f}"
        )


if __name__ == "__main__":
    main()
