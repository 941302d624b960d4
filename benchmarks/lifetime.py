"""Lifetime without levelling, with level-wear, and with perfect levelling; timeline figures and the batch curve.

    python benchmarks/lifetime.py [MODEL.onnx ...] [--level 1] [--crossbars 16]

Perfect: the program's writes spread evenly over all cells. Models default to the digits CNN, transformer and LSTM.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from passes.pipeline import LEVELS
from xbc.backend import Program
from xbc.compiler import compile_model
from xbc.schedule import batch_curve, program_costs

MODELS = [Path(__file__).parents[1] / "models" / f"digits_{name}.onnx" for name in ("cnn", "vit", "lstm")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, default=MODELS)
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--crossbars", type=int, default=16)
    parser.add_argument("--targets", default="gather-128,rram-64")
    arguments = parser.parse_args()
    pipeline = LEVELS[arguments.level] + ",level-wear"
    print(
        f"-O{arguments.level} + level-wear, {arguments.crossbars} crossbars; inferences until the worst cell is worn out"
    )
    for model in arguments.models:
        for target in arguments.targets.split(","):
            with tempfile.TemporaryDirectory() as work:
                started = time.perf_counter()
                done = compile_model(
                    model,
                    Path(work) / "p.xbc",
                    target=target,
                    settings={"crossbars": arguments.crossbars},
                    pipeline=pipeline,
                )
                program = Program.open(done.directory)
                life = program.manifest["provenance"]["facts"]["level-wear"]
                still, levelled, perfect = (life[f"lifetime_{k}"] for k in ("still", "levelled", "perfect"))
                print(
                    f"{model.stem} on {target}: still {still:,.0f}, levelled {levelled:,.0f} ({levelled / still:.1f}x), "
                    f"perfect {perfect:,.0f}: {life['share_of_perfect']:.1%} of perfect; epochs "
                    f"{len(life['plan']['epochs'])} x {life['plan']['inferences_per_epoch']:,}, moving writes "
                    f"{life['moving_writes_share']:.2%}; {time.perf_counter() - started:.0f} s"
                )
                curve = batch_curve(program_costs(program), program.target.crossbars)
                one = curve[0]
                path = one["critical_path"]
                print(
                    f"  one inference {one['latency_ns'] / 1e6:.3g} ms (without overlap {one['lockstep_ns'] / 1e6:.3g} ms), "
                    f"critical path {path['write_ns'] / one['latency_ns']:.0%} writing, busy "
                    f"{1 - one['utilisation']['idle']:.0%}"
                )
                for point in curve:
                    print(
                        f"  batch {point['batch']:>2}: {point['throughput_per_s']:>10,.1f} inferences/s "
                        f"({point['throughput_per_s'] / one['throughput_per_s']:.2f}x), {point['energy_pj'] / 1e6:.4g} uJ each "
                        f"({point['energy_pj'] / one['energy_pj']:.3f}x)",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
