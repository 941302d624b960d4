"""Searches one-signed 2-bit networks for HAR, the polarity of every matrix included (arXiv 1910.13850).

    XBC_DATA=<folder of the shared data> python benchmarks/papers/unipolar_search.py --trials 20

Scores are those of four held-out training subjects after a few epochs; the best architecture is then trained in
full and scored once on the test subjects, over several seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from unipolar_har import load, train

from xbc.training.quantized import UniformConv1d, UniformLinear, UniformScale
from xbc.training.search import Architecture, Space, search

SCALE = UniformScale(weight_bits=2)


class Net(nn.Module):
    """Convolutions in time as the architecture says, global average, classifier."""

    def __init__(self, found: Architecture) -> None:
        super().__init__()
        inputs, layers = 6, []
        for i, (width, kernel) in enumerate(zip(found.widths, found.kernels, strict=True)):
            stride = 2 if i < 2 else 1
            layers += [UniformConv1d(inputs, width, kernel, SCALE, found.polarities[i], stride=stride)]
            layers += [nn.BatchNorm1d(width), nn.ReLU()]
            inputs = width
        self.body = nn.Sequential(*layers)
        self.drop = nn.Dropout(0.2)
        self.classifier = UniformLinear(inputs, 6, SCALE, found.polarities[-1], block=3)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x + 2) / 4
        x = self.body(torch.cat([x, 1 - x], 1)).mean(2)
        out: torch.Tensor = self.norm(self.classifier(self.drop(x)))
        return out


def cells(found: Architecture) -> int:
    """One 2-bit cell per weight."""
    inputs, total = 6, 0
    for width, kernel in zip(found.widths, found.kernels, strict=True):
        total += inputs * kernel * width
        inputs = width
    return total + inputs * 6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=6, help="of a trial")
    parser.add_argument("--full-epochs", type=int, default=30)
    parser.add_argument("--most-cells", type=int, default=12_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    held_out = load(validate=True)

    def score(found: Architecture, seed: int) -> float:
        torch.manual_seed(seed)
        value = train(Net(found), held_out, seed, options.epochs, 5e-3, 0.1)[-1]
        print(f"{value:.4f} {cells(found):6d} cells {found}", flush=True)
        return value

    done = search(score, cells, space=Space(), trials=options.trials, most_cells=options.most_cells)
    print(f"best: {done.best}, {cells(done.best)} cells, validation {done.score:.4f}", flush=True)
    data = load(validate=False)
    scores = []
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        scores.append(100 * train(Net(done.best), data, seed, options.full_epochs, 5e-3, 0.1)[-1])
        print(f"test, seed {seed}: {scores[-1]:.2f} %", flush=True)
    if scores:
        print(f"test: {np.mean(scores):.2f} +- {np.std(scores, ddof=1) if len(scores) > 1 else 0:.2f} %")
    if options.json:
        facts = {"best": str(done.best), "cells": cells(done.best), "validation": done.score, "test": scores}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
