"""Digital accumulators around a torch optimiser: it asks, they decide what is written."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ir.errors import XbcError
from xbc.training.layers import crossbar_layers
from xbc.training.torch_extra import torch
from xbc.update.accumulator import check_threshold


class CrossbarOptimizer:
    """Wraps any optimiser; its steps reach the devices only through accumulators.

    Writers:
        ``threshold``: accumulate, write what passes the threshold (the paper's scheme).
        ``every-batch``: no accumulator, every device is rewritten with its rounded weight after every batch.
        ``every-batch-stochastic``: the same with stochastic rounding.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: torch.nn.Module,
        *,
        threshold: float = 1.0,
        writer: Literal["threshold", "every-batch", "every-batch-stochastic"] = "threshold",
        seed: int = 0,
    ) -> None:
        """``threshold`` in code steps of a weight (one device level).

        Raises: XbcError for a threshold of 0 or less, an unknown writer, a model without crossbar layers.
        """
        if writer not in ("threshold", "every-batch", "every-batch-stochastic"):
            raise XbcError(
                f"unknown writer {writer!r}; known: threshold, every-batch, every-batch-stochastic"
            )
        self.optimizer = optimizer
        self.layers = list(crossbar_layers(model))
        self.threshold = check_threshold(threshold)
        self.writer = writer
        self.steps = 0
        self.weight_writes = 0
        self._rng = np.random.default_rng(seed) if writer == "every-batch-stochastic" else None

    def zero_grad(self) -> None:
        """Clears the gradients."""
        self.optimizer.zero_grad()

    def step(self) -> None:
        """One step of the wrapped optimiser, then the writes it leads to."""
        before = [layer.weight.detach().clone() for _, layer in self.layers]
        self.optimizer.step()
        self.steps += 1
        for (_, layer), old in zip(self.layers, before, strict=True):
            if self.writer == "threshold":
                self.weight_writes += layer.commit(old, self.threshold)
            else:
                self.weight_writes += layer.overwrite(self._rng)
