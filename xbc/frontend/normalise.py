"""Bringing a model into the one form that the importer maps: named nodes, no functions, constants folded.

The graph rewriting itself is onnxruntime's (its BASIC level, run offline): batch normalisations are folded,
constant expressions become initializers, MatMul + Add becomes Gemm.  Its rewrites of Q/DQ pairs stay off,
because they would make new codes or move scales; a DequantizeLinear of weights is kept by design.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.inliner
import onnx.shape_inference
import onnxruntime as ort

from ir.errors import XbcError
from xbc.frontend.read import PROTOBUF_LIMIT, ModelFile, one_line, skeleton, walk_graphs, walk_nodes
from xbc.frontend.statics import bodies
from xbc.frontend.tensors import check_allocation, embed_external, tensor_bytes

KEEP_QDQ = ["WeightBiasQuantization", "QDQPropagationTransformer", "EnsureUniqueDQForNodeUnit"]
"""onnxruntime optimisers that rewrite quantised graphs."""
INLINE_BYTES = 1024
"""Initializers above this size go to a side file, so that models beyond 2 GiB pass."""


@dataclass(frozen=True)
class Normalised:
    """Fields:
    model: initializers above ``INLINE_BYTES`` are external, in ``folder``.
    folder: where they are.
    notes: what a user should know about the way the model was read.
    """

    model: onnx.ModelProto
    folder: Path
    notes: tuple[str, ...]


def normalise(source: ModelFile, work: Path, *, optimise: bool = True) -> Normalised:
    """The normal form of a model.

    Args:
        source: the model as read; its protobuf is used up.
        work: existing folder for the side file.
        optimise: let onnxruntime fold constants and batch normalisations.
    Raises: XbcError when constants of the model would unfold beyond the machine's memory.
    """
    model, notes = source.model, []
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    if overridable := _fix_initializers(model):
        notes.append(
            f"{overridable} constants that the model also lists as optional inputs keep their values"
        )
    _strip(model)
    name_nodes(model)
    _check_folding(model)
    folder = source.folder
    if optimise:
        try:
            model, folder = _optimise(model, source.folder, work), work
            source.model.Clear()  # its weights now lie in the side file
        except XbcError:
            raise
        except Exception as error:  # onnxruntime raises many kinds, none of them documented
            notes.append(
                f"onnxruntime cannot optimise this model, it is compiled as it is: {one_line(error)}"
            )
        _strip(model)
        name_nodes(model)
    return Normalised(model, folder, tuple(notes))


def _fix_initializers(model: onnx.ModelProto) -> int:
    """Make initializers constants: from IR version 4 on, one that is also an input could be overridden."""
    names = {t.name for t in model.graph.initializer}
    names.update(t.values.name for t in model.graph.sparse_initializer)
    kept = [i for i in model.graph.input if i.name not in names]
    count = len(model.graph.input) - len(kept)
    if count:
        del model.graph.input[:]
        model.graph.input.extend(kept)
    overridable = count if model.ir_version >= 4 else 0
    model.ir_version = max(model.ir_version, 4)
    return overridable


def _strip(model: onnx.ModelProto) -> None:
    """Drop what exporters leave for debugging (source lines, stack traces); spell the ONNX domain one way."""
    model.doc_string = ""
    for graph in walk_graphs(model.graph):
        graph.doc_string = ""
        del graph.metadata_props[:]
        del graph.value_info[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
            if node.domain == "ai.onnx":
                node.domain = ""
    for opset in model.opset_import:
        if opset.domain == "ai.onnx":
            opset.domain = ""
    used = {node.domain for node in walk_nodes(model.graph)} | {""}
    seen: set[str] = set()
    kept = []
    for opset in model.opset_import:
        if opset.domain in used and opset.domain not in seen:
            seen.add(opset.domain)
            kept.append(onnx.helper.make_opsetid(opset.domain, opset.version))
    del model.opset_import[:]
    model.opset_import.extend(kept)


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node, sub-graphs included, a name of its own: ``Conv_12`` for the unnamed 13th node."""
    taken = {node.name for node in walk_nodes(model.graph) if node.name}
    used: set[str] = set()
    for index, node in enumerate(walk_nodes(model.graph)):
        if not node.name:
            node.name = unique(f"{node.op_type}_{index}", taken)
        elif node.name in used:
            node.name = unique(node.name, taken)
        taken.add(node.name)
        used.add(node.name)


def unique(name: str, taken: set[str]) -> str:
    """``name``, or the first of ``name_2``, ``name_3``... that is not taken."""
    if name not in taken:
        return name
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def _check_folding(model: onnx.ModelProto) -> None:
    """Refuse constant expressions that unfold to more than the machine's memory before anybody runs them."""
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton(model), data_prop=True)
    except Exception:  # shape inference is an aid; what it cannot read, onnxruntime judges
        return
    shapes = {
        info.name: info.type.tensor_type
        for graph in walk_graphs(inferred.graph)
        for info in (*graph.value_info, *graph.output)
        if info.type.HasField("tensor_type")
    }
    static: set[str] = set()
    for graph in walk_graphs(model.graph):
        static.update(t.name for t in graph.initializer)
        static.update(t.values.name for t in graph.sparse_initializer)
    for node in walk_nodes(model.graph):
        if not all(name in static for name in node.input if name) or next(bodies(node), None) is not None:
            continue
        static.update(node.output)
        for name in node.output:
            kind = shapes.get(name)
            if kind is None or not kind.elem_type or kind.elem_type == onnx.TensorProto.STRING:
                continue
            dims = [dim.dim_value for dim in kind.shape.dim if dim.HasField("dim_value")]
            if len(dims) == len(kind.shape.dim):
                check_allocation(dims, kind.elem_type, f"constant {name!r} (node {node.name!r})")


def _optimise(model: onnx.ModelProto, folder: Path, work: Path) -> onnx.ModelProto:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    result = work / "normalised.onnx"
    options.optimized_model_filepath = str(result)
    for key, value in {
        "session.disable_prepacking": "1",
        "session.disable_double_qdq_remover": "1",
        "session.model_external_initializers_file_folder_path": str(folder),
        "session.optimized_model_external_initializers_file_name": "normalised.bin",
        "session.optimized_model_external_initializers_min_size_in_bytes": str(INLINE_BYTES),
    }.items():
        options.add_session_config_entry(key, value)
    free, needed = shutil.disk_usage(work).free, sum(tensor_bytes(t) for t in model.graph.initializer)
    if free < needed:
        raise XbcError(
            f"the folder for temporary files, {work.parent}, has {free} bytes free and {needed} are needed: "
            f"set TMPDIR to a larger one"
        )
    if model.ByteSize() > PROTOBUF_LIMIT:
        raise ValueError("its graph is larger than 2 GiB without external data")
    ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=KEEP_QDQ
    )
    out = onnx.ModelProto()
    out.ParseFromString(result.read_bytes())
    for depth, graph in enumerate(walk_graphs(out.graph)):
        for tensor in graph.initializer if depth else ():
            embed_external(tensor, work)
    return out
