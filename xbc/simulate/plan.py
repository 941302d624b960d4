"""How the rows of a set go through a model: how many per run, and where its outputs then hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from xbc.simulate.axes import Along
from xbc.simulate.feeds import Feed
from xbc.simulate.samples import FIRST, NONE, SampleAxis

VALUES_PER_RUN = 2**20
"""Input values that one run takes at most, where the batch is free (at least one sample)."""
LARGEST_BATCH = 64
TOLD_BY = (2, 3)
"""Numbers of rows that a graph is run with to learn its shapes."""
WHOLE_INPUTS = "give every input whole, with one more axis in front that counts the samples"
CURE = f"{WHOLE_INPUTS}, or --sample-axis 0 (rows are samples)"


@dataclass(frozen=True)
class Plan:
    """Runs over a set.

    Fields:
        size: samples per run.
        padded: every run takes exactly ``size``; the last one repeats its last sample.
        stacked: a run takes one whole sample without a batch axis: outputs get an axis in front.
        whole: the only run takes everything, outputs are as they are.
        places: output -> where it holds its samples (None: the same for all); None: by its first axis' length.
        notes: sentences a user should see.
    """

    size: int
    padded: bool = False
    stacked: bool = False
    whole: bool = False
    places: Mapping[str, Along | None] | None = None
    notes: tuple[str, ...] = ()

    def apart(self, name: str, output: Array, samples: int, width: int) -> Array:
        """An output with its samples, without padding, on the first axis."""
        assert self.places is not None
        place = self.places[name]
        if place is None:
            return np.broadcast_to(output, (samples, *output.shape))
        moved = np.moveaxis(output, place.axis, 0)
        if place.inner > 1:
            moved = moved.reshape(width, place.inner, *moved.shape[1:])
        return moved[:samples]

    def together(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of all samples as the model would give them in one run."""
        if self.places is None:
            return dict(outputs)
        made = {}
        for name, array in outputs.items():
            place = self.places[name]
            if place is None:
                made[name] = array[0]
                continue
            if place.inner > 1:
                array = array.reshape(-1, *array.shape[2:])
            made[name] = np.moveaxis(array, 0, place.axis)
        return made


def plan(feeds: Sequence[Feed], samples: int, wanted: int | None, axis: SampleAxis, name: str) -> Plan:
    """Decides from the feeds and the graph.

    Args:
        wanted: samples per run where the model leaves it free; None: by the size of the inputs.
        axis: of the model.
        name: of the model, for messages.
    Raises: XbcError when the inputs fix different batch sizes, or when rows cannot be dealt as they are.
    """
    if wanted is not None and wanted < 1:
        raise XbcError(f"a batch of {wanted} samples is too small")
    fixed = {f.port.shape[0] for f in feeds if f.kind == "batch"} - {None}
    stacked = any(f.kind == "sample" for f in feeds)
    if len(fixed) > 1 or (stacked and fixed - {1}):
        raise XbcError(f"the inputs of {name} fix different batch sizes: give whole inputs per sample")
    if stacked:
        return Plan(1, padded=True, stacked=True)
    rows = {f.port.name: f.array for f in feeds if f.kind == "batch"}
    others = {f.port.name: f.array for f in feeds if f.kind != "batch"}
    if not rows:
        return Plan(1, whole=True)
    if fixed:
        (size,) = fixed
        assert size is not None
        return _of_fixed_size(size, rows, others, samples, axis, name)
    values = max(math.prod(a.shape[1:]) for a in rows.values())
    size = wanted or max(1, min(LARGEST_BATCH, VALUES_PER_RUN // max(1, values)))
    dealing = axis.dealing(rows, others, TOLD_BY)
    if axis.word == FIRST:
        known = dealing.kind in ("apart", "single")
        notes = () if known else (f"--sample-axis 0: rows are dealt to runs, but {dealing.why}",)
        if dealing.kind == "single" and wanted is None:
            size = 1
        return Plan(size, places=dealing.places if known else None, notes=notes)
    if dealing.kind == "apart":
        return Plan(size, places=dealing.places)
    if dealing.kind == "single":
        each = "one sample at a time" if wanted is None else f"{wanted} samples at a time"
        note = f"{dealing.why}: {name} runs {each} (--batch N: N at a time, --sample-axis none: all together)"
        return Plan(wanted or 1, places=dealing.places, notes=(note,))
    if dealing.kind == "unknown" and (samples > size or axis.cut or wanted is not None):
        raise XbcError(
            f"nobody can tell whether the first axis of {_longest(rows)!r} counts samples: {dealing.why}; {CURE} or "
            f"none (one whole input)"
        )
    if axis.cut or (wanted is not None and axis.word != NONE):
        option = "--limit" if axis.cut else "--batch"
        raise XbcError(
            f"{option} counts samples, but rows of {_longest(rows)!r} are none: {dealing.why}; {CURE}"
        )
    notes = ()
    if samples > size and axis.word != NONE:
        notes = (
            f"{name} runs all {samples} rows at once, the first axis does not count samples: {dealing.why}",
        )
    return Plan(samples, whole=True, notes=notes)


def _of_fixed_size(
    size: int,
    rows: Mapping[str, Array],
    others: Mapping[str, Array],
    samples: int,
    axis: SampleAxis,
    name: str,
) -> Plan:
    """Runs of as many rows as the model says; fewer rows may only be filled up where rows are independent."""
    if axis.word == NONE and samples != size:
        raise XbcError(f"--sample-axis none: {name} takes {size} rows, the set has {samples}: {WHOLE_INPUTS}")
    if axis.word == FIRST or size == 1 or (samples % size == 0 and samples != size):
        return Plan(size, padded=True)
    dealing = axis.dealing(rows, others, (size,))
    if dealing.kind == "apart":
        return Plan(size, padded=True, places=dealing.places)
    if samples == size:
        return Plan(size, whole=True)
    raise XbcError(
        f"{name} takes {size} rows at a time, the set has {samples}, and rows may depend on each other: "
        f"{dealing.why}; give a multiple of {size} rows, or --sample-axis 0 (rows are samples)"
    )


def _longest(rows: Mapping[str, Array]) -> str:
    return max(rows, key=lambda name: len(rows[name]))
