"""Module and layer: the program of one network on one target."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ir.display import html_table
from ir.errors import XbcError
from ir.layout import Layout
from ir.stages import STAGES, B, Body, Float, Sectioned
from ir.target import Target

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Origin:
    """Where a layer's matrix comes from in the ONNX graph.

    Fields:
        node: name of the ONNX node (unique in the host graph).
        op_type: its operator.
        operand: index of the node input that holds the weights.
        tensor: name of the host-graph input that takes the effective weights back.
        dtype: numpy name of that input's type (``float32``, ``uint8``, ...).
        layout: where the matrix lies in the tensor.
        groups: outputs of different groups never share rows (grouped convolution, stacked matrices).
        kernel: spatial kernel size of a convolution, else empty.
        products: matrix-vector products that one inference needs (batch 1), None when dynamic.
    """

    node: str
    op_type: str
    operand: int
    tensor: str
    dtype: str
    layout: Layout
    groups: int = 1
    kernel: tuple[int, ...] = ()
    products: int | None = None


@dataclass(frozen=True)
class Layer:
    """One weight matrix, at some stage."""

    name: str
    origin: Origin
    body: Body

    def __repr__(self) -> str:
        outputs, inputs = self.body.shape
        return f"<Layer {self.name}: {self.origin.op_type} {outputs} x {inputs}, {self.body.stage()}>"

    def _repr_html_(self) -> str:
        return layer_table(repr(self).strip("<>"), [self])

    @property
    def weights(self) -> int:
        """Entries of the matrix."""
        outputs, inputs = self.body.shape
        return outputs * inputs

    def at(self, stage: type[B]) -> B:
        """The body, which must have reached ``stage``."""
        if not isinstance(self.body, stage):
            raise XbcError(
                f"layer {self.name!r} is at stage {self.body.stage()!r}, {stage.stage()!r} is needed: "
                f"run the pass that makes it first"
            )
        return self.body

    def with_body(self, body: Body) -> Layer:
        """The layer with another body."""
        return dataclasses.replace(self, body=body)


def layer_table(caption: str, layers: Sequence[Layer]) -> str:
    """HTML of the layers, for notebooks."""
    rows = [
        (
            layer.name, layer.origin.op_type, layer.body.stage(), *layer.body.shape, layer.origin.products,
            layer.body.sections if isinstance(layer.body, Sectioned) else None,
        )
        for layer in layers
    ]  # fmt: skip
    return html_table(
        caption, ("layer", "operator", "stage", "outputs", "inputs", "products", "sections"), rows
    )


@dataclass(frozen=True)
class Unmapped:
    """A node with static weights that stays in the host graph, and why."""

    node: str
    op_type: str
    weights: int
    reason: str


@dataclass(frozen=True)
class Host:
    """Reference to the host graph (the ONNX file itself is no business of the IR)."""

    file: str = ""
    sha256: str = ""
    model_sha256: str = ""


@dataclass(frozen=True)
class Module:
    """A network on a target.

    Fields:
        layers: in dependency order.
        edges: (layer, layer) pairs: the first one's output feeds the second through the host graph.
    """

    name: str
    target: Target
    layers: tuple[Layer, ...]
    edges: tuple[tuple[str, str], ...] = ()
    host: Host = field(default_factory=Host)
    unmapped: tuple[Unmapped, ...] = ()

    def __repr__(self) -> str:
        return (
            f"<Module {self.name}: {len(self.layers)} layers, {self.weights:,} weights, {self.stage().stage()}, "
            f"for {self.target.name}>"
        )

    def _repr_html_(self) -> str:
        return layer_table(repr(self).strip("<>"), self.layers)

    def layer(self, name: str) -> Layer:
        """The layer of that name.  Raises XbcError when there is none."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = ", ".join(layer.name for layer in self.layers[:8]) + ", ..." * (len(self.layers) > 8)
        raise XbcError(f"no layer {name!r} in module {self.name!r}; layers: {known}")

    def graph(self) -> nx.DiGraph[str]:
        """Layer names and which one feeds which."""
        import networkx as nx  # costs more to import than the whole IR

        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(layer.name for layer in self.layers)
        graph.add_edges_from(self.edges)
        return graph

    def with_layers(self, layers: tuple[Layer, ...] | list[Layer]) -> Module:
        """The module with other layers."""
        return dataclasses.replace(self, layers=tuple(layers))

    @property
    def weights(self) -> int:
        """Entries of all layers' matrices."""
        return sum(layer.weights for layer in self.layers)

    def stage(self) -> type[Body]:
        """The earliest stage any layer is at."""
        return min((type(layer.body) for layer in self.layers), key=STAGES.index, default=Float)
