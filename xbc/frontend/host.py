"""The host graph: the model with its crossbar weights turned into graph inputs, and back."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ir.arrays import Array
from ir.errors import XbcError
from xbc.frontend.folding import FOLDABLE
from xbc.frontend.read import walk_graphs
from xbc.frontend.statics import bodies
from xbc.frontend.tensors import embed_external


def detach_weights(
    model: onnx.ModelProto, folder: Path, weights: Iterable[tuple[str, np.dtype[np.generic], tuple[int, ...]]]
) -> None:
    """Finish a host graph in place, after nodes were pointed at the new names.

    Args:
        model: normalised model whose mapped nodes already read the names in ``weights``.
        folder: of its external data.
        weights: (name, dtype, shape) of each new graph input.
    """
    uses = Counter(_uses(model.graph))
    _drop_dead(model.graph, uses)
    for graph in walk_graphs(model.graph):
        kept = [t for t in graph.initializer if uses[t.name]]
        for tensor in kept:
            embed_external(tensor, folder)
        if len(kept) != len(graph.initializer):
            copies = []
            for tensor in kept:
                copy = TensorProto()
                copy.CopyFrom(tensor)
                copies.append(copy)
            del graph.initializer[:]
            graph.initializer.extend(copies)
        sparse = [t for t in graph.sparse_initializer if uses[t.values.name]]
        if len(sparse) != len(graph.sparse_initializer):
            copies_sparse = []
            for item in sparse:
                twin = onnx.SparseTensorProto()
                twin.CopyFrom(item)
                copies_sparse.append(twin)
            del graph.sparse_initializer[:]
            graph.sparse_initializer.extend(copies_sparse)
    for name, dtype, shape in weights:
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, kind, list(shape)))


def _uses(graph: onnx.GraphProto) -> Iterable[str]:
    for graph_or_body in walk_graphs(graph):
        for node in graph_or_body.node:
            yield from (name for name in node.input if name)
        yield from (o.name for o in graph_or_body.output)


def _drop_dead(graph: onnx.GraphProto, uses: Counter[str]) -> None:
    """Remove constant nodes that nothing reads any more, consumers before producers."""
    dead = []
    for at in range(len(graph.node) - 1, -1, -1):
        node = graph.node[at]
        for _, body in bodies(node):
            _drop_dead(body, uses)
        if node.op_type in FOLDABLE and node.output and not any(uses[name] for name in node.output if name):
            uses.subtract(name for name in node.input if name)
            dead.append(at)
    for at in dead:
        del graph.node[at]


def host_bytes(host: onnx.ModelProto) -> bytes:
    """The host graph as a file: the same bytes for the same graph."""
    return bytes(host.SerializeToString(deterministic=True))


def host_sha256(host: onnx.ModelProto) -> str:
    """SHA-256 of ``host_bytes``, hexadecimal."""
    return hashlib.sha256(host_bytes(host)).hexdigest()


def host_with_weights(host: onnx.ModelProto, tensors: Mapping[str, Array]) -> onnx.ModelProto:
    """A runnable model: the named inputs of ``host`` become constants again.

    Args:
        host: host graph of an import.
        tensors: host input name -> array of the input's type and shape (see ``layer_tensor``).
    Raises: XbcError for a name that is no input, a wrong type or shape.
    """
    inputs = {i.name: i for i in host.graph.input}
    out = onnx.ModelProto()
    out.CopyFrom(host)
    for name, array in tensors.items():
        if name not in inputs:
            raise XbcError(f"the host graph has no input {name!r} to put weights into")
        kind = inputs[name].type.tensor_type
        shape = tuple(d.dim_value for d in kind.shape.dim)
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        if array.shape != shape or array.dtype != dtype:
            raise XbcError(
                f"weights for host input {name!r} are {array.dtype} {list(array.shape)}, "
                f"it takes {dtype} {list(shape)}"
            )
        out.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    kept = [i for i in host.graph.input if i.name not in tensors]
    del out.graph.input[:]
    out.graph.input.extend(kept)
    return out
