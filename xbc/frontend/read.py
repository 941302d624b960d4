"""Reading an ONNX file that nobody vouches for.

No size that the file claims is allocated before it was compared with the bytes that are really there, and no
path in it leaves the folder of the model.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.checker
from onnx import TensorProto, helper

from ir.errors import XbcError
from xbc.frontend.budget import ELEMENTS, Budget
from xbc.frontend.tensors import check_tensor, dense_bytes, element_count, embed_external, tensor_bytes

OLDEST_OPSET = 7
PROTOBUF_LIMIT = 2**31 - 1
STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"})
RUNTIME_DOMAINS = frozenset(
    {"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc", "ai.onnx.contrib"}
)
SKELETON_ELEMENTS = 1024
"""Tensors above this many elements are left out where only names, types and shapes matter."""


@dataclass(frozen=True)
class ModelFile:
    """A model as read: protobuf with external tensors still outside, and where they are.

    Fields:
        model: the parsed file.
        folder: folder that external data paths are relative to.
        sha256: of the model file (external data files not included), hexadecimal.
        budget: what reading it may still cost.
    """

    model: onnx.ModelProto
    folder: Path
    sha256: str
    budget: Budget


_SOURCE_LINE = re.compile(r"/onnxruntime_src/\S+:\d+ [^()]*\([^()]*(?:\([^()]*\)[^()]*)*\)(?: const)? ")
"""Where in its own source onnxruntime gave up: file, line and the signature of a C++ function."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """A library's message as one line, without places in its source and blank parts."""
    text = _SOURCE_LINE.sub("", re.sub(r"\s+", " ", str(error)).strip()).rstrip(".")
    return text if len(text) <= limit else text[:limit] + "..."


def read_model(path: str | os.PathLike[str]) -> ModelFile:
    """Parse and check an ONNX file.

    Raises: XbcError for a file that is missing, not ONNX, truncated, invalid, of an unsupported operator set
    or domain, or whose external data is missing, too short or outside the model's folder.
    """
    file = Path(path)
    content = _content(file)
    budget = Budget(file, len(content))
    _check_wire(content, file)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception:  # protobuf's DecodeError, whose module ships no types
        raise XbcError(
            f"{file} is not an ONNX model, or is damaged: its protobuf content cannot be decoded"
        ) from None
    sha256 = hashlib.sha256(content).hexdigest()
    del content
    if not model.HasField("graph") or not model.graph.node:
        raise XbcError(f"{file} is not an ONNX model: it holds no graph with nodes")
    _check_text(model, file)
    budget.check_nodes(sum(1 for _ in walk_nodes(model.graph)))
    _check_versions(model, file)
    _check_ports(model, file)
    folder = file.resolve().parent
    for tensor in model.graph.initializer:
        check_tensor(tensor, folder, f"{file}: tensor {tensor.name!r}")
        if tensor.data_location == TensorProto.EXTERNAL:
            budget.held += tensor_bytes(tensor)
    for graph in walk_graphs(model.graph):
        for sparse in graph.sparse_initializer:
            size = dense_bytes(sparse)
            budget.fold(size, 0, f"{file}: sparse tensor {sparse.values.name!r} written out")
    for where, tensor in _other_tensors(model):
        check_tensor(tensor, folder, f"{file}: {where}")
        embed_external(tensor, folder)  # rare; only the main graph's initializers may stay outside
    try:
        onnx.checker.check_model(_typed(skeleton(model)))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise XbcError(f"{file} is not a valid ONNX model: {one_line(error)}") from None
    return ModelFile(model, folder, sha256, budget)


def _content(file: Path) -> bytes:
    if file.is_dir():
        raise XbcError(f"{file} is a folder: give the .onnx file inside it")
    try:
        size = file.stat().st_size
        if not file.is_file():
            raise XbcError(f"{file} is no regular file")
        if size > PROTOBUF_LIMIT:
            raise XbcError(f"{file} is larger than 2 GiB, the limit of protobuf: save it with external data")
        content = file.read_bytes()
    except FileNotFoundError:
        raise XbcError(f"{file} does not exist") from None
    except OSError as error:
        raise XbcError(f"{file} cannot be read: {error.strerror}") from None
    if not content:
        raise XbcError(f"{file} is empty, not an ONNX model")
    if content.startswith(b"version https://git-lfs"):
        raise XbcError(
            f"{file} is a Git LFS pointer, not the model itself: fetch the model with 'git lfs pull'"
        )
    return content


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            return -1, at
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    return -1, at


def _check_wire(data: bytes, file: Path) -> None:
    """Walk the top-level fields to tell a truncated model from a damaged one."""
    known = {f.number: f.name for f in onnx.ModelProto.DESCRIPTOR.fields}
    at = seen = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if key < 0 or number not in known or kind not in (0, 2):
            return  # another kind of file, or a field of a newer ONNX: the parser decides
        size, at = _varint(data, at)
        if size < 0:
            return
        if kind == 2:
            if size > len(data) - at and seen:
                raise XbcError(
                    f"{file} is truncated: its field {known[number]!r} needs {size} bytes, "
                    f"{len(data) - at} are left; copy or download it again"
                )
            at += size
        seen += 1


def _check_text(model: onnx.ModelProto, file: Path) -> None:
    """Refuse names that are no text: protobuf hands them over as bytes."""
    names: list[object] = [opset.domain for opset in model.opset_import]
    for function in model.functions:
        names += [function.name, function.domain, function.overload, *function.input, *function.output]
        names += _names_of(function.node)
    for graph in walk_graphs(model.graph):
        names.append(graph.name)
        for value in (*graph.input, *graph.output, *graph.value_info):
            names.append(value.name)
            names += [dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
            names.append(tensor.name)
            names += [text for entry in tensor.external_data for text in (entry.key, entry.value)]
        names += _names_of(graph.node)
    for name in names:
        if not isinstance(name, str):
            raise XbcError(f"{file} is damaged: the name {name!r} is no UTF-8 text")
        if "\0" in name:
            raise XbcError(f"{file} is damaged: the name {name!r} holds a zero byte")


def _names_of(nodes: Iterable[onnx.NodeProto]) -> Iterator[object]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, node.overload, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _check_ports(model: onnx.ModelProto, file: Path) -> None:
    """Refuse inputs and outputs of types or sizes that no runtime has."""
    for what, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            if not value.type.HasField("tensor_type"):
                continue
            kind = value.type.tensor_type
            if kind.elem_type not in TensorProto.DataType.values() or (
                what == "input" and not kind.elem_type
            ):
                raise XbcError(
                    f"{file}: {what} {value.name!r} has the unknown element type {kind.elem_type}: the file is "
                    f"damaged or too new"
                )
            dims = [dim.dim_value for dim in kind.shape.dim if dim.HasField("dim_value")]
            if any(dim < 0 for dim in dims) or element_count(dims) > ELEMENTS:
                raise XbcError(
                    f"{file}: {what} {value.name!r} of shape {dims} is negative or larger than any memory: "
                    f"the file is damaged"
                )


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A skeleton whose outputs all have a type and a rank, which the checker wants and the format does not."""
    for value in model.graph.output:
        if not value.type.WhichOneof("value"):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
        if value.type.HasField("tensor_type"):
            kind = value.type.tensor_type
            kind.elem_type = kind.elem_type or TensorProto.FLOAT
            kind.shape.SetInParent()
    for value in model.graph.input:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    return model


def _check_versions(model: onnx.ModelProto, file: Path) -> None:
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if opset is None and any(node.domain in ("", "ai.onnx") for node in model.graph.node):
        raise XbcError(
            f"{file} names no operator set (opset_import); the file may be truncated: export it again"
        )
    if opset is not None and opset < OLDEST_OPSET:
        raise XbcError(
            f"{file} uses operator set {opset}; {OLDEST_OPSET} is the oldest supported: "
            f"convert it with onnx.version_converter"
        )
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and opset > newest:
        raise XbcError(
            f"{file} uses operator set {opset}; the installed onnx knows up to {newest}: update onnx"
        )
    local = {f.domain for f in model.functions}
    for node in walk_nodes(model.graph):
        if (
            node.domain not in STANDARD_DOMAINS
            and node.domain not in RUNTIME_DOMAINS
            and node.domain not in local
        ):
            raise XbcError(
                f"{file}: node {node.name or node.output[0]!r} uses operator {node.op_type!r} of the unknown "
                f"domain {node.domain!r}: export the model with standard operators, or with the operator's "
                f"definition inside as a function"
            )


def walk_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of sub-graphs (If, Loop, Scan bodies) included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from walk_nodes(attribute.g)
            for body in attribute.graphs:
                yield from walk_nodes(body)


def walk_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all its sub-graphs, outer ones first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from walk_graphs(attribute.g)
            for body in attribute.graphs:
                yield from walk_graphs(body)


def _other_tensors(model: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """All tensors but the main graph's initializers, each with words that say where it is."""
    for depth, graph in enumerate(walk_graphs(model.graph)):
        for tensor in graph.initializer if depth else ():
            yield f"tensor {tensor.name!r}", tensor
        for sparse in graph.sparse_initializer:
            yield f"sparse tensor {sparse.values.name!r}", sparse.values
            yield f"indices of sparse tensor {sparse.values.name!r}", sparse.indices
        yield from _attribute_tensors(graph.node)
    for function in model.functions:
        yield from _attribute_tensors(function.node)


def _attribute_tensors(nodes: object) -> Iterator[tuple[str, TensorProto]]:
    for node in nodes:  # type: ignore[attr-defined]
        for attribute in node.attribute:
            where = f"attribute {attribute.name!r} of node {node.name or next(iter(node.output), '')!r}"
            if attribute.HasField("t"):
                yield where, attribute.t
            for tensor in attribute.tensors:
                yield where, tensor
            if attribute.HasField("sparse_tensor"):
                yield where, attribute.sparse_tensor.values
                yield where, attribute.sparse_tensor.indices


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large or external initializers of the main graph are graph inputs.

    It has the same names, types and shapes, costs no copy of the weights and needs no other file, so the
    checker and shape inference can work on it.
    """
    out = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        target = getattr(out, field.name)
        if hasattr(target, "extend"):
            target.extend(value)
        elif hasattr(target, "CopyFrom"):
            target.CopyFrom(value)
        else:
            setattr(out, field.name, value)
    _copy_graph(model.graph, out.graph, top=True)
    return out


def _copy_graph(source: onnx.GraphProto, out: onnx.GraphProto, *, top: bool) -> None:
    out.name = source.name
    out.input.extend(source.input)
    out.output.extend(source.output)
    out.value_info.extend(source.value_info)
    out.node.extend(source.node)
    out.sparse_initializer.extend(source.sparse_initializer)
    known = {i.name for i in source.input}
    for tensor in source.initializer:
        if element_count(tensor.dims) <= SKELETON_ELEMENTS and tensor.data_location != TensorProto.EXTERNAL:
            out.initializer.append(tensor)
        elif tensor.name not in known:
            out.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
