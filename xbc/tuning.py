"""Loss-driven partial reprogramming: the fewest writes whose loss on calibration data stays in a budget.

One penalty per network is searched; how it divides over the layers comes from the second derivative of
the loss (``xbc sensitivity``) on a few calibration samples.  The samples used here are never those the result
is reported on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Module
from ir.stages import Programmed
from passes.base import Context, Pass
from passes.counting import count_module, natural_module
from passes.manager import Options, PassRecord, finish, run_pipeline
from passes.pairs import free_pairs
from passes.penalty import GRADES, SENSITIVITIES, uniform
from passes.pipeline import LEVELS, LOSSY, level_text, narrow, parse_pipeline
from xbc.frontend import Imported, host_with_weights, module_tensors
from xbc.simulate.data import DataSet
from xbc.simulate.host import HostSession
from xbc.simulate.metrics import Comparison

FIRST, STEP, LOWEST, HIGHEST = 0.1, 3.0, 1e-3, 10.0
REFINEMENTS = 2
FLIPS_PER_DROP = 4.0
"""Changed predictions allowed per point of drop: on a few hundred samples the drop itself may look good by luck."""
SENSITIVITY_SAMPLES = 12
ERROR_ROUNDS = 5
SETTLING_ROUNDS = 6


@dataclass(frozen=True)
class Point:
    """One program tried.

    Fields:
        lambda_: penalty of ``reprogram``.
        writes, reduction: steady state per inference, against natural order.
        rms_error: root mean square code error over all weights, in LSB.
        drop, agreement: on the calibration samples (drop None without labels).
        expected_drop: likewise, see ``expected_drop``.
        accepted: inside the budget.
    """

    lambda_: float
    writes: int
    reduction: float
    rms_error: float
    drop: float | None
    agreement: float | None
    accepted: bool
    expected_drop: float | None = None

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


def split(data: DataSet) -> tuple[DataSet, DataSet]:
    """Even samples to calibrate, odd ones to report.  Raises XbcError for fewer than two samples."""
    samples = len(next(iter(data.inputs.values())))
    if samples < 2:
        raise XbcError(
            f"--data has {samples} sample(s): one half calibrates, the other is reported; give more"
        )
    halves = []
    for start in (0, 1):
        labels = None if data.labels is None else data.labels[start::2]
        halves.append(DataSet({name: array[start::2] for name, array in data.inputs.items()}, labels))
    return halves[0], halves[1]


class Judge:
    """Compares a module's effective weights with the unmodified model on fixed samples."""

    def __init__(self, source: Path, imported: Imported, data: DataSet, context: Context) -> None:
        """Runs the unmodified model once over ``data``."""
        self.imported, self.data, self.threads = imported, data, context.threads
        session = HostSession(source, threads=self.threads, name="the unmodified model")
        self.inputs = {p.name: data.inputs[p.name] for p in session.inputs if p.name in data.inputs}
        self.wanted = session.run(
            self.inputs, progress=lambda what, done, total: context.progress("unmodified model", done, total)
        )
        self.progress = context.progress

    def __call__(self, module: Module) -> dict[str, Any]:
        """The facts of ``xbc evaluate`` for a module at stage Programmed."""
        codes = {layer.name: layer.at(Programmed).effective_codes() for layer in module.layers}
        model = host_with_weights(self.imported.host, module_tensors(module, codes))
        session = HostSession(model, threads=self.threads, name="the compiled model")
        outputs = session.run(
            self.inputs, progress=lambda what, done, total: self.progress("evaluating", done, total)
        )
        comparison = Comparison(self.data.labels, None)
        comparison.add(self.wanted, {name: outputs[name] for name in self.wanted})
        result = comparison.result()
        name = result["output"]
        return result | {"expected_drop": expected_drop(self.wanted[name], outputs[name], self.data.labels)}


def expected_drop(reference: Array, compiled: Array, labels: Array | None) -> float | None:
    """Mean probability of the right class that is lost: the drop of a classifier that draws its answers.

    It moves with every sample, where top-1 moves with the few that change sides, so that a search meets fewer
    lucky ones.  Outputs ``[samples, classes]`` are probabilities or logits; None without a label per sample.
    """
    if labels is None or labels.ndim != 1 or reference[0].size < 2:
        return None
    chance = []
    for output in (reference, compiled):
        flat = output.reshape(len(output), -1).astype(np.float64)
        given = bool(flat.min() >= 0 and np.allclose(flat.sum(1), 1, atol=1e-3))
        chance.append((flat if given else softmax(flat, axis=1))[np.arange(len(labels)), labels])
    return float(np.mean(chance[0] - chance[1]))


def prepare(
    module: Module, context: Context, options: Options, outputs: int = 0
) -> tuple[Module, list[PassRecord]]:
    """The part of level 3 that does not depend on the penalty: up to placed sections (``outputs``: see ``narrow``)."""
    steps = [step for step in parse_pipeline(narrow(LEVELS[2], outputs)) if step.name != "match-rows"]
    run = run_pipeline(module, steps, context, options)
    return run.module, run.records


def tune(
    placed: Module, imported: Imported, source: Path, data: DataSet, max_drop: float, context: Context
) -> Tuned:
    """Searches the penalty of fewest writes whose top-1 drop on ``data`` is at most ``max_drop`` points.

    Without labels the budget bounds the share of changed predictions.  When nothing fits, the lossless
    program is returned and a note says so.
    """
    notes: list[str] = []
    if SENSITIVITIES not in context.data:
        _add_sensitivities(imported, data, context, notes)
    judge = Judge(source, imported, data, context)
    natural = count_module(natural_module(placed)).steady.total
    curve: list[Point] = []
    best: list[tuple[Module, list[PassRecord], float]] = []

    def attempt(lambda_: float) -> bool:
        module, records = _hold(placed, lambda_, context)
        facts = judge(module)
        if facts["agreement"] is None:
            raise XbcError("--max-drop needs a classifier: the model's output has one value; use --max-error")
        changed = 1 - facts["agreement"]
        drop = facts["drop"]
        limit = max_drop / 100
        expected = facts["expected_drop"]
        fits = changed <= limit if drop is None else drop <= limit and changed <= FLIPS_PER_DROP * limit
        fits = fits and (expected is None or expected <= limit)
        accepted = bool(fits)
        writes = count_module(module).steady.total
        reduction = natural / writes if writes else float("inf")
        curve.append(
            Point(lambda_, writes, reduction, rms_code_error(module), drop, facts["agreement"], accepted, expected)
        )
        if accepted and (not best or writes < min(p.writes for p in curve[:-1] if p.accepted)):
            best[:] = [(module, records, lambda_)]
        return accepted

    _search(attempt)
    curve.sort(key=lambda p: p.lambda_)
    if not best:
        notes.append(
            f"no penalty kept the drop within {max_drop} points on the calibration samples: the program is "
            f"lossless (trade-off curve in the manifest)"
        )
        return _lossless(placed, context, curve, notes)
    module, records, lambda_ = best[0]
    return Tuned(module, level_text(LOSSY, lambda_, free_pairs(placed)), records, curve, notes)


def _search(attempt: Callable[[float], bool]) -> None:
    """Steps down from ``FIRST`` while the budget holds (up while it does not), then bisects the logarithm."""
    lambda_ = FIRST
    good = attempt(lambda_)
    inside = outside = None
    while LOWEST < lambda_ < HIGHEST:
        if good:
            inside, lambda_ = lambda_, lambda_ / STEP
        else:
            outside, lambda_ = lambda_, lambda_ * STEP
        if inside is not None and outside is not None:
            break
        found = attempt(lambda_)
        if found != good:
            inside, outside = (lambda_, outside) if found else (inside, lambda_)
            break
    if inside is None or outside is None:
        return
    for _ in range(REFINEMENTS):
        middle = float(np.sqrt(inside * outside))
        if attempt(middle):
            inside = middle
        else:
            outside = middle


def _hold(placed: Module, lambda_: float, context: Context) -> tuple[Module, list[PassRecord]]:
    """Rows matched and codes held at one penalty."""
    steps = _from_rows(level_text(LOSSY, lambda_, free_pairs(placed)))
    run = run_pipeline(placed, steps, context, Options(verify_each=False, count_each=False))
    return run.module, run.records


def _lossless(placed: Module, context: Context, curve: list[Point], notes: list[str]) -> Tuned:
    """Level 2 when the budget allows nothing."""
    text = level_text(2, pairs=free_pairs(placed))
    run = run_pipeline(placed, _from_rows(text), context)
    return Tuned(finish(run.module), text, run.records, curve, notes)


def _from_rows(text: str) -> list[Pass]:
    """The passes of a level behind its placed sections."""
    return parse_pipeline(text)[len(parse_pipeline(LEVELS[2])) - 1 :]


def _add_sensitivities(imported: Imported, data: DataSet, context: Context, notes: list[str]) -> None:
    from xbc.sensitivity.diagonal import data_port, model_sensitivities

    try:
        port = data_port(imported)
        x = data.inputs[port.name][:SENSITIVITY_SAMPLES]
        found = model_sensitivities(imported, x, progress=context.progress, threads=context.threads)
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
        module, records = _hold(placed, 1.0, context)
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
