"""slice-bits: digits per cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ir.cells import CellFormat
from ir.errors import XbcError
from ir.module import Module
from ir.stages import Encoded, Quantized, Sliced
from passes.base import Context, Outcome, Pass, check
from passes.encode_signs import encode
from passes.sections import group_width


@dataclass(frozen=True)
class SliceBits(Pass):
    """Cuts a stored number into base-``2**bits_per_cell`` digits, one cell each, most significant first.

    A layer whose signs are not encoded yet gets the target's encoding.

    Options:
        bits-per-cell: 1..4, at most what the target's cells hold; 0 takes the target's.
    """

    name: ClassVar[str] = "slice-bits"
    requires = Quantized
    ensures = Sliced
    back_to = Sliced

    bits_per_cell: int = 0

    def __post_init__(self) -> None:
        check(
            0 <= self.bits_per_cell <= 4, f"slice-bits: bits-per-cell = {self.bits_per_cell} is outside 0..4"
        )

    def run(self, module: Module, context: Context) -> Outcome:
        """Slices every layer."""
        target = module.target
        bits_per_cell = self.bits_per_cell or target.bits_per_cell
        if bits_per_cell > target.bits_per_cell:
            raise XbcError(
                f"slice-bits: bits-per-cell = {bits_per_cell}, but the cells of target {target.name!r} hold "
                f"{target.bits_per_cell} bit(s): lower bits-per-cell"
            )
        layers = []
        for layer in module.layers:
            body = layer.body if isinstance(layer.body, Encoded) else encode(layer, target.encoding)
            CellFormat(body.encoding, body.stored_bits, bits_per_cell)  # refuses words that are too wide
            layers.append(layer.with_body(body.lower(Sliced, bits_per_cell=bits_per_cell)))
            group_width(layers[-1], target)  # refuses weights that the columns do not hold
        return Outcome(module.with_layers(layers))
