"""Tensor and node names of a graph: which are read, and new ones that nobody has."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from xbc.frontend.read import walk_graphs


def read_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Every tensor name that a graph reads or returns, bodies inside it included."""
    for inner in walk_graphs(graph):
        for node in inner.node:
            yield from node.input
        yield from (o.name for o in inner.output)


class Names:
    """The names that a graph has already, its bodies included."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        """``graph``: the model's main graph."""
        self.known = set(read_names(graph))
        for inner in walk_graphs(graph):
            for many in (inner.input, inner.initializer):
                self.known.update(x.name for x in many)
            for node in inner.node:
                self.known.update((node.name, *node.output))

    def fresh(self, wanted: str) -> str:
        """``wanted``, or with underscores behind it until no tensor or node is called so; taken from now on."""
        while wanted in self.known:
            wanted += "_"
        self.known.add(wanted)
        return wanted
