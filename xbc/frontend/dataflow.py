"""Which layer feeds which, through everything that stays in the host graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from xbc.frontend.statics import bodies

Env = dict[str, int]
"""Value name -> bit set of the layers whose results reach it without passing another layer."""


def layer_edges(
    graph: onnx.GraphProto, layers: Mapping[str, Sequence[int]], count: int, most: int
) -> list[tuple[int, int]] | None:
    """Edges between layers.

    Args:
        graph: main graph, in topological order.
        layers: node name -> indices of its layers, in the order in which they run (a recurrent cell's input
            weights before its recurrent weights).
        count: layers in all.
        most: edges that a caller is ready for.
    Returns: (from, to) index pairs, sorted; None for more than ``most``.  There is one when a path of host nodes
        leads from the first layer's node to the second's without passing a third layer.
    """
    feeds = [0] * count
    _flow(graph, {}, layers, feeds, 0)
    if sum(mask.bit_count() for mask in feeds) > most:
        return None
    return sorted((source, to) for to, mask in enumerate(feeds) for source in _bits(mask))


def _flow(
    graph: onnx.GraphProto, env: Env, layers: Mapping[str, Sequence[int]], feeds: list[int], control: int
) -> None:
    """Propagate through one graph.

    ``env`` holds the outer names on entry and also the graph's own on return; ``control`` are the layers that
    decide whether the graph runs.
    """
    for node in graph.node:
        reached = 0
        for name in node.input:
            reached |= env.get(name, 0)
        result = [reached] * len(node.output)
        subgraphs = list(bodies(node))
        if subgraphs:
            result = _through_bodies(node, subgraphs, reached, control, env, layers, feeds)
        own = layers.get(node.name, ())
        if own:
            if len(own) > 1:  # W x is computed from the inputs, R h also from the initial states and from W x
                data = env.get(node.input[0], 0) | control
                feeds[own[0]] |= data
                reached = (reached & ~data) | (1 << own[0])
                feeds[own[1]] |= reached
            else:
                feeds[own[0]] |= reached | control
            result = [1 << own[-1]] * len(node.output)
        for name, mask in zip(node.output, result, strict=True):
            if name:
                env[name] = mask


def _through_bodies(
    node: onnx.NodeProto,
    subgraphs: Sequence[tuple[str, onnx.GraphProto]],
    reached: int,
    control: int,
    env: Env,
    layers: Mapping[str, Sequence[int]],
    feeds: list[int],
) -> list[int]:
    result = [0] * len(node.output)
    choice = node.op_type == "If" and not node.domain
    for _, body in subgraphs:
        inner = dict(env)
        if not choice:  # everything a loop is handed may come back in any of its variables
            captured = reached
            for name in _captured(body):
                captured |= env.get(name, 0)
            inner.update((i.name, captured) for i in body.input)
        _flow(body, inner, layers, feeds, control | reached)
        outputs = [inner.get(o.name, 0) for o in body.output]
        if choice:
            for at, mask in enumerate(outputs[: len(result)]):
                result[at] |= mask | reached  # the condition decides, so what made it feeds the result too
        else:
            union = reached
            for mask in outputs:
                union |= mask
            result = [union] * len(result)
    return result


def _captured(body: onnx.GraphProto) -> set[str]:
    names = {o.name for o in body.output}
    for node in body.node:
        names.update(node.input)
        for _, inner in bodies(node):
            names |= _captured(inner)
    return names


def _bits(mask: int) -> list[int]:
    out = []
    while mask:
        low = mask & -mask
        out.append(low.bit_length() - 1)
        mask ^= low
    return out
