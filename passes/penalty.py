"""What an error in a stored number costs, in cell writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from ir.arrays import Array
from ir.cells import CellFormat
from ir.errors import XbcError
from ir.module import Module
from ir.stages import Quantized
from passes.base import Context, Pass, check
from passes.inputs import Grade, uniform

FLOOR = 0.05
LOWEST = 1e-4
"""Smallest grade of a layer, of the network's mean."""
Detail = Literal["layer", "weight"]


def grades(
    module: Module, context: Context, detail: Detail = "layer", given: tuple[float, ...] = ()
) -> dict[str, Grade]:
    """Grades of all layers: those given, else from sensitivities, else 1 everywhere.

    Raises: XbcError when ``given`` are not one per layer; for single weights where nothing tells them apart.
    """
    if given and len(given) != len(module.layers):
        raise XbcError(
            f"{len(given)} grades are given, the module has {len(module.layers)} layers: give one for each, in order"
        )
    if given:
        return {layer.name: uniform(value) for layer, value in zip(module.layers, given, strict=True)}
    if context.sensitivities is not None:
        return grades_of(module, context.sensitivities.layers, detail)
    if detail == "weight":
        raise XbcError(
            "detail=weight has no effect without sensitivities: give --sensitivities or leave it out"
        )
    return {layer.name: uniform() for layer in module.layers}


def check_grades(step: Pass) -> None:
    """Raises XbcError for a grade of ``step`` that is no positive number."""
    for value in getattr(step, "grades", ()):
        check(0 < value < np.inf, f"{step.name}: grades hold {value}, each must be a positive number")


def layer_grades(module: Module, context: Context) -> tuple[float, ...]:
    """Grades by sensitivities as the option ``grades`` holds them; empty where there are none."""
    if context.sensitivities is None:
        return ()
    return written_grades([grade.mean for grade in grades(module, context).values()])


def written_grades(values: Iterable[float]) -> tuple[float, ...]:
    """Grades in single precision, as they are computed with, and in digits that a text keeps."""
    return tuple(float(f"{np.float32(value):.9g}") for value in values)


def grades_of(
    module: Module, sensitivities: Mapping[str, Array], detail: Detail = "layer"
) -> dict[str, Grade]:
    """Grades from second derivatives: times scale squared (codes, not weights), over the network's mean.

    Args:
        detail: ``layer``: one grade per layer, its mean; ``weight``: the outer product of the marginals, those below
            ``FLOOR`` of their layer's mean lifted to it, because calibration has not seen everything.
    Raises: XbcError when the sensitivities are not those of this module.
    """
    raw: dict[str, tuple[Array, Array, float]] = {}
    total, weights = 0.0, 0
    for layer in module.layers:
        body = layer.at(Quantized)
        s = sensitivities.get(layer.name)
        if s is None or s.shape != body.shape:
            raise XbcError(
                f"the sensitivities have {'nothing' if s is None else f'shape {s.shape}'} for layer "
                f"{layer.name!r} of shape {body.shape}: make them from this model with 'xbc sensitivity'"
            )
        scale = np.broadcast_to(body.scale.astype(np.float64), body.shape[:1])
        rows = s.mean(axis=1, dtype=np.float64) * scale**2
        columns = (scale**2 / len(scale)) @ s.astype(np.float64)
        mean = float(rows.mean())
        raw[layer.name] = (rows, columns, mean)
        total += mean * layer.weights
        weights += layer.weights
    average = total / max(weights, 1)
    if not average > 0:
        raise XbcError(
            "the sensitivities are zero everywhere: the calibration inputs do not reach the output"
        )
    out = {}
    for name, (rows, columns, mean) in raw.items():
        low = max(mean, LOWEST * average)
        if detail == "layer":
            out[name] = uniform(low / average)
            continue
        rows = np.maximum(rows, FLOOR * low) / average
        columns = np.maximum(columns, FLOOR * low) / low
        out[name] = Grade(rows.astype(np.float32), columns.astype(np.float32))
    return out


def code_curvature(body: Quantized, sensitivities: Array) -> float:
    """Mean second derivative of the loss by a code of a layer, from those by its weights."""
    scale = np.broadcast_to(body.scale.astype(np.float64), body.shape[:1])
    return float((sensitivities.mean(axis=1, dtype=np.float64) * scale**2).mean())


FORBIDDEN = 1e12
"""Value of a state whose number the format does not have: no penalty is small enough to hold it."""


def state_values(cells: CellFormat) -> Array:
    """``[2**word_bits]`` float32: the number each word stands for (offset not subtracted: differences count).

    Digits of several bits can spell numbers beyond the bits of the format; these states are ``FORBIDDEN``.
    """
    values = cells.decode(np.arange(1 << cells.word_bits, dtype=np.uint32)).astype(np.float32)
    low, high = cells.code_range()
    return np.where((values < low) | (values > high), np.float32(FORBIDDEN), values)
