"""Train digits_bulk.onnx on 2-bit differential devices with threshold-accumulated updates (arXiv 2305.14547).

A small twin of the MNIST experiment: forward and backward products use the devices, programming errors included;
the exported weights are the levels that the devices hold after training.
"""

from __future__ import annotations

import torch
from digits import main
from torch import nn

from xbc.training.devices import Programming
from xbc.training.layers import CrossbarConfig, CrossbarConv2d, CrossbarLinear


class DigitsBulk(nn.Module):
    """Two convolutions and one fully connected layer on device arrays: 3,660 weights, 7,320 devices."""

    def __init__(self, sigma_levels: float = 0.3) -> None:
        """`sigma_levels`: programming error, in levels."""
        super().__init__()
        config = CrossbarConfig(programming=Programming(sigma_levels=sigma_levels, trials=2))
        self.conv1 = CrossbarConv2d(1, 12, 3, config, padding=1)
        self.conv2 = CrossbarConv2d(12, 24, 3, config, padding=1)
        self.classifier = CrossbarLinear(96, 10, config)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[batch, 1, 8, 8] -> [batch, 10]"""
        x = torch.max_pool2d(torch.relu(self.conv1(image)), 2)
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        logits: torch.Tensor = self.classifier(x.flatten(1))
        return logits


if __name__ == "__main__":
    main(
        "digits_bulk",
        DigitsBulk,
        epochs=100,
        rate=4e-2,
        decay=0.0,
        keep_batch_norm=False,
        description=__doc__,
        on_devices=True,
    )
