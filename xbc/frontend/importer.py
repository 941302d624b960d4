"""From an ONNX file to layers and a host graph."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from ir.errors import XbcError
from ir.module import Host, Layer, Module, Origin, Unmapped
from ir.target import Target
from xbc.frontend.budget import EDGES, ELEMENTS, LAYERS
from xbc.frontend.dataflow import layer_edges
from xbc.frontend.host import detach_weights, host_sha256
from xbc.frontend.matrices import FLOAT_TYPES, WIDEST_INTEGER, layer_body
from xbc.frontend.normalise import Names, normalise
from xbc.frontend.read import read_model, walk_nodes
from xbc.frontend.shapes import value_shapes
from xbc.frontend.static_nodes import COEFFICIENTS, coefficients, find_weights, plain_name
from xbc.frontend.statics import Scope, bodies
from xbc.frontend.tensors import element_count
from xbc.frontend.types import numpy_dtype
from xbc.operators import MisshapenError, Refusal, Weight, find
from xbc.system.scratch import scratch_folder

HOST_FILE = "host.onnx"


@dataclass(frozen=True)
class Imported:
    """A model ready to compile.

    Fields:
        module: layers at stage float (or quantized, where the model brings its own codes), edges, and the
            static-weight nodes that stay in the host graph.
        host: the rest of the model; each layer's weights are its input ``layer.origin.tensor``.
        notes: sentences on how the model was read that a user should see.
    """

    module: Module
    host: onnx.ModelProto
    notes: tuple[str, ...] = ()


def import_model(
    path: str | os.PathLike[str], target: Target, *, name: str | None = None, optimise: bool = True
) -> Imported:
    """Read an ONNX model and split it into crossbar layers and a host graph.

    Args:
        path: the ``.onnx`` file; external data must lie in its folder or below.
        target: chip that the module is for (the import itself does not depend on it).
        name: of the module; default the file's name without its ending.
        optimise: fold constants and batch normalisations with onnxruntime first.
    Raises: XbcError, one sentence, for anything wrong with the file.
    """
    try:
        return _import(path, target, name, optimise)
    except XbcError as error:
        if str(path) in str(error):
            raise
        raise XbcError(f"{path}: {error}") from None


def _import(path: str | os.PathLike[str], target: Target, name: str | None, optimise: bool) -> Imported:
    source = read_model(path)
    budget = source.budget
    with scratch_folder() as work:
        normal = normalise(source, Path(work), optimise=optimise)
        budget.check_nodes(sum(1 for _ in walk_nodes(normal.model.graph)))
        importer = _Importer(normal.model, normal.folder, Path(path))
        importer.scan(Scope(normal.model.graph, normal.folder, list(normal.model.opset_import), budget))
        layers, unmapped, edges = importer.finish()
    notes = list(normal.notes)
    if importer.on_grid:
        notes.append(
            f"{importer.on_grid} layers of this quantised model store weights as floats that lie exactly on "
            f"an 8-bit grid; the integers behind them are kept"
        )
    module = Module(
        name=name or Path(path).stem,
        target=target,
        layers=tuple(layers),
        edges=tuple(edges),
        host=Host(HOST_FILE, host_sha256(normal.model), source.sha256),
        unmapped=tuple(unmapped),
    )
    return Imported(module, normal.model, tuple(notes))


@dataclass
class _Importer:
    model: onnx.ModelProto
    folder: Path
    file: Path
    layers: list[Layer] = field(default_factory=list)
    found: list[tuple[onnx.NodeProto, Weight]] = field(default_factory=list)
    unmapped: list[Unmapped] = field(default_factory=list)
    layer_names: Names = field(default_factory=Names)
    values: Names = field(init=False)
    quantised_graph: bool = False
    on_grid: int = 0

    def __post_init__(self) -> None:
        """Collect what names are taken."""
        self.values = Names(v.name for v in (*self.model.graph.input, *self.model.graph.initializer))
        for node in walk_nodes(self.model.graph):
            self.values.taken.update(node.input)
            self.values.taken.update(node.output)
            self.quantised_graph |= node.op_type in ("QuantizeLinear", "DequantizeLinear")

    def scan(self, scope: Scope) -> None:
        """Map or list every static-weight node of a graph and its bodies, in order."""
        for node in scope.graph.node:
            self._node(node, scope)
            for _, body in bodies(node):
                self.scan(scope.inner(node, body))

    def _node(self, node: onnx.NodeProto, scope: Scope) -> None:
        if count := coefficients(node):
            self._list(node, count, COEFFICIENTS)
            return
        if not any(name and scope.is_static(name) for name in node.input):
            return
        if all(not name or scope.is_static(name) for name in node.input):
            return  # a constant itself
        shapes = [scope.shape(name) if name and _weight_like(name, scope) else None for name in node.input]
        try:
            found = find_weights(node, shapes)
        except MisshapenError as error:
            raise XbcError(f"{self.file}: node {node.name!r} ({node.op_type}): {error}") from None
        for item in found:
            shape = shapes[item.operand]
            assert shape is not None
            count = element_count(shape)
            if isinstance(item, Refusal):
                self._list(node, count, item.reason)
            elif not count:
                raise XbcError(
                    f"{self.file}: node {node.name!r} ({node.op_type}) has a weight of shape {list(shape)}, "
                    f"a layer of no weights: remove the node from the model"
                )
            elif scope.loop:
                self._list(
                    node, count, f"inside a {scope.loop} body, where it would be rewritten every iteration"
                )
            else:
                self._map(node, item, scope)

    def _list(self, node: onnx.NodeProto, weights: int, reason: str) -> None:
        self.unmapped.append(Unmapped(node.name, node.op_type, weights, reason))

    def _map(self, node: onnx.NodeProto, weight: Weight, scope: Scope) -> None:
        name = node.input[weight.operand]
        who = f"{self.file}: node {node.name!r} ({node.op_type})"
        found = layer_body(node, weight, scope, who, quantised_graph=self.quantised_graph)
        if isinstance(found, str):
            self._list(node, element_count(scope.shape(name) or ()), found)
            return
        self.on_grid += found.recovered
        layer = self.layer_names.fresh(_readable(node, weight))
        tensor_name = self.values.fresh(f"{layer}.weight")
        origin = Origin(
            node.name,
            node.op_type,
            weight.operand,
            tensor_name,
            found.dtype,
            weight.layout,
            weight.groups,
            weight.kernel,
        )
        self.layers.append(Layer(layer, origin, found.body))
        self.found.append((node, weight))
        if len(self.layers) > LAYERS:
            raise XbcError(
                f"{self.file} has more than {LAYERS} layers, which is as many as one program may have"
            )

    def finish(self) -> tuple[list[Layer], list[Unmapped], list[tuple[str, str]]]:
        """Turn the model into the host graph and complete the layers with what it tells."""
        by_node: dict[str, list[int]] = {}
        for at, (layer, (node, weight)) in enumerate(zip(self.layers, self.found, strict=True)):
            node.input[weight.operand] = layer.origin.tensor
            by_node.setdefault(node.name, []).append(at)
        pairs = layer_edges(self.model.graph, by_node, len(self.layers), EDGES)
        if pairs is None:
            raise XbcError(f"{self.file} has more than {EDGES} pairs of layers that feed each other")
        detach_weights(
            self.model,
            self.folder,
            [(x.origin.tensor, numpy_dtype(x.origin.dtype), x.origin.layout.shape) for x in self.layers],
        )
        shape_of = value_shapes(self.model)
        layers = []
        for layer, (node, weight) in zip(self.layers, self.found, strict=True):
            operator = find(node.domain, node.op_type)
            assert operator is not None  # it found the weight
            count = operator.products(node, weight, shape_of)
            if count is not None and not 0 <= count * layer.body.shape[0] <= ELEMENTS:
                raise XbcError(
                    f"{self.file}: node {node.name!r} ({node.op_type}) makes {count} products with its weights "
                    f"in one inference, more than any memory holds: its shapes or pads are damaged"
                )
            origin = dataclasses.replace(layer.origin, products=count)
            layers.append(dataclasses.replace(layer, origin=origin))
        return layers, self.unmapped, [(layers[a].name, layers[b].name) for a, b in pairs]


def _weight_like(name: str, scope: Scope) -> bool:
    """Whether a static value can hold weights: floats, or integers of up to 16 bits."""
    if not scope.is_static(name):
        return False
    dtype = scope.dtype(name)
    return dtype in FLOAT_TYPES or (
        dtype.startswith(("int", "uint")) and int(dtype.split("int")[1]) <= WIDEST_INTEGER
    )


def _readable(node: onnx.NodeProto, weight: Weight) -> str:
    """A layer name from a node name: path separators become dots, onnxruntime's fusion marks go."""
    plain = plain_name(node)
    plain = re.sub(r"[^A-Za-z0-9_.-]+", ".", plain).strip(".-") or node.op_type
    return f"{plain}.{weight.suffix}" if weight.suffix else plain
