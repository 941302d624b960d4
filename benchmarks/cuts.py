"""Where a sorted output is cut: writes and sections of one model for several ways, lossless, steady state.

Every way sorts the weights of an output by magnitude and cuts them into k sections; the passes after it are those of
-O2 (without the bound).  ``rank``: consecutive runs.  ``stratified``: every k-th weight.  ``auto``: what
sort-sections takes for the layer.  ``bands=B``: B bands of sections, stratified inside.  ``tail=S``: a share S of the
sections takes the largest weights, the rest the others, both stratified.  ``packed``: stratified, but all sections full
except one that takes the smallest weights.  ``spare=S``: stratified or rank as auto, with a share S more sections than
needed (sort-sections{spare=S}).

    python benchmarks/cuts.py MODEL.onnx [--crossbars 1] [--every 5] [--cuts auto,rank,spare=0.25,...] [--json]

``--every K`` takes every K-th layer only.  The target is gather-128.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from ir.arrays import Array
from ir.module import Layer, Module
from ir.stages import UNUSED, Placed, Sectioned, Sliced
from ir.target import Target
from passes.base import Context
from passes.counting import count_module, natural_module
from passes.manager import Options, run_pipeline
from passes.pipeline import parse_pipeline
from passes.sort_sections import SortSections, by_rank
from xbc.frontend import import_model
from xbc.targets import load_target

QUIET = Options(verify_each=False, count_each=False)
CUTS = "auto,rank,stratified,bands=2,bands=4,tail=0.1,packed,spare=0.1,spare=0.25,spare=0.5,spare=1"


def places(n: int, rows: int, kind: str, number: float) -> tuple[Array, Array, int]:
    """(section, row) of every position of a sorted output of ``n`` weights, and the number of sections."""
    k = -(-n // rows)
    position = np.arange(n)
    if kind == "packed":
        full = n // rows
        strata = np.minimum(position, full * rows - 1)
        rest = position >= full * rows
        section = np.where(rest, full, strata % max(full, 1))
        return section, np.where(rest, position - full * rows, strata // max(full, 1)), k
    if kind == "bands":
        edges = np.arange(min(int(number), k) + 1) * k // min(int(number), k)
    else:  # tail
        edges = np.array([0, max(1, round(number * k)), k]) if k > 1 else np.array([0, k])
    starts = edges * n // k
    band = np.searchsorted(starts, position, side="right") - 1
    inside, width = position - starts[band], np.diff(edges)[band]
    return edges[band] + inside % width, inside // width, k


def cut_by_hand(layer: Layer, target: Target, kind: str, number: float) -> Layer:
    """The layer with its outputs, sorted by magnitude, cut in one of the ways that no pass offers."""
    body = layer.at(Sliced)
    outputs, inputs = body.shape
    order = np.argsort(-np.abs(body.codes.astype(np.int32)), axis=1, kind="stable").astype(np.int32)
    section, row, k = places(inputs, target.rows, kind, number)
    table = np.full((outputs, k, target.rows), UNUSED, np.int32)
    table[:, section, row] = order
    made = body.lower(
        Sectioned,
        outputs=np.repeat(np.arange(outputs, dtype=np.int32), k)[:, None],
        inputs=table.reshape(outputs * k, target.rows),
        rank=np.tile(np.arange(k, dtype=np.int32), outputs),
        polarity=np.zeros(outputs * k, np.int8),
        row_outputs=None,
    )
    return layer.with_body(by_rank(made))


def measure(module: Module, cut: str) -> dict[str, Any]:
    """Sections and writes of one way; ``module`` has natural sections."""
    kind, _, number = cut.partition("=")
    context = Context(threads=1)
    if kind in ("bands", "tail", "packed"):
        layers = [cut_by_hand(layer, module.target, kind, float(number or 0)) for layer in module.layers]
        sorted_ = module.with_layers(layers)
    elif kind == "spare":
        sorted_ = SortSections(spare=float(number)).run(module, context)
    else:
        sorted_ = SortSections.create({"cut": kind}).run(module, context)
    done = run_pipeline(
        sorted_, parse_pipeline("order-sections{bound=0},deal-sections,match-rows"), context, QUIET
    ).module
    return {
        "cut": cut,
        "sections": sum(layer.at(Placed).sections for layer in done.layers),
        "writes": count_module(done).steady.total,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--crossbars", type=int, default=1)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--cuts", default=CUTS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    target = load_target("gather-128").override({"crossbars": options.crossbars})
    module = import_model(options.model, target).module
    module = dataclasses.replace(module, layers=module.layers[:: options.every], edges=())
    module = run_pipeline(
        module, parse_pipeline("quantize,encode-signs,slice-bits,form-sections"), Context(threads=1), QUIET
    ).module
    natural = count_module(natural_module(module)).steady.total
    if not options.json:
        size = f"{len(module.layers)} layers, {options.crossbars} crossbars"
        print(f"{options.model.name}, {size}: {natural:,} writes naturally")
    facts = []
    for cut in options.cuts.split(","):
        facts.append({**measure(module, cut), "natural": natural})
        f = facts[-1]
        if not options.json:
            times = natural / f["writes"]
            print(
                f"{cut:>12}: {f['sections']:>9,} sections, {f['writes']:>12,} writes, {times:6.1f}x",
                flush=True,
            )
    if options.json:
        print(json.dumps(facts))


if __name__ == "__main__":
    main()
