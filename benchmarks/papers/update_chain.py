"""A chip follows a network that is fine-tuned again and again: cell writes and accuracy per version.

    python benchmarks/papers/update_chain.py --versions 6 --json out.json

A small CNN on scikit-learn's digits; version 1 has seen a quarter of the training images, each further version is
fine-tuned for two epochs on all of them at a small rate.  8-bit differential weights of 2-bit cells, one crossbar
per section (nothing is swapped).  ``rewrite``: every cell of the chip; ``changed``: xbc update --threshold 0.5
(every weight whose code changes); others: that threshold, accumulators carried from version to version.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import xbc
from xbc.backend import Program
from xbc.chip import effective_codes
from xbc.frontend import import_model
from xbc.targets import load_target
from xbc.training.export import export_onnx
from xbc.update.emit import update_program


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def fit(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, rate: float, seed: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    shuffle = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(y), generator=shuffle)
        for i in range(0, len(y) - 31, 32):
            part = order[i : i + 32]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()


def accuracy(folder: Path, x: np.ndarray, y: np.ndarray) -> float:
    """Top-1 with the codes that a replay of the program finds in the cells."""
    import onnx
    import onnxruntime as ort

    from xbc.simulate.ideal import compiled_model

    program = Program.open(folder)
    model = compiled_model(
        onnx.load_from_string(program.host_bytes()), program.layers, effective_codes(program)
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return float((session.run(None, {"input": x})[0].argmax(1) == y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--versions", type=int, default=6)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--target", default="rram-64")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = (data.images[order] / 16).astype(np.float32)[:, None]
    x, y = torch.from_numpy(images[:1200]), torch.from_numpy(data.target[order][:1200])
    test_x, test_y = images[1200:], data.target[order][1200:]
    model = network()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        fit(model, x[:300], y[:300], 25, 3e-3, 1)
        for version in range(1, options.versions + 1):
            if version > 1:
                fit(model, x, y, 2, options.rate, version)
            export_onnx(model, x[:1], work / f"v{version}.onnx")
            with torch.no_grad():
                full = float((model(torch.from_numpy(test_x)).argmax(1).numpy() == test_y).mean())
            rows.append({"version": version, "float": full})
        sections = len(import_model(work / "v1.onnx", load_target(options.target)).module.layers) * 400
        first = xbc.compile_model(
            work / "v1.onnx",
            work / "v1.xbc",
            target=options.target,
            settings={"crossbars": sections},
            level=0,
        )
        cells = first.summary["writes"]["full"]
        for threshold in options.thresholds:
            deployed = work / "v1.xbc"
            for row in rows:
                if row["version"] > 1:
                    new = work / f"t{threshold:g}-v{row['version']}.xbc"
                    done = update_program(
                        deployed, work / f"v{row['version']}.onnx", new, threshold=threshold
                    )
                    row[f"writes {threshold:g}"] = done.facts["cells_written"]
                    deployed = new
                row[f"top-1 {threshold:g}"] = accuracy(deployed, test_x, test_y)
    facts = {"cells": cells, "n": len(test_y), "weights": first.summary["weights"], "rows": rows}
    if options.json:
        options.json.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"{facts['weights']} weights, {cells} cells, n={len(test_y)}")
    for row in rows:
        writes = "  ".join(f"{t:g}: {row.get(f'writes {t:g}', 0):6d}" for t in options.thresholds)
        tops = "  ".join(f"{100 * row[f'top-1 {t:g}']:.2f}" for t in options.thresholds)
        print(
            f"v{row['version']}  float {100 * row['float']:.2f} %  rewrite {cells}  writes {writes}  top-1 {tops}"
        )


if __name__ == "__main__":
    main()
