"""Train digits_cnn.onnx: a small residual CNN with a depthwise-separable block, batch norms left unfolded."""

from __future__ import annotations

import torch
from digits import main
from torch import nn


class ConvNorm(nn.Module):
    """A convolution (same padding, no bias) and its batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        """`inputs`, `outputs`: channels."""
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, inputs, height, width] -> [batch, outputs, height / stride, width / stride]"""
        result: torch.Tensor = self.norm(self.conv(x))
        return result


class DigitsCnn(nn.Module):
    """A residual pair, a strided and a depthwise-separable convolution, average pool, classifier."""

    def __init__(self, narrow: int = 32, wide: int = 64) -> None:
        """`narrow`, `wide`: channels at 8 x 8 and at 4 x 4 pixels."""
        super().__init__()
        self.stem = ConvNorm(1, narrow)
        self.residual1 = ConvNorm(narrow, narrow)
        self.residual2 = ConvNorm(narrow, narrow)
        self.down = ConvNorm(narrow, wide, stride=2)
        self.depthwise = ConvNorm(wide, wide, groups=wide)
        self.pointwise = ConvNorm(wide, 2 * wide, kernel=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(2 * wide, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[batch, 1, 8, 8] -> [batch, 10]"""
        x = torch.relu(self.stem(image))
        x = torch.relu(x + self.residual2(torch.relu(self.residual1(x))))
        x = torch.relu(self.down(x))
        x = torch.relu(self.pointwise(torch.relu(self.depthwise(x))))
        logits: torch.Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


if __name__ == "__main__":
    main("digits_cnn", DigitsCnn, epochs=60, rate=5e-3, decay=1e-2, keep_batch_norm=True, description=__doc__)
