"""Comparing a compiled model with its reference, sample by sample."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError

Z95 = 1.959963984540054
"""97.5 % point of the standard normal distribution."""


def paired_interval(lost: int, gained: int, samples: int) -> tuple[float, float]:
    """95 % interval of the difference of two proportions measured on the same samples.

    The adjusted Wald interval of Agresti and Min, Simple improved confidence intervals for comparing matched
    proportions, Statistics in Medicine 24 (2005) 729-740: half an observation is added to each of the four
    cells, so that it does not collapse to a point when no pair disagrees:
    ``d = (b - c) / n``, ``d -+ z * sqrt(b + c - (b - c)**2 / n) / n`` with ``n = samples + 2``,
    ``b = lost + 0.5``, ``c = gained + 0.5``.

    Args:
        lost: samples right in the reference only.
        gained: samples right in the compiled model only.
        samples: all.
    Returns: bounds of (reference - compiled), within [-1, 1].
    """
    n, b, c = samples + 2, lost + 0.5, gained + 0.5
    middle = (b - c) / n
    half = Z95 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return max(-1.0, middle - half), min(1.0, middle + half)


def wilson_interval(hits: int, samples: int) -> tuple[float, float]:
    """95 % score interval of one proportion (Wilson 1927)."""
    p, z2 = hits / samples, Z95**2
    middle = (p + z2 / (2 * samples)) / (1 + z2 / samples)
    half = Z95 * math.sqrt(p * (1 - p) / samples + z2 / (4 * samples**2)) / (1 + z2 / samples)
    return max(0.0, middle - half), min(1.0, middle + half)


def check_labels(labels: Array | None, samples: int) -> None:
    """Raises XbcError unless there is a label for every sample."""
    if labels is not None and len(labels) != samples:
        raise XbcError(f"the set has {samples} samples but {len(labels)} labels")


@dataclass
class OutputError:
    """Running difference of one output.

    Fields:
        values: finite pairs seen; unequal: pairs of which just one is finite or that are unlike infinities.
    """

    values: int = 0
    unequal: int = 0
    largest: float = 0.0
    squares: float = 0.0
    reference_squares: float = 0.0

    def add(self, reference: Array, compiled: Array) -> None:
        """Count one more piece (same shapes)."""
        a, b = reference.astype(np.float64), compiled.astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        if not finite.all():
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            self.unequal += int(np.count_nonzero(~finite & ~same))
            a, b = a[finite], b[finite]
        if a.size:
            difference = a - b
            self.values += a.size
            self.largest = max(self.largest, float(np.abs(difference).max()))
            self.squares += float(np.square(difference).sum())
            self.reference_squares += float(np.square(a).sum())

    def result(self) -> dict[str, Any]:
        """``max_abs_error``, ``rms_error``, ``rms_reference`` and, if any, ``non_finite``."""
        count = max(1, self.values)
        out: dict[str, Any] = {
            "max_abs_error": self.largest,
            "rms_error": math.sqrt(self.squares / count),
            "rms_reference": math.sqrt(self.reference_squares / count),
        }
        return out | ({"non_finite": self.unequal} if self.unequal else {})


@dataclass
class Comparison:
    """Streaming comparison of reference and compiled outputs.

    Fields:
        labels: ``[samples]`` classes, or ``[samples, ...positions]`` where the output has a class per
            position (class axis 1 or last); None: only agreement and errors.
        primary: output that is classified; default the first one seen.
    """

    labels: Array | None = None
    primary: str | None = None
    errors: dict[str, OutputError] = field(default_factory=dict)
    samples: int = 0
    decisions: int = 0
    agreeing: int = 0
    right_reference: int = 0
    right_compiled: int = 0
    lost: int = 0
    gained: int = 0
    classes: int = 0

    def add(self, reference: dict[str, Array], compiled: dict[str, Array]) -> None:
        """Compare the next samples; arrays have one entry per sample along their first axis.

        Raises: XbcError when shapes differ or the labels do not suit the output.
        """
        self.primary = self.primary or next(iter(reference))
        if self.primary not in reference:
            known = ", ".join(repr(name) for name in reference)
            raise XbcError(f"the model has no output {self.primary!r}; its outputs: {known}")
        for name, array in reference.items():
            other = compiled.get(name)
            if other is None or other.shape != array.shape:
                raise XbcError(f"output {name!r} of the compiled model does not match the reference's")
            self.errors.setdefault(name, OutputError()).add(array, other)
        first, second = reference[self.primary], compiled[self.primary]
        labels = None
        if self.labels is not None:
            labels = self.labels[self.samples : self.samples + len(first)]
            if len(labels) != len(first):
                raise XbcError(f"there are {len(self.labels)} labels for more samples than that")
        axis = self._class_axis(first, labels)
        if axis is None:
            first, second = first.reshape(len(first), -1), second.reshape(len(second), -1)
            axis = 1
        self.classes = first.shape[axis]
        if self.classes > 1:
            chosen, other_choice = first.argmax(axis=axis), second.argmax(axis=axis)
            self.decisions += chosen.size
            self.agreeing += int(np.count_nonzero(chosen == other_choice))
            if labels is not None:
                self._score(chosen, other_choice, labels)
        elif labels is not None:
            raise XbcError(
                f"output {self.primary!r} has one value per sample: labels cannot be compared with it"
            )
        self.samples += len(first)

    def _class_axis(self, output: Array, labels: Array | None) -> int | None:
        """The axis to take the best class along; None: all values of a sample are classes."""
        if labels is None or labels.ndim == 1:
            return None
        for axis in (1, output.ndim - 1):
            if labels.shape == output.shape[:axis] + output.shape[axis + 1 :]:
                return axis
        raise XbcError(
            f"labels of shape {list(labels.shape)} suit no class axis of output {self.primary!r} "
            f"{list(output.shape)}"
        )

    def _score(self, reference: Array, compiled: Array, labels: Array) -> None:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.classes:
            wrong = low if low < 0 else high
            raise XbcError(f"label {wrong} is no class of output {self.primary!r}, which has {self.classes}")
        right, also = reference == labels, compiled == labels
        self.right_reference += int(np.count_nonzero(right))
        self.right_compiled += int(np.count_nonzero(also))
        self.lost += int(np.count_nonzero(right & ~also))
        self.gained += int(np.count_nonzero(also & ~right))

    def result(self) -> dict[str, Any]:
        """The facts, JSON-ready.

        ``metric`` is ``top-1`` with labels: ``reference`` and ``compiled`` are the fractions right, ``drop``
        their difference, ``interval`` its 95 % interval (``paired_interval``).  Without labels ``metric`` is
        ``agreement``: ``interval`` is that of the agreement (``wilson_interval``), the fractions are None.
        ``agreement`` is the fraction of equal decisions, None when the output has one value.
        """
        if not self.samples:
            raise XbcError("nothing was evaluated: the set holds no samples")
        errors = {name: error.result() for name, error in self.errors.items()}
        assert self.primary is not None
        agreement = self.agreeing / self.decisions if self.decisions else None
        out: dict[str, Any] = {"metric": "agreement", "samples": self.samples}
        out |= {"reference": None, "compiled": None, "drop": None, "interval": None}
        if self.labels is not None:
            reference, compiled = self.right_reference / self.decisions, self.right_compiled / self.decisions
            out |= {
                "metric": "top-1",
                "reference": reference,
                "compiled": compiled,
                "drop": reference - compiled,
            }
            out["interval"] = list(paired_interval(self.lost, self.gained, self.decisions))
        elif self.decisions:
            out["interval"] = list(wilson_interval(self.agreeing, self.decisions))
        out |= {"agreement": agreement, "output": self.primary, **errors[self.primary]}
        return out | {"outputs": errors}
