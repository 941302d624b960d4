"""Compiling layer after layer in bounded memory: one billion heavy-tailed random weights, never all in memory.

Every layer is made (Student-t, 8-bit codes), goes through the passes of -O2 alone, is loaded into the chip and
forgotten; what goes from layer to layer is the content of the crossbars: what row matching fits the next loads to, what
the last loads leave for the next inference, and the levels that the writes are counted from (steady state, the wrap
included; ``natural`` is counted beside it in the same way).  Layers are dealt contiguously.  One block has the matrices
of a decoder of width W: four of W x W, and W x 4 W there and back (50 M weights at 2048; 20 blocks are a billion).

    python benchmarks/stream.py [--blocks 20] [--width 2048] [--crossbars 1] [--bound 0] [--json]

``--check`` also compiles the network as a whole and compares: the same writes, the same natural count.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from synthetic import layer, network

from ir.module import Layer, Module
from ir.stages import Placed
from ir.target import Target
from ir.verify import check_module
from passes.base import Context
from passes.counting import ChipWalk, count_module, load_runs, natural_module
from passes.manager import Options, run_pipeline
from passes.match_rows import closing_loads, items_first, permute_rows
from passes.pipeline import LEVELS, parse_pipeline
from passes.solvers.matching import digit_mask, match_loads

QUIET = Options(verify_each=False, count_each=False)


def shapes(width: int, blocks: int) -> list[tuple[int, int]]:
    """The weight matrices of some decoder blocks."""
    return [*[(width, width)] * 4, (4 * width, width), (width, 4 * width)] * blocks


def layers(sizes: list[tuple[int, int]]) -> Iterator[Layer]:
    """The layers, one at a time; the same as those of ``synthetic.network``."""
    for i, (outputs, inputs) in enumerate(sizes):
        yield layer(f"layer{i}", outputs, inputs, i)


def passes_text(bound: int) -> str:
    """-O2 until the sections are placed; their rows are matched to what the crossbars hold by ``Matcher``."""
    text = LEVELS[2].removesuffix(",match-rows")
    return text.replace("order-sections", f"order-sections{{bound={bound}}}").replace(
        "deal-sections", "deal-sections{method=contiguous}"
    )


class Matcher:
    """match-rows with the content of the crossbars kept from one layer to the next."""

    def __init__(self, target: Target) -> None:
        """A blank chip."""
        self.state = np.zeros((target.crossbars, target.rows), np.uint32)
        self.first = np.full(self.state.shape, -1, np.int64)

    def match(self, layer_: Layer, body: Placed, last: bool) -> Placed:
        """The layer with its rows permuted; ``last``: the next inference follows."""
        runs = list(load_runs([(layer_, body)]))
        closing = closing_loads([(layer_, body)], runs)[0] if last else np.zeros(body.sections, np.bool_)
        words, counts = items_first(body, body.wanted_words())
        place = np.zeros(body.inputs.shape, np.int32)
        for _, order in runs:
            match_loads(
                order, body.crossbar, closing, words[:, :, 0], counts, body.bits_per_cell,
                np.uint64(digit_mask(body.bits_per_cell)), True, 0, len(self.state), self.state, self.first, place,
            )  # fmt: skip
        return permute_rows(body, place)


def stream(width: int, blocks: int, crossbars: int, bound: int, report: Any) -> dict[str, Any]:
    """Compiles and counts; ``report`` is called with the facts so far after every block."""
    target = network([(1, 1)], crossbars).target
    pipeline = parse_pipeline(passes_text(bound))
    context = Context(threads=1)
    chip, natural, matcher = ChipWalk(target), ChipWalk(target), Matcher(target)
    run_pipeline(network([(16, 256)], crossbars), parse_pipeline(LEVELS[2]), context)  # compiles the kernels
    sizes = shapes(width, blocks)
    weights, passes_cpu, started, started_cpu = 0, 0.0, time.perf_counter(), time.process_time()
    for i, made in enumerate(layers(sizes)):
        module = Module("streamed", target, (made,))
        before = time.process_time()
        placed = run_pipeline(module, pipeline, context, QUIET).module
        done = placed.layers[0]
        done = done.with_body(matcher.match(done, done.at(Placed), i + 1 == len(sizes)))
        passes_cpu += time.process_time() - before
        placed = placed.with_layers([done])
        check_module(placed)
        for walk, counted in ((chip, placed), (natural, natural_module(placed))):
            body = counted.layers[0].at(Placed)
            words = body.wanted_words()
            for _, order in load_runs([(counted.layers[0], body)]):
                walk.add(body, words, order)
        weights += module.weights
        if (i + 1) % 6 == 0:
            report(weights, passes_cpu)
    writes, base = chip.finish()[0].total, natural.finish()[0].total
    return {
        "weights": weights,
        "layers": len(sizes),
        "sections": chip.loads,
        "crossbars": crossbars,
        "natural": base,
        "writes": writes,
        "reduction": base / writes,
        "passes_cpu_seconds": passes_cpu,
        "weights_per_cpu_second": weights / passes_cpu,
        "cpu_seconds": time.process_time() - started_cpu,
        "seconds": time.perf_counter() - started,
        "largest_layer": max(outputs * inputs for outputs, inputs in sizes),
        "peak_rss_gb": peak(),
    }


def peak() -> float:
    """Peak resident memory of this process in GB (2**30 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def whole(width: int, blocks: int, crossbars: int, bound: int) -> tuple[int, int]:
    """(writes, natural) of the network compiled at once by the same passes."""
    module = network(shapes(width, blocks), crossbars)
    text = passes_text(bound) + ",match-rows"
    done = run_pipeline(module, parse_pipeline(text), Context(threads=1), QUIET).module
    return count_module(done).steady.total, count_module(natural_module(done)).steady.total


def main() -> None:
    """Command line; exit code 1 when ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--crossbars", type=int, default=1)
    parser.add_argument("--bound", type=int, default=0, help="subgradient steps of the lower bound")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = options.width, options.blocks, options.crossbars, options.bound

    def report(weights: int, cpu: float) -> None:
        print(
            f"{weights / 1e6:8.1f} M weights, {cpu:7.1f} s of the processor in the passes, {weights / cpu / 1e6:.2f} M "
            f"weights/s, peak {peak():.2f} GB",
            file=sys.stderr, flush=True,
        )  # fmt: skip

    facts = stream(*sizes, report)
    if options.json:
        print(json.dumps(facts))
    else:
        print(
            f"{facts['weights'] / 1e6:.1f} M weights in {facts['layers']} layers, {facts['sections']:,} sections: "
            f"{facts['natural']:,} writes naturally, {facts['writes']:,} in xbc's order ({facts['reduction']:.1f}x); "
            f"{facts['weights_per_cpu_second'] / 1e6:.2f} M weights/s in the passes, {facts['cpu_seconds']:.0f} s of "
            f"the processor with making, verifying and counting, {facts['seconds']:.0f} s by the clock, peak "
            f"{facts['peak_rss_gb']:.2f} GB"
        )
    if options.check:
        found, wanted = (facts["writes"], facts["natural"]), whole(*sizes)
        verdict = "same" if found == wanted else "DIFFERENT"
        print(f"as a whole: {wanted[0]:,} writes, {wanted[1]:,} naturally: {verdict}")
        sys.exit(found != wanted)


if __name__ == "__main__":
    main()
