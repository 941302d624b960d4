"""Row matching against a dense assignment by scipy: loads per second of one thread, and writes left.

A path of sorted sections of one layer on one crossbar of 128 rows; both match every load against what the one
before left there.

    python benchmarks/match.py [--json] [--loads 4000]
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from synthetic import network

from ir.stages import Placed
from passes.base import Context
from passes.match_rows import items_first
from passes.pipeline import parse_pipeline
from passes.solvers.matching import digit_mask, match_loads


def ours(words: Any, counts: Any, exact: bool) -> tuple[float, int]:
    """Loads per second (CPU time of the thread) and writes."""
    loads, rows = words.shape
    order, bars = np.arange(loads), np.zeros(loads, np.int32)
    state, first = np.zeros((1, rows), np.uint32), np.full((1, rows), -1, np.int64)
    place = np.zeros((loads, rows), np.int32)
    started = time.thread_time()
    writes = match_loads(
        order, bars, np.zeros(loads, np.bool_), words, counts, 1, np.uint64(digit_mask(1)), exact, 0, 1,
        state, first, place,
    )  # fmt: skip
    return loads / (time.thread_time() - started), int(writes)


def scipys(words: Any) -> tuple[float, int]:
    """The same with a dense cost matrix per load."""
    state = np.zeros(words.shape[1], np.uint8)
    writes = 0
    started = time.thread_time()
    for row in words:
        cost = np.bitwise_count(row[:, None] ^ state[None, :])
        i, j = linear_sum_assignment(cost)
        writes += int(cost[i, j].sum())
        state[j] = row[i]
    return len(words) / (time.thread_time() - started), writes


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--loads", type=int, default=4000)
    options = parser.parse_args()
    module = network([(512, 1024)])
    for step in parse_pipeline(
        "quantize,slice-bits,form-sections,sort-sections,order-sections{bound=0},deal-sections"
    ):
        module = step.run(module, Context()).module
    words, counts = items_first(module.layers[0].at(Placed), module.layers[0].at(Placed).wanted_words())
    words, counts = words[: options.loads, :, 0], counts[: options.loads]
    ours(words[:10], counts[:10], True), ours(words[:10], counts[:10], False)
    facts = {
        name: {"loads_per_second": rate, "writes": writes}
        for name, (rate, writes) in {
            "exact": ours(words, counts, True), "greedy": ours(words, counts, False), "scipy": scipys(words),
        }.items()
    }  # fmt: skip
    if options.json:
        print(json.dumps(facts))
        return
    slow = facts["scipy"]
    for name, f in facts.items():
        print(
            f"{name:>7}: {f['loads_per_second']:9.0f} loads/s, "
            f"{f['loads_per_second'] / slow['loads_per_second']:5.1f}x scipy; "
            f"writes {f['writes']}, {f['writes'] / slow['writes']:.4f} of scipy's"
        )


if __name__ == "__main__":
    main()
