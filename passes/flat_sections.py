"""Cutting the flattened layer into sections: rows of several outputs, read output by output (row gating)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Layer
from ir.stages import UNUSED, Sectioned, Sliced, lowest_outputs
from ir.target import Target
from passes.sections import Cut, group_width, spared

Key = Literal["none", "magnitude", "value"]


def check_gating(who: str, target: Target) -> None:
    """Raises XbcError when the target cannot read rows of several outputs apart."""
    shared = target.outputs_per_section
    for key, met, cure in (
        ("row_gating = false", target.row_gating, "row_gating=true"),
        (f"outputs_per_section = {shared}", shared == 1, "outputs_per_section=1"),
        (f"routing = {target.routing!r}", target.routing == "gather", "routing=gather"),
    ):
        if not met:
            raise XbcError(
                f"{who}: scope=layer puts weights of several outputs into the rows of a section, target "
                f"{target.name!r} has {key}: set {cure} or use scope=output"
            )


def flat_sections(
    layer: Layer, target: Target, by: Key, cut: Cut, most: int = 0, spare: float = 0.0
) -> Sectioned:
    """Sections of the flattened layer, or of runs of its outputs.

    Weights of equal key are dealt so that a section meets few outputs: in the order of their outputs to
    sections in the order of their numbers.

    Args:
        by: what the weights are sorted by, largest first; ``none``: as they lie.
        cut: see ``passes.sections.cut_outputs``.
        most: outputs that share sections at most, 0: all of the layer.
        spare: see ``passes.sections.cut_outputs``.
    """
    body = layer.at(Sliced)
    outputs, inputs = body.shape
    group_width(layer, target)  # refuses weights that do not fit the columns
    pools = -(-outputs // most) if most else 1
    edges = np.arange(pools + 1, dtype=np.int64) * outputs // pools
    tables, ranks, polarity = [], [], []
    for low, high in pairwise(edges):
        codes = body.codes[low:high].reshape(-1)
        for sign, members in _signs(body, codes):
            table = _cut(codes, members, target.rows, by, cut, spare)
            tables.append(np.where(table >= 0, table + low * inputs, UNUSED))
            ranks.append(np.arange(len(table), dtype=np.int32))
            polarity.append(np.full(len(table), sign, np.int8))
    flat = np.concatenate(tables)
    driven = flat >= 0
    of_rows = np.where(driven, flat // inputs, UNUSED).astype(np.int32)
    return body.lower(
        Sectioned,
        outputs=lowest_outputs(of_rows),
        inputs=np.where(driven, flat % inputs, UNUSED).astype(np.int32),
        rank=np.concatenate(ranks),
        polarity=np.concatenate(polarity),
        row_outputs=of_rows,
    )


def _signs(body: Sliced, codes: Array) -> Iterator[tuple[int, Array]]:
    """(polarity, weights of it); split layers have sections of either sign."""
    if body.encoding != "split":
        yield 0, np.arange(len(codes))
        return
    for sign, members in ((1, np.flatnonzero(codes >= 0)), (-1, np.flatnonzero(codes < 0))):
        if len(members):
            yield sign, members


def _cut(codes: Array, members: Array, rows: int, by: Key, cut: Cut, spare: float) -> Array:
    """``[sections, rows]`` int64 indices into ``codes``: the ``members``, sorted and cut."""
    key = -codes[members].astype(np.int32)
    if by != "value":
        key = -np.abs(key) if by == "magnitude" else np.zeros_like(key)
    order = np.argsort(key, kind="stable")
    sections = min(len(members), int(spared(np.array(-(-len(members) // rows)), spare)))
    place = np.arange(len(members), dtype=np.int64)
    if cut == "rank":
        size = -(-len(members) // sections) if spare else rows
        section, row = place // size, place % size
    else:
        section, row = place % sections, place // sections
        level = np.cumsum(np.diff(key[order], prepend=key[order[:1]]) != 0)
        turn = np.argsort(level * sections + section, kind="stable")
        section, row = section[turn], row[turn]
    table = np.full((sections, rows), UNUSED, np.int64)
    table[section, row] = members[order]
    return table
