"""A pipeline is a value, a tuple of passes; its text is ``quantize{bits=8},slice-bits,form-sections``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ir.errors import XbcError
from passes.base import Pass
from passes.retired import renew
from passes.table import load_pass

_ITEM = re.compile(r"\s*(?P<name>[A-Za-z][A-Za-z0-9-]*)\s*(?:\{(?P<options>[^{}]*)\})?\s*(?:,|$)")

LEVELS = {
    0: "quantize,encode-signs,slice-bits,form-sections,deal-sections{method=contiguous}",
    1: "quantize,encode-signs,slice-bits,form-sections,sort-sections,order-sections{method=sum},deal-sections",
    2: "quantize,encode-signs,slice-bits,form-sections,sort-sections,order-sections,deal-sections,match-rows",
}
"""Pipelines of the lossless levels."""
O3 = 3
"""The level that holds codes within a loss budget: -O2 with rows matched to, and cells held at, nearby codes."""
PAIRS = "match-pairs,choose-pairs"
"""How -O2 ends on a target with differential pairs in one-bit cells."""


class Pipeline(tuple[Pass, ...]):
    """Passes in their order.  ``str`` gives the text that ``parse_pipeline`` reads back.

    Fields:
        notes: what was made of words that xbc no longer uses.
    """

    notes: tuple[str, ...] = ()

    def until(self, name: str) -> Pipeline:
        """The passes before the first one called ``name``."""
        return Pipeline(self[: self._places(name)[0]])

    def after(self, name: str) -> Pipeline:
        """The passes behind the last one called ``name``."""
        return Pipeline(self[self._places(name)[-1] + 1 :])

    def without(self, name: str) -> Pipeline:
        """All passes but those called ``name``."""
        return Pipeline(step for step in self if step.name != name)

    def then(self, more: Iterable[Pass]) -> Pipeline:
        """These passes and ``more``."""
        return Pipeline((*self, *more))

    def with_options(self, name: str, **fields: Any) -> Pipeline:
        """The pipeline with these fields in every pass called ``name``.  Raises XbcError when there is none."""
        places = self._places(name)
        return Pipeline(
            dataclasses.replace(step, **fields) if place in places else step
            for place, step in enumerate(self)
        )

    def _places(self, name: str) -> list[int]:
        places = [place for place, step in enumerate(self) if step.name == name]
        if not places:
            raise XbcError(f"the pipeline {self} has no pass {name!r}")
        return places

    def __str__(self) -> str:
        return ",".join(str(step) for step in self)


@dataclass(frozen=True)
class Shape:
    """How a level cuts sections and quantises, where that is not left to the level.

    Fields:
        outputs: most outputs that share the rows of a section (``form-sections``), 0: as many as the target allows.
        spare: share of further sections, whose rows matching may leave empty (``sort-sections``).
        quantize: options of ``quantize`` as a pipeline's text has them.
    """

    outputs: int = 0
    spare: float = 0.0
    quantize: str = ""

    def words(self) -> list[str]:
        """As options of ``xbc compile``, those of ``quantize`` left to the caller."""
        found = ["--outputs-per-section", str(self.outputs)] if self.outputs else []
        return found + (["--spare", f"{self.spare:g}"] if self.spare else [])

    def of(self, pipeline: Pipeline) -> Pipeline:
        """A level's pipeline with these options."""
        if self.outputs:
            pipeline = pipeline.with_options("form-sections", outputs=self.outputs)
        if self.spare and not any(step.name == "sort-sections" for step in pipeline):
            raise XbcError(
                "spare sections are made where weights are sorted, which -O0 does not: use -O1 to -O3"
            )
        if self.spare:
            pipeline = pipeline.with_options("sort-sections", spare=self.spare)
        if self.quantize:
            (step,) = parse_pipeline(f"quantize{{{self.quantize}}}")
            pipeline = pipeline.with_options("quantize", **vars(step))
        return pipeline


AS_IT_IS = Shape()
"""Sections as the level cuts them."""


def level_pipeline(level: int, pairs: bool = False) -> Pipeline:
    """Pipeline of a level without loss.

    ``pairs``: weights are differential pairs whose representation -O2 may choose.
    """
    if level not in LEVELS:
        known = ", ".join(f"-O{known}" for known in (*LEVELS, O3))
        raise XbcError(f"unknown level -O{level}; known: {known}")
    pipeline = parse_pipeline(LEVELS[level])
    if level == 2 and pairs:
        return pipeline.without("match-rows").then(parse_pipeline(PAIRS))
    return pipeline


def parse_pipeline(text: str) -> Pipeline:
    """Passes of a pipeline text.  Raises XbcError that points at the place it cannot read."""
    passes: list[Pass] = []
    notes: list[str] = []
    at = 0
    if not text.strip():
        raise XbcError("the pipeline is empty; try --passes 'quantize,slice-bits,form-sections'")
    while at < len(text):
        match = _ITEM.match(text, at)
        if match is None:
            raise XbcError(f"cannot read the pipeline at character {at + 1}: {text[at : at + 30]!r}")
        if match.end() == len(text) and text.rstrip().endswith(","):
            raise XbcError("the pipeline ends with a comma")
        settings: dict[str, str] = {}
        for item in filter(None, (part.strip() for part in (match["options"] or "").split(","))):
            key, equals, value = item.partition("=")
            if not equals or not key.strip() or not value.strip():
                raise XbcError(f"pass {match['name']!r}: option {item!r} is not of the form key=value")
            if key.strip() in settings:
                raise XbcError(f"pass {match['name']!r}: option {key.strip()!r} is given twice")
            settings[key.strip()] = value.strip()
        name, settings, note = renew(match["name"], settings)
        if name is not None:
            passes.append(load_pass(name).create(settings))
        notes += [note] if note else []
        at = match.end()
    pipeline = Pipeline(passes)
    pipeline.notes = tuple(notes)
    return pipeline
