"""Constants by computing: the operators whose value is known when their inputs are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnx.shape_inference
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ir.arrays import Array
from ir.errors import XbcError
from xbc.frontend.budget import Budget
from xbc.frontend.read import one_line
from xbc.frontend.tensors import check_allocation, element_count
from xbc.operators import attributes

FOLDABLE: Final = frozenset(
    {
        "Add", "Cast", "CastLike", "Concat", "Constant", "ConstantOfShape", "DequantizeLinear",
        "Div", "Expand", "Flatten", "Gather", "Identity", "Mul", "Neg", "Pow", "QuantizeLinear", "Reciprocal",
        "Reshape", "Shape", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators followed through constant expressions; each is a pure function of its inputs."""
RESHAPING: Final = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})

SHAPE_ELEMENTS: Final = 64
"""No shape has more dimensions."""

Operands = Sequence[Array | None]
Settings = Mapping[str, Any]


def compute(
    node: onnx.NodeProto, inputs: Operands, opsets: Sequence[onnx.OperatorSetIdProto], budget: Budget
) -> list[Array]:
    """Outputs of one foldable node: numpy reshapes (any element type, views kept), onnx does the rest.

    Raises: XbcError when the node cannot be computed or would exceed the budget.
    """
    fold = _BY_NUMPY.get(node.op_type)
    try:
        if fold is not None:
            if not inputs or inputs[0] is None:
                raise ValueError("its first input is missing")
            if not inputs[0].flags.c_contiguous:  # then reshaping copies
                budget.look(inputs[0].nbytes, f"constant {node.output[0]!r} (node {node.name!r})")
            return [fold(node, inputs[0], inputs[1:], attributes(node))]
        budget.look(_result_bytes(node, inputs, opsets), f"constant {node.output[0]!r} (node {node.name!r})")
        return [np.asarray(out) for out in _reference(node, inputs, opsets)]
    except XbcError:
        raise
    except Exception as error:  # the reference evaluator raises whatever numpy raises
        raise XbcError(f"constant {node.output[0]!r} cannot be computed: {one_line(error)}") from None


def _identity(node: onnx.NodeProto, data: Array, rest: Operands, attrs: Settings) -> Array:
    return data


def _transpose(node: onnx.NodeProto, data: Array, rest: Operands, attrs: Settings) -> Array:
    return data.transpose(attrs.get("perm") or tuple(range(data.ndim))[::-1])


def _flatten(node: onnx.NodeProto, data: Array, rest: Operands, attrs: Settings) -> Array:
    axis = attrs.get("axis", 1)
    axis = axis + data.ndim if axis < 0 else axis
    return data.reshape(element_count(data.shape[:axis]), -1) if data.size else data


def _reshape(node: onnx.NodeProto, data: Array, rest: Operands, attrs: Settings) -> Array:
    if not rest or rest[0] is None:
        raise ValueError("its shape is missing")
    wanted = [int(d) for d in rest[0]]
    if not attrs.get("allowzero"):
        wanted = [data.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    return data.reshape(wanted)


def _axes(rest: Operands, attrs: Settings) -> tuple[int, ...] | None:
    axes = attrs.get("axes", rest[0] if rest else None)
    return None if axes is None else tuple(int(a) for a in axes)


def _squeeze(node: onnx.NodeProto, data: Array, rest: Operands, attrs: Settings) -> Array:
    return np.squeeze(data, _axes(rest, attrs))


def _unsqueeze(node: onnx.NodeProto, data: Array, rest: Operands, attrs: Settings) -> Array:
    return np.expand_dims(data, _axes(rest, attrs) or ())


def _constant_of_shape(node: onnx.NodeProto, data: Array, rest: Operands, attrs: Settings) -> Array:
    fill = attrs.get("value")
    where = f"constant {node.output[0]!r} (node {node.name!r})"
    if any(d < 0 for d in data):
        raise XbcError(f"{where} has a negative dimension {[int(d) for d in data][:8]}: the file is damaged")
    kind = fill.data_type if fill is not None else onnx.TensorProto.FLOAT
    check_allocation([int(d) for d in data], kind, where)
    value = numpy_helper.to_array(fill).reshape(()) if fill is not None else np.float32(0)
    return np.broadcast_to(np.asarray(value), tuple(int(d) for d in data))


_BY_NUMPY: Final[dict[str, Callable[[onnx.NodeProto, Array, Operands, Settings], Array]]] = {
    "Identity": _identity,
    "Transpose": _transpose,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "ConstantOfShape": _constant_of_shape,
}


def _reference(node: onnx.NodeProto, inputs: Operands, opsets: Sequence[onnx.OperatorSetIdProto]) -> Any:
    names = list(dict.fromkeys(i for i in node.input if i))
    graph = helper.make_graph(
        [node],
        "constant",
        [helper.make_value_info(name, onnx.TypeProto()) for name in names],
        [helper.make_value_info(name, onnx.TypeProto()) for name in node.output],
    )
    feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=list(opsets))).run(None, feeds)


def _result_bytes(node: onnx.NodeProto, inputs: Operands, opsets: Sequence[onnx.OperatorSetIdProto]) -> int:
    """What the outputs will take, told from the inputs before they are made."""
    version = next(opset.version for opset in opsets if opset.domain in ("", "ai.onnx"))
    given = {name: value for name, value in zip(node.input, inputs, strict=True) if value is not None}
    found = onnx.shape_inference.infer_node_outputs(
        onnx.defs.get_schema(node.op_type, version, ""),
        node,
        {
            n: helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in given.items()
        },
        {n: numpy_helper.from_array(v, n) for n, v in given.items() if v.size <= SHAPE_ELEMENTS},
        opset_imports=list(opsets),
        ir_version=onnx.IR_VERSION,
    )
    kinds = [kind.tensor_type for kind in found.values()]
    sizes = [element_count(dim.dim_value for dim in kind.shape.dim) for kind in kinds]
    return sum(
        size * helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
        for size, kind in zip(sizes, kinds, strict=True)
    )
