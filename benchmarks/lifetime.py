"""Lifetime without levelling, with level-wear, and with perfect levelling; timeline figures and the batch curve.

    python benchmarks/lifetime.py [MODEL.onnx ...] [--level 1] [--crossbars 16] [--targets gather-128,rram-64]

Perfect: the program's writes spread evenly over all cells. Models default to the digits CNN, transformer and LSTM.
Columns: mean writes of the bit columns of a weight over the mean of all cells, most significant first, as they are
and at the end of a levelled life.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from passes.pipeline import LEVELS
from passes.solvers.levelling import live
from xbc.backend import Program
from xbc.chip.wear import plan_of, program_wear
from xbc.driver.compile import compile_model
from xbc.schedule import batch_curve, program_costs

MODELS = [Path(__file__).parents[1] / "models" / f"digits_{name}.onnx" for name in ("cnn", "vit", "lstm")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, default=MODELS)
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--crossbars", type=int, default=16)
    parser.add_argument("--targets", default="gather-128,rram-64")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    pipeline = LEVELS[arguments.level] + ",level-wear"
    print(f"-O{arguments.level},level-wear on {arguments.crossbars} crossbars; lifetimes in inferences")
    for model in arguments.models:
        for target in arguments.targets.split(","):
            started = time.process_time()
            with tempfile.TemporaryDirectory() as work:
                settings = {"crossbars": arguments.crossbars}
                done = compile_model(
                    model,
                    Path(work) / "p.xbc",
                    target=target,
                    settings=settings,
                    pipeline=pipeline,
                    threads=arguments.threads,
                )
                program = Program.open(done.directory)
                print_life(program, f"{model.stem} on {target}")
                print_columns(program)
                print_times(program)
            print(f"  ({time.process_time() - started:.0f} CPU s)", flush=True)


def print_life(program: Program, name: str) -> None:
    life = program.manifest["provenance"]["facts"]["level-wear"]
    still, levelled, perfect = (life[f"lifetime_{k}"] for k in ("still", "levelled", "perfect"))
    plan = life["plan"]
    print(
        f"{name}: still {still:,.0f}, levelled {levelled:,.0f} ({levelled / still:.1f}x), perfect {perfect:,.0f}: "
        f"{life['share_of_perfect']:.1%} of perfect; {len(plan['epochs'])} epochs of "
        f"{plan['inferences_per_epoch']:,} inferences, moving writes {life['moving_writes_share']:.2%}"
    )


def print_columns(program: Program) -> None:
    plan, wear = plan_of(program), program_wear(program)
    width = {layer.columns_per_weight for layer in program.layers}
    if plan is None or len(width) != 1:
        return
    levelled = live(wear, plan, program.target.endurance).wear
    for name, cells in (("as they are", wear.wear), ("levelled", levelled)):
        used = cells[..., : cells.shape[2] // max(width) * max(width)]
        by = used.reshape(-1, used.shape[2] // max(width), max(width)).mean(axis=(0, 1)) / cells.mean()
        worst = float(cells.max() / cells.mean())
        print(f"  columns {name}: {' '.join(f'{v:.2f}' for v in by)}; worst cell {worst:.1f}")
    dead = np.count_nonzero(wear.wear == 0)
    print(f"  cells never written: {dead / wear.wear.size:.1%}")


def print_times(program: Program) -> None:
    curve = batch_curve(program_costs(program), program.target.crossbars)
    one = curve[0]
    print(
        f"  one inference {one['latency_ns'] / 1e6:.3g} ms (without overlap {one['lockstep_ns'] / 1e6:.3g} ms), "
        f"critical path {one['critical_path']['write_ns'] / one['latency_ns']:.0%} writing, busy "
        f"{1 - one['utilisation']['idle']:.0%}"
    )
    for point in curve:
        rate, energy = point["throughput_per_s"], point["energy_pj"]
        print(
            f"  batch {point['batch']:>2}: {rate:>10,.1f} inferences/s ({rate / one['throughput_per_s']:.2f}x), "
            f"{energy / 1e6:.4g} uJ each ({energy / one['energy_pj']:.3f}x)"
        )


if __name__ == "__main__":
    main()
