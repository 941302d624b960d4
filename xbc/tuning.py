"""Loss-driven partial reprogramming: the fewest writes whose loss on calibration data stays in a budget.

One penalty per network is searched; how it divides over the layers comes from the second derivative of
the loss (``xbc sensitivity``) on a few calibration samples, and so does the penalty the search begins with.  The
samples used here are never those the result is reported on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ir.errors import XbcError
from ir.module import Module
from ir.stages import Programmed
from passes.base import Context
from passes.counting import count_module, natural_module
from passes.manager import Options, PassRecord, finish, run_pipeline
from passes.pairs import free_pairs
from passes.penalty import GRADES, SENSITIVITIES, uniform
from passes.pipeline import (
    AS_IT_IS,
    LEVELS,
    LOSSY,
    MATCH_OVER_HOLD,
    Shape,
    level_text,
    parse_pipeline,
    requantize,
)
from xbc.forecast import (
    ONE_CROSSBAR,
    SHARED_RATIOS,
    Forecast,
    first_penalty,
    lossy_steps,
    predicted_loss,
    shares_rows,
)
from xbc.frontend import Imported
from xbc.judge import Judge, severity_of
from xbc.meter import Meter
from xbc.quantizers import Candidate, finalists, may_choose, rank
from xbc.simulate.data import DataSet

FIRST = 0.1
"""Penalty the search begins with where there are no sensitivities."""
ATTEMPTS, MOST_ATTEMPTS = 5, 9
"""Programs tried once one fits the budget, and at most."""
CLOSE = 1.1
"""The search ends when a penalty inside the budget is within this factor of one outside."""
NOTHING_LEFT = float("-inf")
"""Severity of a program that cannot be improved."""
LOSS_PER_DROP = 0.8
"""Predicted loss (nats) aimed at first, per unit of allowed drop."""
SENSITIVITY_SAMPLES = 12
FORECASTS, FAR_OFF = 3, 1.6
"""Whole programs made on one crossbar before one is judged; how far their predicted loss may be off."""
SENSITIVITY_RUNS = "sensitivities"
"""What a ``Meter`` calls the making of second derivatives."""
TOLERANCE = 1e-9
"""Of comparisons with the budget: 1 - 0.96 is not above 0.04."""
ERROR_ROUNDS = 5
SETTLING_ROUNDS = 6


@dataclass(frozen=True)
class Point:
    """One program tried.

    Fields:
        lambda_: penalty of ``reprogram``.
        match_lambda: penalty of ``match-rows``.
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
class Tuned:
    """Outcome: the module at stage Programmed, the rest of the pipeline, its records, the curve, notes."""

    module: Module
    text: str
    records: list[PassRecord]
    curve: list[Point]
    notes: list[str]


def prepare(
    module: Module, context: Context, options: Options, shape: Shape = AS_IT_IS, quantize: str = ""
) -> tuple[Module, list[PassRecord]]:
    """The part of level 3 that does not depend on the penalty: up to placed sections (``shape``: see there,
    ``quantize``: see ``requantize``)."""
    text = requantize(shape.of(LEVELS[2]), quantize)
    steps = [step for step in parse_pipeline(text) if step.name != "match-rows"]
    run = run_pipeline(module, steps, context, options)
    return run.module, run.records


def tune(placed: Module, judge: Judge, max_drop: float, context: Context) -> Tuned:
    """Searches the penalty of fewest writes whose top-1 drop on ``judge``'s samples is at most ``max_drop`` points.

    Without labels the budget bounds the share of changed predictions.  When nothing fits, the lossless
    program is returned and a note says so.
    """
    trial = Trial(placed, judge, max_drop / 100, context)
    search(trial, trial.first())
    trial.curve.sort(key=lambda p: p.lambda_)
    if trial.best is None:
        note = (
            f"no penalty kept the drop within {max_drop} points on the calibration samples: the program is "
            f"lossless (trade-off curve in the manifest)"
        )
        return _lossless(placed, context, trial.curve, [note])
    module, records, lambda_ = trial.best
    context.facts |= trial.facts
    text = level_text(LOSSY, lambda_, free_pairs(placed), trial.ratio)
    return Tuned(module, text, trial.total(records), trial.curve, [])


@dataclass(frozen=True)
class Chosen:
    """The tuned program, the options its weights were quantised with, records up to placing, rows of candidates."""

    tuned: Tuned
    quantize: str
    records: list[PassRecord]
    candidates: list[dict[str, Any]]


def tune_best(
    module: Module, judge: Judge, max_drop: float, context: Context, options: Options,
    shape: Shape = AS_IT_IS, quantize: str | None = None,
) -> Chosen:  # fmt: skip
    """``tune`` with the way to quantise that leaves the fewest writes; ``quantize`` fixes it."""
    ranked: list[Candidate] = []
    tried = [quantize or ""]
    if quantize is None and may_choose(module, context):
        ranked = rank(module, LOSS_PER_DROP * max_drop / 100, context, shape)
        tried = [candidate.options for candidate in finalists(ranked)]
    best: Chosen | None = None
    written: dict[str, int] = {}
    for text in tried:
        facts = dict(context.facts)
        placed, records = prepare(module, context, options, shape, text)
        tuned = tune(placed, judge, max_drop, context)
        written[text] = count_module(tuned.module).steady.total
        if best is not None and written[text] >= written[best.quantize]:
            context.facts.clear()
            context.facts.update(facts)
            continue
        best = Chosen(tuned, text, records, [])
    assert best is not None
    rows = [c.facts() | {"writes": written.get(c.options), "chosen": c.options == best.quantize} for c in ranked]
    return dataclasses.replace(best, candidates=rows)


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
        self.natural = count_module(natural_module(placed)).steady.total
        self.curve: list[Point] = []
        self.best: tuple[Module, list[PassRecord], float] | None = None
        alone = SHARED_RATIOS[0] if shares_rows(placed) else ONE_CROSSBAR
        self.ratio = alone if placed.target.crossbars == 1 else MATCH_OVER_HOLD
        self.seconds: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        self._held: tuple[float, Module, list[PassRecord], dict[str, float]] | None = None

    def first(self) -> float:
        """The penalty to begin with: where second derivatives predict ``LOSS_PER_DROP``.

        Seen on a sample of the crossbars, which also decides ``ratio``; on one crossbar on whole programs.
        """
        if SENSITIVITIES not in self.context.data:
            return FIRST
        wanted = LOSS_PER_DROP * self.limit
        lambda_ = rounded(first_penalty(self.placed, wanted, self.context) / self.ratio)
        if self.placed.target.crossbars > 1:
            self.context.progress("forecasting writes", 0, 1)
            outlook = Forecast(self.placed, self.context).best(wanted, lambda_)
            self.ratio = outlook.ratio
            return rounded(outlook.lambda_)
        for _ in range(FORECASTS):
            loss = predicted_loss(self.placed, self._hold(lambda_)[2], self.context)
            if wanted / FAR_OFF < loss < wanted * FAR_OFF:
                break
            lambda_ = rounded(lambda_ * np.clip(loss / wanted, 0.02, 50.0))
        return lambda_

    def _hold(self, lambda_: float) -> tuple[Module, list[PassRecord], dict[str, float]]:
        """Rows matched and codes held at one penalty, and each layer's sum of squared code errors."""
        if self._held is None or self._held[0] != lambda_:
            self._held = None  # frees the last one before the next is made
            module, records = _hold(self.placed, lambda_, self.ratio, self.context)
            for record in records:
                self.seconds[record.name] = self.seconds.get(record.name, 0.0) + record.seconds
            self._held = (lambda_, module, records, squared_errors(module))
        return self._held[1:]

    def __call__(self, lambda_: float) -> float:
        """The severity of one penalty's program; NOTHING_LEFT when no other penalty can do better: it writes nothing
        inside the budget, or holds nothing at all."""
        module, records, errors = self._hold(lambda_)
        facts = self.judge(module)
        if facts["agreement"] is None:
            raise XbcError("--max-drop needs a classifier: the model's output has one value; use --max-error")
        severity = severity_of(facts, self.limit)
        accepted = severity <= 1 + TOLERANCE
        writes = count_module(module).steady.total
        if accepted and (self.best is None or writes < min(p.writes for p in self.curve if p.accepted)):
            self.best = (module, records, lambda_)
            self.facts = {name: self.context.facts[name] for name in ("reprogram",) if name in self.context.facts}
        predicted = predicted_loss(self.placed, errors, self.context)
        self.curve.append(
            Point(
                lambda_=lambda_,
                match_lambda=lambda_ if free_pairs(self.placed) else self.ratio * lambda_,
                writes=writes,
                reduction=self.natural / writes if writes else None,
                rms_error=float(np.sqrt(sum(errors.values()) / max(1, module.weights))),
                drop=facts["drop"],
                agreement=facts["agreement"],
                expected_drop=facts["expected_drop"],
                predicted_loss=predicted if SENSITIVITIES in self.context.data else None,
                severity=severity,
                accepted=accepted,
            )
        )
        return NOTHING_LEFT if (accepted and not writes) or not any(errors.values()) else severity

    def total(self, records: list[PassRecord]) -> list[PassRecord]:
        """The records of one program with the seconds that each pass took over all programs."""
        return [dataclasses.replace(record, seconds=self.seconds[record.name]) for record in records]


def rounded(lambda_: float) -> float:
    """The penalty in the digits that a pipeline's text has."""
    return float(f"{lambda_:.4g}")


def search(severity: Callable[[float], float], lambda_: float) -> None:
    """Tries penalties from ``lambda_`` on until one inside the budget (severity at most 1) is close to one outside.

    Severity falls with the penalty, about in inverse proportion, and is noisy: steps follow it until the budget's
    edge is bracketed, then the logarithm of the bracket is divided by it.
    """
    inside: tuple[float, float] | None = None
    outside: tuple[float, float] | None = None
    at = float(np.log(lambda_))
    for turn in range(MOST_ATTEMPTS):
        if turn >= ATTEMPTS and inside is not None:
            return
        share = severity(rounded(np.exp(at)))
        if share == NOTHING_LEFT:
            return
        found = float(np.log(max(share, 0.05)))
        if found <= TOLERANCE:
            inside = (at, found) if inside is None or at < inside[0] else inside
        else:
            outside = (at, found) if outside is None or at > outside[0] else outside
        if inside is not None and outside is not None:
            if inside[0] - outside[0] < np.log(CLOSE):
                return
            share = outside[1] / max(outside[1] - inside[1], 1e-6)
            at = outside[0] + (inside[0] - outside[0]) * float(np.clip(share, 0.3, 0.7))
        else:
            at += float(np.sign(found + 1e-12) * np.clip(abs(found), np.log(1.2), np.log(5.0)))


def squared_errors(module: Module) -> dict[str, float]:
    """Sum of squared code errors by layer."""
    errors = {}
    for layer in module.layers:
        body = layer.at(Programmed)
        difference = body.effective_codes() - body.codes
        errors[layer.name] = float(np.square(difference, dtype=np.float64).sum())
    return errors


def _hold(
    placed: Module, lambda_: float, ratio: float, context: Context
) -> tuple[Module, list[PassRecord]]:
    """Rows matched and codes held at one penalty."""
    run = run_pipeline(
        placed, lossy_steps(placed, lambda_, ratio), context, Options(verify_each=False, count_each=False)
    )
    return run.module, run.records


def _lossless(placed: Module, context: Context, curve: list[Point], notes: list[str]) -> Tuned:
    """Level 2 when the budget allows nothing."""
    text = level_text(2, pairs=free_pairs(placed))
    run = run_pipeline(placed, parse_pipeline(text)[len(parse_pipeline(LEVELS[2])) - 1 :], context)
    return Tuned(finish(run.module), text, run.records, curve, notes)


def add_sensitivities(
    imported: Imported, data: DataSet, context: Context, notes: list[str], meter: Meter
) -> None:
    """Puts second derivatives on a few samples into the context unless it has some; a note says why not."""
    if SENSITIVITIES in context.data:
        return
    with meter.measure(SENSITIVITY_RUNS):
        _find_sensitivities(imported, data, context, notes)


def _find_sensitivities(imported: Imported, data: DataSet, context: Context, notes: list[str]) -> None:
    from xbc.sensitivity.diagonal import data_port, model_sensitivities

    try:
        port = data_port(imported)
        x = data.inputs[port.name][:SENSITIVITY_SAMPLES]
        # one thread: sums in another order would move the penalties by the last digits
        found = model_sensitivities(imported, x, progress=context.progress, threads=1)
    except XbcError as error:
        notes.append(f"all weights count alike, there are no sensitivities: {error}")
        return
    context.data |= {SENSITIVITIES: found.layers, "sensitivities_loss": found.loss}


def bound_error(placed: Module, max_error: float, context: Context) -> Tuned:
    """Holds codes so that the root mean square code error of every layer is at most ``max_error`` LSB.

    Each layer has a penalty of its own, bisected over ``ERROR_ROUNDS`` rounds.  Then those penalties that kept
    the bound are used together; layers that leave it all the same, because another one changed what their
    crossbars held, are made stricter until none does.
    """
    natural = count_module(natural_module(placed)).steady.total
    names = [layer.name for layer in placed.layers]
    factor = dict.fromkeys(names, 0.05 / max_error**2)
    strict: dict[str, float] = {}
    loose: dict[str, float] = {}
    curve: list[Point] = []
    for turn in range(ERROR_ROUNDS + SETTLING_ROUNDS):
        if turn >= ERROR_ROUNDS:
            factor = {name: strict.get(name, factor[name] * 4) for name in names}
        context.data[GRADES] = {name: uniform(value) for name, value in factor.items()}
        module, records = _hold(placed, 1.0, MATCH_OVER_HOLD, context)
        errors = {layer.name: layer_error(layer.at(Programmed)) for layer in module.layers}
        kept = all(error <= max_error for error in errors.values())
        writes = count_module(module).steady.total
        curve.append(Point(1.0, writes, natural / max(writes, 1), rms_code_error(module), None, None, kept))
        if kept and turn >= ERROR_ROUNDS:
            return Tuned(module, level_text(LOSSY, 1.0, free_pairs(placed)), records, curve, [])
        for name, error in errors.items():
            if error <= max_error:
                strict[name] = min(strict.get(name, factor[name]), factor[name])
            else:
                loose[name] = max(loose.get(name, factor[name]), factor[name])
                if strict.get(name, np.inf) <= loose[name]:
                    del strict[name]
        factor = {name: _between(factor[name], loose.get(name), strict.get(name)) for name in names}
    note = f"no penalties kept every layer within {max_error} LSB: the program is lossless"
    return _lossless(placed, context, curve, [note])


def _between(value: float, loose: float | None, strict: float | None) -> float:
    """Next penalty to try between one that was too loose and one that kept the bound."""
    if loose is None:
        return value / 4
    return value * 4 if strict is None else float(np.sqrt(loose * strict))


def layer_error(body: Programmed) -> float:
    """Root mean square code error of one layer, in LSB."""
    difference = (body.effective_codes() - body.codes).astype(np.float64)
    return float(np.sqrt(np.mean(difference**2))) if difference.size else 0.0


def rms_code_error(module: Module) -> float:
    """Root mean square code error over all weights, in LSB."""
    squares = sum(layer_error(layer.at(Programmed)) ** 2 * layer.weights for layer in module.layers)
    return float(np.sqrt(squares / max(1, module.weights)))
