"""form-sections: which weights are loaded together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ir.errors import XbcError
from ir.module import Module
from ir.stages import Sectioned, Sliced
from passes.base import Context, Outcome, Pass, check
from passes.flat_sections import check_gating, flat_sections
from passes.sections import natural_sections


@dataclass(frozen=True)
class FormSections(Pass):
    """Cuts every weight matrix into sections of the crossbar's rows, in natural order.

    As many outputs share the rows as the target allows and its columns hold, or fewer.  The last section of
    an output is short when the rows do not divide its inputs: its remaining rows are don't care.

    Outputs that share rows also share their order, so that rows of many weights find no place where they fit.
    With fewer outputs per section far fewer cells change, but the other columns lie idle and the array is read
    more often: half the outputs, twice the reads.  level-wear spreads the wear over the idle columns.

    Options:
        scope: ``output``: a section holds weights of one dot product (or of the outputs sharing its rows),
            so its column sums are always a part of the result.  ``layer``: sections are cut from the
            flattened layer, so that its rows belong to several outputs; the target needs row gating, and
            reads a section once for each of its outputs, with that output's rows driven.
        outputs: most outputs that share the rows of a section; 0: as many as the target allows.
    """

    name: ClassVar[str] = "form-sections"
    requires = Sliced
    ensures = Sectioned
    back_to = Sectioned

    scope: Literal["output", "layer"] = "output"
    outputs: int = 0

    def __post_init__(self) -> None:
        check(self.outputs >= 0, f"form-sections: outputs = {self.outputs} must not be negative")
        self.only_if(self.scope == "output", "with scope=output", "outputs")

    def run(self, module: Module, context: Context) -> Outcome:
        """Forms the sections of every layer."""
        allowed = module.target.outputs_per_section
        if self.outputs > allowed:
            raise XbcError(
                f"form-sections: outputs = {self.outputs}, but on target {module.target.name!r} at most {allowed} "
                f"outputs share the rows of a section (its outputs_per_section)"
            )
        if self.scope == "layer":
            check_gating(self.name, module.target)
        layers = []
        for i, layer in enumerate(module.layers):
            context.progress("form-sections", i, len(module.layers))
            if self.scope == "layer":
                layers.append(layer.with_body(flat_sections(layer, module.target, "none", "rank")))
            else:
                layers.append(layer.with_body(natural_sections(layer, module.target, self.outputs)))
        return Outcome(module.with_layers(layers))
