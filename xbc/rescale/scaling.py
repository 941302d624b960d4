"""Rescaling between layers, so that all layers share one weight (or activation) full scale.

Every float tensor t of the host graph gets a positive factor a_t and carries t / a_t instead.  Operators that
are positively homogeneous (ReLU, pooling, residual sums, ...) tie the factors of what they connect; a layer
y = W x + b becomes W a_x / a_y and b / a_y, so that max|W| of every layer can be moved; a batch norm takes any
factors, a layer norm any at its output.  In front of an operator of another kind, and of the graph's
outputs, a digital gain undoes the factor. The function is the same up to float rounding; how equal the
scales can become depends on the residual sums, and is the solution of a linear programme in the logarithms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import onnx
import scipy.optimize
from onnx import helper, numpy_helper

from ir.arrays import Array
from ir.errors import XbcError
from ir.stages import Float
from xbc.frontend import Imported, host_with_weights, module_tensors
from xbc.rescale.names import Names, read_names

Balance = Literal["weights", "activations", "both"]

HOMOGENEOUS: Final = frozenset({
    "Abs", "AveragePool", "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GlobalAveragePool",
    "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "Neg", "ReduceMean", "ReduceSum", "Relu", "Reshape",
    "Slice", "Split", "Squeeze", "Sum", "Transpose", "Unsqueeze",
})  # fmt: skip
"""f(a x) = a f(x) for a > 0; all data inputs and outputs share one factor."""
SHAPE_ONLY: Final = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class Rescaled:
    """A rescaled model.

    Fields:
        model: whole and runnable, the same function.
        before, after: layer name -> max|W|.
        activations_before, activations_after: layer name -> largest input magnitude on the calibration data
            (empty without).
        gains: how many digital gains were inserted.
    """

    model: onnx.ModelProto
    before: dict[str, float]
    after: dict[str, float]
    activations_before: dict[str, float]
    activations_after: dict[str, float]
    gains: int


def rescale_model(
    imported: Imported, *, balance: Balance = "weights", calibration: Array | None = None
) -> Rescaled:
    """The model with factors that make its layers' full scales as equal as they can be.

    Args:
        imported: a float model.
        balance: what to make equal: max|W| of all layers, the largest input magnitude of all layers, or both
            in a compromise (their worst ratios, in logarithms, are minimised with equal weight).
        calibration: ``[samples, ...]`` inputs, needed when activations count.
    Raises: XbcError for a quantised model, or missing calibration data.
    """
    for layer in imported.module.layers:
        if not isinstance(layer.body, Float):
            raise XbcError(
                f"rescale: layer {layer.name!r} is quantised already, its integer codes cannot take a new scale: "
                f"rescale the float model before it is quantised"
            )
    peaks = _input_peaks(imported, calibration)
    if balance != "weights" and not peaks:
        raise XbcError(f"rescale: balance={balance} needs calibration data")
    graph = _Factors(imported.host.graph, imported)
    tensors = module_tensors(imported.module)
    before = {x.name: float(np.abs(tensors[x.origin.tensor]).max()) for x in imported.module.layers}
    logs = graph.solve(before, peaks, balance)
    gains = graph.apply(logs, tensors)
    model = host_with_weights(graph.model, tensors)
    after = {x.name: float(np.abs(tensors[x.origin.tensor]).max()) for x in imported.module.layers}
    moved = {name: peak / graph.factor(logs, graph.layers[name][0]) for name, peak in peaks.items()}
    return Rescaled(model, before, after, peaks, moved, gains)


def spread(values: Mapping[str, float]) -> float:
    """Largest over smallest."""
    return max(values.values()) / min(values.values()) if values else 1.0


@dataclass
class _Factors:
    """The ties between tensors' factors, as a union-find over tensor names."""

    graph: onnx.GraphProto
    imported: Imported
    parent: dict[str, str] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)
    layers: dict[str, tuple[str, str]] = field(default_factory=dict)
    norms: list[int] = field(default_factory=list)
    layer_norms: list[int] = field(default_factory=list)
    barriers: dict[int, list[int]] = field(default_factory=dict)
    tied: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Reads the graph."""
        self.model = onnx.ModelProto()
        self.model.CopyFrom(self.imported.host)
        self.graph = self.model.graph
        self.taken = Names(self.graph)
        self.constants = {t.name: t for t in self.graph.initializer}
        self.by_node: dict[str, list[Any]] = {}
        for layer in self.imported.module.layers:
            self.by_node.setdefault(layer.origin.node, []).append(layer)
        weights = {layer.origin.tensor for layer in self.imported.module.layers}
        for value in self.graph.input:
            if value.name not in weights and value.name not in self.constants:
                self.fixed.add(value.name)
        for at, node in enumerate(self.graph.node):
            self._read(at, node)

    def find(self, name: str) -> str:
        """Representative of a tensor's group."""
        self.parent.setdefault(name, name)
        while self.parent[name] != name:
            self.parent[name] = self.parent[self.parent[name]]
            name = self.parent[name]
        return name

    def _tie(self, names: list[str]) -> None:
        for other in names[1:]:
            self.parent[self.find(other)] = self.find(names[0])

    def _data(self, node: onnx.NodeProto) -> list[int]:
        """Places of the inputs that the output is made of: not shapes, axes, indices."""
        return list(range(len(node.input) if node.op_type in ("Add", "Sub", "Sum", "Concat") else 1))

    def _tie_node(self, at: int, node: onnx.NodeProto) -> None:
        """One factor for all that is computed; constants among the inputs are scaled by it."""
        self.tied.add(at)
        computed = [node.input[i] for i in self._data(node) if node.input[i] not in self.constants]
        self._tie([*computed, *(n for n in node.output if n)])

    def _read(self, at: int, node: onnx.NodeProto) -> None:
        for attribute in node.attribute:  # what the bodies of a control flow read cannot carry a factor
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                self.fixed.update(read_names(body))
        mapped = self.by_node.get(node.name, [])
        if node.op_type in ("Conv", "Gemm", "MatMul") and len(mapped) == 1 and mapped[0].origin.operand == 1:
            free = node.op_type != "Gemm" or len(node.input) < 3 or node.input[2] in self.constants
            if free and (len(node.input) < 3 or not node.input[2] or node.input[2] in self.constants):
                self.layers[mapped[0].name] = (node.input[0], node.output[0])
                return
        if node.op_type == "BatchNormalization" and all(n in self.constants for n in node.input[1:5]):
            self.norms.append(at)
            return
        if node.op_type == "LayerNormalization" and all(n in self.constants for n in node.input[1:] if n):
            self.layer_norms.append(at)
            self.barriers[at] = [0]
            return
        if node.op_type in ("Add", "Sub") or node.op_type in HOMOGENEOUS or self._zero_pad(node):
            self._tie_node(at, node)
            return
        if node.op_type in SHAPE_ONLY:
            return
        inside = [i for i, n in enumerate(node.input) if n and n not in self.constants]
        self.barriers[at] = inside
        self.fixed.update(n for n in node.output if n)

    def _zero_pad(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Pad" or any(a.name == "mode" and a.s != b"constant" for a in node.attribute):
            return False
        if len(node.input) < 3 or not node.input[2]:
            return True
        value = self.constants.get(node.input[2])
        return value is not None and not numpy_helper.to_array(value).any()

    def solve(
        self, weights: Mapping[str, float], peaks: Mapping[str, float], balance: Balance
    ) -> dict[str, float]:
        """Group -> log factor.

        Minimises the worst |log(max|W| a_x / a_y) - m| over layers, the worst |log(peak / a_x) - p|, or
        their sum; among equals, the smallest factors.
        """
        groups = sorted({self.find(n) for pair in self.layers.values() for n in pair} | self._norm_groups())
        held = {self.find(n) for n in self.fixed}
        free = [g for g in groups if g not in held]
        column = {g: i for i, g in enumerate(free)}
        n = len(free)
        # variables: log factors, their magnitudes, m, p, worst weight, worst activation
        size = 2 * n + 4
        rows: list[Array] = []
        limits: list[float] = []

        def bound(terms: Mapping[int, float], constant: float, slack: int) -> None:
            for sign in (1.0, -1.0):  # |terms + constant| <= slack
                row = np.zeros(size)
                for i, v in terms.items():
                    row[i] += sign * v
                row[slack] -= 1
                rows.append(row)
                limits.append(-sign * constant)

        for name, (x, y) in self.layers.items():
            terms: dict[int, float] = {2 * n: -1.0}
            for tensor, sign in ((x, 1.0), (y, -1.0)):
                at = column.get(self.find(tensor))
                if at is not None:
                    terms[at] = terms.get(at, 0.0) + sign
            if balance != "activations" and weights[name] > 0:
                bound(terms, float(np.log(weights[name])), 2 * n + 2)
            if balance != "weights" and peaks[name] > 0:
                at = column.get(self.find(x))
                own = {2 * n + 1: -1.0} | ({} if at is None else {at: -1.0})
                bound(own, float(np.log(peaks[name])), 2 * n + 3)
        for i in range(n):
            bound({i: 1.0}, 0.0, n + i)
        cost = np.concatenate([np.zeros(n), np.full(n, 1e-4 / max(1, n)), [0, 0, 1, 1]])
        found = scipy.optimize.linprog(
            cost, A_ub=np.array(rows) if rows else None, b_ub=np.array(limits) if rows else None,
            bounds=[(None, None)] * n + [(0, None)] * n + [(None, None)] * 2 + [(0, None)] * 2, method="highs",
        )  # fmt: skip
        if not found.success:
            raise RuntimeError(f"the scaling programme has no solution: {found.message}")
        solution = np.asarray(found.x)
        return {g: float(solution[i]) for g, i in column.items()}

    def _norm_groups(self) -> set[str]:
        ends = [n for at in self.norms for n in (self.graph.node[at].input[0], self.graph.node[at].output[0])]
        ends += [self.graph.node[at].output[0] for at in self.layer_norms]
        return {self.find(n) for n in ends}

    def factor(self, logs: Mapping[str, float], tensor: str) -> float:
        """The factor a_t of a tensor."""
        return float(np.exp(logs.get(self.find(tensor), 0.0)))

    def apply(self, logs: Mapping[str, float], tensors: dict[str, Array]) -> int:
        """Writes the factors into weights, biases, norms and constants; returns the gains inserted."""
        for layer in self.imported.module.layers:
            if layer.name not in self.layers:
                continue
            x, y = (self.factor(logs, n) for n in self.layers[layer.name])
            held = tensors[layer.origin.tensor]
            tensors[layer.origin.tensor] = (held * (x / y)).astype(held.dtype)
        owners = {x.origin.node: x.name for x in self.imported.module.layers if x.name in self.layers}
        for at, node in enumerate(self.graph.node):
            if node.name in owners and len(node.input) > 2 and node.input[2]:
                self._scale(node, 2, 1 / self.factor(logs, node.output[0]))
            elif at in self.norms:
                x, y = self.factor(logs, node.input[0]), self.factor(logs, node.output[0])
                for operand, by in ((1, x / y), (2, 1 / y), (3, 1 / x)):
                    self._scale(node, operand, by)
            elif at in self.layer_norms:
                for operand in range(1, len(node.input)):
                    if node.input[operand]:
                        self._scale(node, operand, 1 / self.factor(logs, node.output[0]))
            elif at in self.tied:
                for operand in self._data(node):
                    if node.input[operand] in self.constants:
                        self._scale(node, operand, 1 / self.factor(logs, node.output[0]))
        return self._gains(logs)

    def _scale(self, node: onnx.NodeProto, operand: int, by: float) -> None:
        """Gives the node its own scaled copy of a constant operand."""
        if by == 1:
            return
        old = numpy_helper.to_array(self.constants[node.input[operand]])
        name = self.taken.fresh(f"{node.name or node.output[0]}.rescaled.{operand}")
        self.graph.initializer.append(numpy_helper.from_array((old * by).astype(old.dtype), name))
        node.input[operand] = name

    def _gains(self, logs: Mapping[str, float]) -> int:
        """Undoes factors in front of other operators and of the outputs."""
        made: dict[str, str] = {}
        before: dict[int, list[onnx.NodeProto]] = {}

        def gained(name: str, at: int) -> str:
            factor = self.factor(logs, name)
            if abs(np.log(factor)) < 1e-9:
                return name
            if name not in made:
                made[name] = self.taken.fresh(f"{name}.gained")
                constant = self.taken.fresh(f"{name}.gain")
                self.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), constant))
                node = helper.make_node("Mul", [name, constant], [made[name]], name=made[name])
                before.setdefault(at, []).append(node)
            return made[name]

        for at, operands in self.barriers.items():
            node = self.graph.node[at]
            for operand in operands:
                node.input[operand] = gained(node.input[operand], at)
        end = len(self.graph.node)
        for value in self.graph.output:
            inner = gained(value.name, end)
            if inner != value.name:  # the output keeps its name, the scaled tensor gets another
                scaled = self.taken.fresh(f"{value.name}.scaled")
                for node in self.graph.node:
                    for names in (node.input, node.output):
                        for i, name in enumerate(names):
                            if name == value.name:
                                names[i] = scaled
                for nodes in before.values():
                    for node in nodes:
                        if node.output[0] == inner:
                            node.input[0], node.output[0] = scaled, value.name
                            for other in self.graph.node:
                                for i, name in enumerate(other.input):
                                    if name == inner:
                                        other.input[i] = value.name
        nodes = []
        for at, node in enumerate([*self.graph.node, None]):
            nodes += before.get(at, [])
            if node is not None:
                nodes.append(node)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        used = {name for node in self.graph.node for name in node.input}
        kept = [t for t in self.graph.initializer if t.name in used]
        copied = [onnx.TensorProto.FromString(t.SerializeToString()) for t in kept]
        del self.graph.initializer[:]
        self.graph.initializer.extend(copied)
        del self.graph.value_info[:]
        return len(made)


def _input_peaks(imported: Imported, calibration: Array | None) -> dict[str, float]:
    """Layer name -> largest input magnitude over the calibration data."""
    if calibration is None:
        return {}
    from xbc.rescale.proof import tensor_peaks

    nodes = {node.name: node for node in imported.host.graph.node}
    names = {x.name: nodes[x.origin.node].input[0] for x in imported.module.layers}
    peaks = tensor_peaks(imported, sorted(set(names.values())), calibration)
    return {layer: peaks[tensor] for layer, tensor in names.items()}
