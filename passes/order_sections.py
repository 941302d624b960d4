"""order-sections: the order of loads inside a layer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ir.arrays import Array
from ir.module import Layer, Module
from ir.stages import Sectioned
from passes.base import Context, Pass, check
from passes.solvers.planes import distance_matrix, fold_mask, nearest_neighbour_path, pack
from passes.sort_sections import by_rank, reorder


@dataclass(frozen=True)
class OrderSections(Pass):
    """Orders the sections of every layer so that few cells change from one load to the next.

    Options:
        method: ``natural``: as formed; ``rank``: rank by rank, outputs ascending; ``sum``: inside a rank by
            the sum of the stored words; ``greedy``: inside a rank to the nearest section not loaded yet;
            ``routing``: greedy, then OR-Tools routing over windows of the path; ``auto``: greedy.
        window: sections per routing window.
        effort: solutions the router may look at per window.
        seconds: wall-clock cap of the routing of one window (the manifest says when it struck).
    """

    name: ClassVar[str] = "order-sections"
    requires = Sectioned
    ensures = Sectioned

    method: Literal["auto", "natural", "rank", "sum", "greedy", "routing"] = "auto"
    window: int = 64
    effort: int = 200
    seconds: float = 5.0

    def __post_init__(self) -> None:
        check(4 <= self.window <= 2000, f"order-sections: window = {self.window} is outside 4..2000")
        check(self.effort >= 1, f"order-sections: effort = {self.effort} must be at least 1")
        check(self.seconds > 0, f"order-sections: seconds = {self.seconds} must be positive")

    def run(self, module: Module, context: Context) -> Module:
        """Reorders every layer's table."""
        if self.method == "natural":
            return module
        done = 0
        with ThreadPoolExecutor(max(1, context.threads)) as pool:
            layers = []
            for layer in pool.map(self._order, module.layers):
                layers.append(layer)
                done += 1
                context.progress("order-sections", done, len(module.layers))
        return module.with_layers(layers)

    def _order(self, layer: Layer) -> Layer:
        body = by_rank(layer.at(Sectioned))
        if self.method == "rank" or body.sections < 3:
            return layer.with_body(body)
        if self.method == "sum":
            return layer.with_body(reorder(body, _by_sum(body)))
        return layer.with_body(reorder(body, self._path(body)))

    def _path(self, body: Sectioned) -> Array:
        """``[sections]`` path: group by group, each begun at the section nearest to the last one's end."""
        cells = body.cells
        bits, mask = cells.bits_per_cell, np.uint64(fold_mask(cells.bits_per_cell))
        planes = pack(body.wanted_words(), bits, cells.columns)
        path: list[Array] = []
        last = -1
        for group in _groups(body):
            part = nearest_neighbour_path(planes, group, last, bits, mask)
            if self.method == "routing":
                part = self._route(planes, part, bits, mask)
            path.append(part)
            last = int(part[-1])
        return np.concatenate(path)

    def _route(self, planes: Array, path: Array, bits: int, mask: np.uint64) -> Array:
        from passes.solvers.routing import improve_path

        path = path.copy()
        for start in range(0, len(path), max(1, self.window - 1)):
            window = path[start : start + self.window]
            cost = distance_matrix(planes, window, bits, mask)
            improved, _ = improve_path(cost, np.arange(len(window)), self.effort, self.seconds)
            path[start : start + self.window] = window[improved]
        return path


def _groups(body: Sectioned) -> list[Array]:
    """Section indices of each (rank, polarity), table order."""
    key = body.rank.astype(np.int64) * 3 + body.polarity
    cuts = np.flatnonzero(np.diff(key)) + 1
    return np.split(np.arange(body.sections, dtype=np.int64), cuts)


def _by_sum(body: Sectioned) -> Array:
    chunk = max(1, 2**22 // max(1, body.rows * body.group_width))
    sums = np.concatenate(
        [
            body.wanted_words(slice(i, i + chunk)).sum(axis=(1, 2), dtype=np.int64)
            for i in range(0, body.sections, chunk)
        ]
    )
    return np.lexsort((sums, body.polarity, body.rank))
