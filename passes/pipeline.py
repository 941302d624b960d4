"""Pipelines are text: ``quantize{bits=8},slice-bits,form-sections``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ir.errors import XbcError
from passes.base import Pass
from passes.table import load_pass

_ITEM = re.compile(r"\s*(?P<name>[A-Za-z][A-Za-z0-9-]*)\s*(?:\{(?P<options>[^{}]*)\})?\s*(?:,|$)")

LEVELS = {
    0: "quantize,encode-signs,slice-bits,form-sections,deal-sections{method=contiguous}",
    1: "quantize,encode-signs,slice-bits,form-sections,sort-sections,order-sections{method=sum},deal-sections",
    2: "quantize,encode-signs,slice-bits,form-sections,sort-sections,order-sections,deal-sections,match-rows",
}
PAIRS = "match-rows{pairs=true},reprogram{mode=pairs}"
"""How level 2 ends on a target with differential pairs in one-bit cells."""
LOSSY = 3
"""Level within a loss budget: level 2 with rows matched to, and cells held at, nearby codes."""


MATCH_OVER_HOLD = 5.0
"""Usual penalty of matching over that of holding."""


@dataclass(frozen=True)
class Shape:
    """How a level cuts sections where it is not left to the level.

    Fields:
        outputs: most outputs that share the rows of a section (``form-sections``), 0: as many as the target allows.
        spare: share of further sections, whose rows matching may leave empty (``sort-sections``).
    """

    outputs: int = 0
    spare: float = 0.0

    def of(self, text: str) -> str:
        """A level's text with these options."""
        if self.outputs:
            text = text.replace("form-sections", f"form-sections{{outputs={self.outputs}}}")
        if self.spare:
            if "sort-sections" not in text:
                raise XbcError(
                    "spare sections are made where weights are sorted, which -O0 does not: use -O1 to -O3"
                )
            text = text.replace("sort-sections", f"sort-sections{{spare={self.spare:g}}}")
        return text

    def words(self) -> list[str]:
        """As options of ``xbc compile``."""
        found = ["--outputs-per-section", str(self.outputs)] if self.outputs else []
        return found + (["--spare", f"{self.spare:g}"] if self.spare else [])


AS_IT_IS = Shape()
"""Sections as the level cuts them."""


def requantize(text: str, options: str) -> str:
    """A level's text with options for ``quantize``; none leaves it alone."""
    return f"quantize{{{options}}}{text.removeprefix('quantize')}" if options else text


def level_text(level: int, lambda_: float = 0.0, pairs: bool = False, ratio: float = MATCH_OVER_HOLD) -> str:
    """Pipeline of a level; level 3 needs the penalty ``lambda_`` (see ``match-rows`` and ``reprogram``).

    ``pairs``: weights are differential pairs whose representation level 2 may choose.

    Rows are matched at ``ratio`` times the penalty of the dynamic programme: the assignment takes what a row pays
    at once for granted, the programme sees what a write saves later on.
    """
    if level == LOSSY and pairs:
        near = f"lambda={lambda_:.6g}"
        start = LEVELS[2].removesuffix("match-rows")
        return f"{start}match-rows{{pairs=true,{near}}},reprogram{{mode=near-pairs,{near}}}"
    if level == LOSSY:
        return f"{LEVELS[2]}{{lambda={ratio * lambda_:.6g}}},reprogram{{mode=optimal,lambda={lambda_:.6g}}}"
    if level == 2 and pairs:
        return LEVELS[2].removesuffix("match-rows") + PAIRS
    if level not in LEVELS:
        known = ", ".join(f"-O{known}" for known in (*LEVELS, LOSSY))
        raise XbcError(f"unknown level -O{level}; known: {known}")
    return LEVELS[level]


def parse_pipeline(text: str) -> list[Pass]:
    """Passes of a pipeline text.  Raises XbcError that points at the place it cannot read."""
    passes: list[Pass] = []
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
        passes.append(load_pass(match["name"]).create(settings))
        at = match.end()
    return passes


def format_pipeline(passes: list[Pass]) -> str:
    """Text that ``parse_pipeline`` reads back to the same passes."""
    return ",".join(str(p) for p in passes)
