"""Which part of a host graph the curvature crosses, and which elementwise regions count as one function."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import onnx

from ir.errors import XbcError
from xbc.operators import find, operators

CLASSIFIER_TAILS: Final = frozenset(
    {"Softmax", "LogSoftmax", "QuantizeLinear", "DequantizeLinear", "Identity", "Cast"}
)
CUTS: Final = frozenset({"Shape", "Size", "ArgMax", "Equal", "Greater", "Less", "Not"})
"""Operators behind which nothing is differentiable."""


@dataclass(frozen=True)
class Region:
    """Nodes (in graph order) that together are one elementwise function from ``source`` to ``result``."""

    nodes: tuple[int, ...]
    source: str
    result: str


@dataclass
class Plan:
    """The backward pass.

    Fields:
        logits: tensor at which the loss is attached.
        active: tensors that depend on a weight and reach ``logits``.
        steps: node numbers and regions, in backward order.
        tensors: every tensor whose value the steps read, in graph order.
    """

    logits: str
    active: set[str]
    steps: list[int | Region]
    tensors: list[str] = field(default_factory=list)


def make_plan(graph: onnx.GraphProto, weights: set[str], *, strip_softmax: bool) -> Plan:
    """The backward pass of a host graph.

    Args:
        weights: host-graph inputs that hold layer weights.
        strip_softmax: attach the loss before a final Softmax (cross-entropy), not after it.
    Raises: XbcError for an operator on the way that has no rule.
    """
    producer = {name: at for at, node in enumerate(graph.node) for name in node.output if name}
    logits = graph.output[0].name
    while strip_softmax and logits in producer and graph.node[producer[logits]].op_type in CLASSIFIER_TAILS:
        logits = graph.node[producer[logits]].input[0]
    forward = set(weights)
    for node in graph.node:
        if node.op_type not in CUTS and any(name in forward for name in node.input):
            forward.update(name for name in node.output if name)
    reaching = {logits}
    for node in reversed(graph.node):
        if any(name in reaching for name in node.output):
            reaching.update(name for name in node.input if name)
    active = forward & reaching
    used = [
        at
        for at, node in enumerate(graph.node)
        if any(n in active for n in node.input) and any(n in active for n in node.output)
    ]
    for at in used:
        node = graph.node[at]
        operator = find(node.domain, node.op_type)
        if operator is None or not operator.differentiable:
            known = sorted(known.label for known in operators().values() if known.differentiable)
            raise XbcError(
                f"sensitivity: node {node.name!r} is a {node.op_type}, through which no second derivative "
                f"can be carried here; known operators: {', '.join(known)}"
            )
    return _with_tensors(graph, Plan(logits, active, _steps(graph, active, used)))


def _steps(graph: onnx.GraphProto, active: set[str], used: list[int]) -> list[int | Region]:
    regions = _regions(graph, active, used)
    inside = {at for region in regions for at in region.nodes}
    ends = {region.nodes[-1]: region for region in regions}
    steps: list[int | Region] = []
    for at in reversed(used):
        if at in ends:
            steps.append(ends[at])
        elif at not in inside:
            steps.append(at)
    return steps


def _regions(graph: onnx.GraphProto, active: set[str], used: list[int]) -> list[Region]:
    """Elementwise functions of one tensor that is used more than once: GELU, SiLU, hard swish written out.

    Taken node by node, the recursion would add the squares of two paths that start at the same element
    instead of squaring their sum.
    """
    producer = {name: at for at in used for name in graph.node[at].output if name}
    readers: dict[str, set[int]] = {}
    for at in used:
        for name in graph.node[at].input:
            readers.setdefault(name, set()).add(at)
    regions: list[Region] = []
    taken: set[int] = set()
    for at in reversed(used):
        node = graph.node[at]
        if at in taken or not _elementwise(node) or sum(n in active for n in node.input) < 2:
            continue
        members, frontier = {at}, {n for n in node.input if n in active}
        while len(frontier) > 1:
            last = max(frontier, key=lambda name: producer.get(name, -1))
            maker = producer.get(last, -1)
            if maker < 0 or not _elementwise(graph.node[maker]) or not readers[last] <= members:
                break
            members.add(maker)
            frontier = (frontier - {last}) | {n for n in graph.node[maker].input if n in active}
        if len(frontier) == 1 and not members & taken:
            regions.append(Region(tuple(sorted(members)), frontier.pop(), node.output[0]))
            taken |= members
    return regions


def _elementwise(node: onnx.NodeProto) -> bool:
    operator = find(node.domain, node.op_type)
    return operator is not None and operator.slopes is not None


def _with_tensors(graph: onnx.GraphProto, plan: Plan) -> Plan:
    wanted = {plan.logits}
    for step in plan.steps:
        for at in step.nodes if isinstance(step, Region) else (step,):
            wanted.update(n for n in (*graph.node[at].input, *graph.node[at].output) if n)
    order = [i.name for i in graph.input] + [t.name for t in graph.initializer]
    order += [name for node in graph.node for name in node.output if name]
    plan.tensors = [name for name in order if name in wanted]
    return plan
