"""What a compiled module loses on samples: the comparison that -O3 searches by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Module
from ir.stages import Programmed
from passes.base import Context
from xbc.budget.meter import Meter
from xbc.frontend import Imported, host_with_weights, module_tensors
from xbc.simulate.data import DataSet
from xbc.simulate.host import HostSession
from xbc.simulate.metrics import Comparison
from xbc.simulate.samples import SampleAxis

EVALUATIONS = "evaluations"
"""What a ``Meter`` calls runs of a model."""
FLIPS_PER_DROP = 4.0
"""Changed predictions allowed per point of drop: on a few hundred samples the drop itself may look good by luck."""


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


def check_samples(session: HostSession, data: DataSet) -> None:
    """Raises XbcError when the set is one whole input: it has no samples to be counted or split."""
    if len(next(iter(data.inputs.values()))) > 1 and session.one_input(data.inputs):
        raise XbcError(
            "--data is one whole input, its rows are no samples: give several inputs, with one more axis in front that "
            "counts them"
        )


class Judge:
    """Compares a module's effective weights with the unmodified model on fixed samples."""

    def __init__(
        self, source: Path, imported: Imported, data: DataSet, context: Context, meter: Meter | None = None
    ) -> None:
        """Runs the unmodified model once over ``data``; ``meter`` measures all runs."""
        self.imported, self.data, self.threads = imported, data, context.threads
        self.meter = meter or Meter()
        with self.meter.measure(EVALUATIONS):
            self._run_unmodified(source, data, context)

    def _run_unmodified(self, source: Path, data: DataSet, context: Context) -> None:
        self.axis = SampleAxis(self.imported.host)
        session = HostSession(source, threads=self.threads, name="the unmodified model", axis=self.axis)
        self.inputs = {p.name: data.inputs[p.name] for p in session.inputs if p.name in data.inputs}
        self.wanted = session.collect(
            self.inputs, progress=lambda what, done, total: context.progress("unmodified model", done, total)
        )
        self.progress = context.progress

    def __call__(self, module: Module, codes: dict[str, Array] | None = None) -> dict[str, Any]:
        """The facts of ``xbc evaluate`` for a module at stage Programmed; ``codes`` as of ``effective_codes``."""
        codes = effective_codes(module) if codes is None else codes
        with self.meter.measure(EVALUATIONS):
            return self._compare(module, codes)

    def _compare(self, module: Module, codes: dict[str, Array]) -> dict[str, Any]:
        model = host_with_weights(self.imported.host, module_tensors(module, codes))
        session = HostSession(model, threads=self.threads, name="the compiled model", axis=self.axis)
        outputs = session.collect(
            self.inputs, progress=lambda what, done, total: self.progress("evaluating", done, total)
        )
        comparison = Comparison(self.data.labels, None)
        comparison.add(self.wanted, {name: outputs[name] for name in self.wanted})
        result = comparison.result()
        name = result["output"]
        return result | {"expected_drop": expected_drop(self.wanted[name], outputs[name], self.data.labels)}


def effective_codes(module: Module) -> dict[str, Array]:
    """By layer name, what the crossbars compute with."""
    return {layer.name: layer.at(Programmed).effective_codes() for layer in module.layers}


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


def severity_of(facts: dict[str, Any], limit: float) -> float:
    """The largest share of its limit that a measure of loss takes; at most 1 is inside the budget."""
    changed = 1 - facts["agreement"]
    if facts["drop"] is None:
        return float(changed / limit)
    shares = [facts["drop"] / limit, changed / (FLIPS_PER_DROP * limit)]
    if facts["expected_drop"] is not None:
        shares.append(facts["expected_drop"] / limit)
    return float(max(shares))
