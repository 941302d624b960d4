"""Values that are known without running the model: initializers, Constant nodes and expressions of them.

After onnxruntime's folding most constants are plain initializers.  What remains to follow here is a
DequantizeLinear of weights (kept on purpose) with the reshaping behind it, and, when onnxruntime could not
work on the graph, expressions of constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ir.arrays import Array
from ir.errors import XbcError
from xbc.frontend.budget import Budget
from xbc.frontend.dequantised import Dequantised, dequantise
from xbc.frontend.folding import FOLDABLE, RESHAPING, compute
from xbc.frontend.tensors import load_tensor
from xbc.operators import attributes

LONGEST_EXPRESSION = 200
"""Nodes one constant may be made of (a chain of self-additions would double the work with every node)."""


@dataclass
class Scope:
    """Names visible in one graph: its own and those of the graphs around it.

    Fields:
        graph: the graph.
        parent: the scope around a sub-graph.
        loop: operator of the innermost loop around this graph ("" outside loops).
        initializers: tensors of this graph, by name.
        producers: node of each value made in this graph.
    """

    graph: onnx.GraphProto
    folder: Path
    opsets: list[onnx.OperatorSetIdProto]
    budget: Budget
    parent: Scope | None = None
    loop: str = ""
    initializers: dict[str, onnx.TensorProto] = field(init=False)
    sparse: dict[str, onnx.SparseTensorProto] = field(init=False)
    producers: dict[str, onnx.NodeProto] = field(init=False)
    own: set[str] = field(init=False)
    known: dict[str, bool] = field(init=False, default_factory=dict)
    facts: dict[str, tuple[tuple[int, ...], str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Index the graph."""
        self.initializers = {t.name: t for t in self.graph.initializer}
        self.sparse = {t.values.name: t for t in self.graph.sparse_initializer}
        self.producers = {name: node for node in self.graph.node for name in node.output if name}
        self.own = set(self.initializers) | set(self.sparse) | set(self.producers)
        self.own.update(i.name for i in self.graph.input)

    def inner(self, node: onnx.NodeProto, body: onnx.GraphProto) -> Scope:
        """Scope of a body of one of this graph's nodes."""
        loop = self.loop if node.op_type == "If" and not node.domain else node.op_type
        return Scope(body, self.folder, self.opsets, self.budget, self, loop)

    def home(self, name: str) -> Scope | None:
        """The scope that defines ``name`` as seen from here."""
        scope: Scope | None = self
        while scope is not None and name not in scope.own:
            scope = scope.parent
        return scope

    def is_static(self, name: str) -> bool:
        """Whether the value is known without running the model."""
        scope = self.home(name)
        return scope is not None and scope._static_here(name)

    def _static_here(self, name: str) -> bool:
        # an explicit stack: constant expressions of a hostile file may be deeper than Python's
        stack = [(self, name)]
        while stack:
            scope, item = stack[-1]
            if item in scope.known:
                stack.pop()
                continue
            if item in scope.initializers or item in scope.sparse:
                scope.known[item] = True
                continue
            node = scope.producers.get(item)
            if node is None or node.op_type not in FOLDABLE or next(bodies(node), None) is not None:
                scope.known[item] = False
                continue
            if node.op_type == "DequantizeLinear" or not node.domain:
                needs = [(scope.home(i), i) for i in node.input if i]
                if any(home is None for home, _ in needs):
                    scope.known[item] = False
                    continue
                pending = [(home, i) for home, i in needs if home is not None and i not in home.known]
                if pending:
                    stack.extend(pending)
                    continue
                scope.known[item] = all(home is not None and home.known[i] for home, i in needs)
            else:
                scope.known[item] = False
        return self.known[name]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a static value (evaluated when it is an expression), None when not static."""
        if not self.is_static(name):
            return None
        scope = self.home(name)
        assert scope is not None
        if name in scope.initializers:
            return tuple(scope.initializers[name].dims)
        return scope._facts(name)[0]

    def dtype(self, name: str) -> str:
        """numpy name of a static value's element type."""
        scope = self.home(name)
        assert scope is not None
        if name in scope.initializers:
            kind = scope.initializers[name].data_type
            return "string" if kind == onnx.TensorProto.STRING else helper.tensor_dtype_to_np_dtype(kind).name
        return scope._facts(name)[1]

    def _facts(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape and type of an expression, computed once."""
        if name not in self.facts:
            found = self.dequantised(name)
            if found is not None:
                self.facts[name] = found.codes.shape, found.dtype.name
            else:
                value = self.value(name)
                self.facts[name] = value.shape, value.dtype.name
        return self.facts[name]

    def value(self, name: str) -> Array:
        """The static value itself.

        Raises: XbcError when it cannot be computed or would not fit the machine.
        """
        value = self._evaluate(name, [LONGEST_EXPRESSION])
        scope = self.home(name)
        if scope is not None and name not in scope.initializers:  # perhaps a view that using it writes out
            self.budget.fold(value.nbytes, 0, f"constant {name!r}")
        return value

    def _evaluate(self, name: str, left: list[int]) -> Array:
        scope = self.home(name)
        assert scope is not None
        if name in scope.initializers:
            return load_tensor(scope.initializers[name], scope.folder)
        if name in scope.sparse:
            return dense(scope.sparse[name])
        node = scope.producers[name]
        left[0] -= 1
        if left[0] < 0:
            raise XbcError(
                f"constant {name!r} is an expression of more than {LONGEST_EXPRESSION} nodes: "
                f"simplify the model with onnxruntime or onnxsim first"
            )
        if node.op_type == "DequantizeLinear":
            found = scope.dequantised(name)
            if found is not None:
                self.budget.look(4 * found.codes.size, f"constant {name!r}")
                return found.values()
        inputs = [scope._evaluate(i, left) if i else None for i in node.input]
        return compute(node, inputs, scope.opsets, self.budget)[list(node.output).index(name)]

    def dequantised(self, name: str) -> Dequantised | None:
        """The integers behind a value that is a DequantizeLinear of static data, reshaped or not."""
        chain: list[tuple[onnx.NodeProto, Scope]] = []
        scope = self.home(name)
        while scope is not None and name in scope.producers:
            node = scope.producers[name]
            if node.op_type == "DequantizeLinear":
                break
            floats = node.op_type == "Cast" and attributes(node)["to"] in _FLOATS
            if not floats and (node.op_type not in RESHAPING or node.domain):
                return None
            chain.append((node, scope))
            if len(chain) > LONGEST_EXPRESSION:
                return None
            name = node.input[0]
            scope = scope.home(name)
        else:
            return None
        if not all(scope.is_static(i) for i in node.input if i):
            return None
        operands = [scope.value(i) if i else None for i in node.input]
        codes, scale = operands[:2]
        if codes is None or scale is None:
            return None
        found = dequantise(node, codes, scale, operands[2] if len(operands) > 2 else None)
        for step, where in reversed(chain):
            if step.op_type == "Cast":
                wanted = np.dtype(helper.tensor_dtype_to_np_dtype(attributes(step)["to"]))
                if wanted != found.dtype and found.dtype != np.float32:
                    return None  # rounded twice: no longer code times scale
                found.dtype = wanted
                continue
            rest = [where.value(i) if i else None for i in step.input[1:]]
            for part in ("codes", "scale", "zero_point"):
                array: Array = getattr(found, part)
                if part == "codes" or array.size > 1:
                    setattr(found, part, compute(step, [array, *rest], where.opsets, self.budget)[0])
        return found


_FLOATS = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
)


def bodies(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """(attribute name, graph) of a control-flow node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, attribute.g
        for body in attribute.graphs:
            yield attribute.name, body


def dense(sparse: onnx.SparseTensorProto) -> Array:
    """A sparse initializer written out."""
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    out = np.zeros(tuple(sparse.dims), values.dtype)
    where = tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, out.shape)
    out[where] = values
    return out


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names a node reads, those that its bodies take from around it included."""
    yield from node.input
    for _, body in bodies(node):
        inner = {i.name for i in body.input} | {t.name for t in body.initializer}
        for child in body.node:
            yield from (n for n in reads(child) if n not in inner)
            inner.update(child.output)
        yield from (o.name for o in body.output if o.name and o.name not in inner)
