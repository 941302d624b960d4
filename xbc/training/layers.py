"""Layers whose matrix products run on a device array (arXiv 2305.14547).

Forward and backward products use the conductances as they are programmed, errors included, behind DACs and
ADCs.  The gradient of the weights is taken in digital and belongs to ``weight``, the full-precision copy
(device code plus accumulator), which only ``optimizer.CrossbarOptimizer`` may change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ir.arrays import Array
from ir.cells import CellFormat
from ir.errors import XbcError
from xbc.training.converters import Converter, quantize_gradient
from xbc.training.devices import DeviceArray, Programming
from xbc.training.torch_extra import Tensor, torch
from xbc.update.accumulator import FRACTION_BITS, settle, to_fixed


@dataclass(frozen=True)
class CrossbarConfig:
    """The array and the converters that a layer is trained on.

    Fields:
        cells: devices per weight; the default is a pair of 2-bit devices, codes -3 .. 3.
        programming: error and trials of a write.
        dac_bits, adc_bits: converters of the forward product (0: ideal); inputs are unsigned.
        error_bits: DAC of the backward product, scaled to each batch (0: ideal).
        full_scale: largest weight in units of the He standard deviation sqrt(2 / fan-in).
        seed: of the initial weights and the programming errors (each layer adds its own number).
    """

    cells: CellFormat = field(default_factory=lambda: CellFormat("differential", 2, 2))
    programming: Programming = field(default_factory=Programming)
    dac_bits: int = 8
    adc_bits: int = 8
    error_bits: int = 8
    full_scale: float = 2.5
    seed: int = 0


class CrossbarLayer(torch.nn.Module):
    """Base: one ``[outputs, ...]`` weight on one device array.

    Attributes:
        weight: the full-precision copy, ``scale * (codes + accumulator)``.
        array: the devices.
        accumulator: ``[outputs, inputs]`` int64, ``2**-FRACTION_BITS`` of a code step.
        requested: sum of all requests so far, same shape and unit (what conservation is checked against).
    """

    count = 0

    def __init__(self, shape: tuple[int, ...], config: CrossbarConfig) -> None:
        """``shape`` of the weight, outputs first."""
        super().__init__()
        CrossbarLayer.count += 1
        self.config = config
        rng = np.random.default_rng([config.seed, CrossbarLayer.count])
        outputs, fan_in = shape[0], int(np.prod(shape[1:]))
        deviation = float(np.sqrt(2 / fan_in))
        low, high = config.cells.code_range()
        self.scale = config.full_scale * deviation / high
        start = rng.standard_normal((outputs, fan_in)) * deviation / self.scale
        if low >= 0:
            start = np.abs(start)
        start = np.clip(start, low, high)
        self.array = DeviceArray(np.rint(start).astype(np.int32), config.cells, config.programming, rng)
        self.accumulator = to_fixed(start) - (self.array.codes.astype(np.int64) << FRACTION_BITS)
        self.requested = np.zeros_like(self.accumulator)
        self.start = (self.array.codes.copy(), self.accumulator.copy())
        self.weight = torch.nn.Parameter(torch.empty(shape))
        self.bias = torch.nn.Parameter(torch.zeros(outputs))
        self.device_weight: Tensor
        self.register_buffer("device_weight", torch.empty(shape))
        self.dac = Converter(config.dac_bits, signed=False)
        self.adc = Converter(config.adc_bits, signed=True)
        self._refresh()

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The linear map, without bias."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """DAC, product on the devices, ADC, digital bias."""
        weight = self.weight + (self.device_weight - self.weight).detach()
        y = quantize_gradient(self.product(self.dac(x), weight), self.config.error_bits)
        y = self.adc(y)
        out: Tensor = y + self.bias.reshape(1, -1, *([1] * (y.dim() - 2)))
        return out

    def commit(self, before: Tensor, threshold: float) -> int:
        """Accumulates the change of ``weight`` since ``before``, writes the devices that pass ``threshold``.

        Returns: number of weights of which a device was written.
        """
        low, high = self.array.low, self.array.high
        with torch.no_grad():
            self.weight.clamp_(low * self.scale, high * self.scale)
            request = to_fixed(self._matrix(self.weight - before) / self.scale)
        self.requested += request
        self.accumulator += request
        held = self.array.codes.copy()
        wanted, _ = settle(held, self.accumulator, threshold=threshold, low=low, high=high)
        self.array.program(wanted)
        # What a read gives counts as written: a failed write stays in the accumulator and is tried again.
        self.accumulator -= (self.array.codes.astype(np.int64) - held) << FRACTION_BITS
        self._refresh()
        return int((wanted != held).sum())

    def overwrite(self, rng: np.random.Generator | None) -> int:
        """The naive writer: every device is written with ``weight`` rounded to its nearest level.

        Args:
            rng: rounds up or down at random in proportion instead (stochastic rounding).
        Returns: number of weights written (all).
        """
        exact = self._matrix(self.weight.detach()) / self.scale
        codes = np.rint(exact) if rng is None else np.floor(exact + rng.random(exact.shape))
        wanted = np.clip(codes, self.array.low, self.array.high).astype(np.int32)
        self.array.program(wanted, np.ones(wanted.shape, bool))
        self.accumulator[:] = 0
        self._refresh()
        return wanted.size

    def conserved(self) -> bool:
        """Whether written plus accumulated equals requested, exactly (after ``commit`` only)."""
        codes, accumulator = self.start
        written = (self.array.codes.astype(np.int64) - codes) << FRACTION_BITS
        return bool((written + self.accumulator - accumulator == self.requested).all())

    def _matrix(self, x: Tensor) -> Array:
        return np.asarray(x.detach().reshape(x.shape[0], -1).numpy(), np.float64)

    def _refresh(self) -> None:
        exact = self.array.codes + np.ldexp(self.accumulator.astype(np.float64), -FRACTION_BITS)
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(exact * self.scale).reshape(self.weight.shape))
            held = self.array.conductance_codes() * np.float32(self.scale)
            self.device_weight.copy_(torch.from_numpy(held).reshape(self.weight.shape))


class CrossbarLinear(CrossbarLayer):
    """Fully connected: ``[batch, inputs]`` to ``[batch, outputs]``."""

    def __init__(self, inputs: int, outputs: int, config: CrossbarConfig) -> None:
        """``inputs``, ``outputs``: features."""
        super().__init__((outputs, inputs), config)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """``x @ weight.T``."""
        return torch.nn.functional.linear(x, weight)


class CrossbarConv2d(CrossbarLayer):
    """Convolution: ``[batch, inputs, height, width]`` to ``[batch, outputs, ...]``."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        config: CrossbarConfig,
        *,
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        """``inputs``, ``outputs``: channels; a square kernel."""
        super().__init__((outputs, inputs, kernel, kernel), config)
        self.stride, self.padding = stride, padding

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution without bias."""
        return torch.nn.functional.conv2d(x, weight, stride=self.stride, padding=self.padding)


def crossbar_layers(model: torch.nn.Module) -> Iterator[tuple[str, CrossbarLayer]]:
    """(name, layer) of every crossbar layer of a model.  Raises XbcError when there is none."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, CrossbarLayer)]
    if not found:
        raise XbcError("the model has no crossbar layer: build it from CrossbarLinear and CrossbarConv2d")
    yield from found


def device_report(model: torch.nn.Module) -> dict[str, Any]:
    """Counts over all crossbar layers: weights, devices, writes, pulses, failed writes."""
    arrays = [layer.array for _, layer in crossbar_layers(model)]
    device_writes = np.concatenate([a.writes.reshape(-1) for a in arrays])
    weight_writes = np.concatenate([a.writes.sum(-1).reshape(-1) for a in arrays])
    return {
        "weights": len(weight_writes),
        "devices": len(device_writes),
        "device_writes": int(device_writes.sum()),
        "writes_per_device": float(device_writes.mean()),
        "writes_per_weight": float(weight_writes.mean()),
        "max_writes_of_a_device": int(device_writes.max()),
        "device_write_histogram": np.bincount(device_writes).tolist(),
        "pulses": sum(a.pulses for a in arrays),
        "failed_writes": sum(a.failed for a in arrays),
    }
