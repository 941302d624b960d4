"""Recurrent nodes with the batch in front (``layout = 1``), turned into those that onnxruntime runs."""

from __future__ import annotations

from typing import Final

import onnx
from onnx import helper

from xbc.frontend.read import walk_graphs

RECURRENT: Final = frozenset({"LSTM", "GRU", "RNN"})
_INPUTS: Final[dict[int, tuple[int, ...]]] = {0: (1, 0, 2), 5: (1, 0, 2), 6: (1, 0, 2)}
"""Operand -> order of its axes: the sequence and the initial states."""
_OUTPUTS: Final[dict[int, tuple[int, ...]]] = {0: (2, 0, 1, 3), 1: (1, 0, 2), 2: (1, 0, 2)}


def make_time_major(model: onnx.ModelProto) -> None:
    """``layout = 1`` becomes ``layout = 0`` between transpositions; the node keeps its name and outputs."""
    for graph in walk_graphs(model.graph):
        if any(_batch_first(node) for node in graph.node):
            nodes: list[onnx.NodeProto] = []
            for node in graph.node:
                nodes += _turned(node) if _batch_first(node) else [node]
            kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
            del graph.node[:]
            graph.node.extend(kept)


def _batch_first(node: onnx.NodeProto) -> bool:
    if node.op_type not in RECURRENT or node.domain:
        return False
    return any(attribute.name == "layout" and attribute.i for attribute in node.attribute)


def _turned(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    inner = onnx.NodeProto()
    inner.CopyFrom(node)
    kept = [attribute for attribute in node.attribute if attribute.name != "layout"]
    del inner.attribute[:]
    inner.attribute.extend(kept)
    before, after = [], []
    for at, perm in _INPUTS.items():
        if at < len(node.input) and node.input[at]:
            inner.input[at] = f"{node.name}/time_major_input_{at}"
            before.append(_transpose(node.input[at], inner.input[at], perm))
    for at, perm in _OUTPUTS.items():
        if at < len(node.output) and node.output[at]:
            inner.output[at] = f"{node.name}/time_major_output_{at}"
            after.append(_transpose(inner.output[at], node.output[at], perm))
    return [*before, inner, *after]


def _transpose(source: str, to: str, perm: tuple[int, ...]) -> onnx.NodeProto:
    return helper.make_node("Transpose", [source], [to], name=f"{to}/transpose", perm=perm)
