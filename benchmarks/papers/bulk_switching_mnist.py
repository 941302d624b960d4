"""LeNet on MNIST on 2-bit differential devices with threshold-accumulated updates (arXiv 2305.14547).

    XBC_DATA=<folder of the shared data> python benchmarks/papers/bulk_switching_mnist.py --seeds 3 --json
    out.json

Variants: float (the full-precision twin), threshold (the paper's scheme), every-batch (no accumulator,
    nearest level), every-batch-stochastic (no accumulator, stochastic rounding).  The last epoch's test
    accuracy is reported, never the best one.  The learning rates were chosen on 5,000 held-out training
    images (--validate).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from xbc.training.devices import Programming
from xbc.training.layers import CrossbarConfig, CrossbarConv2d, CrossbarLayer, CrossbarLinear, device_report
from xbc.training.optimizer import CrossbarOptimizer

RATES = {"float": 2e-3, "threshold": 5e-3, "every-batch": 3e-2, "every-batch-stochastic": 2e-3}
SIGMA_LEVELS = 0.3
"""Programming error: 10 % of the window of a 2-bit device (target rram-64)."""


class LeNet(nn.Module):
    """Two convolutions and one fully connected layer: 3,250 weights, 6,500 devices."""

    def __init__(self, config: CrossbarConfig | None) -> None:
        super().__init__()
        if config is None:
            self.conv1: nn.Module = nn.Conv2d(1, 6, 5)
            self.conv2: nn.Module = nn.Conv2d(6, 10, 5)
            self.fc: nn.Module = nn.Linear(160, 10)
        else:
            self.conv1 = CrossbarConv2d(1, 6, 5, config)
            self.conv2 = CrossbarConv2d(6, 10, 5, config)
            self.fc = CrossbarLinear(160, 10, config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        out: torch.Tensor = self.fc(x.flatten(1))
        return out


def load(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    folder = Path(os.environ.get("XBC_DATA", Path(__file__).parents[3] / "shared" / "data"))
    data = np.load(folder / "sets" / f"mnist_{name}.npz", allow_pickle=False)
    return torch.from_numpy(data["x"].astype(np.float32) / 255)[:, None], torch.from_numpy(
        data["y"].astype(np.int64)
    )


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    model.eval()
    hits = sum(
        int((model(x[i : i + 1000]).argmax(1) == y[i : i + 1000]).sum()) for i in range(0, len(y), 1000)
    )
    return hits / len(y)


def run(
    variant: str, seed: int, epochs: int, threshold: float, rate: float, validate: bool, sigma: float
) -> dict[str, Any]:
    torch.manual_seed(seed)
    CrossbarLayer.count = 0
    x, y = load("train")
    test = load("test")
    if validate:
        mixed = torch.from_numpy(
            np.random.default_rng(2024).permutation(len(y))
        )  # the file is sorted by class
        test = (x[mixed[:5000]], y[mixed[:5000]])
        x, y = x[mixed[5000:]], y[mixed[5000:]]
    config = CrossbarConfig(programming=Programming(sigma_levels=sigma, trials=2), seed=seed)
    model = LeNet(None if variant == "float" else config)
    inner = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(inner, epochs * (len(y) // 64), eta_min=rate / 50)
    outer: Any = inner if variant == "float" else CrossbarOptimizer(
        inner, model, threshold=threshold, writer=variant, seed=seed)  # type: ignore[arg-type]  # fmt: skip
    shuffle = np.random.default_rng(seed)
    curve = []
    start = time.perf_counter()
    for epoch in range(epochs):
        model.train()
        order = torch.from_numpy(shuffle.permutation(len(y)))
        for i in range(0, len(y) - 63, 64):
            part = order[i : i + 64]
            outer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[part]), y[part])
            loss.backward()
            outer.step()
            schedule.step()
        curve.append(accuracy(model, *test))
        print(f"{variant} seed {seed} epoch {epoch + 1}: {curve[-1]:.4f}", flush=True)
    out: dict[str, Any] = {
        "variant": variant, "seed": seed, "accuracy": curve[-1], "curve": curve, "n": len(test[1]),
        "rate": rate, "threshold": threshold, "sigma_levels": sigma, "batches": epochs * (len(y) // 64),
        "seconds": time.perf_counter() - start,
    }  # fmt: skip
    if variant != "float":
        out |= device_report(model)
        out["conserved"] = (
            all(m.conserved() for m in model.modules() if isinstance(m, CrossbarLayer))
            if variant == "threshold"
            else None
        )
        out["weight_writes"] = outer.weight_writes
        out["fewer_than_per_batch"] = out["batches"] * out["devices"] / max(1, out["device_writes"])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="*", default=list(RATES), choices=list(RATES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=13)
    parser.add_argument("--threshold", type=float, default=1.0)
    parser.add_argument("--sigma", type=float, default=SIGMA_LEVELS, help="programming error in levels")
    parser.add_argument("--rate", type=float, help="replaces the variant's learning rate")
    parser.add_argument(
        "--validate", action="store_true", help="hold out 5,000 training images instead of the test set"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = []
    for variant in options.variants:
        for seed in range(options.seeds):
            rate = options.rate or RATES[variant]
            results.append(
                run(variant, seed, options.epochs, options.threshold, rate, options.validate, options.sigma)
            )
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")
    for variant in options.variants:
        rows = [r for r in results if r["variant"] == variant]
        scores = np.array([r["accuracy"] for r in rows])
        line = f"{variant:24s} {100 * scores.mean():.2f} % (min {100 * scores.min():.2f}, {len(rows)} seeds"
        line += f", n={rows[0]['n']})"
        if variant != "float":
            line += (
                f"  writes/weight {np.mean([r['writes_per_weight'] for r in rows]):.1f}"
                f"  {np.mean([r['fewer_than_per_batch'] for r in rows]):.0f}x fewer device writes"
                f" than writing every device after every batch"
            )
        print(line)


if __name__ == "__main__":
    main()
