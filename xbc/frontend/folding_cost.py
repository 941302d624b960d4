"""What the constant expressions of a model would unfold to, told before anybody computes them.

onnxruntime folds every node whose inputs are constants, whatever its result takes.  Shapes come from onnx's
inference over the whole graph, and where that stays silent from the node alone with the values of its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
import onnx.shape_inference
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ir.arrays import Array
from xbc.frontend.budget import Budget
from xbc.frontend.read import skeleton, walk_graphs, walk_nodes
from xbc.frontend.statics import bodies
from xbc.frontend.tensors import element_count

SMALL: Final = 4096
"""Elements up to which a constant is computed here, because a shape may depend on it."""
MOST_COMPUTED: Final = 20_000
"""Constants that are computed here; each takes about a millisecond."""
RANDOM: Final = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_SHRINKING: Final = frozenset({"Compress", "Unique", "QuantizeLinear"})
"""Results are no larger than the first input (``QuantizeLinear``: that of onnxruntime, which onnx does not know)."""
_MATRIX: Final = frozenset({"MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"})
_COSTLY: Final = frozenset(
    {
        "AveragePool", "Col2Im", "Conv", "ConvInteger", "ConvTranspose", "CumSum", "DFT", "DeformConv", "Det",
        "Einsum", "GRU", "GridSample", "LRN", "LSTM", "LpPool", "MaxPool", "MaxRoiPool", "NonMaxSuppression",
        "QLinearConv", "RNN", "RoiAlign", "STFT", "TopK", "Attention",
    }
)  # fmt: skip
"""Operators whose work can grow as inputs times outputs."""


class UnknownSizeError(Exception):
    """A constant whose size cannot be told beforehand (the message names it)."""


def check_folding(model: onnx.ModelProto, budget: Budget) -> None:
    """Count every constant that folding would make.

    Raises: XbcError when they exceed the budget; UnknownSizeError when one cannot be counted.
    """
    _Walk(model, budget).run()


class _Walk:
    def __init__(self, model: onnx.ModelProto, budget: Budget) -> None:
        self.model, self.budget = model, budget
        self.opsets = list(model.opset_import)
        self.versions = {opset.domain: opset.version for opset in self.opsets}
        self.inferred = _inferred(model)
        self.types: dict[str, onnx.TypeProto] = {}
        self.values: dict[str, Array] = {}
        self.computed = 0
        self.failed: set[str] = set()
        self.producers = {n: node for node in walk_nodes(model.graph) for n in node.output if n}
        for graph in walk_graphs(model.graph):
            for tensor in graph.initializer:
                self._initializer(tensor)
            for sparse in graph.sparse_initializer:
                self.types[sparse.values.name] = helper.make_tensor_type_proto(
                    sparse.values.data_type, list(sparse.dims)
                )

    def _initializer(self, tensor: TensorProto) -> None:
        self.types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        outside = tensor.data_location == TensorProto.EXTERNAL
        if element_count(tensor.dims) <= SMALL and not outside and tensor.data_type != TensorProto.STRING:
            self.values[tensor.name] = numpy_helper.to_array(tensor)

    def run(self) -> None:
        """Walk the nodes in order; a static one costs what its outputs take."""
        for node in walk_nodes(self.model.graph):
            if node.op_type in RANDOM or node.op_type == "DequantizeLinear":
                continue  # never folded
            if not all(name in self.types for name in node.input if name):
                continue
            if next(bodies(node), None) is not None:
                continue
            self._static(node)

    def _static(self, node: onnx.NodeProto) -> None:
        types = self._types_of(node)
        size = 0
        for name in node.output:
            if not name:
                continue
            kind = types[name]
            self.types[name] = kind
            if kind.HasField("tensor_type"):
                size += _bytes(kind)
        where = f"{self.budget.file}: constant {node.output[0]!r} (node {node.name!r})"
        self.budget.fold(size, self._operations(node), where)

    def _types_of(self, node: onnx.NodeProto) -> Mapping[str, onnx.TypeProto]:
        wanted = [name for name in node.output if name]
        known = {name: self.inferred[name] for name in wanted if _whole(self.inferred.get(name))}
        if len(known) < len(wanted):
            known |= {name: kind for name, kind in self._alone(node).items() if _whole(kind)}
        return {name: known.get(name) or self._bound(node, name) for name in wanted}

    def _alone(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        """What inference says of the node when it sees the values of its small inputs."""
        names = [name for name in node.input if name]
        for name in names:
            self._compute(name)
        version = self.versions.get(node.domain)
        if version is None or not onnx.defs.has(node.op_type, version, node.domain):
            return {}
        try:
            found = onnx.shape_inference.infer_node_outputs(
                onnx.defs.get_schema(node.op_type, version, node.domain),
                node,
                {name: self.types[name] for name in names},
                {n: numpy_helper.from_array(self.values[n], n) for n in names if n in self.values},
                opset_imports=self.opsets,
                ir_version=self.model.ir_version,
            )
        except Exception:  # inference of a node that the checker passed but that cannot run
            return {}
        return dict(found)

    def _compute(self, name: str) -> None:
        """The value of a small constant, once, with those that it is made of."""
        stack = [name]
        while stack:
            item = stack[-1]
            node = self.producers.get(item)
            if item in self.values or node is None or _elements(self.types[item]) > SMALL:
                stack.pop()
                continue
            missing = [n for n in node.input if n and n not in self.values and n not in self.failed]
            missing = [n for n in missing if n in self.producers and _elements(self.types[n]) <= SMALL]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            self._evaluate(node)

    def _evaluate(self, node: onnx.NodeProto) -> None:
        inputs = [name for name in node.input if name]
        self.computed += 1
        self.failed.update(node.output)
        if self.computed > MOST_COMPUTED or not all(name in self.values for name in inputs):
            return
        if sum(self.values[name].size for name in inputs) > SMALL * 16 or self._operations(node) > SMALL**2:
            return
        graph = helper.make_graph(
            [node],
            "constant",
            [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(inputs)],
            [onnx.ValueInfoProto(name=name) for name in node.output],
        )
        try:
            run = ReferenceEvaluator(helper.make_model(graph, opset_imports=self.opsets))
            made = run.run(None, {name: self.values[name] for name in inputs})
        except Exception:  # whatever numpy raises: the value stays unknown
            return
        for name, value in zip(node.output, made, strict=True):
            if name and isinstance(value, np.ndarray | np.generic) and np.size(value) <= SMALL:
                self.values[name] = np.asarray(value)

    def _bound(self, node: onnx.NodeProto, name: str) -> onnx.TypeProto:
        """An upper bound where the size depends on more than inference knows."""
        first = self.types[node.input[0]] if node.input and node.input[0] else None
        if first is not None and first.HasField("tensor_type"):
            elements, kind = _elements(first), first.tensor_type.elem_type
            if node.op_type == "NonZero":
                rank = max(1, len(first.tensor_type.shape.dim))
                return helper.make_tensor_type_proto(TensorProto.INT64, [rank, elements])
            if node.op_type in _SHRINKING:
                return helper.make_tensor_type_proto(kind, [elements])
        raise UnknownSizeError(
            f"the size of constant {name!r} (node {node.name!r}) cannot be told beforehand"
        )

    def _operations(self, node: onnx.NodeProto) -> int:
        outputs = sum(_elements(self.types[n]) for n in node.output if n in self.types)
        inputs = [_elements(self.types[n]) for n in node.input if n]
        if node.op_type in _MATRIX and len(inputs) >= 2:
            return math.isqrt(inputs[0] * inputs[-1] * outputs)
        return outputs * max(1, sum(inputs)) if node.op_type in _COSTLY else outputs


def _inferred(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    copy = skeleton(model)
    for output in copy.graph.output:  # what a file declares is not believed
        output.type.Clear()
    try:
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except Exception:  # then every node is asked alone
        return {}
    return {
        info.name: info.type
        for graph in walk_graphs(copy.graph)
        for info in (*graph.value_info, *graph.output)
    }


def _whole(kind: onnx.TypeProto | None) -> bool:
    """Whether every dim is a number (a sequence or optional counts as nothing that is stored)."""
    if kind is None or not kind.WhichOneof("value"):
        return False
    if not kind.HasField("tensor_type"):
        return True
    tensor = kind.tensor_type
    if not tensor.elem_type or not tensor.HasField("shape"):
        return False
    return all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in tensor.shape.dim)


def _elements(kind: onnx.TypeProto) -> int:
    return math.prod(dim.dim_value for dim in kind.tensor_type.shape.dim)


def _bytes(kind: onnx.TypeProto) -> int:
    elem = kind.tensor_type.elem_type
    if elem == TensorProto.STRING:
        return 16 * _elements(kind)
    return helper.tensor_dtype_to_np_dtype(elem).itemsize * _elements(kind)
