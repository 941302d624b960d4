"""form-sections: which weights are loaded together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ir.module import Module
from ir.stages import Sectioned, Sliced
from passes.base import Context, Pass
from passes.sections import natural_sections


@dataclass(frozen=True)
class FormSections(Pass):
    """Cuts every weight matrix into sections of the crossbar's rows, in natural order.

    As many outputs share the rows as the target allows and its columns hold.  The last section of an
    output is short when the rows do not divide its inputs: its remaining rows are don't care.

    Options:
        scope: ``output``: a section holds weights of one dot product (or of the outputs sharing its rows),
            so its column sums are always a part of the result.
    """

    name: ClassVar[str] = "form-sections"
    requires = Sliced
    ensures = Sectioned

    scope: Literal["output"] = "output"

    def run(self, module: Module, context: Context) -> Module:
        """Forms the sections of every layer."""
        layers = []
        for i, layer in enumerate(module.layers):
            context.progress("form-sections", i, len(module.layers))
            layers.append(layer.with_body(natural_sections(layer, module.target)))
        return module.with_layers(layers)
