"""order-sections: the order of loads inside a layer."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np

from ir.arrays import Array
from ir.module import Layer, Module
from ir.stages import Sectioned
from ir.target import Target
from passes.base import Context, Outcome, Pass, check
from passes.solvers.ascent import path_bound
from passes.solvers.branching import branch_path
from passes.solvers.features import Metric
from passes.solvers.tour import greedy_path, path_length, short_path
from passes.sort_sections import by_rank, reorder

PROVEN = 40
"""Groups of at most that many sections are ordered with a proof."""
PROOF_TREES = 5_000_000
"""Work limit of a proof in 1-trees, a few seconds."""
Method = Literal["natural", "rank", "sum", "greedy", "local", "routing"]


@dataclass(frozen=True)
class Bound:
    """Path length found and proven lower bound, in cells of the metric, over one or more groups.

    ``groups`` were ordered, ``proven`` of them optimally; ``capped`` windows met the wall-clock cap.
    """

    length: int = 0
    bound: int = 0
    groups: int = 0
    proven: int = 0
    capped: int = 0

    def __add__(self, other: Bound) -> Bound:
        return Bound(*(getattr(self, f) + getattr(other, f) for f in self.__dataclass_fields__))

    @property
    def gap(self) -> float:
        """Share by which the path may exceed the optimum."""
        return self.length / self.bound - 1 if self.bound else 0.0


@dataclass(frozen=True)
class OrderSections(Pass):
    """Orders the sections of every layer so that few cells change from one load to the next.

    A layer of at most ``group`` sections is ordered as a whole, a larger one in groups of sections of like
    magnitude, whatever their rank.  Each group's path is the nearest neighbour path improved by 2-opt and Or-opt;
    groups are joined at their nearer ends.  A Held-Karp lower bound tells how far each path is from the
    shortest; groups of at most 40 sections are solved by branch and bound (and CP-SAT) until that is proven.

    Options:
        method: ``natural``: as formed; ``rank``: rank by rank, outputs ascending; ``sum``: inside a rank by
            the sum of the stored words; ``greedy``: nearest neighbour only; ``local``: and local search;
            ``routing``: and OR-Tools routing over windows of the path.
        metric: ``cells``: cells that differ row by row; ``multiset``: distance after rows are matched (see
            match-rows); ``auto``: multiset when the target's routing lets rows move.
        group: largest number of sections ordered at once (its square of 16-bit distances is held).
        bound: subgradient steps of the lower bound, 0 for none.
        window: with method=routing, sections per window.
        effort: with method=routing, solutions the router may look at per window.
        seconds: wall-clock cap per routing window or proof (the manifest says when it struck).
        layer-seconds, total-seconds: with method=routing, wall-clock caps on a layer and on the whole network, 0
            for none; windows that are left keep their path and count as capped.
    """

    name: ClassVar[str] = "order-sections"
    requires = Sectioned
    ensures = Sectioned
    back_to = Sectioned

    method: Method = "local"
    metric: Literal["auto", "cells", "multiset"] = "auto"
    group: int = 2048
    bound: int = 80
    window: int = 100
    effort: int = 300
    seconds: float = 30.0
    layer_seconds: float = 0.0
    total_seconds: float = 0.0

    def __post_init__(self) -> None:
        check(8 <= self.group <= 16384, f"order-sections: group = {self.group} is outside 8..16384")
        check(self.bound >= 0, f"order-sections: bound = {self.bound} must not be negative")
        check(4 <= self.window <= 2000, f"order-sections: window = {self.window} is outside 4..2000")
        check(self.effort >= 1, f"order-sections: effort = {self.effort} must be at least 1")
        check(self.seconds > 0, f"order-sections: seconds = {self.seconds} must be positive")
        for key, cap in (("layer-seconds", self.layer_seconds), ("total-seconds", self.total_seconds)):
            check(cap >= 0, f"order-sections: {key} = {cap} must not be negative")
        routed = self.method == "routing"
        self.only_if(routed, "with method=routing", "window", "effort", "layer_seconds", "total_seconds")
        searched = self.method in ("greedy", "local", "routing")
        self.only_if(searched, "with method=greedy, local or routing", "metric", "group", "bound")
        proves = self.method == "local" and self.bound > 0
        self.only_if(routed or proves, "with method=routing, or with method=local and a bound", "seconds")

    def run(self, module: Module, context: Context) -> Outcome:
        """Reorders every layer's table; the bounds are facts."""
        if self.method == "natural":
            return Outcome(module)
        results = []
        deadline = _deadline(self.total_seconds)
        with ThreadPoolExecutor(max(1, context.threads)) as pool:
            for done, result in enumerate(
                pool.map(lambda layer: self._order(layer, module.target, deadline), module.layers)
            ):
                context.progress("order-sections", done + 1, len(module.layers))
                results.append(result)
        ordered = module.with_layers([layer for layer, _ in results])
        if self.method in ("rank", "sum"):
            return Outcome(ordered)
        total = sum((bound for _, bound in results), Bound())
        layers = {layer.name: facts(bound) for layer, bound in results}
        return Outcome(ordered, {"network": facts(total), "layers": layers})

    def _order(self, layer: Layer, target: Target, deadline: float) -> tuple[Layer, Bound]:
        body = by_rank(layer.at(Sectioned))
        if self.method == "rank" or body.sections < 2:
            return layer.with_body(body), Bound()
        if self.method == "sum":
            return layer.with_body(reorder(body, _by_sum(body))), Bound()
        deadline = min(deadline, _deadline(self.layer_seconds))
        path, bound = self._path(
            body, metric_kind(target) if self.metric == "auto" else self.metric, deadline
        )
        return layer.with_body(reorder(body, path)), bound

    def _path(self, body: Sectioned, kind: str, deadline: float) -> tuple[Array, Bound]:
        """``[sections]`` path and its bound: group by group, groups joined at their nearer ends."""
        metric = Metric(kind, body.wanted_words(), body.driven(), body.cells)
        paths, total = [], Bound()
        for members in groups(body, self.group):
            cost = metric.matrix(members)
            local, bound = self._group_path(cost, deadline)
            paths.append(members[local])
            total += bound
        return join(metric, paths), total

    def _group_path(self, cost: Array, deadline: float) -> tuple[Array, Bound]:
        path = greedy_path(cost, 0) if self.method == "greedy" else short_path(cost)
        capped = 0
        if self.method == "routing":
            path, capped = self._route(cost, path, deadline)
        length = path_length(cost, path)
        bound = path_bound(cost, path, self.bound) if self.bound else 0
        found = Bound(length, bound, 1, int(length == bound), capped)
        if 2 < len(path) <= PROVEN and bound < length and self.bound and self.method != "greedy":
            path, bound, proven = prove(cost, path, bound, self.seconds)
            found = replace(found, length=path_length(cost, path), bound=bound, proven=int(proven))
        return path, found

    def _route(self, cost: Array, path: Array, deadline: float) -> tuple[Array, int]:
        from passes.solvers.routing import improve_path

        path, capped = path.copy(), 0
        for start in range(0, len(path) - 3, max(1, self.window - 1)):
            left = deadline - time.monotonic()
            if left <= 0:
                capped += 1
                continue
            window = path[start : start + self.window]
            improved, struck = improve_path(cost, window, self.effort, min(self.seconds, left))
            path[start : start + self.window] = improved
            capped += struck
        return path, capped


def _deadline(seconds: float) -> float:
    """``time.monotonic()`` in that many seconds; never for 0."""
    return time.monotonic() + seconds if seconds else float("inf")


def prove(cost: Array, path: Array, bound: int, seconds: float) -> tuple[Array, int, bool]:
    """Shortest path of a small group: path, bound, whether they meet.

    Branch and bound proves nearly all within milliseconds; CP-SAT goes on where its work limit ends.
    """
    path, bound, proven = branch_path(cost, path, bound, PROOF_TREES)
    if proven:
        return path, bound, True
    from passes.solvers.circuit import shortest_path

    proof = shortest_path(cost, path, bound, seconds=seconds)
    return proof.path, proof.bound, proof.optimal


def metric_kind(target: Target) -> str:
    """The distance that counts: ``multiset`` where match-rows may permute rows, else ``cells``."""
    return "cells" if target.routing == "fixed" else "multiset"


def facts(bound: Bound) -> dict[str, float | int]:
    """The bound as plain numbers for the manifest."""
    return {
        "length": bound.length,
        "lower_bound": bound.bound,
        "gap": round(bound.gap, 6),
        "groups": bound.groups,
        "proven_optimal": bound.proven,
        "time_caps": bound.capped,
    }


def groups(body: Sectioned, limit: int) -> list[Array]:
    """Section indices ordered together: the whole table if it has at most ``limit`` rows, else runs of it by the
    sum of the stored words, so that sections of like magnitude meet whatever their rank."""
    everything = np.arange(body.sections, dtype=np.int64)
    if body.sections <= limit:
        return [everything]
    return list(
        np.array_split(everything[np.argsort(_sums(body), kind="stable")], -(-body.sections // limit))
    )


def join(metric: Metric, paths: list[Array]) -> Array:
    """One path of all groups in turn, each taken in the direction that makes the joints cheapest."""
    ends = [(int(p[0]), int(p[-1])) for p in paths]
    best: list[list[tuple[int, int]]] = [[(0, -1), (0, -1)]]
    for before, after in pairwise(ends):
        cost = metric.matrix(np.array([*before, *after]))
        step = []
        for turned in (0, 1):
            enter = 2 + turned
            options = [(best[-1][was][0] + int(cost[1 - was, enter]), was) for was in (0, 1)]
            step.append(min(options))
        best.append(step)
    turned = min((0, 1), key=lambda t: best[-1][t][0])
    directions = [turned]
    for step in reversed(best[1:]):
        directions.append(step[directions[-1]][1])
    directions.reverse()
    return np.concatenate([p[::-1] if t else p for p, t in zip(paths, directions, strict=True)])


def _sums(body: Sectioned) -> Array:
    """``[sections]`` int64 sum of the stored words."""
    chunk = max(1, 2**22 // max(1, body.rows * body.group_width))
    parts = [slice(i, i + chunk) for i in range(0, body.sections, chunk)]
    return np.concatenate([body.wanted_words(part).sum(axis=(1, 2), dtype=np.int64) for part in parts])


def _by_sum(body: Sectioned) -> Array:
    return np.lexsort((_sums(body), body.polarity, body.rank))
