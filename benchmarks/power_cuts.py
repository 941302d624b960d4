"""Random power cuts and random read-back faults: what is lost, what is done twice.

    python benchmarks/power_cuts.py [--cuts 500] [--faults 500] [PROGRAM.xbc]

Without a program the digits LSTM is compiled for five crossbars of the 64 x 64 array. Every inference is cut once or
twice at a random write, the cell being written is left at a random level, and the journal's last record is torn.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.xbc.recovery.power_cuts import WAYS, interrupted_inference  # noqa: E402
from xbc.backend import Program  # noqa: E402
from xbc.recovery.readback import compare, expected_levels, follow, repair_table  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", nargs="?", type=Path)
    parser.add_argument("--cuts", type=int, default=500)
    parser.add_argument("--faults", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = arguments.program or compiled(Path(work))
        program = Program.open(folder)
        print(f"{folder.name}: {program.total('loads'):,} loads, {program.total('steady.writes'):,} writes")
        for way in WAYS:
            cuts(program, Path(work) / "journal", way, arguments.cuts)
        faults(program, arguments.faults)


def compiled(work: Path) -> Path:
    from xbc.driver.compile import compile_model

    model = ROOT / "models" / "digits_lstm.onnx"
    return compile_model(
        model, work / "digits_lstm.xbc", target="rram-64", settings={"crossbars": 5}
    ).directory


def cuts(program: Program, journal: Path, way: str, count: int) -> None:
    draw = np.random.default_rng(0)
    started = time.perf_counter()
    found = [interrupted_inference(program, journal, draw, way) for _ in range(count)]
    print(
        f"  resumed by {way}: {count} inferences, {sum(o.cuts for o in found)} cuts; cells wrong at the end: "
        f"{sum(o.wrong_cells for o in found)}; finished loads done again: {sum(o.redone_loads for o in found)}; "
        f"writes done twice per cut: {sum(max(o.extra_writes, 0) for o in found) / sum(o.cuts for o in found):.1f}; "
        f"ambiguous read-backs: {sum(o.ambiguous for o in found)}; {time.perf_counter() - started:.0f} s",
        flush=True,
    )


def faults(program: Program, count: int) -> None:
    draw = np.random.default_rng(1)
    top = 2**program.target.bits_per_cell - 1
    missed = repaired = cells = weights = 0
    started = time.perf_counter()
    for _ in range(count):
        load, run = int(draw.integers(-1, program.total("loads"))), ("first", "steady")[draw.integers(2)]
        expected = expected_levels(program, load, run)
        held = expected.reshape(-1).copy()
        where = draw.choice(held.size, int(draw.integers(1, 20)), replace=False)
        held[where] = (held[where] + draw.integers(1, top + 1, len(where))) % (top + 1)
        held = held.reshape(expected.shape)
        deviations = compare(program, held, np.ones(held.shape, np.bool_), load, run)
        missed += abs(len(where) - len(deviations))
        weights += len(follow(program, deviations).change)
        for w in repair_table(program, deviations)[0].to_pylist():
            held[w["crossbar"], w["row"], w["column"]] = w["after"]
        repaired += bool(np.array_equal(held, expected))
        cells += len(where)
    print(
        f"  read-backs: {count} with {cells} faults; faults missed or invented: {missed}; repaired to the expected "
        f"state: {repaired}; weights changed in the next inference: {weights}; {time.perf_counter() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
