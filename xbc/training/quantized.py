"""Quantisation-aware training with one scale for all layers and with one-signed weights (arXiv 1910.13850).

Every layer uses the same weight full scale (1.0), the same DAC (0 .. 1) and the same ADC (one full scale in
units of weight times input), so that one converter design serves all layers.  What differs from layer to
layer is digital and comes after the ADC: a gain and a bias per output (batch norm).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from xbc.training.converters import quantize, round_through
from xbc.training.torch_extra import Tensor, torch

Polarity = Literal["bipolar", "positive", "negative", "blocks"]
POLARITIES: Final = ("bipolar", "positive", "negative", "blocks")


@dataclass(frozen=True)
class UniformScale:
    """One design for all layers.

    Fields:
        weight_bits: bits of a device; positive weights have codes 0 .. 2**bits - 1, bipolar ones (a pair of
            devices) both signs of that.  0: float weights.
        dac_bits: unsigned inputs in 0 .. 1; 0: not quantised, not clipped.
        adc_bits, adc_full_scale: converter of every column sum; signed for bipolar pairs (they are
            subtracted before the ADC), unsigned otherwise.  0 bits: ideal.
    """

    weight_bits: int = 4
    dac_bits: int = 4
    adc_bits: int = 8
    adc_full_scale: float = 16.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("weight_bits", "dac_bits", "adc_bits"):
            if not 0 <= getattr(self, name) <= 16:
                raise XbcError(f"{name} = {getattr(self, name)} is outside 0..16")
        if not 0 < self.adc_full_scale < np.inf:
            raise XbcError(f"adc_full_scale = {self.adc_full_scale} must be positive")


class UniformLayer(torch.nn.Module):
    """Base: DAC, product with constrained weights, ADC.  Bias and gain are the business of what follows.

    Attributes:
        weight: latent full-precision weights (what the optimiser changes), in -1 .. 1 or 0 .. 1.
        signs: ``[outputs]`` +1 or -1: the digital sign of each output's column; 0 where the weights are
            bipolar.
    """

    def __init__(
        self, shape: tuple[int, ...], scale: UniformScale, polarity: Polarity, block: int = 8
    ) -> None:
        """
        Args:
            shape: of the weights, outputs first.
            polarity: ``positive`` or ``negative`` for the whole matrix; ``blocks``: blocks of ``block``
                outputs are positive and negative in turns; ``bipolar``: both signs in every column (a
                device pair).
        """
        super().__init__()
        if polarity not in POLARITIES:
            raise XbcError(f"unknown polarity {polarity!r}; known: {', '.join(POLARITIES)}")
        self.scale = scale
        self.polarity = polarity
        outputs = shape[0]
        turns = {
            "bipolar": torch.zeros(outputs),
            "positive": torch.ones(outputs),
            "negative": -torch.ones(outputs),
            "blocks": 1.0 - 2.0 * ((torch.arange(outputs) // block) % 2),
        }
        self.signs: Tensor
        self.register_buffer("signs", turns[polarity])
        fan_in = int(np.prod(shape[1:]))
        start = torch.randn(shape) * 0.5
        if (
            polarity != "bipolar"
        ):  # sparse: positive columns that overlap less are less alike, and sums stay in range
            start = (start - 0.25).clamp(min=0)
        if not scale.weight_bits and polarity == "bipolar":
            start = torch.randn(shape) * (2 / fan_in) ** 0.5
        self.weight = torch.nn.Parameter(start)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The linear map."""
        raise NotImplementedError

    @property
    def top(self) -> int:
        """Largest code."""
        return (1 << self.scale.weight_bits) - 1

    def stored_weight(self) -> Tensor:
        """Magnitudes (one-signed) or signed values (bipolar) as the devices hold them, on the grid."""
        if not self.scale.weight_bits:
            return self.weight if self.polarity == "bipolar" else self.weight.clamp(min=0)
        low = -1.0 if self.polarity == "bipolar" else 0.0
        return round_through(self.weight.clamp(low, 1.0) * self.top) / self.top

    def forward(self, x: Tensor) -> Tensor:
        """Column sums after the ADC, with the sign of their block."""
        s = self.scale
        if s.dac_bits:
            x = quantize(x, 1.0, s.dac_bits, signed=False)
        y = self.product(x, self.stored_weight())
        if s.adc_bits:
            y = quantize(y, s.adc_full_scale, s.adc_bits, signed=self.polarity == "bipolar")
        if self.polarity == "bipolar":
            return y
        return y * self.signs.reshape(1, -1, *([1] * (y.dim() - 2)))

    def codes(self) -> Array:
        """``[outputs, inputs]`` int32 signed codes (block signs applied)."""
        with torch.no_grad():
            codes = torch.round(self.stored_weight() * self.top).reshape(self.weight.shape[0], -1)
            signs = torch.where(self.signs == 0, torch.ones_like(self.signs), self.signs)
            return np.asarray((codes * signs[:, None]).numpy()).astype(np.int32)

    def constrain(self) -> None:
        """Puts the latent weights back into their range; call after every optimiser step."""
        if self.scale.weight_bits or self.polarity != "bipolar":
            low = -1.0 if self.polarity == "bipolar" else 0.0
            with torch.no_grad():
                self.weight.clamp_(low, 1.0 if self.scale.weight_bits else float("inf"))


class UniformLinear(UniformLayer):
    """Fully connected: ``[batch, inputs]`` to ``[batch, outputs]``."""

    def __init__(
        self, inputs: int, outputs: int, scale: UniformScale, polarity: Polarity = "bipolar", block: int = 8
    ) -> None:
        """``inputs``, ``outputs``: features."""
        super().__init__((outputs, inputs), scale, polarity, block)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """``x @ weight.T``."""
        return torch.nn.functional.linear(x, weight)


class UniformConv1d(UniformLayer):
    """Convolution in time: ``[batch, inputs, steps]`` to ``[batch, outputs, steps']``."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, scale: UniformScale, polarity: Polarity = "bipolar",
        *, stride: int = 1, block: int = 8,
    ) -> None:  # fmt: skip
        """``inputs``, ``outputs``: channels."""
        super().__init__((outputs, inputs, kernel), scale, polarity, block)
        self.stride = stride

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution."""
        return torch.nn.functional.conv1d(x, weight, stride=self.stride)


class UniformConv2d(UniformLayer):
    """Convolution: ``[batch, inputs, height, width]`` to ``[batch, outputs, ...]``."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, scale: UniformScale, polarity: Polarity = "bipolar",
        *, stride: int = 1, padding: int = 0, block: int = 8,
    ) -> None:  # fmt: skip
        """``inputs``, ``outputs``: channels; a square kernel."""
        super().__init__((outputs, inputs, kernel, kernel), scale, polarity, block)
        self.stride, self.padding = stride, padding

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution."""
        return torch.nn.functional.conv2d(x, weight, stride=self.stride, padding=self.padding)


def constrain(model: torch.nn.Module) -> None:
    """Every uniform layer's latent weights back into their range."""
    for module in model.modules():
        if isinstance(module, UniformLayer):
            module.constrain()
