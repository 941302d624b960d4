"""snap-codes: codes whose lowest bits are always zero."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ir.module import Layer, Module
from ir.stages import Quantized
from passes.base import Context, Outcome, Pass, check


@dataclass(frozen=True)
class ChipTable:
    """What a chip may say in its table ``[extra.snap-codes]``."""

    bits: int = 0

    def __post_init__(self) -> None:
        check(0 <= self.bits <= 8, f"extra.snap-codes.bits = {self.bits} is outside 0..8")


@dataclass(frozen=True)
class SnapCodes(Pass):
    """Rounds every code to a multiple of ``2**bits``, so that the cells of its lowest bits never change.

    Before: codes 5 -6 3 (bits=2).  After: 4 -8 4.  Layers whose codes are the model's own stay as they are.

    Options:
        bits: lowest bits that become zero, 0: as the chip says in ``[extra.snap-codes]``.
    """

    name: ClassVar[str] = "snap-codes"
    requires = Quantized
    ensures = Quantized
    extra = ChipTable

    bits: int = 0

    def __post_init__(self) -> None:
        check(0 <= self.bits <= 8, f"snap-codes: bits = {self.bits} is outside 0..8")

    def run(self, module: Module, context: Context) -> Outcome:
        """Rounds the codes of every layer."""
        bits = self.bits or module.target.extra_table(self.name, ChipTable).bits
        check(bits > 0, "snap-codes: say bits=1..8; the target has no table [extra.snap-codes] that does")
        return Outcome(module.with_layers([snapped(layer, 1 << bits) for layer in module.layers]))


def snapped(layer: Layer, step: int) -> Layer:
    """The layer with the nearest multiples of ``step``, halves away from zero, within its largest code."""
    body = layer.at(Quantized)
    if body.given:
        return layer
    size = np.abs(body.codes.astype(np.int64))
    nearest = (size + step // 2) // step * step
    top = int(size.max(initial=0)) // step * step
    codes = np.sign(body.codes) * np.minimum(nearest, top)
    return layer.with_body(dataclasses.replace(body, codes=codes.astype(body.codes.dtype)))
