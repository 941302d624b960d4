"""deal-sections: which crossbar takes which part of each layer's path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ir.module import Module
from ir.stages import Placed, Sectioned
from passes.base import Context, Pass
from passes.place import contiguous_crossbars, interleaved_crossbars, place


@dataclass(frozen=True)
class DealSections(Pass):
    """Gives every section its crossbar and step; layers follow each other in dependency order.

    Options:
        method: ``contiguous``: equal runs of the layer's path, one per crossbar; ``interleaved``: section
            i to crossbar i mod crossbars.
    """

    name: ClassVar[str] = "deal-sections"
    requires = Sectioned
    ensures = Placed

    method: Literal["contiguous", "interleaved"] = "contiguous"

    def run(self, module: Module, context: Context) -> Module:
        """Places every layer."""
        deal = contiguous_crossbars if self.method == "contiguous" else interleaved_crossbars
        crossbars = module.target.crossbars
        return place(module, [deal(layer.at(Sectioned).sections, crossbars) for layer in module.layers])
