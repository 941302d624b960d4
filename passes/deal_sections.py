"""deal-sections: which crossbar takes which part of each layer's path."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ir.arrays import Array
from ir.module import Module
from ir.stages import Placed, Sectioned
from passes.base import Context, Pass, check
from passes.order_sections import metric_kind
from passes.place import contiguous_crossbars, interleaved_crossbars, place
from passes.solvers.assignment import assign
from passes.solvers.features import Metric
from passes.sort_sections import reorder


@dataclass(frozen=True)
class DealSections(Pass):
    """Gives every section its crossbar and step; layers follow each other in dependency order.

    A layer's path is cut into equal runs, one per crossbar it uses.  With ``assign`` an assignment problem,
    solved by auction to within a quarter of a cell per run, decides which crossbar takes which run and in which
    direction, so that the change of layer is cheap; a layer with fewer sections than crossbars takes those that
    suit it best and leaves the others.  Two rounds are made, because the last layer meets the first one of the
    next inference.

    Options:
        method: ``contiguous``: run i to crossbar i; ``interleaved``: section i to crossbar i mod crossbars;
            ``assign``: as above; ``auto``: assign, or contiguous on one crossbar.
        slowdown: at least 1; a layer may take that many times the load steps it needs when it is spread over
            all crossbars.  More steps use fewer crossbars, which cheapens the change of layer.
    """

    name: ClassVar[str] = "deal-sections"
    requires = Sectioned
    ensures = Placed

    method: Literal["auto", "contiguous", "interleaved", "assign"] = "auto"
    slowdown: float = 1.0

    def __post_init__(self) -> None:
        check(self.slowdown >= 1, f"deal-sections: slowdown = {self.slowdown} must be at least 1")

    def run(self, module: Module, context: Context) -> Module:
        """Places every layer."""
        crossbars = module.target.crossbars
        counts = [layer.at(Sectioned).sections for layer in module.layers]
        method = self.method
        if method == "auto":
            method = "assign" if crossbars > 1 else "contiguous"
        if method != "assign" or crossbars == 1:
            deal = interleaved_crossbars if method == "interleaved" else contiguous_crossbars
            return place(module, [deal(count, crossbars) for count in counts])
        return self._assign(module, context)

    def _assign(self, module: Module, context: Context) -> Module:
        crossbars = module.target.crossbars
        held: dict[int, Array] = {}
        chosen: list[tuple[Array, Array, Array]] = []
        with ThreadPoolExecutor(max(1, context.threads)) as pool:
            for turn in range(2):
                chosen = []
                for done, layer in enumerate(module.layers):
                    context.progress(f"deal-sections, round {turn + 1} of 2", done, len(module.layers))
                    body = layer.at(Sectioned)
                    if body.sections == 0:
                        chosen.append((np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64)))
                        continue
                    metric = Metric(
                        metric_kind(module.target), body.wanted_words(), body.driven(), body.cells
                    )
                    cuts = self._cuts(body.sections, crossbars)
                    bars, turned = _assign_runs(metric, cuts, held, crossbars, pool)
                    chosen.append(_lay_out(cuts, bars, turned))
                    for run, (bar, back) in enumerate(zip(bars, turned, strict=True)):
                        held[int(bar)] = metric.rows[cuts[run] if back else cuts[run + 1] - 1]
        layers, base = [], 0
        for layer, (order, crossbar, step) in zip(module.layers, chosen, strict=True):
            body = reorder(layer.at(Sectioned), order)
            layers.append(layer.with_body(body.lower(Placed, crossbar=crossbar, step=step + base)))
            base += int(step.max(initial=-1)) + 1
        return module.with_layers(layers)

    def _cuts(self, sections: int, crossbars: int) -> Array:
        """``[runs + 1]`` cut points of the path: as few runs as the allowed steps permit."""
        steps = int(self.slowdown * -(-sections // crossbars))
        runs = min(crossbars, -(-sections // steps))
        return np.arange(runs + 1, dtype=np.int64) * sections // runs


def _lay_out(cuts: Array, bars: Array, turned: Array) -> tuple[Array, Array, Array]:
    """Table order that turns the runs which are taken backwards, and crossbar and step of its rows."""
    lengths = np.diff(cuts)
    crossbar = np.repeat(bars, lengths).astype(np.int32)
    starts, back = np.repeat(cuts[:-1], lengths), np.repeat(turned, lengths)
    step = np.arange(cuts[-1]) - starts
    order = np.where(back, starts + np.repeat(lengths, lengths) - 1 - step, starts + step)
    return order, crossbar, step


def _assign_runs(
    metric: Metric, cuts: Array, held: dict[int, Array], crossbars: int, pool: ThreadPoolExecutor
) -> tuple[Array, Array]:
    """Crossbar of every run, and whether it is taken backwards."""
    runs = len(cuts) - 1
    # content of another cell format cannot be compared: such crossbars are all alike
    known = sorted(c for c, content in held.items() if content.shape == metric.rows.shape[1:])
    cost = np.zeros((runs, crossbars), np.int32)
    turned = np.zeros((runs, crossbars), np.bool_)
    longest = int(np.diff(cuts).max())
    if known:
        content = np.stack([held[c] for c in known])

        def block(part: slice) -> tuple[slice, Array, Array]:
            heads = metric.between(metric.rows[cuts[:-1][part]], content)
            if longest == 1:
                return part, heads, np.zeros(heads.shape, np.bool_)
            tails = metric.between(metric.rows[cuts[1:][part] - 1], content)
            return part, np.minimum(heads, tails), tails < heads

        for part, lowest, back in pool.map(block, _blocks(runs, 64)):
            cost[part, known] = lowest
            turned[part, known] = back
        foreign = [c for c in held if held[c].shape != metric.rows.shape[1:]]
        cost[:, foreign] = int(cost[:, known].mean())
    bars = assign(cost)
    return bars, turned[np.arange(runs), bars]


def _blocks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))
