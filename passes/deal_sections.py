"""deal-sections: which crossbar takes which part of each layer's path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ir.arrays import Array
from ir.module import Layer, Module
from ir.stages import Placed, Sectioned
from ir.target import Target
from passes.base import Context, Outcome, Pass, check
from passes.order_sections import metric_kind
from passes.place import contiguous_crossbars, interleaved_crossbars, place
from passes.residency import LayerCost, Plan, best_plan, cell_write_ns, product_ns, spread
from passes.solvers.assignment import assign, assign_ortools
from passes.solvers.features import HISTOGRAM_GROUPS, Metric
from passes.sort_sections import reorder

Solver = Callable[[Array], Array]
SOLVERS: dict[str, Solver] = {"auction": assign, "ortools": assign_ortools}
WRITES_PER_DISTANCE = {"multiset": 0.5, "cells": 1.0}
"""Writes that a unit of the metric costs: after rows are matched about half the multiset distance is left
(0.45 to 0.55 in the layers of ResNet-50)."""


@dataclass(frozen=True)
class DealSections(Pass):
    """Gives every section its crossbar and step; layers follow each other in dependency order.

    A layer's path is cut into equal runs, one per crossbar it uses.  With ``assign`` an assignment problem decides
    which crossbar takes which run and in which direction, so that the change of layer is cheap; a layer with fewer
    sections than crossbars takes those that suit it best and leaves the others.  Two rounds are made, because the
    last layer meets the first one of the next inference.

    With ``resident=cost`` the second round follows a plan: some layers keep crossbars of their own and are never
    rewritten, the others share what is left, in as many load steps as lower the estimated writes while the
    modelled time of an inference (writes and reads, step after step) stays within ``time`` times that of the
    first round.  Time that residents save on writing pays for steps of the others.  A plan is kept when its writes
    are estimated to be fewer.

    Options:
        method: ``contiguous``: run i to crossbar i; ``interleaved``: section i to crossbar i mod crossbars;
            ``assign``: as above; ``auto``: assign, or contiguous on one crossbar.
        resident: ``cost``: as above; ``free``: a layer stays only on crossbars that nothing else needs;
            ``auto``: cost, but free when slowdown is above 1.
        time: with resident=cost, factor on the time of an inference; at least 1.
        solver: of the assignment problems.  ``auction``: to within a quarter of a cell per run; ``ortools``: exactly,
            15 times as slow.
        slowdown: with resident=free; at least 1; a layer may take that many times the load steps it needs when it
            is spread over all crossbars.  More steps use fewer crossbars, which cheapens the change of layer.
    """

    name: ClassVar[str] = "deal-sections"
    requires = Sectioned
    ensures = Placed
    back_to = Sectioned

    method: Literal["auto", "contiguous", "interleaved", "assign"] = "auto"
    resident: Literal["auto", "cost", "free"] = "auto"
    time: float = 1.1
    solver: Literal["auction", "ortools"] = "auction"
    slowdown: float = 1.0

    def __post_init__(self) -> None:
        check(self.slowdown >= 1, f"deal-sections: slowdown = {self.slowdown} must be at least 1")
        check(self.time >= 1, f"deal-sections: time = {self.time} must be at least 1")
        self.only_if(
            self.method in ("auto", "assign"), "with method=assign", "resident", "time", "solver", "slowdown"
        )
        self.only_if(self.resident != "cost", "with resident=free (resident=cost has time)", "slowdown")
        self.only_if(self.resident != "free" and self.slowdown == 1, "with resident=cost", "time")

    def run(self, module: Module, context: Context) -> Outcome:
        """Places every layer."""
        crossbars = module.target.crossbars
        method = self.method
        if method == "auto":
            method = "assign" if crossbars > 1 else "contiguous"
        if method != "assign" or crossbars == 1:
            counts = [layer.at(Sectioned).sections for layer in module.layers]
            deal = interleaved_crossbars if method == "interleaved" else contiguous_crossbars
            return Outcome(place(module, [deal(count, crossbars) for count in counts]))
        with ThreadPoolExecutor(max(1, context.threads)) as pool:
            return self._assign(module, context, pool)

    def _assign(self, module: Module, context: Context, pool: ThreadPoolExecutor) -> Outcome:
        crossbars = module.target.crossbars
        counts = [layer.at(Sectioned).sections for layer in module.layers]
        facts: dict[str, object] = {}
        if self.resident == "free" or self.slowdown > 1:
            deal = _Deal(module, context, pool, SOLVERS[self.solver])
            for _ in range(2):
                deal.round([int(self.slowdown * -(-count // crossbars)) for count in counts], crossbars)
        else:
            deal, facts = self._by_cost(module, counts, context, pool)
        layers, base = [], 0
        for layer, (order, crossbar, step) in zip(module.layers, deal.chosen, strict=True):
            body = reorder(layer.at(Sectioned), order)
            layers.append(layer.with_body(body.lower(Placed, crossbar=crossbar, step=step + base)))
            base += int(step.max(initial=-1)) + 1
        return Outcome(module.with_layers(layers), facts)

    def _by_cost(
        self, module: Module, counts: list[int], context: Context, pool: ThreadPoolExecutor
    ) -> tuple[_Deal, dict[str, object]]:
        """The deal of the best plan, and the plan."""
        crossbars = module.target.crossbars
        largest = max(counts, default=0)
        shared = min(crossbars, largest)  # crossbars on which every layer meets the largest one
        first = _Deal(module, context, pool, SOLVERS[self.solver])
        if largest == 0:
            first.round(counts, crossbars)
            return first, {}
        steps = [-(-count // shared) for count in counts]
        if shared < crossbars:
            first.load(module.layers[counts.index(largest)], 1, shared)
        first.round(steps, shared)
        plans = [self._plan(first, crossbars)]
        # the first layers met blank crossbars: what the change from the last layer to them costs is seen in a
        # second look, but what it costs does not tell what leaving it out saves, so both plans are tried
        again = [
            i for i, layer in enumerate(module.layers) if counts[i] and not first.costs[layer.name].change
        ]
        held = dict(first.held)
        for i in again:
            first.load(module.layers[i], steps[i], shared)
        plans += [self._plan(first, crossbars)] if again else []
        plain = spread(first.listed(), crossbars)
        plans += [plain] if shared < crossbars else []
        deals = []
        for steps_of in dict.fromkeys(plan.steps for plan in plans):
            deal = _Deal(module, context, pool, SOLVERS[self.solver])
            if shared < crossbars:  # blank crossbars are left: layers that take them stay there
                deal.round(list(steps_of), crossbars)
            else:
                deal.held = dict(held)
            deal.round(list(steps_of), crossbars)
            deals.append((deal.total, steps_of, deal))
        _, best, deal = min(deals, key=lambda found: found[0])
        return deal, _facts(module, plain, next(plan for plan in plans if plan.steps == best))

    def _plan(self, deal: _Deal, crossbars: int) -> Plan:
        """The best plan under the costs of a deal."""
        costs = deal.listed()
        plain, plan = spread(costs, crossbars), best_plan(costs, crossbars, self.time)
        return plan if plan.writes < plain.writes else plain


NOTHING = LayerCost(0, 0.0, 0.0, 0.0, 0.0, 0.0)


class _Deal:
    """The rounds of one chip.

    Fields:
        held: what each crossbar holds now, in the form of ``Metric.contents``.
        chosen: per layer the outcome of the last round (see ``_lay_out``).
        costs: by layer name, from the last round.
        total: distance of all loads of the last round.
    """

    def __init__(self, module: Module, context: Context, pool: ThreadPoolExecutor, solve: Solver) -> None:
        self.module, self.context, self.pool, self.solve = module, context, pool, solve
        self.held: dict[int, Array] = {}
        self.chosen: list[tuple[Array, Array, Array]] = []
        self.costs: dict[str, LayerCost] = {}
        self.total = 0

    def listed(self) -> list[LayerCost]:
        """Costs of all layers."""
        return [self.costs.get(layer.name, NOTHING) for layer in self.module.layers]

    def round(self, steps: list[int], crossbars: int) -> None:
        """Deals every layer in that many load steps; layers of 0 steps stay on the last crossbars."""
        layers = self.module.layers
        kept = sum(
            layer.at(Sectioned).sections for layer, most in zip(layers, steps, strict=True) if not most
        )
        own = crossbars - kept
        self.chosen, self.total = [], 0
        for done, (layer, most) in enumerate(zip(layers, steps, strict=True)):
            self.context.progress("deal-sections", done, len(steps))
            count = layer.at(Sectioned).sections
            if most == 0:
                bars = np.arange(own, own + count, dtype=np.int32)
                self.chosen.append((np.arange(count), bars, np.zeros(count, np.int64)))
                own += count
            else:
                self.chosen.append(self.load(layer, most, crossbars - kept))

    def load(self, layer: Layer, steps: int, crossbars: int) -> tuple[Array, Array, Array]:
        """Loads a layer onto the crossbars that suit it."""
        body = layer.at(Sectioned)
        runs = min(crossbars, -(-body.sections // steps))
        cuts = np.arange(runs + 1, dtype=np.int64) * body.sections // runs
        # the multisets of many column groups do not tell what a change costs, cell by cell does
        kind = metric_kind(self.module.target) if body.group_width <= HISTOGRAM_GROUPS else "cells"
        metric = Metric(kind, body.wanted_words(), body.driven(), body.cells)
        bars, turned, cost = _assign_runs(metric, cuts, self.held, crossbars, self.pool, self.solve)
        path = metric.along()
        self.costs[layer.name] = _layer_cost(layer, body, self.module.target, metric, path, cuts, cost)
        self.total += int(cost[cost > 0].sum() + path.sum() - path[cuts[1:-1] - 1].sum())
        lasts = np.where(turned, cuts[:-1], cuts[1:] - 1)
        blank = metric.contents(lasts)
        before = [self.held.get(int(bar)) for bar in bars]
        over = np.stack([
            content if content is not None and content.shape == blank[run].shape else np.zeros_like(blank[run])
            for run, content in enumerate(before)
        ])  # fmt: skip
        for bar, content in zip(bars, metric.after(lasts, over), strict=True):
            self.held[int(bar)] = content
        return _lay_out(cuts, bars, turned)


def _layer_cost(
    layer: Layer, body: Sectioned, target: Target, metric: Metric, path: Array, cuts: Array, cost: Array
) -> LayerCost:
    """Estimates from a layer's deal; ``path`` are the distances along it, ``cost [runs]`` those of the first
    loads, -1 where the crossbar was blank."""
    factor, cell_ns = WRITES_PER_DISTANCE[metric.kind], cell_write_ns(target)
    known = cost[cost >= 0]
    change, top = (float(known.mean()), float(known.max())) if len(known) else (0.0, 0.0)
    lengths = np.diff(cuts)
    worst = [int(path[cuts[:-1][lengths > s] + s - 1].max()) for s in range(1, int(lengths.max()))]
    columns = (body.outputs >= 0).sum(1) * body.cells.columns
    reading = float(product_ns(target, columns).max()) * (layer.origin.products or 1) * _most_outputs(body)
    return LayerCost(
        sections=body.sections,
        within=factor * float(path.mean()) if len(path) else 0.0,
        change=factor * change,
        read_ns=reading,
        within_ns=factor * cell_ns * float(np.mean(worst))
        if worst
        else factor * cell_ns * float(path.max(initial=0)),
        change_ns=factor * cell_ns * top,
    )


def _most_outputs(body: Sectioned) -> int:
    """Outputs that the products of a section read one after the other (scope=layer), of the section with the most."""
    if body.row_outputs is None:
        return 1
    outputs = np.sort(body.row_outputs, axis=1)
    return int(((np.diff(outputs, axis=1, prepend=-1) != 0) & (outputs >= 0)).sum(1).max(initial=1))


def _facts(module: Module, plain: Plan, plan: Plan) -> dict[str, object]:
    """The plan for the manifest."""
    return {
        "resident_layers": [module.layers[i].name for i in plan.resident],
        "resident_crossbars": sum(module.layers[i].at(Sectioned).sections for i in plan.resident),
        "load_steps": [sum(plain.steps), sum(plan.steps) + len(plan.resident)],
        "estimated_writes": [round(plain.writes), round(plan.writes)],
        "estimated_time_ns": [round(plain.time_ns), round(plan.time_ns)],
        "plan_proven": plan.proven,
    }


def _lay_out(cuts: Array, bars: Array, turned: Array) -> tuple[Array, Array, Array]:
    """Table order that turns the runs which are taken backwards, and crossbar and step of its rows."""
    lengths = np.diff(cuts)
    crossbar = np.repeat(bars, lengths).astype(np.int32)
    starts, back = np.repeat(cuts[:-1], lengths), np.repeat(turned, lengths)
    step = np.arange(cuts[-1]) - starts
    order = np.where(back, starts + np.repeat(lengths, lengths) - 1 - step, starts + step)
    return order, crossbar, step


def _assign_runs(
    metric: Metric,
    cuts: Array,
    held: dict[int, Array],
    crossbars: int,
    pool: ThreadPoolExecutor,
    solve: Solver,
) -> tuple[Array, Array, Array]:
    """Crossbar of every run, whether it is taken backwards, and what its first load costs (-1: not known)."""
    runs = len(cuts) - 1
    heads, tails = cuts[:-1], cuts[1:] - 1
    width = metric.contents(heads[:1]).shape[1]
    # content of another cell format cannot be compared: such crossbars are all alike
    known = sorted(c for c, content in held.items() if c < crossbars and len(content) == width)
    cost = np.zeros((runs, crossbars), np.int32)
    turned = np.zeros((runs, crossbars), np.bool_)
    comparable = np.zeros(crossbars, np.bool_)
    comparable[known] = True
    if known:
        contents = np.stack([held[c] for c in known])
        at = slice(None) if len(known) == crossbars else known  # a slice is several times as fast

        def block(part: slice) -> tuple[slice, Array, Array]:
            ahead = metric.entering(heads[part], contents)
            if (heads == tails).all():
                return part, ahead, np.zeros(ahead.shape, np.bool_)
            back = metric.entering(tails[part], contents)
            return part, np.minimum(ahead, back), back < ahead

        for part, lowest, back in pool.map(block, _blocks(runs, 64)):
            cost[part, at] = lowest
            turned[part, at] = back
        foreign = [c for c in held if c < crossbars and not comparable[c]]
        cost[:, foreign] = int(cost[:, known].mean())
    bars = solve(cost)
    each = np.arange(runs)
    return bars, turned[each, bars], np.where(comparable[bars], cost[each, bars], -1)


def _blocks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))
