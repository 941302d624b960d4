"""One weight scale for all layers: what it costs with and without function-preserving rescaling (arXiv 1910.13850).

    XBC_DATA=<folder of the shared data> python benchmarks/papers/uniform_scale.py

Weights are rounded after training (no retraining), per tensor, magnitude grid; activations stay float.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from passes.manager import run_pipeline
from passes.pipeline import parse_pipeline
from xbc.frontend import import_model
from xbc.rescale.proof import largest_difference
from xbc.rescale.scaling import rescale_model, spread
from xbc.sensitivity.noise import Noise, ProgrammingTrial
from xbc.targets import load_target

DATA = Path(os.environ.get("XBC_DATA", Path(__file__).parents[3] / "shared" / "data"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=["lenet_mnist", "cifar10_resnet20"])
    parser.add_argument("--bits", type=int, nargs="*", default=[8, 4, 2])
    options = parser.parse_args()
    sys.path.insert(0, str(DATA))
    import load as shared

    target = load_target("gather-128")
    for name in options.models:
        x, y = shared.load(name)
        original = import_model(DATA / "models" / f"{name}.onnx", target)
        done = rescale_model(original)
        difference = largest_difference(original, done.model, x[:200])
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(done.model, Path(folder) / "m.onnx")
            rescaled = import_model(Path(folder) / "m.onnx", target)
        exact = ProgrammingTrial(original, x, y, Noise()).accuracy()
        print(
            f"{name}: float {100 * exact:.2f} %, n={len(y)}; largest weight, largest layer over smallest: "
            f"{spread(done.before):.3g} -> {spread(done.after):.3g}; outputs differ by {difference:.1g} of their peak"
        )
        for bits in options.bits:
            scores = []
            for model, text in (
                (original, f"quantize{{bits={bits}}}"),
                (original, f"quantize{{bits={bits},scale=uniform}}"),
                (rescaled, f"quantize{{bits={bits},scale=uniform}}"),
            ):
                module = run_pipeline(model.module, parse_pipeline(text)).module
                scores.append(
                    ProgrammingTrial(dataclasses.replace(model, module=module), x, y, Noise()).accuracy()
                )
            half = [196 * np.sqrt(s * (1 - s) / len(y)) for s in scores]
            parts = [f"{100 * s:.2f} +- {h:.2f}" for s, h in zip(scores, half, strict=True)]
            print(f"  {bits} bits: per layer {parts[0]}, uniform {parts[1]}, rescaled and uniform {parts[2]}")


if __name__ == "__main__":
    main()
