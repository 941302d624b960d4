"""DAC and ADC in training: uniform quantisation forward, straight-through backward."""

from __future__ import annotations

from typing import Any

from xbc.training.torch_extra import Tensor, torch


class _Round(torch.autograd.Function):
    """Rounding whose gradient is 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def round_through(x: Tensor) -> Tensor:
    """Nearest integers; the gradient passes as if nothing had been rounded."""
    result: Tensor = _Round.apply(x)  # type: ignore[no-untyped-call]
    return result


def quantize(x: Tensor, full_scale: Tensor | float, bits: int, signed: bool) -> Tensor:
    """``x`` on the grid of a converter, same shape.

    Args:
        full_scale: largest represented magnitude; beyond it values clip and their gradient is 0.
        bits: resolution; a signed converter has codes in +-(2**(bits-1) - 1), an unsigned one in
            0 .. 2**bits - 1.
    """
    top = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1
    step = full_scale / top
    return round_through(torch.clamp(x / step, -top if signed else 0, top)) * step


class Converter(torch.nn.Module):
    """A DAC or ADC whose full scale follows the running maximum of what it has seen in training."""

    def __init__(self, bits: int, signed: bool, momentum: float = 0.05) -> None:
        """``bits`` = 0 passes values through unchanged."""
        super().__init__()
        self.bits, self.signed, self.momentum = bits, signed, momentum
        self.full_scale: Tensor
        self.register_buffer("full_scale", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, on the converter's grid."""
        if not self.bits:
            return x
        if self.training:
            peak = x.detach().abs().max()
            seen = self.full_scale > 0
            self.full_scale.copy_(torch.where(seen, self.full_scale.lerp(peak, self.momentum), peak))
        return quantize(x, self.full_scale.clamp_min(1e-12), self.bits, self.signed)


class _QuantizeGradient(torch.autograd.Function):
    """Identity whose gradient goes through a DAC scaled to the batch's largest magnitude."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int) -> Tensor:
        ctx.bits = bits
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        error = gradients[0]
        peak = error.abs().max().clamp_min(1e-30)
        return quantize(error, peak, ctx.bits, signed=True), None


def quantize_gradient(x: Tensor, bits: int) -> Tensor:
    """``x``; its gradient, which drives the columns in the backward product, is quantised (0 bits: not)."""
    if not bits:
        return x
    result: Tensor = _QuantizeGradient.apply(x, bits)  # type: ignore[no-untyped-call]
    return result
