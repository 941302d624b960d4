"""Growth of -O2 with size: seconds per pass, writes and peak memory for 1 M to 101 M weights (ViT-Base shape: 86 M).

Every size runs in a process of its own; the passes alone are timed (no ONNX file is read, none is emitted), in
seconds by the clock and of the processor.  ``sort_ratio`` is the processor time of the whole pipeline over that of
one numpy sort of the same weights.

    python benchmarks/compile.py [--json] [--crossbars 1] [--sizes 1M,4M,16M,vit-base,100M]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
from synthetic import network, vit_base

from ir.stages import Float
from passes.counting import count_module, natural_module
from passes.manager import Options, gather_facts, run_pipeline
from passes.pipeline import LEVELS, parse_pipeline

SIZES = {
    "1M": [(512, 1024), (512, 1024)],
    "4M": [(1024, 1024)] * 4,
    "16M": [(1024, 4096), (4096, 1024)] * 2,
    "vit-base": vit_base(),
    "100M": [(4096, 4096)] * 6,
}


def measure(size: str, crossbars: int) -> dict[str, Any]:
    """One size, in this process."""
    run_pipeline(network([(16, 256)], crossbars), parse_pipeline(LEVELS[2]))  # compiles the kernels
    module = network(SIZES[size], crossbars)
    started = time.process_time()
    for layer in module.layers:
        np.sort(layer.at(Float).values, axis=1)
    sorting = time.process_time() - started
    started = time.process_time()
    run = run_pipeline(
        module, parse_pipeline(LEVELS[2]), options=Options(verify_each=False, count_each=False)
    )
    cpu_seconds = time.process_time() - started
    seconds = {record.name: record.seconds for record in run.records}
    writes = count_module(run.module).steady.total
    natural = count_module(natural_module(run.module)).steady.total
    return {
        "weights": module.weights,
        "seconds": sum(seconds.values()),
        "cpu_seconds": cpu_seconds,
        "passes": seconds,
        "sort_ratio": cpu_seconds / sorting,
        "reduction": natural / writes,
        "gap": gather_facts(run.records)["order-sections"]["network"]["gap"],
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--crossbars", type=int, default=1)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.crossbars)))
        return
    facts = {}
    for size in options.sizes.split(","):
        words = [sys.executable, __file__, "--one", size, "--crossbars", str(options.crossbars)]
        facts[size] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        if not options.json:
            f = facts[size]
            slowest = sorted(f["passes"].items(), key=lambda item: -item[1])[:3]
            print(
                f"{size:>9}: {f['weights'] / 1e6:6.1f} M weights, {f['seconds']:6.1f} s, {f['cpu_seconds']:6.1f} s "
                f"of the processor ({f['sort_ratio']:.0f}x a sort), {f['reduction']:.1f}x fewer writes, "
                f"gap {100 * f['gap']:.1f} %, {f['peak_rss_gb']:.2f} GB; "
                + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in slowest),
                flush=True,
            )
    if options.json:
        print(json.dumps(facts))


if __name__ == "__main__":
    main()
