"""The order of loads: xbc's path against sorting by sum (numpy), OR-Tools routing alone and the lower bound.

One layer at a time, multiset metric, all sections of it one group; every method sees the same distance matrix
in the same process.  ``over_bound`` is path length / Held-Karp lower bound; ``seconds`` of xbc include the
matrix, OR-Tools gets ten times as long.

    python benchmarks/order.py [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from synthetic import network

from ir.stages import Sectioned
from passes.base import Context
from passes.pipeline import parse_pipeline
from passes.solvers.ascent import path_bound
from passes.solvers.features import Metric
from passes.solvers.routing import improve_path
from passes.solvers.tour import path_length, short_path

SHAPES = [(64, 576), (512, 128), (192, 768), (1024, 256)]


def measure(outputs: int, inputs: int) -> dict[str, Any]:
    """Lengths and seconds for one layer."""
    module = network([(outputs, inputs)])
    for step in parse_pipeline("quantize,slice-bits,form-sections,sort-sections"):
        module = step.run(module, Context()).module
    body = module.layers[0].at(Sectioned)
    words = body.wanted_words()
    started = time.perf_counter()
    cost = Metric("multiset", words, body.driven(), body.cells).matrix(np.arange(body.sections))
    path = short_path(cost)
    seconds = time.perf_counter() - started
    length = path_length(cost, path)
    bound = path_bound(cost, path, 200)
    by_sum = np.argsort(words.sum(axis=(1, 2), dtype=np.int64), kind="stable")
    routed, _ = improve_path(cost, by_sum, 10**6, max(2.0, 10 * seconds))
    return {
        "sections": body.sections,
        "xbc": {"over_bound": length / bound, "seconds": seconds},
        "sum": {"over_bound": path_length(cost, by_sum) / bound},
        "ortools": {"over_bound": path_length(cost, routed) / bound, "seconds": max(2.0, 10 * seconds)},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    measure(16, 256)  # compiles the kernels
    facts = {f"{o}x{i}": measure(o, i) for o, i in SHAPES}
    if as_json:
        print(json.dumps(facts))
        return
    print(
        f"{'layer':>10} {'sections':>8} {'xbc/bound':>9} {'s':>6} {'sum/bound':>9} {'OR-Tools/bound':>14} {'s':>6}"
    )
    for name, f in facts.items():
        print(
            f"{name:>10} {f['sections']:8d} {f['xbc']['over_bound']:9.3f} {f['xbc']['seconds']:6.2f} "
            f"{f['sum']['over_bound']:9.3f} {f['ortools']['over_bound']:14.3f} {f['ortools']['seconds']:6.1f}"
        )


if __name__ == "__main__":
    main()
