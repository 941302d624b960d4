"""A host graph cut at its crossbar nodes: onnxruntime runs what lies between, the simulator runs the nodes.

A node's *level* is the largest number of crossbar nodes on a path to it.  All other nodes of one level form
one segment, an ONNX model of its own; segment k runs before the crossbar nodes of level k + 1.  So any graph
shape works: branches, residuals, products of two activations (they stay inside segments).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from ir.arrays import Array
from ir.errors import XbcError
from xbc.frontend.statics import reads
from xbc.operators import attributes, find
from xbc.operators.call import Call
from xbc.operators.definition import Simulation
from xbc.simulate.layer import LayerSimulator

Layers = Mapping[str, Mapping[int, LayerSimulator]]
"""Node name -> operand index -> layer."""


@dataclass(eq=False)
class Segment:
    """Host nodes of one level: a session, the values it takes and gives."""

    session: ort.InferenceSession
    takes: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(eq=False)
class Crossbar:
    """A node that runs on crossbars."""

    node: onnx.NodeProto
    simulate: Simulation
    attrs: dict[str, Any]
    layers: Mapping[int, LayerSimulator]
    operands: tuple[str | None, ...]


@dataclass(eq=False)
class Branch:
    """An If whose bodies hold crossbar nodes: each body is cut in its turn."""

    node: onnx.NodeProto
    condition: str
    bodies: tuple[Partition, Partition]
    takes: tuple[str, ...]

    def run(self, values: Mapping[str, Array]) -> list[Array]:
        """Outputs of the body that the condition chooses."""
        body = self.bodies[0 if bool(values[self.condition].reshape(-1)[0]) else 1]
        return body.run(None, {name: values[name] for name in body.inputs})


Step = Segment | Crossbar | Branch


@dataclass(eq=False)
class Partition:
    """The cut graph, run like an onnxruntime session.

    Fields:
        steps: in order.
        constants: values known before any run.
        frees: per step, values not needed after it.
        inputs, outputs: names of what the graph takes (weights are not among them) and gives.
        ports: onnxruntime session of the whole host graph, which knows their types.
    """

    steps: tuple[Step, ...]
    constants: dict[str, Array]
    frees: tuple[tuple[str, ...], ...]
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    ports: ort.InferenceSession

    def get_inputs(self) -> list[Any]:
        """The model's inputs (those that take weights are not among them)."""
        return [p for p in self.ports.get_inputs() if p.name in self.inputs]

    def get_outputs(self) -> list[Any]:
        """The model's outputs."""
        return [p for p in self.ports.get_outputs() if p.name in self.outputs]

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """Values of the named outputs, like ``onnxruntime.InferenceSession.run``."""
        values: dict[str, Array] = {**self.constants, **feeds}
        for step, freed in zip(self.steps, self.frees, strict=True):
            if isinstance(step, Segment):
                got = step.session.run(list(step.gives), {name: values[name] for name in step.takes})
                values.update(zip(step.gives, got, strict=True))
            elif isinstance(step, Branch):
                values.update(zip(step.node.output, step.run(values), strict=True))
            else:
                operands = [None if name is None else values[name] for name in step.operands]
                made = step.simulate(Call(step.node, step.attrs, operands, step.layers))
                values.update((n, v) for n, v in zip(step.node.output, made, strict=False) if n)
            for name in freed:
                values.pop(name, None)
        return [values[name] for name in (names or self.outputs)]


def left_to_host(node: onnx.NodeProto) -> str | None:
    """Why a node with layers cannot be simulated (it then computes with ideal weights), or None."""
    operator = find(node.domain, node.op_type)
    if operator is None or operator.simulate is None:
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        return f"operator {name} has no crossbar simulation"
    return operator.not_simulated(attributes(node))


def partition(
    host: onnx.ModelProto, layers: Layers, weights: Mapping[str, Array], *, threads: int = 2
) -> Partition:
    """Cuts ``host``.

    Args:
        host: host graph of a program; weight operands are graph inputs.
        layers: crossbar layers of the nodes to simulate (top-level nodes that ``left_to_host`` admits).
        weights: host input name -> tensor, for all other layers.
        threads: of onnxruntime.
    Raises: XbcError when a segment cannot be built.
    """
    graph = host.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    constants.update(weights)
    on_chip = {node.input[operand] for node in _all_nodes(graph) for operand in layers.get(node.name, {})}
    inputs = tuple(i.name for i in graph.input if i.name not in on_chip and i.name not in weights)
    cut = {node.name for node in graph.node if node.name in layers or _holds(node, layers)}
    level: dict[str, int] = {}
    static: set[str] = set(constants)
    groups: dict[int, list[onnx.NodeProto]] = {}
    crossbars: dict[int, list[onnx.NodeProto]] = {}
    folded: list[onnx.NodeProto] = []
    for node in graph.node:
        takes = [n for n in reads(node) if n and n not in on_chip]
        depth = max((level.get(n, 0) for n in takes), default=0)
        if node.name in cut:
            crossbars.setdefault(depth, []).append(node)
            depth += 1
        elif all(n in static for n in takes) and not _random(node):
            folded.append(node)
            static.update(node.output)
        else:
            groups.setdefault(depth, []).append(node)
        for name in node.output:
            level[name] = depth

    outputs = tuple(o.name for o in graph.output)
    types = _Types(host, threads)
    steps: list[Step] = []
    wanted = _wanted(graph, layers, groups, crossbars, outputs)
    if folded:
        made = {n for node in folded for n in node.output if n}
        gives = tuple(sorted(made & (wanted["static"] | set(outputs))))
        segment = types.segment(folded, gives, set(constants))
        if gives:
            got = segment.session.run(list(gives), {n: constants[n] for n in segment.takes})
            constants.update(zip(gives, got, strict=True))
    for depth in range(max([*groups, *crossbars], default=0) + 1):
        if depth in groups:
            made = {n for node in groups[depth] for n in node.output if n}
            gives = tuple(sorted(made & (wanted[depth] | set(outputs))))
            if gives:
                steps.append(types.segment(groups[depth], gives, set(constants)))
        for node in crossbars.get(depth, ()):
            if node.name not in layers:
                steps.append(_branch(node, layers, on_chip, types))
                continue
            mine = layers[node.name]
            operands = tuple(None if not n or i in mine else n for i, n in enumerate(node.input))
            operator = find(node.domain, node.op_type)
            assert operator is not None
            assert operator.simulate is not None  # left_to_host would have said so
            steps.append(Crossbar(node, operator.simulate, attributes(node), mine, operands))
    kept = {name for step in steps for name in _needs(step)} | set(outputs)
    constants = {name: value for name, value in constants.items() if name in kept}
    return Partition(tuple(steps), constants, _frees(steps, outputs, constants), outputs, inputs, types.whole)


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of a graph and of the bodies in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in [attribute.g, *attribute.graphs]:
                yield from _all_nodes(body)


def branch_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of a graph and of the bodies of its Ifs: those that can be cut out."""
    for node in graph.node:
        yield node
        if node.op_type == "If" and not node.domain:
            for attribute in node.attribute:
                yield from branch_nodes(attribute.g)


def _holds(node: onnx.NodeProto, layers: Layers) -> bool:
    """Whether a node is an If with crossbar nodes in its bodies."""
    if node.op_type != "If" or node.domain:
        return False
    return any(child.name in layers for a in node.attribute for child in branch_nodes(a.g))


def _branch(node: onnx.NodeProto, layers: Layers, on_chip: set[str], types: _Types) -> Branch:
    graphs = {a.name: a.g for a in node.attribute}
    bodies = []
    for name in ("then_branch", "else_branch"):
        model = onnx.ModelProto(ir_version=types.host.ir_version)
        model.opset_import.extend(types.host.opset_import)
        model.functions.extend(types.host.functions)
        model.graph.CopyFrom(graphs[name])
        own = {t.name for t in model.graph.initializer} | {n for x in model.graph.node for n in x.output}
        needed = dict.fromkeys(n for child in model.graph.node for n in reads(child))
        needed |= dict.fromkeys(o.name for o in model.graph.output)
        model.graph.input.extend(types.value(n) for n in needed if n and n not in own)
        bodies.append(partition(model, layers, {}, threads=types.threads))
    first, second = bodies
    takes = tuple(dict.fromkeys((node.input[0], *first.inputs, *second.inputs)))
    return Branch(node, node.input[0], (first, second), takes)


def _random(node: onnx.NodeProto) -> bool:
    return node.op_type.startswith("Random") or node.op_type in ("Multinomial", "Bernoulli")


def _wanted(
    graph: onnx.GraphProto, layers: Layers, groups: Mapping[int, list[onnx.NodeProto]],
    crossbars: Mapping[int, list[onnx.NodeProto]], outputs: Sequence[str],
) -> dict[int | str, set[str]]:  # fmt: skip
    """Names that are read outside the group that makes them; key ``static``: outside the folded nodes."""
    by_group = {depth: {n for node in nodes for n in reads(node)} for depth, nodes in groups.items()}
    by_bars = {n for nodes in crossbars.values() for node in nodes for n in reads(node)}
    out: dict[int | str, set[str]] = {"static": set().union(by_bars, *by_group.values())}
    for depth in groups:
        others = [names for other, names in by_group.items() if other != depth]
        out[depth] = set().union(by_bars, *others)
    return out


class _Types:
    """Types of all values, from an onnxruntime session that was asked for them; makes segments."""

    def __init__(self, host: onnx.ModelProto, threads: int) -> None:
        self.host, self.threads = host, threads
        probe = onnx.ModelProto()
        probe.CopyFrom(host)
        have = {o.name for o in probe.graph.output}
        for node in probe.graph.node:
            for name in node.output:
                if name and name not in have:
                    probe.graph.output.append(onnx.ValueInfoProto(name=name))
                    have.add(name)
        self.whole = self._session(probe, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
        self.types = {p.name: p.type for p in [*self.whole.get_inputs(), *self.whole.get_outputs()]}
        for tensor in host.graph.initializer:
            self.types.setdefault(tensor.name, _NAMES.get(tensor.data_type, "unknown"))

    def segment(self, nodes: list[onnx.NodeProto], gives: tuple[str, ...], constants: set[str]) -> Segment:
        """A model of these nodes; small constants stand inside it."""
        made = {n for node in nodes for n in node.output}
        needed = [n for n in dict.fromkeys(n for node in nodes for n in reads(node)) if n and n not in made]
        inside = [t for t in self.host.graph.initializer if t.name in set(needed)]
        names = {t.name for t in inside}
        takes = tuple(n for n in needed if n not in names)
        model = onnx.ModelProto(ir_version=self.host.ir_version)
        model.opset_import.extend(self.host.opset_import)
        model.functions.extend(self.host.functions)
        model.graph.name = "segment"
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(inside)
        model.graph.input.extend(self.value(n) for n in takes)
        model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in gives)
        session = self._session(model, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
        return Segment(session, takes, gives)

    def value(self, name: str) -> onnx.ValueInfoProto:
        """The name with its type, as a graph input."""
        kind = self.types[name]
        inner = kind.removeprefix("tensor(").removesuffix(")")
        if inner not in _ELEMENT:
            raise XbcError(
                f"value {name!r} between host and crossbars is of type {kind}; only tensors can cross: "
                f"use the ideal fidelity for this model"
            )
        info = onnx.ValueInfoProto(name=name)
        info.type.tensor_type.elem_type = _ELEMENT[inner]
        return info

    def _session(self, model: onnx.ModelProto, level: ort.GraphOptimizationLevel) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = level
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # one per segment would keep the values of every level at once
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises many kinds, none of them documented
            if level != ort.GraphOptimizationLevel.ORT_DISABLE_ALL:
                return self._session(model, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
            raise XbcError(f"onnxruntime cannot load a part of the host graph: {error}") from None


_ELEMENT = {
    "float": onnx.TensorProto.FLOAT, "double": onnx.TensorProto.DOUBLE, "float16": onnx.TensorProto.FLOAT16,
    "int8": onnx.TensorProto.INT8, "uint8": onnx.TensorProto.UINT8, "int16": onnx.TensorProto.INT16,
    "uint16": onnx.TensorProto.UINT16, "int32": onnx.TensorProto.INT32, "uint32": onnx.TensorProto.UINT32,
    "int64": onnx.TensorProto.INT64, "uint64": onnx.TensorProto.UINT64, "bool": onnx.TensorProto.BOOL,
}  # fmt: skip
_NAMES = {kind: f"tensor({name})" for name, kind in _ELEMENT.items()}


def _needs(step: Step) -> tuple[str, ...]:
    if not isinstance(step, Crossbar):
        return step.takes
    return tuple(n for n in step.operands if n is not None)


def _frees(
    steps: Sequence[Step], outputs: Sequence[str], constants: Mapping[str, Array]
) -> tuple[tuple[str, ...], ...]:
    """After each step: values that no later step reads."""
    last: dict[str, int] = {}
    for i, step in enumerate(steps):
        made = step.gives if isinstance(step, Segment) else tuple(step.node.output)
        for name in (*_needs(step), *made):
            last[name] = i
    keep = {*outputs, *constants}
    return tuple(
        tuple(name for name, at in last.items() if at == i and name not in keep) for i in range(len(steps))
    )


def input_grid(host: onnx.ModelProto, value: str) -> tuple[Array, Array] | None:
    """(scale, zero point) when ``value`` is dequantised right before it is used, else None."""
    producers = {name: node for node in host.graph.node for name in node.output}
    constants = {t.name: t for t in host.graph.initializer}
    passing = {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "MaxPool"}
    node = producers.get(value)
    while node is not None and node.op_type in passing and node.domain == "":
        node = producers.get(node.input[0])
    if node is None or node.op_type != "DequantizeLinear" or node.input[1] not in constants:
        return None
    scale = numpy_helper.to_array(constants[node.input[1]])
    if scale.size != 1 or len(node.input) < 3 or node.input[2] not in constants:
        return None
    zero = numpy_helper.to_array(constants[node.input[2]])
    if zero.dtype not in (np.uint8, np.int8, np.uint16, np.int16):
        return None
    return scale.reshape(()).astype(np.float32), zero.reshape(())
