"""The published method (sorting and bit stucking, arXiv 2410.21730) under xbc's counts: writes and top-1.

Sections sorted rank by rank; of the cells in the lowest ``columns`` of every number that should change only
``fraction`` is reprogrammed.  Ratios are steady state against natural order on the same crossbars.

    python benchmarks/stucking.py MODEL.onnx --data SET.npz [--columns 3,4] [--fractions 0.25,0.5,0.75]
        [--crossbars 1] [--target gather-128] [--json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ir.stages import Programmed
from passes.base import Context
from passes.counting import count_module, natural_module
from passes.manager import run_pipeline
from passes.pipeline import parse_pipeline
from xbc.budget.judge import Judge
from xbc.budget.without_data import rms_code_error
from xbc.frontend import import_model
from xbc.simulate.data import load_data
from xbc.simulate.host import HostSession
from xbc.targets import load_target

ORDER = (
    "quantize,encode-signs,slice-bits,form-sections,sort-sections{cut=rank},"
    "order-sections{method=rank},deal-sections"
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--columns", default="3,4")
    parser.add_argument("--fractions", default="0.25,0.5,0.75")
    parser.add_argument("--crossbars", type=int, default=1)
    parser.add_argument("--target", default="gather-128")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    chip = load_target(arguments.target).override({"crossbars": arguments.crossbars})
    imported = import_model(arguments.model, chip)
    context = Context()
    placed = run_pipeline(imported.module, parse_pipeline(ORDER), context).module
    natural = count_module(natural_module(placed)).steady.total
    judge = Judge(
        arguments.model, imported, load_data(arguments.data, HostSession(arguments.model).inputs), context
    )
    rows: list[dict[str, Any]] = []
    for columns in map(int, arguments.columns.split(",")):
        for fraction in map(float, arguments.fractions.split(",")):
            text = f"stick-bits{{columns={columns},fraction={fraction}}}"
            module = run_pipeline(placed, parse_pipeline(text), context).module
            assert all(isinstance(layer.body, Programmed) for layer in module.layers)
            facts = judge(module)
            row = {
                "columns": columns, "fraction": fraction, "reduction": natural / count_module(module).steady.total,
                "rms_code_error": rms_code_error(module),
                **{name: facts[name] for name in ("samples", "reference", "compiled", "drop", "interval")},
            }  # fmt: skip
            rows.append(row)
            if not arguments.json:
                low, high = (100 * bound for bound in row["interval"])
                print(
                    f"columns {columns}, fraction {fraction:g}: "
                    f"{row['reduction']:.2f}x, error {row['rms_code_error']:.2f} "
                    f"LSB, top-1 {100 * row['reference']:.1f} -> {100 * row['compiled']:.1f} % (drop {low:+.1f} to "
                    f"{high:+.1f} points, n = {row['samples']})",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
