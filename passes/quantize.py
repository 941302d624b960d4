"""quantize: float weights to integer codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ir.arrays import Array
from ir.cells import MAGNITUDE_ENCODINGS
from ir.errors import XbcError
from ir.module import Layer, Module
from ir.stages import Body, Float, Quantized
from passes.base import Context, Outcome, Pass, check

Grid = Literal["auto", "magnitude", "signed"]


@dataclass(frozen=True)
class Quantize(Pass):
    """Rounds float weights to integer codes; ``weight = code * scale``.

    Layers whose codes are the model's own (Q/DQ models) are left exactly as they are.

    Options:
        bits: 2..16, the bits stored per weight.
        granularity: one scale per ``tensor`` or per output ``channel``.
        scale: ``layer``: every layer has its own; ``uniform``: one scale for all layers, that of the largest full
            scale among them (one converter design serves all; see ``xbc rescale``).
        range: the largest magnitude that is represented: ``max``; ``percentile`` of the magnitudes
            (larger ones are clipped); ``mse``: the clipping point of least squared error.
        percentile: for range=percentile, above 50 and at most 100.
        grid: ``magnitude``: codes in +-(2**bits - 1), the sign does not count as a bit (driver, split and
            differential encodings); ``signed``: codes in +-(2**(bits-1) - 1) (offset, twos-complement);
            ``auto`` follows the target's encoding.
    """

    name: ClassVar[str] = "quantize"
    requires = Float
    ensures = Quantized

    bits: int = 8
    granularity: Literal["tensor", "channel"] = "tensor"
    scale: Literal["layer", "uniform"] = "layer"
    range: Literal["max", "percentile", "mse"] = "max"
    percentile: float = 99.99
    grid: Grid = "auto"

    def __post_init__(self) -> None:
        check(2 <= self.bits <= 16, f"quantize: bits = {self.bits} is outside 2..16")
        check(
            self.scale == "layer" or self.granularity == "tensor",
            "quantize: scale=uniform is one scale for all layers, it excludes granularity=channel",
        )
        self.only_if(self.range == "percentile", "with range=percentile", "percentile")
        check(50 < self.percentile <= 100, f"quantize: percentile = {self.percentile} is outside 50..100")

    def accepts(self, body: Body) -> bool:
        """Float layers, and those whose codes the model brings along (they stay as they are)."""
        return isinstance(body, Float) or (type(body) is Quantized and body.given)

    def run(self, module: Module, context: Context) -> Outcome:
        """Quantises every float layer."""
        encoding = module.target.encoding
        grid = self.grid
        if grid == "auto":
            grid = "magnitude" if encoding in MAGNITUDE_ENCODINGS or encoding == "unipolar" else "signed"
        top = (1 << self.bits) - 1 if grid == "magnitude" else (1 << (self.bits - 1)) - 1
        shared = self._shared_full_scale(module, top) if self.scale == "uniform" else None
        layers = []
        for i, layer in enumerate(module.layers):
            context.progress("quantize", i, len(module.layers))
            layers.append(layer if isinstance(layer.body, Quantized) else self._quantize(layer, top, shared))
        return Outcome(module.with_layers(layers))

    def _shared_full_scale(self, module: Module, top: int) -> Array:
        """``[1]``, the largest full scale of all layers."""
        scales = []
        for layer in module.layers:
            if not isinstance(layer.body, Float):
                raise XbcError(
                    f"quantize: scale=uniform, but layer {layer.name!r} has codes of its own with their own scale: "
                    f"start from the float model"
                )
            scales.append(self._full_scale(layer.body.values.reshape(1, -1), top))
        return np.asarray(np.max(scales, axis=0, initial=0))

    def _quantize(self, layer: Layer, top: int, shared: Array | None) -> Layer:
        values = layer.at(Float).values
        view = values if self.granularity == "channel" else values.reshape(1, -1)
        full = self._full_scale(view, top) if shared is None else shared
        if ((full == 0) & np.any(view != 0, axis=1)).any():
            raise XbcError(
                f"quantize: {self.percentile} % of the weights of layer {layer.name!r} (or of one of its outputs) are "
                f"zero, which would clip all others to zero: raise percentile or use range=max"
            )
        scale = (full / np.float32(top)).astype(np.float32)
        scale[scale == 0] = 1.0
        codes = np.clip(np.rint(values / scale.reshape(-1, 1)), -top, top)
        zero = np.zeros(1, np.int32)
        # stale cells may make the code below a signed grid, -2**(bits-1); a float host takes it back
        lowest = -top if top >= 1 << (self.bits - 1) else -top - 1
        body = Quantized(
            codes=codes.astype(np.int16 if top < 2**15 else np.int32),
            scale=scale,
            zero_point=zero,
            limits=np.array([[lowest, top]], np.int32),
            bits=self.bits,
            given=False,
        )
        return layer.with_body(body)

    def _full_scale(self, view: Array, top: int) -> Array:
        """``[k]`` largest represented magnitude of each row of ``view [k, n]``."""
        magnitude = np.abs(view)
        peak: Array = magnitude.max(axis=1, initial=0).astype(np.float32)
        if self.range == "percentile":
            return np.asarray(np.percentile(magnitude, self.percentile, axis=1), np.float32)
        if self.range == "mse":
            return _least_squares_scale(magnitude, peak, top)
        return peak


def _least_squares_scale(magnitude: Array, peak: Array, top: int) -> Array:
    """Clipping point of least squared rounding-plus-clipping error among 40 fractions of the peak.

    Rows beyond 65,536 entries are judged on an even sample of that size.
    """
    stride = max(1, magnitude.shape[1] // 65536)
    sample = magnitude[:, ::stride]
    best, best_error = peak.copy(), np.full(len(peak), np.inf)
    for fraction in np.linspace(1.0, 0.22, 40, dtype=np.float32):
        full = np.maximum(peak * fraction, np.finfo(np.float32).tiny)
        step = (full / np.float32(top))[:, None]
        error = ((np.minimum(np.rint(sample / step), top) * step - sample).astype(np.float64) ** 2).sum(1)
        better = (error < best_error) & (peak > 0)
        best[better], best_error[better] = full[better], error[better]
    return best
