"""Cutting a layer's matrix into sections: which weights share a crossbar load, and in which rows."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Layer
from ir.stages import UNUSED, Sectioned, Sliced
from ir.target import Target

Cut = Literal["rank", "stratified"]


def group_width(layer: Layer, target: Target, most: int = 0) -> int:
    """Outputs that share a section's rows: as many as fit, or ``most`` if that is fewer and not 0.

    Raises: XbcError when not even one weight fits the columns.
    """
    body = layer.at(Sliced)
    fit = target.columns // body.cells.columns
    if fit == 0:
        raise XbcError(
            f"target {target.name!r} has {target.columns} columns, one weight of layer {layer.name!r} needs "
            f"{body.cells.columns} ({body.encoding}, {body.stored_bits} bits): lower quantize bits or raise columns"
        )
    outputs_per_group = body.shape[0] // layer.origin.groups
    return max(1, min(fit, most or fit, target.outputs_per_section, outputs_per_group))


def cut_outputs(
    order: Array, lengths: Array, rows: int, cut: Cut, spare: float = 0.0
) -> tuple[Array, Array, Array]:
    """Cuts sorted lists of inputs into sections.

    Args:
        order: ``[lists, n]`` int32; list i is ``order[i, :lengths[i]]``.
        lengths: ``[lists]``.
        rows: rows of a crossbar.
        cut: ``rank`` takes consecutive runs, ``stratified`` every k-th entry of a list cut in k.
        spare: sections per list beyond the fewest that hold it, as a share of these.
    Returns: ``inputs [sections, rows]`` int32 (list by list, rank ascending), ``source [sections]`` (list
        of each section), ``rank [sections]``.
    """
    lists, n = order.shape
    lengths = np.asarray(lengths, np.int64)
    count = np.minimum(spared(-(-lengths // rows), spare), lengths)
    size = -(-lengths // np.maximum(count, 1))  # rows that a rank section with spare ones fills
    if cut == "rank" and spare:
        count = -(
            -lengths // np.maximum(size, 1)
        )  # runs of that size may need fewer sections: none stays empty
    base = np.concatenate([[0], np.cumsum(count)])
    sections = int(base[-1])
    inputs = np.full((sections, rows), UNUSED, np.int32)
    chunk = max(1, 2**22 // max(1, n))
    position = np.arange(n, dtype=np.int64)[None, :]
    for start in range(0, lists, chunk):
        part = slice(start, min(lists, start + chunk))
        valid = position < lengths[part, None]
        k = np.maximum(count[part, None], 1)
        if cut == "rank" and not spare:
            rank, row = position // rows, np.broadcast_to(position % rows, valid.shape)
            rank = np.broadcast_to(rank, valid.shape)
        elif cut == "rank":
            fill = np.maximum(size[part, None], 1)
            rank, row = position // fill, position % fill
        else:
            rank, row = position % k, position // k
        flat = (base[part][:, None] + rank) * rows + row
        inputs.reshape(-1)[flat[valid]] = order[part][valid]
    source = np.repeat(np.arange(lists), count)
    return inputs, source, (np.arange(sections) - base[source]).astype(np.int32)


def spared(sections: Array, spare: float) -> Array:
    """Numbers of sections with the share of spare ones (to the nearest) added."""
    return np.asarray(sections + np.floor(sections * spare + 0.5).astype(np.int64))


def output_blocks(outputs: int, groups: int, width: int) -> Array:
    """``[blocks, width]`` int32: outputs that share rows, never across groups, ``UNUSED`` where short."""
    per_group = outputs // groups
    blocks_per_group = -(-per_group // width)
    block = np.full((groups, blocks_per_group * width), UNUSED, np.int32)
    block[:, :per_group] = np.arange(outputs, dtype=np.int32).reshape(groups, per_group)
    return block.reshape(groups * blocks_per_group, width)


def sections_from_order(
    body: Sliced, blocks: Array, order: Array, target: Target, cut: Cut, spare: float = 0.0
) -> Sectioned:
    """Section table of output blocks whose inputs are listed in ``order [blocks, inputs]``.

    Split layers get sections of either sign: with one output per block and free routing the list itself is
    divided; else (shared rows, rows wired to a run of inputs) every block is loaded once per sign.
    """
    lists, n = order.shape
    if body.encoding == "split" and blocks.shape[1] == 1 and target.routing == "gather":
        negative = np.take_along_axis(body.codes[blocks[:, 0]], order, axis=1) < 0
        negatives = negative.sum(1)
        doubled = np.empty((2 * lists, n), np.int32)
        for start, behind in enumerate((negative, ~negative)):
            doubled[start::2] = np.take_along_axis(order, np.argsort(behind, axis=1, kind="stable"), axis=1)
        lengths = np.stack([n - negatives, negatives], axis=1).reshape(-1)
        inputs, source, rank = cut_outputs(doubled, lengths, target.rows, cut, spare)
        polarity = np.where(source % 2 == 0, 1, -1).astype(np.int8)
        outputs = blocks[source // 2]
    else:
        inputs, source, rank = cut_outputs(order, np.full(lists, n), target.rows, cut, spare)
        outputs = blocks[source]
        polarity = np.zeros(len(rank), np.int8)
        if body.encoding == "split":
            inputs, outputs, rank = (np.repeat(a, 2, axis=0) for a in (inputs, outputs, rank))
            polarity = np.tile(np.array([1, -1], np.int8), len(rank) // 2)
    fields = {"outputs": outputs, "inputs": inputs, "rank": rank, "polarity": polarity}
    return body.lower(Sectioned, row_outputs=None, **fields)


def natural_sections(layer: Layer, target: Target, most: int = 0) -> Sectioned:
    """Sections cut from the matrix as it lies: output by output, inputs ascending; ``most`` as ``group_width``."""
    body = layer.at(Sliced)
    outputs, inputs = body.shape
    blocks = output_blocks(outputs, layer.origin.groups, group_width(layer, target, most))
    order = np.broadcast_to(np.arange(inputs, dtype=np.int32), (len(blocks), inputs))
    return sections_from_order(body, blocks, order, target, "rank")
