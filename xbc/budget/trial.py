"""Programs of one placed module at several penalties, and the search among them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Module
from ir.stages import Programmed
from passes.avoid_faults import AvoidFaults
from passes.base import Context
from passes.counting import count_module, natural_module
from passes.manager import PassRecord
from passes.pairs import free_pairs
from passes.penalty import layer_grades
from xbc.budget.forecast import (
    ONE_CROSSBAR,
    SHARED_RATIOS,
    Forecast,
    first_penalty,
    predicted_loss,
    shares_rows,
)
from xbc.budget.judge import Judge, effective_codes, severity_of
from xbc.budget.steps import MATCH_OVER_HOLD, hold_codes, is_wide

FIRST_WIDE = 1.0
"""Penalty the search begins with where trellis decides words: derivatives do not foretell spread errors."""
FIRST = 0.1
"""Penalty the search begins with where there are no sensitivities."""
ATTEMPTS, REFINED, COARSE = 5, 2, 5.0
"""Programs tried, of them inside a bracket, after which a bracket of the factor ``COARSE`` will do."""
FOLLOWED = 6
"""Steps that follow the severity before they double."""
LOWEST, HIGHEST = 1e-12, 1e12
"""Penalties between which one is looked for."""
CLOSE = 1.1
"""The search ends when a penalty inside the budget is within this factor of one outside."""
NOTHING_LEFT = float("-inf")
"""Severity of a program that cannot be improved."""
LOSS_PER_DROP = 0.8
"""Predicted loss (nats) aimed at first, per unit of allowed drop."""
FORECASTS, FAR_OFF = 3, 1.6
"""Whole programs made on one crossbar before one is judged; how far their predicted loss may be off."""
TOLERANCE = 1e-9
"""Of comparisons with the budget: 1 - 0.96 is not above 0.04."""


@dataclass(frozen=True)
class Point:
    """One program tried.

    Fields:
        lambda_: penalty of ``hold-codes`` or ``hold-pairs``.
        match_lambda: penalty of ``match-rows`` or ``match-pairs``.
        writes, reduction: steady state per inference, against natural order (None: nothing is written).
        rms_error: root mean square code error over all weights, in LSB.
        drop, agreement: on the calibration samples (drop None without labels).
        expected_drop: likewise, see ``expected_drop``.
        predicted_loss: increase of the loss that second derivatives predict (nats), None without them.
        severity: the largest share of its limit that drop, changed predictions or expected drop took.
        accepted: inside the budget, severity at most 1.
    """

    lambda_: float
    writes: int
    reduction: float | None
    rms_error: float
    drop: float | None
    agreement: float | None
    accepted: bool
    expected_drop: float | None = None
    match_lambda: float | None = None
    predicted_loss: float | None = None
    severity: float | None = None

    def facts(self) -> dict[str, Any]:
        """As a row of the trade-off curve."""
        return {("lambda" if k == "lambda_" else k): v for k, v in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class Held:
    """Rows matched and codes held at one penalty (``final``: and placed around faulty cells), what the crossbars
    compute with, and each layer's sum of squared code errors."""

    lambda_: float
    module: Module
    final: Module
    records: list[PassRecord]
    codes: dict[str, Array]
    errors: dict[str, float]


class Trial:
    """Programs of one placed module at several penalties, and what became of each.

    Fields:
        curve: a point for every program judged.
        best: (module, records, penalty) of the fewest writes inside the budget, None before there is one.
        ratio: penalty of matching over that of holding.
    """

    def __init__(self, placed: Module, judge: Judge, limit: float, context: Context) -> None:
        """``limit``: allowed drop, 0..1."""
        self.placed, self.judge, self.limit, self.context = placed, judge, limit, context
        self.grades = layer_grades(placed, context)
        self.natural = count_module(natural_module(placed)).steady.total
        self.curve: list[Point] = []
        self.best: tuple[Module, list[PassRecord], float] | None = None
        alone = SHARED_RATIOS[0] if shares_rows(placed) else ONE_CROSSBAR
        self.ratio = alone if placed.target.crossbars == 1 else MATCH_OVER_HOLD
        self.seconds: dict[str, float] = {}
        self._held: Held | None = None

    def first(self) -> float:
        """The penalty to begin with: where second derivatives predict ``LOSS_PER_DROP``.

        Seen on a sample of the crossbars, which also decides ``ratio``; on one crossbar on whole programs.
        """
        if is_wide(self.context):
            return FIRST_WIDE
        if self.context.sensitivities is None:
            return FIRST
        wanted = LOSS_PER_DROP * self.limit
        lambda_ = rounded(first_penalty(self.placed, wanted, self.context) / self.ratio)
        if self.placed.target.crossbars > 1:
            self.context.progress("forecasting writes", 0, 1)
            outlook = Forecast(self.placed, self.context).best(wanted, lambda_)
            self.ratio = outlook.ratio
            return rounded(outlook.lambda_)
        for _ in range(FORECASTS):
            loss = predicted_loss(self.placed, self._hold(lambda_).errors, self.context)
            if wanted / FAR_OFF < loss < wanted * FAR_OFF:
                break
            lambda_ = rounded(lambda_ * np.clip(loss / wanted, 0.02, 50.0))
        return lambda_

    def _hold(self, lambda_: float) -> Held:
        if self._held is None or self._held.lambda_ != lambda_:
            self._held = None  # frees the last one before the next is made
            module, records = hold_codes(self.placed, lambda_, self.ratio, self.grades, self.context)
            for record in records:
                self.seconds[record.name] = self.seconds.get(record.name, 0.0) + record.seconds
            final = AvoidFaults().run(module, self.context).module if module.target.faulty else module
            codes = effective_codes(final)
            self._held = Held(lambda_, module, final, records, codes, squared_errors(final, codes))
        return self._held

    def __call__(self, lambda_: float) -> float:
        """The severity of one penalty's program; NOTHING_LEFT when no other penalty can do better: it writes nothing
        inside the budget, or holds nothing at all."""
        held = self._hold(lambda_)
        module, errors = held.final, held.errors
        facts = self.judge(module, held.codes)
        if facts["agreement"] is None:
            raise XbcError("--max-drop needs a classifier: the model's output has one value; use --max-error")
        severity = severity_of(facts, self.limit)
        accepted = severity <= 1 + TOLERANCE
        writes = count_module(module).steady.total
        if accepted and (self.best is None or writes < min(p.writes for p in self.curve if p.accepted)):
            self.best = (held.module, held.records, lambda_)
        predicted = predicted_loss(self.placed, errors, self.context)
        self.curve.append(
            Point(
                lambda_=lambda_,
                match_lambda=lambda_
                if is_wide(self.context) or free_pairs(self.placed)
                else self.ratio * lambda_,
                writes=writes,
                reduction=self.natural / writes if writes else None,
                rms_error=float(np.sqrt(sum(errors.values()) / max(1, module.weights))),
                drop=facts["drop"],
                agreement=facts["agreement"],
                expected_drop=facts["expected_drop"],
                predicted_loss=predicted if self.context.sensitivities is not None else None,
                severity=severity,
                accepted=accepted,
            )
        )
        exact = not any(errors.values())
        return NOTHING_LEFT if (accepted and not writes) or (exact and not accepted) else severity

    def total(self, records: list[PassRecord]) -> list[PassRecord]:
        """The records of one program with the seconds that each pass took over all programs."""
        return [dataclasses.replace(record, seconds=self.seconds[record.name]) for record in records]


def rounded(lambda_: float) -> float:
    """The penalty in the digits that a pipeline's text has."""
    return float(f"{lambda_:.4g}")


def search(severity: Callable[[float], float], lambda_: float) -> None:
    """Tries penalties from ``lambda_`` on until one inside the budget (severity at most 1) is close to one outside.

    Severity falls with the penalty, about in inverse proportion, and is noisy: steps follow it, and after ``FOLLOWED``
    of them double, until the budget's edge is bracketed from both sides; then the logarithm of the bracket is divided
    by it.  Ends without a bracket only where the callable says that nothing is left, or at ``LOWEST`` or ``HIGHEST``.
    """
    inside: tuple[float, float] | None = None
    outside: tuple[float, float] | None = None
    at = float(np.log(lambda_))
    stride, turn, refined = 0.0, 0, 0
    while True:
        share = severity(rounded(np.exp(at)))
        turn += 1
        if share == NOTHING_LEFT:
            return
        found = float(np.log(max(share, 0.05)))
        if found <= TOLERANCE:
            inside = (at, found) if inside is None or at < inside[0] else inside
        else:
            outside = (at, found) if outside is None or at > outside[0] else outside
        if inside is not None and outside is not None:
            width = inside[0] - outside[0]
            enough = turn >= ATTEMPTS and refined >= REFINED and width < np.log(COARSE)
            if width < np.log(CLOSE) or enough:
                return
            refined += 1
            share = outside[1] / max(outside[1] - inside[1], 1e-6)
            at = outside[0] + width * float(np.clip(share, 0.3, 0.7))
        else:
            follow = float(np.clip(abs(found), np.log(1.2), np.log(5.0)))
            stride = follow if turn <= FOLLOWED else max(follow, 2 * stride)
            step = stride if found > TOLERANCE else -stride
            aim = float(np.clip(at + step, np.log(LOWEST), np.log(HIGHEST)))
            if aim == at:
                return
            at = aim


def squared_errors(module: Module, codes: dict[str, Array]) -> dict[str, float]:
    """Sum of squared code errors by layer; ``codes`` as of ``effective_codes``."""
    errors = {}
    for layer in module.layers:
        difference = codes[layer.name] - layer.at(Programmed).codes
        errors[layer.name] = float(np.square(difference, dtype=np.float64).sum())
    return errors
