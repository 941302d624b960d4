"""Loss-driven partial reprogramming: the fewest writes whose loss on calibration data stays in a budget.

One penalty per network is searched; how it divides over the layers comes from the second derivative of
the loss (``xbc sensitivity``) on a few calibration samples, and so does the penalty the search begins with.  The
samples used here are never those the result is reported on.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ir.errors import XbcError
from ir.module import Module
from ir.stages import Sliced
from passes.base import Context
from passes.counting import count_module
from passes.manager import Options, PassRecord, finish, run_pipeline
from passes.pipeline import AS_IT_IS, Pipeline, Shape
from xbc.budget.judge import Judge
from xbc.budget.meter import Meter
from xbc.budget.quantisers import Candidate, finalists, may_choose, rank
from xbc.budget.steps import Prepared, hold_steps, is_wide, lossless_steps, placing_steps, prepare
from xbc.budget.trial import LOSS_PER_DROP, Point, Trial, search
from xbc.frontend import Imported
from xbc.simulate.data import DataSet

SENSITIVITY_SAMPLES = 12
MOMENT_SAMPLES = 64
MOMENT_RUNS = "second moments"
SENSITIVITY_RUNS = "sensitivities"
"""What a ``Meter`` calls the making of second derivatives."""


@dataclass(frozen=True)
class Tuned:
    """Outcome: the module at stage Programmed, the passes behind placed sections, their records, curve, notes."""

    module: Module
    steps: Pipeline
    records: list[PassRecord]
    curve: list[Point]
    notes: list[str]


def tune(placed: Module, judge: Judge, max_drop: float, context: Context) -> Tuned:
    """Searches the penalty of fewest writes whose top-1 drop on ``judge``'s samples is at most ``max_drop`` points.

    Without labels the budget bounds the share of changed predictions.  When nothing fits, the lossless
    program is returned and a note says so.
    """
    trial = Trial(placed, judge, max_drop / 100, context)
    search(trial, trial.first())
    trial.curve.sort(key=lambda p: p.lambda_)
    if trial.best is None:
        low, high = trial.curve[0].lambda_, trial.curve[-1].lambda_
        note = (
            f"none of {len(trial.curve)} programs, lambda {low:.3g} to {high:.3g}, has a drop within {max_drop} points "
            f"on the calibration samples: the program is lossless"
        )
        return lossless(placed, context, trial.curve, [note])
    module, records, lambda_ = trial.best
    steps = hold_steps(placed, lambda_, trial.ratio, trial.grades, is_wide(context))
    return Tuned(module, steps, trial.total(records), trial.curve, [])


@dataclass(frozen=True)
class Chosen:
    """The tuned program, what its sections were placed by, rows of candidates."""

    tuned: Tuned
    prepared: Prepared
    candidates: list[dict[str, Any]]


def tune_best(
    module: Module, judge: Judge, max_drop: float, context: Context, options: Options,
    shape: Shape = AS_IT_IS, choose: bool = True,
) -> Chosen:  # fmt: skip
    """``tune``, with ``choose`` by the way to quantise that leaves the fewest writes, else as ``shape`` says."""
    ranked: list[Candidate] = []
    tried = [shape.quantize]
    if choose and not is_wide(context) and may_choose(module, context):
        ranked = rank(module, LOSS_PER_DROP * max_drop / 100, context, shape)
        tried = [candidate.options for candidate in finalists(ranked)]
    best: Chosen | None = None
    best_options = ""
    written: dict[str, int] = {}
    for text in tried:
        prepared = prepare(module, context, options, dataclasses.replace(shape, quantize=text))
        tuned = tune(prepared.module, judge, max_drop, context)
        written[text] = count_module(tuned.module).steady.total
        if best is None or written[text] < written[best_options]:
            best, best_options = Chosen(tuned, prepared, []), text
    assert best is not None
    rows = [
        c.facts() | {"writes": written.get(c.options), "chosen": c.options == best_options} for c in ranked
    ]
    return dataclasses.replace(best, candidates=rows)


def lossless(placed: Module, context: Context, curve: list[Point], notes: list[str]) -> Tuned:
    """-O2 when the budget allows nothing."""
    steps = lossless_steps(placed, is_wide(context))
    run = run_pipeline(placed, steps, context)
    return Tuned(finish(run.module), steps, run.records, curve, notes)


def add_sensitivities(
    imported: Imported, data: DataSet, context: Context, notes: list[str], meter: Meter
) -> Context:
    """The context with second derivatives on a few samples unless it has some; a note says why not."""
    if context.sensitivities is not None:
        return context
    from xbc.sensitivity.diagonal import data_port, model_sensitivities

    with meter.measure(SENSITIVITY_RUNS):
        try:
            x = data.inputs[data_port(imported).name][:SENSITIVITY_SAMPLES]
            # one thread: sums in another order would move the penalties by the last digits
            found = model_sensitivities(imported, x, progress=context.progress, threads=1)
        except XbcError as error:
            notes.append(f"all weights count alike, there are no sensitivities: {error}")
            return context
    return dataclasses.replace(context, sensitivities=found)


def add_moments(
    imported: Imported, data: DataSet, context: Context, notes: list[str], meter: Meter, shape: Shape
) -> Context:
    """The context with second moments of all layers' inputs, where -O3 is to decide words by trellis: outputs share
    rows that hold runs of inputs, the adders take digits, and words are short enough."""
    from passes.trellis import supported
    from xbc.simulate.moments import input_moments

    target = imported.module.target
    if (
        target.adders == "fixed"
        or target.outputs_per_section == 1
        or target.routing == "gather"
        or shape.spare
    ):
        return context
    sliced = run_pipeline(imported.module, placing_steps(shape).until("form-sections"), context).module
    reason = next(filter(None, (supported(layer.at(Sliced)) for layer in sliced.layers)), None)
    if reason is not None:
        notes.append(f"column weights stay those of the encoding: of one layer, {reason}")
        return context
    inputs = {name: array[:MOMENT_SAMPLES] if array.ndim else array for name, array in data.inputs.items()}
    with meter.measure(MOMENT_RUNS):
        found = input_moments(
            imported.host, sliced, inputs, threads=context.threads, progress=context.progress
        )
    notes += found.notes
    return dataclasses.replace(context, moments=found.moments)
