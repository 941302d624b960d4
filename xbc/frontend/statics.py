"""Values that are known without running the model: initializers, Constant nodes and expressions of them.

After onnxruntime's folding most constants are plain initializers.  What remains to follow here is a
DequantizeLinear of weights (kept on purpose) with the reshaping behind it, and, when onnxruntime could not
work on the graph, expressions of constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ir.arrays import Array
from ir.errors import XbcError
from xbc.frontend.read import one_line
from xbc.frontend.tensors import check_allocation, element_count, load_tensor
from xbc.operators import attributes

FOLDABLE = frozenset(
    {
        "Add", "Cast", "CastLike", "Concat", "Constant", "ConstantOfShape", "DequantizeLinear",
        "Div", "Expand", "Flatten", "Gather", "Identity", "Mul", "Neg", "Pow", "QuantizeLinear", "Reciprocal",
        "Reshape", "Shape", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators followed through constant expressions; each is a pure function of its inputs."""
RESHAPING = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
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
    parent: Scope | None = None
    loop: str = ""
    initializers: dict[str, onnx.TensorProto] = field(init=False)
    sparse: dict[str, onnx.SparseTensorProto] = field(init=False)
    producers: dict[str, onnx.NodeProto] = field(init=False)
    own: set[str] = field(init=False)
    known: dict[str, bool] = field(init=False, default_factory=dict)

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
        return Scope(body, self.folder, self.opsets, self, loop)

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
        if (found := self.dequantised(name)) is not None:
            return found.codes.shape
        return self.value(name).shape

    def dtype(self, name: str) -> str:
        """numpy name of a static value's element type."""
        scope = self.home(name)
        assert scope is not None
        if name in scope.initializers:
            kind = scope.initializers[name].data_type
            return "string" if kind == onnx.TensorProto.STRING else helper.tensor_dtype_to_np_dtype(kind).name
        if (found := self.dequantised(name)) is not None:
            return found.dtype.name
        return self.value(name).dtype.name

    def value(self, name: str) -> Array:
        """The static value itself.

        Raises: XbcError when it cannot be computed or would not fit the machine.
        """
        return self._evaluate(name, [LONGEST_EXPRESSION])

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
                return found.values()
        inputs = [scope._evaluate(i, left) if i else None for i in node.input]
        return compute(node, inputs, scope.opsets)[list(node.output).index(name)]

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
        found = _dequantise(node, scope)
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
                    setattr(found, part, compute(step, [array, *rest], where.opsets)[0])
        return found


_FLOATS = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
)


@dataclass
class Dequantised:
    """``(codes - zero_point) * scale`` in float32, then cast to ``dtype``.

    Fields:
        codes: integers as the model stores them.
        integer: their ONNX type as a numpy dtype (``int4`` is one of ml_dtypes).
        scale: float32, one element or the shape of ``codes``.
        zero_point: int32, one element or the shape of ``codes``.
        dtype: of the dequantised tensor.
        blocked: scales change within blocks of an axis.
    """

    codes: Array
    integer: np.dtype[Any]
    scale: Array
    zero_point: Array
    dtype: np.dtype[Any]
    blocked: bool = False

    def values(self) -> Array:
        """The tensor that the model computes with."""
        shape = self.codes.shape
        zero, scale = (a.reshape(()) if a.size == 1 else a for a in (self.zero_point, self.scale))
        out = (self.codes.astype(np.int32) - zero).astype(np.float32) * scale.astype(np.float32)
        return np.asarray(out.astype(self.dtype).reshape(shape))


def _dequantise(node: onnx.NodeProto, scope: Scope) -> Dequantised:
    codes = scope.value(node.input[0])
    scale = scope.value(node.input[1])
    zero = scope.value(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1, np.int32)
    settings = attributes(node)
    kind = settings.get("output_dtype") or 0
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind)) if kind else scale.dtype
    block = settings.get("block_size", 0)
    axis = settings.get("axis", 1)

    def spread(array: Array) -> Array:
        if array.size == 1:
            return array.reshape(1)
        if block:
            whole = np.repeat(array, block, axis)
            return whole[tuple(slice(0, n) for n in codes.shape)]
        if array.ndim != 1 or not -codes.ndim <= axis < codes.ndim or codes.shape[axis] != array.size:
            raise XbcError(
                f"node {node.name!r}: a scale of shape {list(array.shape)} does not fit axis {axis} of "
                f"a tensor of shape {list(codes.shape)}"
            )
        dims = [1] * codes.ndim
        dims[axis] = array.size
        return np.broadcast_to(array.reshape(dims), codes.shape)

    integer = codes.dtype
    return Dequantised(
        codes, integer, spread(scale.astype(np.float32)), spread(zero.astype(np.int32)), dtype, bool(block)
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


def compute(
    node: onnx.NodeProto, inputs: list[Array | None], opsets: list[onnx.OperatorSetIdProto]
) -> list[Array]:
    """Outputs of one foldable node: numpy reshapes (any element type, views kept), onnx does the rest.

    Raises: XbcError when the node cannot be computed.
    """
    data = inputs[0] if inputs else None
    settings = attributes(node)
    try:
        if node.op_type == "Identity" and data is not None:
            return [data]
        if node.op_type == "Transpose" and data is not None:
            return [data.transpose(settings.get("perm") or tuple(range(data.ndim))[::-1])]
        if node.op_type == "Flatten" and data is not None:
            axis = settings.get("axis", 1)
            axis = axis + data.ndim if axis < 0 else axis
            return [data.reshape(element_count(data.shape[:axis]), -1) if data.size else data]
        if node.op_type == "Reshape" and data is not None and inputs[1] is not None:
            wanted = [int(d) for d in inputs[1]]
            if not settings.get("allowzero"):
                wanted = [data.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
            return [data.reshape(wanted)]
        if node.op_type in ("Squeeze", "Unsqueeze") and data is not None:
            axes = settings.get("axes", inputs[1] if len(inputs) > 1 else None)
            given = None if axes is None else tuple(int(a) for a in axes)
            return [
                np.squeeze(data, given) if node.op_type == "Squeeze" else np.expand_dims(data, given or ())
            ]
        if node.op_type == "ConstantOfShape" and data is not None:
            fill = settings.get("value")
            check_allocation(
                [int(d) for d in data], fill.data_type if fill is not None else onnx.TensorProto.FLOAT,
                f"constant {node.output[0]!r} (node {node.name!r})",
            )  # fmt: skip
            value = numpy_helper.to_array(fill).reshape(()) if fill is not None else np.float32(0)
            return [np.broadcast_to(np.asarray(value), tuple(int(d) for d in data))]
        return [np.asarray(out) for out in _reference(node, inputs, opsets)]
    except XbcError:
        raise
    except Exception as error:  # the reference evaluator raises whatever numpy raises
        raise XbcError(f"constant {node.output[0]!r} cannot be computed: {one_line(error)}") from None


def _reference(
    node: onnx.NodeProto, inputs: list[Array | None], opsets: list[onnx.OperatorSetIdProto]
) -> Any:
    names = list(dict.fromkeys(i for i in node.input if i))
    graph = helper.make_graph(
        [node],
        "constant",
        [helper.make_value_info(name, onnx.TypeProto()) for name in names],
        [helper.make_value_info(name, onnx.TypeProto()) for name in node.output],
    )
    feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, feeds)


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names a node reads, those that its bodies take from around it included."""
    yield from node.input
    for _, body in bodies(node):
        inner = {i.name for i in body.input} | {t.name for t in body.initializer}
        for child in body.node:
            yield from (n for n in reads(child) if n not in inner)
            inner.update(child.output)
        yield from (o.name for o in body.output if o.name and o.name not in inner)
