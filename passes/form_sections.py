"""form-sections: which weights are loaded together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ir.module import Module
from ir.stages import Sectioned, Sliced
from passes.base import Context, Pass
from passes.flat_sections import check_gating, flat_sections
from passes.sections import natural_sections


@dataclass(frozen=True)
class FormSections(Pass):
    """Cuts every weight matrix into sections of the crossbar's rows, in natural order.

    As many outputs share the rows as the target allows and its columns hold.  The last section of an
    output is short when the rows do not divide its inputs: its remaining rows are don't care.

    Options:
        scope: ``output``: a section holds weights of one dot product (or of the outputs sharing its rows),
            so its column sums are always a part of the result.  ``layer``: sections are cut from the
            flattened layer, so that its rows belong to several outputs; the target needs row gating, and
            reads a section once for each of its outputs, with that output's rows driven.
    """

    name: ClassVar[str] = "form-sections"
    requires = Sliced
    ensures = Sectioned

    scope: Literal["output", "layer"] = "output"

    def run(self, module: Module, context: Context) -> Module:
        """Forms the sections of every layer."""
        if self.scope == "layer":
            check_gating(self.name, module.target)
        layers = []
        for i, layer in enumerate(module.layers):
            context.progress("form-sections", i, len(module.layers))
            if self.scope == "layer":
                layers.append(layer.with_body(flat_sections(layer, module.target, "none", "rank")))
            else:
                layers.append(layer.with_body(natural_sections(layer, module.target)))
        return module.with_layers(layers)
