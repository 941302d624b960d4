"""Human activity recognition with uniformly scaled and with one-signed 2-bit weights (arXiv 1910.13850).

    XBC_DATA=<folder of the shared data> python benchmarks/papers/unipolar_har.py --seeds 5 --json out.json

UCI HAR, total acceleration only (3 channels; the gyroscope is not at hand), official subject split.  The last
epoch's test accuracy is reported.  Choices (architecture, rates, ADC range) were made with --validate,
which holds out the last four training subjects.
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

from xbc.training.quantized import Polarity, UniformConv1d, UniformLinear, UniformScale, constrain

VARIANTS: dict[str, tuple[UniformScale, Polarity]] = {
    "float": (UniformScale(weight_bits=0, dac_bits=0, adc_bits=0), "bipolar"),
    "4-bit bipolar": (UniformScale(weight_bits=4), "bipolar"),
    "2-bit bipolar": (UniformScale(weight_bits=2), "bipolar"),
    "2-bit positive": (UniformScale(weight_bits=2), "positive"),
    "2-bit blocks": (UniformScale(weight_bits=2), "blocks"),
}


class HarNet(nn.Module):
    """Three convolutions in time, global average, classifier; a digital gain and bias after each product."""

    def __init__(
        self, scale: UniformScale, polarity: Polarity, widths: tuple[int, ...] = (24, 32, 48)
    ) -> None:
        super().__init__()
        a, b, c = widths
        # one-signed weights see every input and its complement (a second DAC row): they can differentiate
        self.complement = polarity != "bipolar"
        self.conv1 = UniformConv1d(6 if self.complement else 3, a, 8, scale, polarity, stride=2)
        self.conv2 = UniformConv1d(a, b, 5, scale, polarity, stride=2)
        self.conv3 = UniformConv1d(b, c, 3, scale, polarity)
        self.classifier = UniformLinear(c, 6, scale, polarity, block=3)
        self.norms = nn.ModuleList(nn.BatchNorm1d(n) for n in (*widths, 6))
        if polarity == "positive":
            # digital gains of either sign: the second half of the outputs falls when its sum rises
            with torch.no_grad():
                for norm in self.norms:
                    norm.weight[norm.num_features // 2 :] = -1.0
        self.drop = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x + 2) / 4  # the DAC takes 0 .. 1; +-2 g is the sensor's range here
        if self.complement:
            x = torch.cat([x, 1 - x], 1)
        x = torch.relu(self.norms[0](self.conv1(x)))
        x = torch.relu(self.norms[1](self.conv2(x)))
        x = torch.relu(self.norms[2](self.conv3(x)))
        x = self.classifier(self.drop(x.mean(2)))
        out: torch.Tensor = self.norms[3](x)
        return out


def load(validate: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    folder = Path(os.environ.get("XBC_DATA", Path(__file__).parents[3] / "shared" / "data"))
    data = np.load(folder / "sets" / "uci_har_totalacc_windows128.npz", allow_pickle=False)
    x, y, subject = data["train_x"], data["train_y"], data["train_subject"]
    if validate:
        held = np.isin(subject, np.unique(subject)[-4:])
        parts = x[~held], y[~held], x[held], y[held]
    else:
        parts = x, y, data["test_x"], data["test_y"]
    a, b, c, d = (torch.from_numpy(np.ascontiguousarray(p)) for p in parts)
    return a.transpose(1, 2).contiguous(), b, c.transpose(1, 2).contiguous(), d


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    model.eval()
    return float((torch.cat([model(p) for p in x.split(500)]).argmax(1) == y).float().mean())


def train(model: nn.Module, data: Any, seed: int, epochs: int, rate: float, augment: float) -> list[float]:
    x, y, test_x, test_y = data
    inner = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-3)
    batches = len(y) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(inner, rate, total_steps=epochs * batches)
    shuffle = torch.Generator().manual_seed(seed)
    curve = []
    for _ in range(epochs):
        model.train()
        order = torch.randperm(len(y), generator=shuffle)
        for i in range(0, batches * 64, 64):
            part = order[i : i + 64]
            batch = x[part]
            batch = batch + augment * torch.randn(
                len(part), 3, 1, generator=shuffle
            )  # another mounting of the phone
            inner.zero_grad()
            nn.functional.cross_entropy(model(batch), y[part], label_smoothing=0.1).backward()
            inner.step()
            constrain(model)
            schedule.step()
        curve.append(accuracy(model, test_x, test_y))
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--augment", type=float, default=0.1)
    parser.add_argument("--adc", type=float, default=16.0, help="ADC full scale in weight times input")
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load(options.validate)
    results = []
    for variant in options.variants:
        scale, polarity = VARIANTS[variant]
        if scale.adc_bits:
            scale = UniformScale(scale.weight_bits, scale.dac_bits, scale.adc_bits, options.adc)
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            start = time.perf_counter()
            model = HarNet(scale, polarity)
            curve = train(model, data, seed, options.epochs, options.rate, options.augment)
            results.append(
                {"variant": variant, "seed": seed, "accuracy": curve[-1], "curve": curve, "n": len(data[3])}
            )
            print(f"{variant} seed {seed}: {curve[-1]:.4f} ({time.perf_counter() - start:.0f} s)", flush=True)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")
    for variant in options.variants:
        scores = 100 * np.array([r["accuracy"] for r in results if r["variant"] == variant])
        spread = scores.std(ddof=1) if len(scores) > 1 else 0.0
        print(f"{variant:16s} {scores.mean():.2f} +- {spread:.2f} % (n={len(data[3])}, {len(scores)} seeds)")


if __name__ == "__main__":
    main()
