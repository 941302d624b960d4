"""Bringing a model into the one form that the importer maps: named nodes, no functions, constants folded.

The graph rewriting itself is onnxruntime's (its BASIC level, run offline): batch normalisations are folded,
constant expressions become initializers, MatMul + Add becomes Gemm.  Its rewrites of Q/DQ pairs stay off,
because they would make new codes or move scales; a DequantizeLinear of weights is kept by design.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.inliner
import onnxruntime as ort

from ir.errors import XbcError
from xbc.frontend.budget import Budget
from xbc.frontend.folding_cost import check_folding
from xbc.frontend.read import PROTOBUF_LIMIT, ModelFile, one_line, walk_graphs, walk_nodes
from xbc.frontend.statics import bodies
from xbc.frontend.tensors import embed_external, tensor_bytes
from xbc.frontend.time_major import make_time_major

KEEP_QDQ = ["WeightBiasQuantization", "QDQPropagationTransformer", "EnsureUniqueDQForNodeUnit"]
"""onnxruntime optimisers that rewrite quantised graphs."""
DEEPEST_CALL = 64
"""Functions that may be open at once; each call costs frames of Python."""
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
    Raises: XbcError when the model would unfold beyond its budget, or its functions do not fit together.
    """
    model, notes = source.model, []
    if model.functions:
        model = _inline(model, source.budget)
    if overridable := _fix_initializers(model):
        notes.append(
            f"{overridable} constants that the model also lists as optional inputs keep their values"
        )
    _strip(model)
    name_nodes(model)
    make_time_major(model)
    folder = source.folder
    if optimise:
        try:
            check_folding(model, source.budget)
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


def _inline(model: onnx.ModelProto, budget: Budget) -> onnx.ModelProto:
    """The model with its functions written out, after counting what that makes."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    sizes: dict[tuple[str, str, str], tuple[int, int]] = {}
    open_: set[tuple[str, str, str]] = set()

    def total(nodes: Iterable[onnx.NodeProto]) -> tuple[int, int]:
        count = size = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            inner = (1, node.ByteSize())
            if key in functions:
                called = functions[key]
                if len(node.input) > len(called.input) or len(node.output) > len(called.output):
                    raise XbcError(
                        f"{budget.file}: node {node.name or next(iter(node.output), '')!r} calls function "
                        f"{node.op_type!r} with {len(node.input)} inputs and {len(node.output)} outputs, it has "
                        f"{len(called.input)} and {len(called.output)}: the file is damaged"
                    )
                inner = measured(key)
            count, size = count + inner[0], size + inner[1]
        return count, size

    def measured(key: tuple[str, str, str]) -> tuple[int, int]:
        if key in open_:
            raise XbcError(f"{budget.file}: function {key[1]!r} calls itself: the file is damaged")
        if key not in sizes:
            if len(open_) > DEEPEST_CALL:
                raise XbcError(
                    f"{budget.file}: functions call each other more than {DEEPEST_CALL} deep: the file is damaged"
                )
            open_.add(key)
            sizes[key] = total(_with_bodies(functions[key].node))
            open_.remove(key)
        return sizes[key]

    count, size = total(walk_nodes(model.graph))
    budget.check_nodes(count)
    budget.fold(size, 0, f"{budget.file}: its functions written out")
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # a bare RuntimeError with a place in its source
        raise XbcError(
            f"{budget.file}: its functions cannot be written out: {one_line(error)}: the file is damaged"
        ) from None


def _with_bodies(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for _, body in bodies(node):
            yield from walk_nodes(body)


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
    names = Names(node.name for node in walk_nodes(model.graph) if node.name)
    used: set[str] = set()
    for index, node in enumerate(walk_nodes(model.graph)):
        if not node.name:
            node.name = names.fresh(f"{node.op_type}_{index}")
        elif node.name in used:
            node.name = names.fresh(node.name)
        used.add(node.name)


class Names:
    """Names that are taken."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken)
        self._last: dict[str, int] = {}

    def fresh(self, name: str) -> str:
        """``name``, or the first of ``name_2``, ``name_3``... that is not taken; taken from now on."""
        found, number = name, self._last.get(name, 1)
        while found in self.taken:
            number += 1
            found = f"{name}_{number}"
        self._last[name] = number
        self.taken.add(found)
        return found


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
