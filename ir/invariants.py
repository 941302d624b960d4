"""What must hold in a module, one code per invariant, and how a violation is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ir.arrays import Array

INVARIANTS: Final = {
    # the module
    "layer-name": "layer names are unique",
    "tensor-twice": "no two layers give their weights back to the same host input",
    "edge-layer": "edges join layers of the module",
    "edge-cycle": "edges form no cycle",
    "edge-order": "a layer stands behind the layers that feed it",
    "step-order": "a layer is loaded after the layers that feed it",
    "load-clash": "a crossbar gets at most one section in a step",
    # matrices
    "array-type": "every array has the element type and number of axes of its field",
    "array-shape": "the arrays of a layer agree in shape",
    "layer-empty": "a layer has at least one weight",
    "groups": "groups divide the outputs",
    "layout": "the layout is a rearrangement of the tensor and yields the matrix's shape",
    "value-finite": "float weights are finite",
    "scale-value": "scales are finite and positive",
    "bits": "bits are 1..32",
    "limits-order": "the lower limit is not above the upper one",
    "code-limits": "codes are within the limits of what the host can take back",
    "cell-format": "encoding, stored bits and bits per cell are supported",
    "offset-unused": "only the offset encoding has offsets",
    "code-range": "codes (plus offset) are in the range of the encoding with its stored bits (digits: need not be)",
    "digits": "digits are weights that the target's adders have",
    "bits-per-cell": "digits fit the levels of the target's cells",
    # sections
    "rows": "a section has at most the target's rows",
    "columns": "the cells of a section's column groups fit the target's columns",
    "driver-width": "driver signs need one output per section",
    "output-range": "section outputs are outputs of the layer, or -1 for an empty column group",
    "output-twice": "the outputs of one section are distinct",
    "output-group": "the outputs of one section belong to one group",
    "input-range": "section inputs are inputs of the layer's group, or -1 for a don't-care row",
    "input-twice": "no input stands twice in one section",
    "row-gating": "outputs of single rows need row gating and gather routing of the target, and one column group",
    "row-output": "a driven row's output is one of the layer's, another's -1; the section names the lowest",
    "rank": "ranks are not negative",
    "polarity": "polarity is +1 or -1 in split sections, 0 in all others",
    "weight-missing": "every weight is placed (split: a weight that is not 0 in a section of its sign)",
    "weight-twice": "no weight is placed twice (split: not twice in sections of one sign)",
    "block-routing": "with block routing the inputs of a section are a run of consecutive ones, in any order",
    "fixed-routing": "with fixed routing row r of block b takes input b * rows + r",
    # loads
    "crossbar-range": "crossbars exist on the target",
    "step-range": "steps are not negative",
    "load-order": "sections stand in the order in which their crossbar loads them",
    # cells
    "stored-bits": "stored words have no bit beyond those of the word",
    "stored-undriven": "stored words are 0 in don't-care rows and in empty column groups",
    "stored-limits": "the codes that the crossbars compute with are within limits",
    "flip-digits": "a flipped column's digit is all ones, another's 0",
    "verify-bits": "write-verify marks have no bit beyond those of the word",
    "faulty-cell": "a driven faulty cell stores the level it is stuck at",
}
"""Code of each invariant and what it says."""


@dataclass(frozen=True)
class Problem:
    """A violated invariant: layer name ('' for the module), code (a key of INVARIANTS) and a sentence."""

    layer: str
    code: str
    message: str

    def __str__(self) -> str:
        where = f"layer {self.layer!r}: " if self.layer else ""
        return f"{where}{self.message} [{self.code}]"


@dataclass
class Findings:
    """Collects the problems of one layer."""

    layer: str = ""
    problems: list[Problem] = field(default_factory=list)

    def add(self, code: str, message: str) -> None:
        """Reports a violation."""
        assert code in INVARIANTS, code
        self.problems.append(Problem(self.layer, code, message))

    def codes(self) -> set[str]:
        """Codes reported so far."""
        return {problem.code for problem in self.problems}

    def __bool__(self) -> bool:
        return bool(self.problems)


@dataclass(frozen=True)
class Hit:
    """The first offending index and how many there are."""

    index: tuple[int, ...]
    count: int

    @property
    def more(self) -> str:
        """Words about the others, for the end of a message."""
        return f" ({self.count} such)" if self.count > 1 else ""


def chunks(sections: int, cells_each: int, budget: int = 2**21) -> Iterator[slice]:
    """Slices of the sections whose temporaries stay within ``budget`` elements."""
    size = max(1, budget // max(1, cells_each))
    for start in range(0, sections, size):
        yield slice(start, min(sections, start + size))


def first_hit(rows: int, cells_each: int, violated: Callable[[slice], Array]) -> Hit | None:
    """First index where ``violated(part)``, a bool array over ``rows[part]``, holds; None if nowhere."""
    index: tuple[int, ...] | None = None
    count = 0
    for part in chunks(rows, cells_each):
        mask = violated(part)
        found = int(np.count_nonzero(mask))
        if found and index is None:
            at = np.unravel_index(int(np.argmax(mask)), mask.shape)
            index = (int(at[0]) + part.start, *(int(i) for i in at[1:]))
        count += found
    return None if index is None else Hit(index, count)
