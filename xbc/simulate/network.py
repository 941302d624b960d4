"""A whole network on crossbars: the emitted program at converter or device fidelity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Layer, Module
from ir.progress import Progress
from ir.stages import Programmed
from ir.target import CALIBRATED, Converters, Target
from xbc.frontend.weights import layer_tensor
from xbc.simulate.converters import Coding, InputScale, check_converters
from xbc.simulate.engine import IntegerEngine
from xbc.simulate.exact import exact
from xbc.simulate.expand import expand
from xbc.simulate.feeds import Port
from xbc.simulate.host import HostSession, _port
from xbc.simulate.layer import Extremes, LayerSimulator, Signal
from xbc.simulate.memory import Batch
from xbc.simulate.partition import Partition, branch_nodes, input_grid, left_to_host, partition
from xbc.simulate.plan import Plan
from xbc.simulate.samples import SampleAxis


@dataclass(frozen=True)
class LayerReport:
    """What one layer did.

    Fields:
        snr_db: of its outputs against float products with the same weights and inputs; NaN if not measured.
        conversions, clipped: of its ADCs.
    """

    name: str
    op_type: str
    snr_db: float
    conversions: int
    clipped: int

    @property
    def clip_rate(self) -> float:
        """Fraction of conversions that were clipped."""
        return self.clipped / self.conversions if self.conversions else 0.0


@dataclass(frozen=True)
class Ranges:
    """What calibration fixes.

    Fields:
        inputs: layer -> smallest and largest input; empty when input ranges are not calibrated.
        sums: layer -> largest column sum of each converter class; empty when ADC ranges are not calibrated.
    """

    inputs: Mapping[str, Extremes]
    sums: Mapping[str, tuple[int, ...]]


class CrossbarSession(HostSession):
    """A network whose layers are simulated; used like a ``HostSession``.

    Args:
        host: host graph of the program.
        module: layers at stage Programmed, as replayed.
        converters: replaces the target's converter settings.
        adc: False: no ADC, column sums as they are.
        threads: for onnxruntime and the compiled loops.
        axis: as of ``HostSession``.
    Fields:
        layers: the simulated ones by name.
        left: (layer, why) of layers that compute with ideal weights in onnxruntime.
    """

    def __init__(
        self, host: onnx.ModelProto, module: Module, *, converters: Converters | None = None,
        adc: bool = True, threads: int = 2,
        name: str = "the simulated model", axis: SampleAxis | None = None,
    ) -> None:  # fmt: skip
        """See the class."""
        self.name, self.axis, self.plan = name, axis or SampleAxis(host), Plan(1)
        self.module = module
        self.target: Target = module.target
        self.converters = check_converters(converters or module.target.converters)
        self.adc = adc
        self.threads = threads
        self.left: list[tuple[str, str]] = []
        self.histograms: dict[str, Array] = {}
        self.ranges: dict[str, tuple[int, ...]] = {}
        host = expand(host, module)
        held = {layer.origin.node for layer in module.layers}
        simulated = {
            node.name for node in branch_nodes(host.graph) if node.name in held and not left_to_host(node)
        }
        rewritten = exact(host, skip=simulated)
        host, self.notes = rewritten.model, rewritten.notes()
        nodes = {node.name: node for node in branch_nodes(host.graph)}
        by_node: dict[str, dict[int, LayerSimulator]] = {}
        weights: dict[str, Array] = {}
        self.layers: dict[str, LayerSimulator] = {}
        for layer in module.layers:
            node = nodes.get(layer.origin.node)
            reason = (
                "it stands inside a loop or function body of the graph"
                if node is None
                else left_to_host(node)
            )
            if reason is not None:
                codes = layer.at(Programmed).effective_codes()
                weights[layer.origin.tensor] = layer_tensor(layer, codes)
                self.left.append((layer.name, reason))
                continue
            assert node is not None
            simulator = self._simulator(layer, host, node)
            self.layers[layer.name] = simulator
            by_node.setdefault(node.name, {})[layer.origin.operand] = simulator
        self._partition: Partition = partition(host, by_node, weights, threads=threads)
        self._session: Any = self._partition
        self.inputs: tuple[Port, ...] = tuple(_port(p) for p in self._partition.get_inputs())
        self.outputs: tuple[Port, ...] = tuple(_port(p) for p in self._partition.get_outputs())
        if self.left:
            listed = ", ".join(name for name, _ in self.left[:4]) + (", ..." if len(self.left) > 4 else "")
            self.notes += (
                f"{len(self.left)} of {len(module.layers)} layers compute with ideal weights ({listed}): "
                f"{self.left[0][1]}",
            )

    def _simulator(self, layer: Layer, host: onnx.ModelProto, node: onnx.NodeProto) -> LayerSimulator:
        multiplier = IntegerEngine(layer, self.target, self.converters, adc=self.adc, threads=self.threads)
        effective = multiplier.effective
        taken = {layer.origin.operand for layer in self.module.layers if layer.origin.node == node.name}
        operand = next((i for i in (0, 1) if i not in taken), 0)
        given = input_grid(host, node.input[operand])
        grid = None
        if given is not None:
            scale, zero = given
            info = np.iinfo(zero.dtype)
            grid = InputScale(Coding(info.bits, info.min < 0), scale, zero.astype(np.int32))
        return LayerSimulator(layer, multiplier, effective, self.converters, grid)

    def needs_calibration(self) -> bool:
        """Whether some range is to come from calibration inputs."""
        return self.converters.input_range in CALIBRATED or (
            self.adc and self.converters.adc_range in CALIBRATED
        )

    def calibrate(
        self, inputs: Mapping[str, Array], *, percentile: float = 99.99, batch: Batch = None,
        progress: Progress | None = None,
    ) -> None:  # fmt: skip
        """Fixes the calibrated ranges: first those of the inputs, then those of the ADCs.

        Args:
            inputs: calibration inputs; the layers compute with ideal converters on them.
            percentile: of the column sums, that an ADC's range reaches up to.
        """
        if not 0 < percentile <= 100:
            raise XbcError(f"a calibration percentile of {percentile} is outside 0..100")
        if self.converters.input_range in CALIBRATED:
            for layer in self.layers.values():
                layer.calibrating, layer.extremes = True, Extremes()
            self._drain(inputs, batch, progress)
            for layer in self.layers.values():
                layer.calibrating = False
            if self.converters.input_range == "shared":
                self._share_inputs()
        if self.adc and self.converters.adc_range in CALIBRATED:
            self.histograms = {}
            for name, layer in self.layers.items():
                layer.count_sums, layer.counted = self._counter(name), 0
            self._drain(inputs, batch, progress)
            for name, layer in self.layers.items():
                layer.count_sums = None
                self.ranges[name] = _percentiles(self.histograms[name], percentile)
            if self.converters.adc_range == "shared":
                largest = max((max(sums) for sums in self.ranges.values()), default=0)
                self.ranges = dict.fromkeys(self.ranges, (largest,))
            for name, sums in self.ranges.items():
                self._engine(name).set_ranges(sums)

    def _share_inputs(self) -> None:
        """One full scale for the inputs of all layers; a layer that saw no negative input stays unsigned."""
        seen = [layer.extremes for layer in self.layers.values() if layer.given is None]
        reach = max((max(-x.low, x.high) for x in seen), default=0.0)
        for extremes in seen:
            extremes.low, extremes.high = -reach if extremes.low < 0 else 0.0, reach

    def calibration(self) -> Ranges:
        """What ``calibrate`` found, for another session of the same program to ``adopt``."""
        inputs = {name: layer.extremes for name, layer in self.layers.items() if layer.extremes.samples}
        return Ranges(inputs, dict(self.ranges))

    def adopt(self, ranges: Ranges) -> None:
        """Takes the ranges of a session that differs in nothing that column sums depend on."""
        for name, extremes in ranges.inputs.items():
            self.layers[name].extremes = extremes
        for name, sums in ranges.sums.items():
            self.ranges[name] = sums
            self._engine(name).set_ranges(sums)

    def _drain(self, inputs: Mapping[str, Array], batch: Batch, progress: Progress | None) -> None:
        watch = None if progress is None else (lambda _, done, total: progress("calibrating", done, total))
        for _ in self.stream(inputs, batch=batch, progress=watch):
            pass

    def _engine(self, name: str) -> IntegerEngine:
        engine = self.layers[name].multiplier
        assert isinstance(engine, IntegerEngine)
        return engine

    def _counter(self, name: str) -> Callable[[Array, Coding], None]:
        engine = self._engine(name)

        def count(columns: Array, coding: Coding) -> None:
            seen = engine.calibrate(columns, coding)
            self.histograms[name] = _added(self.histograms.get(name), seen)

        return count

    def measure(self, on: bool) -> None:
        """Switches the comparison of every layer with its ideal outputs."""
        for layer in self.layers.values():
            layer.measure = on

    def reports(self) -> list[LayerReport]:
        """What each simulated layer did since the last ``reset``."""
        out = []
        for name, layer in self.layers.items():
            counts = getattr(layer.multiplier, "counts", layer.counts)
            op_type = layer.layer.origin.op_type
            out.append(LayerReport(name, op_type, layer.signal.snr_db, counts.conversions, counts.clipped))
        return out

    def reset(self) -> None:
        """Forgets the statistics."""
        for layer in self.layers.values():
            layer.signal = Signal()
            counts = getattr(layer.multiplier, "counts", layer.counts)
            counts.conversions = counts.clipped = 0


def _added(a: Array | None, b: Array) -> Array:
    if a is None:
        return b
    out = np.zeros((len(b), max(a.shape[1], b.shape[1])), np.int64)
    out[:, : a.shape[1]] += a
    out[:, : b.shape[1]] += b
    return out


def _percentiles(histogram: Array, percentile: float) -> tuple[int, ...]:
    """Per class: smallest sum that at least this share of all sums does not exceed."""
    below = np.cumsum(histogram, axis=1)
    wanted = below[:, -1:] * (percentile / 100)
    return tuple(int(k) for k in (below < wanted).sum(axis=1))


def converter_settings(target: Target, settings: Mapping[str, Any]) -> Converters:
    """The target's converters with some fields replaced, checked.

    Raises: XbcError for an unknown field, a wrong type or settings that contradict each other.
    """
    changed = target.override({f"converters.{key}": value for key, value in settings.items()})
    return check_converters(changed.converters)
