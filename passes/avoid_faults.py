"""avoid-faults: sections around the cells that cannot be written, and the nearest codes where nothing fits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ir.errors import XbcError
from ir.module import Layer, Module
from ir.stages import Placed, Programmed
from ir.target import Target
from passes.arrange import Arranger, Fit
from passes.base import Context, Outcome, Pass, check
from passes.evacuate import evacuate, with_steps
from passes.manager import finish
from passes.penalty import grades_of
from passes.pipeline import Pipeline


@dataclass(frozen=True)
class AvoidFaults(Pass):
    """Places sections around the faulty cells that the target lists; without any it changes nothing.

    A faulty cell holds its level for ever.  Rows of a section are exchanged (not under fixed routing) so that
    faulty cells lie under digits that want their level, or under rows without a weight: an assignment of least
    error, of these with the fewest cells that differ from what stood there.  A row or an output whose error stays
    too large moves to a section of its own on the crossbars with the fewest faults.  What is left is held: the other
    cells of the weight take the nearest code, and what is stored is what the cells hold.  The error is in the facts.

    Options:
        lambda: cells of disorder that a squared error of one code unit is worth; with sensitivities a
            unit of the average weight.
        most-error: root mean square error of a row or an output of a section, as a share of the layer's root mean
            square code, above which it moves to another section; 0: never.
    """

    name: ClassVar[str] = "avoid-faults"
    requires = Placed
    ensures = Programmed
    respects_faults: ClassVar[bool] = True

    lambda_: float = 1000.0
    most_error: float = 0.1

    def __post_init__(self) -> None:
        check(0 < self.lambda_ <= 1e6, f"avoid-faults: lambda = {self.lambda_} is outside 0..1e6")
        check(self.most_error >= 0, f"avoid-faults: most-error = {self.most_error} must not be negative")

    def weighs(self) -> bool:
        """Errors of sensitive weights count more."""
        return True

    def run(self, module: Module, context: Context) -> Outcome:
        """Places every layer; the figures go to the facts."""
        module = finish(module)
        if not module.target.faulty:
            return Outcome(module)
        known = context.sensitivities
        graded = {} if known is None else grades_of(module, known.layers, "weight")
        arranger = Arranger(module.target, self.lambda_, context.threads)
        bodies: list[Programmed] = []
        added: list[int] = []
        facts = dict.fromkeys(("rows_exchanged", "rows_left_empty", "weights_held", "squares"), 0.0)
        worst: dict[str, float] = {}
        for done, layer in enumerate(module.layers):
            context.progress(self.name, done, len(module.layers))
            fit = arranger.fit(layer.at(Programmed), graded.get(layer.name))
            fit, extra = evacuate(arranger, fit, self.most_error)
            if np.isinf(fit.row_error).any():
                raise XbcError(_impossible(layer, fit))
            bodies.append(_within(fit.body))
            added.append(extra)
            figures = fit.tally.sum(axis=0)
            for name, value in zip(facts, figures.tolist(), strict=True):
                facts[name] += value
            if figures[3]:
                worst[layer.name] = float(np.sqrt(figures[3] / max(1, layer.weights)))
        squares = facts.pop("squares")
        learned = {
            "cells": len(module.target.faulty),
            "crossbars": len(module.target.faulty.crossbars()),
            **{name: int(value) for name, value in facts.items()},
            "sections_added": sum(added),
            "rms_error": float(np.sqrt(squares / max(1, module.weights))),
            "rms_error_by_layer": worst,
        }
        return Outcome(with_steps(module, bodies), learned)


def _within(body: Programmed) -> Programmed:
    """Limits as wide as the codes that are held, where the host holds floats: any code can be given back."""
    if body.given:
        return body
    codes = body.effective_codes()
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    limits = np.stack(
        [np.minimum(body.limits[:, 0], low), np.maximum(body.limits[:, 1], high)], axis=1
    ).astype(np.int32)
    return body if np.array_equal(limits, body.limits) else dataclasses.replace(body, limits=limits)


def _impossible(layer: Layer, fit: Fit) -> str:
    s, r = (int(x) for x in np.argwhere(np.isinf(fit.row_error))[0])
    return (
        f"layer {layer.name!r}, section {s}: no integer of the model's type fits the faulty cells in row {r} of "
        f"crossbar {int(fit.body.crossbar[s])}, nor elsewhere: use encoding=offset, or more crossbars"
    )


def with_faults(passes: Pipeline, target: Target) -> Pipeline:
    """A pipeline that places around the faults of a chip that has some, before what looks at the cells; one that does
    not come to the cells is left alone."""
    placed = not passes or issubclass(passes[-1].ensures, Placed)
    if not target.faulty or not placed or any(step.name == AvoidFaults.name for step in passes):
        return passes
    behind = [i for i, step in enumerate(passes) if step.name in ("level-wear", "select-write-verify")]
    at = min(behind, default=len(passes))
    return Pipeline((*passes[:at], AvoidFaults(), *passes[at:]))
