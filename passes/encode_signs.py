"""encode-signs: where the sign of a weight lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ir.cells import MAGNITUDE_ENCODINGS
from ir.errors import XbcError
from ir.module import Layer, Module
from ir.stages import Encoded, Quantized
from passes.base import Context, Outcome, Pass


@dataclass(frozen=True)
class EncodeSigns(Pass):
    """Chooses how codes of either sign stand in cells, which only hold levels from 0 up.

    Options:
        encoding: ``driver``: the row driver negates its input (one output per section, no extra cells);
            ``split``: sections of one sign; ``differential``: a pair of numbers; ``offset``: code plus an
            offset, corrected digitally; ``twos-complement``: a sign slice; ``unipolar``: refused when a
            code is negative; ``auto``: what the target says.
        keep-unipolar: layers without a negative code are stored as they are, whatever the encoding.
    """

    name: ClassVar[str] = "encode-signs"
    requires = Quantized
    ensures = Encoded
    back_to = Encoded

    encoding: Literal["auto", "driver", "split", "differential", "offset", "twos-complement", "unipolar"] = (
        "auto"
    )

    keep_unipolar: bool = False

    def __post_init__(self) -> None:
        self.only_if(self.encoding != "unipolar", "with another encoding than unipolar", "keep_unipolar")

    def run(self, module: Module, context: Context) -> Outcome:
        """Encodes every layer."""
        encoding = module.target.encoding if self.encoding == "auto" else self.encoding
        if encoding == "driver" and module.target.outputs_per_section != 1:
            raise XbcError(
                f"encode-signs: driver signs need outputs_per_section = 1, target {module.target.name!r} shares rows "
                f"between {module.target.outputs_per_section} outputs; use offset, differential or split"
            )
        layers = []
        for layer in module.layers:
            one_signed = self.keep_unipolar and layer.at(Quantized).codes.min(initial=0) >= 0
            layers.append(layer.with_body(encode(layer, "unipolar" if one_signed else encoding)))
        return Outcome(module.with_layers(layers))


def encode(layer: Layer, encoding: str) -> Encoded:
    """The layer's body under ``encoding``.  Raises XbcError when a unipolar layer has a negative code."""
    body = layer.at(Quantized)
    low, high = int(body.codes.min(initial=0)), int(body.codes.max(initial=0))
    offset = np.zeros(1, np.int32)
    if encoding == "unipolar" and low < 0:
        at = np.argwhere(body.codes < 0)[0]
        raise XbcError(
            f"encode-signs: layer {layer.name!r} is not unipolar: output {at[0]}, input {at[1]} has code "
            f"{body.codes[tuple(at)]}; use driver, split, differential, offset or twos-complement"
        )
    if encoding in MAGNITUDE_ENCODINGS or encoding == "unipolar":
        # a given grid wastes no column on a sign bit that lives elsewhere
        need = max(-low, high).bit_length()
        bits = max(need, body.bits)
    elif encoding == "offset":
        if body.given:
            offset = np.ascontiguousarray(-body.limits[:, 0])
        else:
            offset = np.full(1, 1 << (max(-low, high).bit_length()), np.int32)
            if body.bits > 1 and max(-low, high) < 1 << (body.bits - 1):
                offset[:] = 1 << (body.bits - 1)
        stored = body.codes + offset.reshape(-1, 1)
        bits = max(body.bits, int(stored.max(initial=0)).bit_length())
    else:
        bits = max(body.bits, 1 + max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0))
    return body.lower(Encoded, encoding=encoding, stored_bits=bits, offset=offset)
