"""A program at converter or device fidelity, compared with its reference over a set."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Module
from ir.progress import Progress
from ir.target import CALIBRATED
from xbc.simulate.analog import AnalogEngine
from xbc.simulate.data import DataSet
from xbc.simulate.devices import ChipTrial, is_ideal
from xbc.simulate.host import HostSession, Model
from xbc.simulate.memory import Batch, Budget, Store, peak_rss_bytes, release
from xbc.simulate.metrics import Comparison, check_labels
from xbc.simulate.montecarlo import monte_carlo
from xbc.simulate.network import CrossbarSession, Ranges
from xbc.simulate.samples import SampleAxis

COMPARED_SAMPLES = 64
MEASURED_SAMPLES = 64
"""Samples on which every layer is also computed ideally, for its signal-to-noise ratio."""


@dataclass(frozen=True)
class Settings:
    """How a simulation is run.

    Fields:
        fidelity: ``converters`` or ``devices``.
        adc: False: no ADC, column sums as they are.
        percentile: of column sums that calibrated ADC ranges reach up to.
        seed: of the devices.
        trials: chips to simulate at most (devices).
        narrow: stop when the 95 % interval's half width is at most this.
    """

    fidelity: str = "converters"
    adc: bool = True
    percentile: float = 99.99
    seed: int = 0
    trials: int = 5
    narrow: float | None = None


class Simulation:
    """A network whose crossbars are simulated, ready to run.

    Args:
        host: host graph of the program.
        module: as replayed; its target's ``converters`` and ``device`` tables are what is simulated.
        calibration: inputs for calibrated ranges.
        ranges: calibrated ranges that are known already.
        batch: samples per run; with a ``Budget`` the pieces of the layers' matrices shrink with it too.
        axis: as of ``HostSession``.
    Raises: XbcError when a range is to be calibrated and there is no calibration set.
    """

    def __init__(
        self, host: onnx.ModelProto, module: Module, settings: Settings, *,
        calibration: Mapping[str, Array] | None = None, ranges: Ranges | None = None, threads: int = 2,
        batch: Batch = None, axis: SampleAxis | None = None, progress: Progress | None = None,
    ) -> None:  # fmt: skip
        """See the class."""
        self.module, self.settings = module, settings
        self.threads, self.batch = threads, batch
        self.session = CrossbarSession(host, module, adc=settings.adc, threads=threads, axis=axis)
        if isinstance(batch, Budget):
            batch.check("the replayed program")
            for layer in self.session.layers.values():
                layer.chunk_bytes = batch.chunk(layer.chunk_bytes)
        if ranges is not None:
            self.session.adopt(ranges)
        elif self.session.needs_calibration():
            if calibration is None:
                converters = module.target.converters
                inputs = converters.input_range in CALIBRATED
                key, other = ("input_range", "dynamic") if inputs else ("adc_range", "full")
                raise XbcError(
                    f"converters.{key} = {getattr(converters, key)!r} needs calibration inputs: give "
                    f"--calibration SET.npz, or --set converters.{key}={other}"
                )
            self.session.calibrate(
                calibration, percentile=settings.percentile, batch=batch, progress=progress
            )

    def new_chip(self, trial: int) -> None:
        """Programs another chip (device fidelity): all layers get its conductances."""
        for name, conductance in ChipTrial(self.module, self.settings.seed, trial).conductances():
            simulator = self.session.layers.get(name)
            if simulator is not None:
                simulator.multiplier = AnalogEngine(
                    simulator.layer, self.module.target, conductance, adc=self.settings.adc,
                    calibrated=self.session.ranges.get(name), threads=self.threads,
                    seed=(self.settings.seed * 1_000_003 + trial) & 0xFFFFFFFF,
                )  # fmt: skip

    def run(
        self, data: DataSet, *, measure: bool = False, progress: Progress | None = None
    ) -> dict[str, Array]:
        """All outputs, samples first (``session.plan.together``: as the model lays them out)."""
        store = Store(self.session.name)
        self.session.measure(measure)
        for start, out in self.session.stream(data.inputs, batch=self.batch, progress=progress):
            store.add(out)
            if start + len(next(iter(out.values()))) >= MEASURED_SAMPLES:
                self.session.measure(False)
        return store.arrays()

    def layer_facts(self) -> list[dict[str, Any]]:
        """Per layer: signal-to-noise ratio in dB, conversions, clip rate; layers left to the host say why."""
        facts: list[dict[str, Any]] = [
            {
                "layer": r.name,
                "op_type": r.op_type,
                "snr_db": r.snr_db,
                "conversions": r.conversions,
                "clip_rate": r.clip_rate,
            }
            for r in self.session.reports()
        ]
        return facts + [{"layer": name, "ideal": reason} for name, reason in self.session.left]


@dataclass(frozen=True)
class Reference:
    """What the simulated network is compared with: outputs of the reference model over the set."""

    outputs: dict[str, Array]
    data: DataSet
    output: str | None
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, model: Model, data: DataSet, *, output: str | None = None, threads: int = 2,
        batch: Batch = None, axis: SampleAxis | None = None, progress: Progress | None = None,
    ) -> Reference:  # fmt: skip
        """Runs the reference once.  Raises XbcError for an unknown output or labels that do not suit."""
        session = HostSession(model, threads=threads, name="the reference model", axis=axis)
        inputs = {p.name: data.inputs[p.name] for p in session.inputs if p.name in data.inputs}
        _, samples = session.feeds(inputs)
        whole = session.one_input(inputs)
        if not whole:
            check_labels(data.labels, samples)
        names = [p.name for p in session.outputs]
        if output is not None and output not in names:
            raise XbcError(f"the model has no output {output!r}; its outputs: {', '.join(map(repr, names))}")
        outputs = session.collect(inputs, batch=batch, progress=progress)
        check_labels(data.labels, len(outputs[output or names[0]]))
        return cls(outputs, DataSet(inputs, data.labels), output, session.notes)

    def compare(self, outputs: dict[str, Array]) -> dict[str, Any]:
        """Facts of ``Comparison`` for outputs of the simulated network."""
        comparison = Comparison(self.data.labels, self.output)
        lengths = {len(array) for array in self.outputs.values()}
        samples = max(lengths)
        step = (
            COMPARED_SAMPLES if len(lengths) == 1 else max(1, samples)
        )  # one whole input may have outputs of any
        for start in range(0, samples, step):
            part = slice(start, start + step)
            comparison.add(
                {name: array[part] for name, array in self.outputs.items()},
                {name: array[part] for name, array in outputs.items()},
            )
            for array in (*self.outputs.values(), *outputs.values()):
                release(array)
        return comparison.result()


def score(facts: Mapping[str, Any]) -> float:
    """The number that trials and sweeps average: top-1 with labels, else agreement, else minus the error."""
    if facts["compiled"] is not None:
        return float(facts["compiled"])
    if facts["agreement"] is not None:
        return float(facts["agreement"])
    return -float(facts["rms_error"])


def metric_name(facts: Mapping[str, Any]) -> str:
    """What ``score`` is."""
    if facts["compiled"] is not None:
        return "top-1"
    return "agreement" if facts["agreement"] is not None else "minus rms error"


def evaluate(
    reference: Reference, simulation: Simulation, progress: Progress | None = None
) -> dict[str, Any]:
    """Compares the simulated network with its reference.

    Returns: the facts of ``Comparison.result`` (of the last trial), and ``fidelity``, ``layers``,
        ``seconds_per_sample``, ``peak_rss_bytes``, ``notes``; for devices also ``trials``: metric, values,
        mean, 95 % interval, whether it stopped early.
    """
    settings = simulation.settings
    samples = len(next(iter(reference.outputs.values())))
    facts: dict[str, Any] = {}
    spent = 0.0

    def trial(number: int) -> float:
        nonlocal facts, spent
        if settings.fidelity == "devices":
            simulation.new_chip(number)
        simulation.session.reset()
        started = time.perf_counter()
        outputs = simulation.run(reference.data, measure=True, progress=progress)
        spent += time.perf_counter() - started
        facts = reference.compare(outputs)
        return score(facts)

    if settings.fidelity == "devices":
        target = simulation.module.target
        if is_ideal(target.device):
            raise XbcError(
                f"target {target.name!r} describes perfect devices: set some of its device table, e.g. "
                f"--set device.sigma_verified=0.03"
            )
        result = monte_carlo(trial, settings.trials, narrow=settings.narrow, progress=progress)
        if facts["agreement"] is not None:
            result = result.of_a_share()
        trials: dict[str, Any] | None = {"metric": metric_name(facts), **dataclasses.asdict(result)}
    else:
        trial(0)
        trials = None
    runs = 1 if trials is None else len(trials["values"])
    return facts | {
        "fidelity": settings.fidelity,
        "trials": trials,
        "layers": simulation.layer_facts(),
        "seconds_per_sample": spent / samples / runs,
        "peak_rss_bytes": peak_rss_bytes(),
        "notes": list(dict.fromkeys([*reference.notes, *simulation.session.notes])),
    }
