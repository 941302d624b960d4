"""match-rows and match-pairs: rows of the next section permuted to fit what the crossbar already holds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Module
from ir.stages import UNUSED, Placed
from passes.base import Context, Outcome, Pass, check
from passes.column_groups import place_columns
from passes.counting import load_runs
from passes.matchers import FreePairs, Matcher, Pairs, exact_matcher, far_layer, near_matcher
from passes.pairs import PairCosts, check_pairs
from passes.penalty import check_grades, grades


@dataclass(frozen=True)
class MatchRows(Pass):
    """Chooses for every load which weight goes to which row, so that the fewest cells change.

    The inputs are gathered in the same order, so nothing changes in what is computed.  Each load is an
    assignment problem against the words its crossbar holds at that time; equal words are matched first, the
    last load of a crossbar also looks at the first one, which the next inference puts back.

    With ``lambda`` above 0 the state is what partial reprogramming at that penalty would leave, and the cost of
    a row is what all its numbers would pay there (joint matching, numbers of at most 8 bits of one format).
    Follow it with hold-codes.

    Options:
        lambda: writes that a squared error of one code unit is worth, as in hold-codes; 0: exact codes.
        grades: with lambda, s of each layer as in hold-codes.
        method: ``exact``: minimum-cost assignment; ``greedy``: ascending cost with pairwise exchanges, within
            about 1 % of it and several times faster on wide rows (without lambda).
        columns: outputs that share rows first take the column groups whose words were likest in the load before
            (off: loads that order-sections put next to each other are alike group by group already).
    """

    name: ClassVar[str] = "match-rows"
    requires = Placed
    ensures = Placed
    back_to = Placed

    lambda_: float = 0.0
    grades: tuple[float, ...] = ()
    method: Literal["exact", "greedy"] = "exact"
    columns: bool = False

    def __post_init__(self) -> None:
        check(self.lambda_ >= 0, f"match-rows: lambda = {self.lambda_} must not be negative")
        self.only_if(self.lambda_ == 0, "without lambda", "method")
        self.only_if(self.lambda_ > 0, "with lambda above 0", "grades")
        check_grades(self)

    def weighs(self) -> bool:
        """With a penalty on errors and no grades."""
        return self.lambda_ > 0 and not self.grades

    def run(self, module: Module, context: Context) -> Outcome:
        """Permutes the rows of every section."""
        check_routing(self.name, module)
        pairs = [(layer, layer.at(Placed)) for layer in module.layers]
        if self.columns:
            pairs = grouped(self.name, module, pairs)
        far = far_layer(pairs)
        if self.lambda_ and far is not None:
            raise XbcError(
                f"match-rows: lambda has no effect, layer {far!r} has other words than single numbers of one format "
                f"and at most 8 bits: leave it out (rows are then matched for exact codes)"
            )
        matcher = (
            near_matcher(
                module.target,
                pairs,
                self.lambda_,
                grades(module, context, given=self.grades),
                context.threads,
            )
            if self.lambda_
            else exact_matcher(module.target, pairs, self.method == "exact")
        )
        return Outcome(place_rows(self.name, module, pairs, matcher, context))


@dataclass(frozen=True)
class MatchPairs(Pass):
    """match-rows for differential pairs of free representation: a row costs what the cheapest pairs need.

    One bit per cell, at most 8 bits; always by minimum-cost assignment.  Follow it with choose-pairs, or with
    hold-pairs at the same lambda above 0.

    Options:
        lambda: writes that a squared error of one code unit is worth, as in hold-pairs; 0: exact codes.
        grades: with lambda, s of each layer as in hold-codes.
        columns: as in match-rows.
    """

    name: ClassVar[str] = "match-pairs"
    requires = Placed
    ensures = Placed
    back_to = Placed

    lambda_: float = 0.0
    grades: tuple[float, ...] = ()
    columns: bool = False

    def __post_init__(self) -> None:
        check(self.lambda_ >= 0, f"match-pairs: lambda = {self.lambda_} must not be negative")
        self.only_if(self.lambda_ > 0, "with lambda above 0", "grades")
        check_grades(self)

    def weighs(self) -> bool:
        """With a penalty on errors and no grades."""
        return self.lambda_ > 0 and not self.grades

    def run(self, module: Module, context: Context) -> Outcome:
        """Permutes the rows of every section."""
        check_routing(self.name, module)
        pairs = [(layer, layer.at(Placed)) for layer in module.layers]
        if self.columns:
            pairs = grouped(self.name, module, pairs)
        check_pairs(self.name, pairs)
        graded = grades(module, context, given=self.grades) if self.lambda_ else {}
        matcher = FreePairs(module.target, PairCosts(pairs, self.lambda_, graded))
        return Outcome(place_rows(self.name, module, pairs, matcher, context))


def check_routing(who: str, module: Module) -> None:
    """Raises XbcError where rows are wired to their inputs."""
    if module.target.routing == "fixed":
        raise XbcError(
            f"{who}: target {module.target.name!r} has fixed routing, its rows cannot be permuted; "
            f"leave the pass out or set routing=gather"
        )


def grouped(who: str, module: Module, pairs: Pairs) -> Pairs:
    """The bodies with outputs in the likest column groups.  Raises XbcError where no outputs share rows."""
    check(
        any(body.group_width > 1 for _, body in pairs),
        f"{who}: columns has no effect, every section holds one output: leave it out",
    )
    bodies = place_columns(pairs, module.target.crossbars)
    return [(layer, body) for (layer, _), body in zip(pairs, bodies, strict=True)]


def place_rows(who: str, module: Module, pairs: Pairs, matcher: Matcher, context: Context) -> Module:
    """The module with every section's rows where ``matcher`` puts them."""
    places = [np.zeros(b.inputs.shape, np.int32) for _, b in pairs]
    runs = list(load_runs(pairs))
    closing = closing_loads(pairs, runs)
    workers = max(1, min(context.threads, module.target.crossbars))
    cuts = np.linspace(0, module.target.crossbars, workers + 1).astype(int)

    def walk(worker: int) -> None:
        for done, (index, order) in enumerate(runs):
            if worker == 0:
                context.progress(who, done, len(runs))
            matcher(index, order, closing[index], (cuts[worker], cuts[worker + 1]), places[index])

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(walk, range(workers)))
    matched = zip(pairs, places, strict=True)
    return module.with_layers(
        [layer.with_body(permute_rows(body, place)) for (layer, body), place in matched]
    )


def permute_rows(body: Placed, place: Array) -> Placed:
    """The table with item i of every section in row ``place[s, i]``."""
    driven = body.driven()
    order = np.argsort(~driven, axis=1, kind="stable")
    valid = np.arange(body.rows)[None, :] < driven.sum(1)[:, None]
    section = np.broadcast_to(np.arange(body.sections)[:, None], body.inputs.shape)

    def moved(array: Array) -> Array:
        out = np.full_like(array, UNUSED)
        out[section[valid], place[valid]] = np.take_along_axis(array, order, axis=1)[valid]
        return out

    of_rows = None if body.row_outputs is None else moved(body.row_outputs)
    return body.lower(Placed, inputs=moved(body.inputs), row_outputs=of_rows)


def closing_loads(pairs: Pairs, runs: list[tuple[int, Array]]) -> list[Array]:
    """Per layer ``[sections]`` bool: the load is the last one on its crossbar, and not the only one."""
    last: dict[int, tuple[int, int]] = {}
    loads: dict[int, int] = {}
    for index, order in runs:
        bars = pairs[index][1].crossbar[order]
        for c, n in zip(*np.unique(bars, return_counts=True), strict=True):
            loads[int(c)] = loads.get(int(c), 0) + int(n)
        unique, at = np.unique(bars[::-1], return_index=True)
        for c, k in zip(unique, at, strict=True):
            last[int(c)] = (index, int(order[len(order) - 1 - k]))
    out = [np.zeros(b.sections, np.bool_) for _, b in pairs]
    for c, (index, section) in last.items():
        out[index][section] = loads[c] > 1
    return out
