"""Accuracy over one or two settings of the chip: the curve that decides converters and devices."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Module
from ir.progress import Progress
from ir.target import Converters, Target
from xbc.simulate.fidelity import Reference, Settings, Simulation, evaluate
from xbc.simulate.memory import Batch
from xbc.simulate.network import Ranges
from xbc.simulate.samples import SampleAxis

MOST_POINTS = 1000


@dataclass(frozen=True)
class Axis:
    """A key of the target (``converters.adc_bits``, ``device.sigma_verified``) and its values."""

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Point:
    """One setting and what was measured there.

    Fields:
        settings: key -> value.
        score: top-1 (or agreement), the mean over trials at device fidelity.
        interval: 95 % interval over trials; None at converter fidelity (nothing is random there).
        drop_interval: 95 % interval of (reference - score) over the samples, ``metrics.paired_interval``; None
            without labels and at device fidelity.
        reference: the metric of the reference model, None without labels.
        snr_db: lowest of all layers.
        clip_rate: over all conversions.
    """

    settings: Mapping[str, Any]
    metric: str
    score: float
    interval: tuple[float, float] | None
    drop_interval: tuple[float, float] | None
    trials: int
    reference: float | None
    samples: int
    rms_error: float
    snr_db: float
    clip_rate: float
    seconds_per_sample: float


def parse_axis(text: str) -> Axis:
    """``KEY=4..10``, ``KEY=4..10:2`` or ``KEY=0.01,0.02,0.05``.

    Raises: XbcError for another form, a key outside converters and device, or an empty range.
    """
    key, equals, values = (part.strip() for part in text.partition("="))
    if not (key and equals and values):
        raise XbcError(f"--over {text!r} is not of the form KEY=4..10 or KEY=0.01,0.02")
    if not key.startswith(("converters.", "device.")):
        raise XbcError(
            f"--over {key!r}: a sweep changes keys of converters and device (the program fixes all others), "
            f"e.g. converters.adc_bits or device.sigma_verified"
        )
    first, dots, rest = values.partition("..")
    if dots:
        last, _, step = rest.partition(":")
        try:
            numbers = range(int(first), int(last) + 1, int(step or 1))
        except ValueError:
            raise XbcError(f"--over {text!r}: {values!r} is no range of integers like 4..10") from None
        if not numbers:
            raise XbcError(f"--over {text!r}: the range {values!r} is empty")
        return Axis(key, tuple(numbers)[: MOST_POINTS + 1])
    return Axis(key, tuple(_value(item.strip()) for item in values.split(",")))


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    return text


def sweep(
    host: onnx.ModelProto, module: Module, axes: Sequence[Axis], reference: Reference, settings: Settings, *,
    calibration: Mapping[str, Array] | None = None, threads: int = 2, batch: Batch = None,
    axis: SampleAxis | None = None, progress: Progress | None = None,
) -> list[Point]:  # fmt: skip
    """Measures every combination of the axes' values, the last axis fastest.

    Raises: XbcError for a setting the target refuses, before anything is run, and for too many points.
    """
    combinations = [
        dict(zip([a.key for a in axes], values, strict=True))
        for values in itertools.product(*(a.values for a in axes))
    ]
    if len({a.key for a in axes}) != len(axes):
        raise XbcError("--over gives the same key twice")
    if not 1 <= len(combinations) <= MOST_POINTS:
        raise XbcError(f"a sweep of {len(combinations)} points is outside 1..{MOST_POINTS}")
    targets = [module.target.override(point) for point in combinations]
    points = []
    known: dict[Converters, Ranges] = {}
    for number, (changed, target) in enumerate(zip(combinations, targets, strict=True)):
        key = _what_sums_depend_on(target)
        simulation = Simulation(
            host, dataclasses.replace(module, target=target), settings, calibration=calibration,
            ranges=known.get(key), threads=threads, batch=batch, axis=axis,
        )  # fmt: skip
        known[key] = simulation.session.calibration()
        points.append(_point(changed, evaluate(reference, simulation)))
        del simulation  # its plans are large: not two of them at a time
        if progress is not None:
            progress("sweep", number + 1, len(combinations))
    return points


def _what_sums_depend_on(target: Target) -> Converters:
    """The converters without what only changes the reading of column sums: calibrated ranges are shared."""
    return dataclasses.replace(target.converters, adc_bits=1, adc_rounding="nearest")


def _point(changed: Mapping[str, Any], facts: Mapping[str, Any]) -> Point:
    trials = facts["trials"]
    top1 = facts["compiled"] is not None
    simulated = [layer for layer in facts["layers"] if "snr_db" in layer]
    conversions = sum(layer["conversions"] for layer in simulated)
    clipped = sum(layer["clip_rate"] * layer["conversions"] for layer in simulated)
    value = trials["mean"] if trials else facts["compiled"] if top1 else facts["agreement"]
    return Point(
        settings=changed,
        metric="top-1" if top1 else "agreement",
        score=float("nan") if value is None else value,
        interval=tuple(trials["interval"]) if trials else None,
        drop_interval=tuple(facts["interval"]) if top1 and not trials else None,
        trials=len(trials["values"]) if trials else 1,
        reference=facts["reference"],
        samples=facts["samples"],
        rms_error=facts["rms_error"],
        snr_db=min((layer["snr_db"] for layer in simulated), default=float("nan")),
        clip_rate=clipped / conversions if conversions else 0.0,
        seconds_per_sample=facts["seconds_per_sample"],
    )


def to_csv(points: Sequence[Point]) -> str:
    """The points as CSV text, one column per swept key first."""
    out = io.StringIO()
    keys = list(points[0].settings)
    fields = [
        "metric", "score", "low", "high", "trials", "reference", "drop_low", "drop_high", "samples",
        "rms_error", "worst_layer_snr_db", "clip_rate", "seconds_per_sample",
    ]  # fmt: skip
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*keys, *fields])
    for p in points:
        low, high = p.interval or ("", "")
        drop = p.drop_interval or ("", "")
        numbers = [p.score, low, high, p.trials, p.reference, *drop, p.samples, p.rms_error, p.snr_db]
        shown = [
            "" if n is None or n == "" else f"{n:.6g}" for n in [*numbers, p.clip_rate, p.seconds_per_sample]
        ]
        writer.writerow([*p.settings.values(), p.metric, *shown])
    return out.getvalue()
