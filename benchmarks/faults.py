"""Chips with faulty cells: what is placed around them, what is held, and what it costs.

    python benchmarks/faults.py MODEL.onnx --data CALIBRATION.npz [--report-data REPORT.npz] [--limit N]
        [--targets gather-128,isaac-128,pcm-256,rram-64] [--rates 0,0.0005,0.001,0.01,0.03] [--levels 2,3]
        [--crossbars 64] [--kinds uniform,clustered]

Every row is one program: compiled, verified (``xbc verify``: replayed from its files) and evaluated on the report set
(the calibration set without one). Cells are stuck at the lowest or the highest level with equal chance. ``uniform``:
every cell with that probability; ``clustered``: whole rows, whole columns and blobs of a twelfth of either side, a
third of the cells each. CPU: processor time of compiling, and its ratio to the first rate's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ir.faulty import FaultyCells
from ir.target import Target
from xbc.chip import verify_program
from xbc.driver.compile import compile_model
from xbc.targets import load_target


def fault_map(target: Target, rate: float, kind: str, seed: int = 0) -> FaultyCells:
    """Faulty cells of a chip, a share ``rate`` of all."""
    draw = np.random.default_rng(seed)
    shape = (target.crossbars, target.rows, target.columns)
    if kind == "uniform":
        count = round(rate * np.prod(shape))
        flat = draw.choice(int(np.prod(shape)), count, replace=False)
        cells = np.stack(np.unravel_index(flat, shape), axis=1)
    else:
        mask = np.zeros(shape, np.bool_)
        third = rate / 3
        mask |= draw.random((*shape[:2], 1)) < third
        mask |= draw.random((shape[0], 1, shape[2])) < third
        height, width = max(1, shape[1] // 12), max(1, shape[2] // 12)
        blobs = round(third * np.prod(shape) / (height * width))
        for bar, row, column in zip(*(draw.integers(0, n, blobs) for n in shape), strict=True):
            mask[bar, row : row + height, column : column + width] = True
        cells = np.argwhere(mask)
    level = draw.integers(0, 2, len(cells)) * (2**target.bits_per_cell - 1)
    return FaultyCells(np.column_stack([cells, level]))


def row(options: argparse.Namespace, target: Target, level: int) -> dict[str, Any]:
    """One program."""
    lossy = {"data": options.data, "report_data": options.report_data} if level == 3 and options.data else {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "p.xbc"
        started = time.process_time()
        done = compile_model(options.model, program, target=target, level=level, **lossy)
        seconds = time.process_time() - started
        report = verify_program(program)
        assert report.ok, [str(problem) for problem in report.problems[:3]]
        return {**done.summary, "cpu": seconds, "accuracy": evaluate(options, program)}


def evaluate(options: argparse.Namespace, program: Path) -> dict[str, Any]:
    """Top-1 before and after, of ``xbc evaluate --json``."""
    data = options.report_data or options.data
    if data is None:
        return {"reference": float("nan"), "compiled": float("nan"), "samples": 0}
    command = [
        sys.executable,
        "-m",
        "xbc",
        "evaluate",
        str(program),
        "--data",
        str(data),
        "--json",
        "--quiet",
    ]
    command += ["--model", str(options.model)] + (["--limit", str(options.limit)] if options.limit else [])
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--report-data", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--targets", default="gather-128,isaac-128,pcm-256,rram-64")
    parser.add_argument("--rates", default="0,0.0005,0.001,0.01,0.03")
    parser.add_argument("--levels", default="2,3")
    parser.add_argument("--kinds", default="uniform")
    parser.add_argument("--crossbars", type=int, default=64)
    options = parser.parse_args()
    print("| target | level | map | faulty | rows exchanged | sections added | weights held | RMS error, LSB | "
          "writes | natural / this | top-1 before | after | CPU |")  # fmt: skip
    print("|" + "---|" * 13)
    for name in options.targets.split(","):
        chip = load_target(name, {"crossbars": options.crossbars})
        for level in map(int, options.levels.split(",")):
            for kind in options.kinds.split(","):
                first = 0.0
                for rate in map(float, options.rates.split(",")):
                    target = dataclasses.replace(chip, faulty=fault_map(chip, rate, kind))
                    found = row(options, target, level)
                    first = first or found["cpu"]
                    print(line(name, level, kind, rate, found, first), flush=True)


def line(name: str, level: int, kind: str, rate: float, found: dict[str, Any], first: float) -> str:
    """One row of the table."""
    faults = found.get("faults") or {}
    placed = [f"{faults.get(key, 0):,}" for key in ("rows_exchanged", "sections_added", "weights_held")]
    top = found["accuracy"]
    words = [
        name, f"-O{level}", kind, f"{100 * rate:g} %", *placed, f"{faults.get('rms_error', 0.0):.3f}",
        f"{found['writes']['emitted']:,}", f"{found['reduction'] or float('inf'):.2f}",
        f"{100 * top['reference']:.1f}", f"{100 * top['compiled']:.1f} (n = {top['samples']})",
        f"{found['cpu']:.1f} s, {found['cpu'] / first:.2f}x",
    ]  # fmt: skip
    return f"| {' | '.join(words)} |"


if __name__ == "__main__":
    main()
