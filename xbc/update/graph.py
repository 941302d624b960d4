"""Whether two host graphs are the same graph: nodes, wiring, attributes; the values of weights do not count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from ir.errors import XbcError

Ids = dict[str, object]
"""Name of a tensor -> where it comes from; the same in two graphs that differ in names only."""
Port = tuple[str, int, tuple[int | None, ...]]


def check_same_graph(deployed: onnx.ModelProto, new: onnx.ModelProto) -> None:
    """Raises XbcError that names the first difference between the host graphs of two versions of a network."""
    different = _graphs(deployed.graph, new.graph, {}, {}, "")
    if different:
        raise XbcError(
            f"update: the new model is another network: {different}; compile it as a program of its own"
        )


def _graphs(a: GraphProto, b: GraphProto, outer_a: Ids, outer_b: Ids, where: str) -> str | None:
    """The first difference in words."""
    ids: list[Ids] = []
    for graph, outer in ((a, outer_a), (b, outer_b)):
        known: Ids = {**outer, "": None}
        known |= {x.name: (where, "input", i) for i, x in enumerate(graph.input)}
        known |= {x.name: _constant(x) for x in graph.initializer}
        known |= {
            x.values.name: ("sparse", _constant(x.values), tuple(x.dims)) for x in graph.sparse_initializer
        }
        ids.append(known)
    for what, many_a, many_b in (("input", a.input, b.input), ("output", a.output, b.output)):
        signs = [_ports(many_a, not where), _ports(many_b, not where)]
        if signs[0] != signs[1]:
            return f"it has the {what}s {_show(signs[1])}, the deployed one {_show(signs[0])}"
    for i, (x, y) in enumerate(zip(a.node, b.node, strict=False)):
        here = f"{where}/{i}"
        different = _nodes(x, y, ids[0], ids[1], here)
        if different:
            return different
        for node, known in ((x, ids[0]), (y, ids[1])):
            known |= {name: (here, k) for k, name in enumerate(node.output) if name}
    if len(a.node) != len(b.node):
        return f"it has {len(b.node)} nodes, the deployed one {len(a.node)}"
    if [ids[0].get(x.name) for x in a.output] != [ids[1].get(x.name) for x in b.output]:
        return "its outputs come from other nodes"
    return None


def _nodes(a: NodeProto, b: NodeProto, ids_a: Ids, ids_b: Ids, here: str) -> str | None:
    name = f"node {b.name!r}" if b.name else f"the {b.op_type} that makes {b.output[0]!r}"
    if (a.op_type, a.domain, len(a.output)) != (b.op_type, b.domain, len(b.output)):
        return f"{name} is a {b.op_type}, where the deployed one has a {a.op_type}"
    if [ids_a.get(x, x) for x in a.input] != [ids_b.get(x, x) for x in b.input]:
        return f"{name} ({b.op_type}) reads other tensors, or some of another type or shape"
    found: list[Mapping[str, AttributeProto]] = [{x.name: x for x in node.attribute} for node in (a, b)]
    for key in sorted({*found[0], *found[1]}):
        one, other = found[0].get(key), found[1].get(key)
        if one is None or other is None or _attribute(one) != _attribute(other):
            return f"{name} ({b.op_type}) has another attribute {key}"
        for one_body, other_body in zip(_bodies(one), _bodies(other), strict=True):
            different = _graphs(one_body, other_body, ids_a, ids_b, f"{here}.{key}")
            if different:
                return different
    return None


def _attribute(x: AttributeProto) -> object:
    """Everything but the values of float tensors and the bodies, which are compared on their own."""
    tensors = [_constant(t) for t in ([x.t] if x.type == AttributeProto.TENSOR else x.tensors)]
    if x.type in (AttributeProto.TENSOR, AttributeProto.TENSORS):
        return (x.type, tensors)
    if x.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        return (x.type, len(_bodies(x)))
    copy = AttributeProto()
    copy.CopyFrom(x)
    copy.ClearField("doc_string")
    return copy.SerializeToString(deterministic=True)


def _bodies(x: AttributeProto) -> list[GraphProto]:
    return [x.g] if x.type == AttributeProto.GRAPH else list(x.graphs)


def _constant(tensor: TensorProto) -> object:
    """Type and shape; int64 and bool tensors are shapes, axes and switches, so their values count too."""
    fixed = tensor.data_type in (TensorProto.INT64, TensorProto.BOOL)
    values = numpy_helper.to_array(tensor).tobytes() if fixed else None
    return ("constant", tensor.data_type, tuple(tensor.dims), values)


def _ports(ports: Iterable[ValueInfoProto], named: bool) -> list[Port]:
    """Name (of the model's own ports), type and fixed sizes."""
    return [
        (x.name if named else "", x.type.tensor_type.elem_type,
         tuple(d.dim_value or None for d in x.type.tensor_type.shape.dim) if named else ())
        for x in ports
    ]  # fmt: skip


def _show(ports: list[Port]) -> str:
    return ", ".join(f"{name!r} {list(shape)}" for name, _, shape in ports) or "none"
