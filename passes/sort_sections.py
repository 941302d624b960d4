"""sort-sections: sorts the weights of an output before they are cut into sections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Layer, Module
from ir.stages import Sectioned, Sliced
from ir.target import Target
from passes.base import Context, Outcome, Pass, check
from passes.flat_sections import check_gating, flat_sections
from passes.sections import Cut, natural_sections, output_blocks, sections_from_order

RANK_FROM = 6000
SEEN_FROM = 100
MOST_SPARE = 8.0


@dataclass(frozen=True)
class SortSections(Pass):
    """Sorts the weights of each output, so that sections of equal rank hold similar cells.

    Before: output = 3 200 7 180 with 2 rows -> sections (3 200) (7 180).
    After (magnitude, rank): (200 180) (7 3); stratified: (200 7) (180 3).

    With several outputs per section the inputs are sorted by the sum of their stored magnitudes.  Under block
    routing rows only move inside their block, under fixed routing not at all (refused).

    Options:
        by: ``magnitude`` or signed ``value``, largest first.
        cut: ``rank``: consecutive runs of the sorted weights; ``stratified``: every k-th weight, so that
            every section holds the whole distribution of its output; ``auto``, layer by layer: rank where a
            layer has very many sections and each crossbar sees many of them (rank sections are alike inside a
            layer, stratified ones across layers), always stratified with scope=layer.
        spare: sections beyond the fewest that hold an output's weights, as a share of these (0.5: half as many
            again).  Their rows are filled in part, and match-rows leaves those empty whose levels fit least:
            fewer writes for more loads, reads and row maps.
        max-outputs: outputs whose weights share sections at most, 0: all of the layer (scope=layer only).  Fewer
            need fewer reads, more make the sections more alike.
    """

    name: ClassVar[str] = "sort-sections"
    requires = Sectioned
    ensures = Sectioned
    back_to = Sectioned

    by: Literal["magnitude", "value"] = "magnitude"
    cut: Literal["auto", "rank", "stratified"] = "auto"
    spare: float = 0.0
    max_outputs: int = 0

    def __post_init__(self) -> None:
        check(
            0 <= self.spare <= MOST_SPARE, f"sort-sections: spare = {self.spare} is outside 0..{MOST_SPARE}"
        )
        check(self.max_outputs >= 0, f"sort-sections: max-outputs = {self.max_outputs} must not be negative")

    def run(self, module: Module, context: Context) -> Outcome:
        """Re-forms the sections of every layer."""
        if module.target.routing == "fixed":
            raise XbcError(
                f"sort-sections: target {module.target.name!r} has fixed routing, its rows cannot be permuted; "
                f"leave the pass out or set routing=gather"
            )
        layers = []
        for i, layer in enumerate(module.layers):
            context.progress("sort-sections", i, len(module.layers))
            layers.append(layer.with_body(self._sorted(layer, module.target)))
        return Outcome(module.with_layers(layers))

    def _sorted(self, layer: Layer, target: Target) -> Sectioned:
        body = layer.at(Sectioned)
        if body.row_outputs is not None:
            check_gating(self.name, target)
            cut: Cut = "stratified" if self.cut == "auto" else self.cut
            return by_rank(flat_sections(layer, target, self.by, cut, self.max_outputs, self.spare))
        check(
            not self.max_outputs,
            f"sort-sections: max-outputs = {self.max_outputs}, but the sections of layer {layer.name!r} hold one "
            f"output each: use form-sections{{scope=layer}}",
        )
        cut = best_cut(body, target) if self.cut == "auto" else self.cut
        return sorted_sections(layer, target, self.by, cut, self.spare)


def best_cut(body: Sectioned, target: Target) -> Cut:
    """The cut that costs fewer writes: by the sections of the layer and those a crossbar sees of it.

    Both thresholds come from ResNet-50 and DeiT-Tiny on 1, 64, 256 and 1024 crossbars (docs: results).
    """
    per_crossbar = body.sections / target.crossbars
    return "rank" if body.sections > RANK_FROM and per_crossbar > SEEN_FROM else "stratified"


def sorted_sections(layer: Layer, target: Target, by: str, cut: Cut, spare: float = 0.0) -> Sectioned:
    """The layer's section table with sorted rows, sections of equal rank next to each other."""
    body = layer.at(Sectioned)
    if target.routing == "block":
        check(
            not spare,
            f"sort-sections: spare = {spare}, but target {target.name!r} has block routing, which fixes what a section "
            f"holds; set routing=gather or spare=0",
        )
        return by_rank(_sort_rows(natural_sections(layer, target, body.group_width), by))
    blocks = output_blocks(body.shape[0], layer.origin.groups, body.group_width)
    order = np.empty((len(blocks), body.shape[1]), np.int32)
    chunk = max(1, 2**22 // max(1, body.shape[1] * blocks.shape[1]))
    for start in range(0, len(blocks), chunk):
        part = blocks[start : start + chunk]
        order[start : start + chunk] = np.argsort(-_keys(body, part, by), axis=1, kind="stable")
    return by_rank(sections_from_order(body, blocks, order, target, cut, spare))


def by_rank(body: Sectioned) -> Sectioned:
    """The table reordered: rank, then polarity, then output."""
    return reorder(body, np.lexsort((body.outputs[:, 0], body.polarity, body.rank)))


def reorder(body: Sectioned, order: Array) -> Sectioned:
    """The table with its rows in ``order`` (a permutation of the sections)."""
    fields = {name: getattr(body, name)[order] for name in ("outputs", "inputs", "rank", "polarity")}
    of_rows = None if body.row_outputs is None else body.row_outputs[order]
    return body.lower(Sectioned, row_outputs=of_rows, **fields)


def _keys(body: Sliced, blocks: Array, by: str) -> Array:
    """``[blocks, inputs]`` int32 sort key of each input for the outputs of a block."""
    codes = body.codes[np.maximum(blocks, 0)].astype(np.int32)
    if by == "magnitude":
        codes = np.abs(codes)
    codes[blocks < 0] = 0
    return np.asarray(codes.sum(axis=1, dtype=np.int32))


def _sort_rows(body: Sectioned, by: str) -> Sectioned:
    """Rows of every section sorted among themselves."""
    inputs = np.empty_like(body.inputs)
    chunk = max(1, 2**22 // max(1, body.rows * body.group_width))
    for start in range(0, body.sections, chunk):
        part = slice(start, start + chunk)
        codes = body.section_codes(part).astype(np.int32)
        key = (np.abs(codes) if by == "magnitude" else codes).sum(axis=2)
        key[body.inputs[part] < 0] = np.iinfo(np.int32).min + 1
        order = np.argsort(-key, axis=1, kind="stable")
        inputs[part] = np.take_along_axis(body.inputs[part], order, axis=1)
    return body.lower(Sectioned, inputs=inputs)
