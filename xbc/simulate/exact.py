"""Products of 8-bit integers in the one form that onnxruntime computes exactly on every processor.

On x86 without VNNI its u8 x s8 kernels add two products in 16 bits and clip the pair at 32767, and ConvInteger
takes s8 inputs for u8 where the weights are u8.  u8 x u8 has neither: so every signed operand and its zero point
are raised by 128, which changes no product of differences, and a signed result is lowered again.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, inliner, numpy_helper

from ir.errors import XbcError

MS = "com.microsoft"
S8, U8 = TensorProto.INT8, TensorProto.UINT8


@dataclass(frozen=True)
class Operands:
    """Where an operator has its 8-bit tensors.

    Fields:
        pairs: (operand, its zero point) of the factors.
        result: index of the zero point that gives the output its type, None where the output is wider.
    """

    pairs: tuple[tuple[int, int], ...]
    result: int | None = None


PRODUCTS = {
    ("", "MatMulInteger"): Operands(((0, 2), (1, 3))),
    ("", "ConvInteger"): Operands(((0, 2), (1, 3))),
    ("", "QLinearMatMul"): Operands(((0, 2), (3, 5)), 7),
    ("", "QLinearConv"): Operands(((0, 2), (3, 5)), 7),
    (MS, "QLinearConv"): Operands(((0, 2), (3, 5)), 7),
    (MS, "QGemm"): Operands(((0, 2), (3, 5)), 8),
    (MS, "MatMulIntegerToFloat"): Operands(((0, 4), (1, 5))),
    (MS, "DynamicQuantizeMatMul"): Operands(((1, 3),)),
    (MS, "DynamicQuantizeLSTM"): Operands(((1, 9), (2, 11))),
    (MS, "QAttention"): Operands(((0, 6), (1, 7))),
}


@dataclass
class Exact:
    """A model whose integer products are exact.

    Fields:
        changed: names of the nodes that were rewritten.
        unknown: nodes that were left as they are, because the type of an operand cannot be told.
    """

    model: onnx.ModelProto
    changed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def notes(self) -> tuple[str, ...]:
        """What a user should know: where onnxruntime alone answers otherwise, and what was not understood."""
        found = []
        if self.changed and saturates():
            found.append(
                "products of 8-bit integers are computed exactly; onnxruntime's own u8 x s8 kernels clip sums on "
                "this processor, so the model run by it alone may answer otherwise"
            )
        if self.unknown:
            found.append(
                f"integer products have operands of an unknown type (first node: {_short(self.unknown[0])}): "
                f"onnxruntime's own kernels compute them, which clip sums on some processors"
            )
        return tuple(found)


def has_products(path: str | os.PathLike[str]) -> bool:
    """Whether a model file may hold such operators: their names stand in it as plain text."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(content.find(op.encode()) >= 0 for op in {op for _, op in PRODUCTS})
    except (OSError, ValueError):  # whoever opens the model says what is wrong with it
        return False


def exact(model: onnx.ModelProto, skip: Collection[str] = ()) -> Exact:
    """The model with exact integer products; itself where nothing is to change.

    Args:
        model: is not changed.
        skip: names of nodes to leave alone.
    """
    functions = [node for function in model.functions for node in function.node]
    if any(_is_product(node, skip) for node in functions):
        model = inliner.inline_local_functions(model)
    if not _any_product(model.graph, skip):
        return Exact(model)
    out = onnx.ModelProto()
    out.CopyFrom(model)
    result = Exact(out)
    taken = {n for node in model.graph.node for n in (*node.input, *node.output)}
    prefix = "xbc.exact"
    while any(name.startswith(prefix) for name in taken):
        prefix += "_"
    _Rewriter(result, frozenset(skip), prefix).graph(out.graph, {})
    if not result.changed:
        return Exact(model, unknown=result.unknown)
    shift = np.array(128, np.int32)
    out.graph.initializer.append(numpy_helper.from_array(shift, f"{prefix}.128"))
    out.graph.initializer.append(numpy_helper.from_array(shift.astype(np.uint8), f"{prefix}.zero"))
    return result


def _any_product(graph: onnx.GraphProto, skip: Collection[str]) -> bool:
    return any(
        _is_product(node, skip) or any(_any_product(body, skip) for body in _bodies(node))
        for node in graph.node
    )


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [body for a in node.attribute for body in ([a.g] if a.HasField("g") else a.graphs)]


def _is_product(node: onnx.NodeProto, skip: Collection[str]) -> bool:
    return (node.domain, node.op_type) in PRODUCTS and node.name not in skip


class _Rewriter:
    """Goes through a graph and its bodies."""

    def __init__(self, result: Exact, skip: frozenset[str], prefix: str) -> None:
        self.result, self.skip, self.prefix, self.made = result, skip, prefix, 0

    def graph(self, graph: onnx.GraphProto, outer: Mapping[str, int]) -> None:
        """Rewrites in place; ``outer`` holds the types of the names around a body."""
        types = dict(outer)
        types.update((t.name, t.data_type) for t in graph.initializer)
        types.update((v.name, v.type.tensor_type.elem_type) for v in (*graph.value_info, *graph.input))
        nodes: list[onnx.NodeProto] = []
        raised: dict[str, str] = {}
        for node in graph.node:
            for body in _bodies(node):
                self.graph(body, types)
            kinds = _output_types(node, types)
            if _is_product(node, self.skip):
                self._product(node, types, raised, nodes)
            else:
                nodes.append(node)
            types.update((name, kind) for name, kind in kinds.items() if name not in types or kind)
        kept = [_copy(node) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)

    def _product(
        self,
        node: onnx.NodeProto,
        types: Mapping[str, int],
        raised: dict[str, str],
        nodes: list[onnx.NodeProto],
    ) -> None:
        where = PRODUCTS[(node.domain, node.op_type)]
        given = [_input(node, pair[0]) for pair in where.pairs]
        zeros = [_input(node, pair[1]) for pair in where.pairs]
        kinds = [types.get(x) or types.get(z) for x, z in zip(given, zeros, strict=True)]
        result = "" if where.result is None else _input(node, where.result)
        if any(kind not in (S8, U8) for kind in kinds) or (result and types.get(result) not in (S8, U8)):
            self.result.unknown.append(node.name or node.output[0])
            nodes.append(node)
            return
        signed = S8 in kinds
        low = bool(result) and types[result] == S8
        if not signed and not low:
            nodes.append(node)
            return
        self.result.changed.append(node.name or node.output[0])
        node = _copy(node)
        for pair, kind, zero in zip(where.pairs, kinds, zeros, strict=True):
            if kind == S8:
                node.input[pair[0]] = self._raise(node.input[pair[0]], raised, nodes)
                _set(node, pair[1], self._raise(zero, raised, nodes) if zero else f"{self.prefix}.zero")
        if not low:
            nodes.append(node)
            return
        assert where.result is not None
        _set(node, where.result, self._raise(result, raised, nodes))
        output = node.output[0]
        node.output[0] = self._name()
        nodes.append(node)
        wide, lower = self._name(), self._name()
        nodes.append(helper.make_node("Cast", [node.output[0]], [wide], to=TensorProto.INT32))
        nodes.append(helper.make_node("Sub", [wide, f"{self.prefix}.128"], [lower]))
        nodes.append(helper.make_node("Cast", [lower], [output], to=S8))

    def _raise(self, name: str, raised: dict[str, str], nodes: list[onnx.NodeProto]) -> str:
        """The name of an s8 tensor plus 128, as u8."""
        if name not in raised:
            wide, higher, raised[name] = self._name(), self._name(), self._name()
            nodes.append(helper.make_node("Cast", [name], [wide], to=TensorProto.INT32))
            nodes.append(helper.make_node("Add", [wide, f"{self.prefix}.128"], [higher]))
            nodes.append(helper.make_node("Cast", [higher], [raised[name]], to=U8))
        return raised[name]

    def _name(self) -> str:
        self.made += 1
        return f"{self.prefix}.{self.made}"


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    out = onnx.NodeProto()
    out.CopyFrom(node)
    return out


def _input(node: onnx.NodeProto, index: int) -> str:
    return node.input[index] if index < len(node.input) else ""


def _set(node: onnx.NodeProto, index: int, name: str) -> None:
    node.input.extend("" for _ in range(index + 1 - len(node.input)))
    node.input[index] = name


_TYPED_BY = {"QuantizeLinear": 2, "QLinearConv": 7, "QLinearMatMul": 7, "QGemm": 8, "Where": 1}
"""Operand that gives the output its type, where it is not the first."""


def _output_types(node: onnx.NodeProto, types: Mapping[str, int]) -> dict[str, int]:
    """Types of the outputs as far as 8-bit products depend on them; 0: not known."""
    attributes = {a.name: a for a in node.attribute}
    if node.op_type == "Cast":
        kind = attributes["to"].i
    elif node.op_type == "DynamicQuantizeLinear":
        return {node.output[0]: U8}
    elif node.op_type in ("Constant", "ConstantOfShape"):
        kind = attributes["value"].t.data_type if "value" in attributes else 0
    elif node.op_type in ("If", "Loop", "Scan", "DequantizeLinear") or not node.input:
        kind = 0
    else:
        by = _input(node, _TYPED_BY.get(node.op_type, 0))
        kind = types.get(by, 0)
        if not by and node.op_type == "QuantizeLinear":
            kind = attributes["output_dtype"].i if "output_dtype" in attributes else U8
    return {name: kind for name in node.output if name}


@lru_cache(maxsize=1)
def saturates() -> bool:
    """Whether onnxruntime's u8 x s8 products clip on this processor."""
    x, w = np.full((1, 4), 255, np.uint8), np.full((4, 1), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "probe",
        [helper.make_tensor_value_info("x", U8, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 1])], [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    try:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return bool(session.run(None, {"x": x})[0][0, 0] != 4 * 255 * 127)
    except Exception as error:  # onnxruntime raises many kinds, none of them documented
        raise XbcError(f"onnxruntime cannot multiply integers on this machine: {error}") from None


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:28]}...{name[-28:]}")
