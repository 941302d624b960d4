"""Which crossbar takes which run: xbc's auction against scipy and OR-Tools on the same assignment problems.

Each problem is the change from one layer to the next: the cheaper end of every run against what the crossbars hold.

    python benchmarks/assignment.py [--json] [--crossbars 1024]
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from synthetic import network

from ir.stages import Sectioned
from passes.base import Context
from passes.pipeline import parse_pipeline
from passes.solvers.assignment import assign, assign_ortools
from passes.solvers.features import Metric

FORM = "quantize,encode-signs,slice-bits,form-sections,sort-sections{cut=stratified},order-sections{bound=0}"


def problems(crossbars: int) -> list[tuple[str, Any]]:
    """(shape of the layer, ``[runs, crossbars]`` costs) of the changes from one full layer to others."""
    shapes = [
        (crossbars, 256),
        (crossbars, 512),
        (crossbars // 2, 1024),
        (crossbars, 128),
        (crossbars * 5 // 8, 128),
    ]
    module = network(shapes)
    for step in parse_pipeline(FORM):
        module = step.run(module, Context(threads=1)).module
    found: list[tuple[str, Any]] = []
    held = None
    for layer in module.layers:
        body = layer.at(Sectioned)
        metric = Metric("multiset", body.wanted_words(), body.driven(), body.cells)
        runs = min(crossbars, body.sections)
        cuts = np.arange(runs + 1) * body.sections // runs
        heads, tails = metric.rows[cuts[:-1]], metric.rows[cuts[1:] - 1]
        if held is None:
            held = tails
            continue
        cost = np.minimum(metric.between(heads, held), metric.between(tails, held))
        found.append(("x".join(map(str, body.shape)), cost))
    return found


def by_scipy(cost: Any) -> Any:
    """Column of every row."""
    return linear_sum_assignment(cost)[1]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--crossbars", type=int, default=1024)
    options = parser.parse_args()
    for solve in (assign, assign_ortools):
        solve(np.zeros((2, 3), np.int32))
    rows = []
    for shape, cost in problems(options.crossbars):
        row: dict[str, Any] = {"layer": shape, "runs": cost.shape[0], "crossbars": cost.shape[1]}
        for name, solve in (("xbc", assign), ("scipy", by_scipy), ("ortools", assign_ortools)):
            started = time.thread_time()
            column = solve(cost)
            row[f"{name}_s"] = time.thread_time() - started
            row[f"{name}_cost"] = int(cost[np.arange(len(cost)), column].sum())
        rows.append(row)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(
        f"{'layer':>10} {'runs':>5}  {'xbc s':>6} {'scipy/xbc':>9} {'OR-Tools/xbc':>12} {'cost/optimum':>12}"
    )
    for r in rows:
        print(
            f"{r['layer']:>10} {r['runs']:>5}  {r['xbc_s']:>6.3f} {r['scipy_s'] / r['xbc_s']:>9.1f} "
            f"{r['ortools_s'] / r['xbc_s']:>12.1f} {r['xbc_cost'] / max(1, r['scipy_cost']):>12.5f}"
        )


if __name__ == "__main__":
    main()
