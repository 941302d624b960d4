"""Shapes of the host graph's values for one inference."""

from __future__ import annotations

import onnx
import onnx.shape_inference

from xbc.frontend.read import skeleton, walk_graphs
from xbc.operators.definition import Lookup


def value_shapes(model: onnx.ModelProto) -> Lookup:
    """Value name -> inferred dims at batch 1 (None where a dim stays dynamic), or None when nothing is known.

    The batch is what the model calls so (a symbolic dim whose name contains ``batch``, or is ``N``); failing
    that, the symbolic leading dim of its inputs.  A batch fixed in the model stays what it is.
    """
    copy = skeleton(model)
    _fix_batch(copy.graph)
    try:
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except Exception:  # operators without inference: shapes stay unknown, nothing else depends on them
        return lambda name: None
    shapes: dict[str, list[int | None]] = {}
    for graph in walk_graphs(copy.graph):
        for info in (*graph.input, *graph.value_info, *graph.output):
            if info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape"):
                dims = info.type.tensor_type.shape.dim
                shapes[info.name] = [d.dim_value if d.HasField("dim_value") else None for d in dims]
    return shapes.get


def _fix_batch(graph: onnx.GraphProto) -> None:
    dims = [list(i.type.tensor_type.shape.dim) for i in graph.input if i.type.HasField("tensor_type")]
    symbols = {d.dim_param for shape in dims for d in shape if d.dim_param}
    batch = {s for s in symbols if "batch" in s.lower() or s in ("N", "n")}
    by_name = bool(batch)
    if not by_name:
        batch = {shape[0].dim_param for shape in dims if shape and shape[0].dim_param}
    for shape in dims:
        for at, dim in enumerate(shape):
            unnamed = not dim.dim_param and not dim.HasField("dim_value")
            if (dim.dim_param and dim.dim_param in batch) or (at == 0 and unnamed and not by_name):
                dim.dim_value = 1
    for info in graph.output:  # declared symbols would contradict what is inferred
        for dim in info.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value") or dim.dim_param:
                dim.Clear()
