"""What second derivatives buy in ``hold-codes``: writes at equal error of the outputs.

One lossless placement (-O2), then codes are held at a row of penalties with equal weights, with the second
derivatives' mean of each layer, and with their detail per weight.  The error of the outputs against the unmodified
model (root mean square over that of the outputs) falls steadily with the penalty, so writes are compared where the
errors are equal, between measured points linearly in both logarithms.  Sensitivities come from other samples.

    python benchmarks/sensitive_reprogram.py MODEL.onnx --calibration CALIB.npz --data SET.npz [--crossbars 1]
        [--lambdas 3,1,0.3,0.1,0.03,0.01] [--json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from passes.base import Context
from passes.counting import count_module, natural_module
from passes.manager import Options, run_pipeline
from passes.pipeline import LEVELS, parse_pipeline
from xbc.budget.judge import Judge
from xbc.frontend import import_model
from xbc.sensitivity import model_sensitivities
from xbc.sensitivity.diagonal import data_port
from xbc.simulate.data import load_data
from xbc.simulate.host import HostSession
from xbc.targets import load_target

WEIGHINGS = ("equal", "layer", "weight")


def writes_at(error: float, points: list[dict[str, Any]]) -> float:
    """Writes of a curve where its error is ``error``; NaN outside of what was measured."""
    curve = sorted((np.log(p["error"]), np.log(p["writes"])) for p in points)
    x, y = zip(*curve, strict=True)
    if not x[0] <= np.log(error) <= x[-1]:
        return float("nan")
    return float(np.exp(np.interp(np.log(error), x, y)))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True, help="samples for the sensitivities")
    parser.add_argument(
        "--data", type=Path, required=True, help="other samples, with labels, for the outputs"
    )
    parser.add_argument("--target", default="gather-128")
    parser.add_argument("--crossbars", type=int, default=1)
    parser.add_argument("--lambdas", default="3,1,0.3,0.1,0.03,0.01")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    chip = load_target(arguments.target).override({"crossbars": arguments.crossbars})
    imported = import_model(arguments.model, chip)
    ports = HostSession(arguments.model).inputs
    calibration, data = (load_data(file, ports) for file in (arguments.calibration, arguments.data))
    found = model_sensitivities(imported, calibration.inputs[data_port(imported).name], threads=1)
    plain, informed = Context(threads=1), Context(threads=1, sensitivities=found)
    options = Options(verify_each=False, count_each=False)
    placed = run_pipeline(imported.module, parse_pipeline(LEVELS[2]), plain, options).module
    natural = count_module(natural_module(placed)).steady.total
    judge = Judge(arguments.model, imported, data, plain)
    curves: dict[str, list[dict[str, Any]]] = {}
    for weighing in WEIGHINGS:
        detail = "layer" if weighing == "equal" else weighing
        context = plain if weighing == "equal" else informed
        for lambda_ in map(float, arguments.lambdas.split(",")):
            text = f"hold-codes{{lambda={lambda_},detail={detail}}}"
            module = run_pipeline(placed, parse_pipeline(text), context, options).module
            facts = judge(module)
            point = {
                "lambda": lambda_, "writes": count_module(module).steady.total,
                "error": facts["rms_error"] / facts["rms_reference"],
                **{name: facts[name] for name in ("samples", "reference", "compiled", "agreement")},
            }  # fmt: skip
            curves.setdefault(weighing, []).append(point)
            if not arguments.json:
                print(
                    f"{weighing:6s} lambda {lambda_:5g}: {natural / point['writes']:8.1f}x fewer writes, "
                    f"output error {100 * point['error']:6.2f} %, top-1 {100 * point['reference']:.2f} -> "
                    f"{100 * point['compiled']:.2f} %, same prediction {100 * point['agreement']:.2f} % "
                    f"(n = {point['samples']})",
                    flush=True,
                )
    gains = [
        {
            "error": p["error"],
            **{
                w: writes_at(p["error"], curves["equal"]) / writes_at(p["error"], curves[w])
                for w in WEIGHINGS[1:]
            },
        }
        for p in curves["equal"]
    ]
    if arguments.json:
        print(json.dumps({"natural": natural, "curves": curves, "gains": gains}))
        return
    for gain in gains:
        print(
            f"at an output error of {100 * gain['error']:6.2f} %: writes with equal weights over those with "
            f"sensitivities {gain['layer']:.2f} (per layer), {gain['weight']:.2f} (per weight)"
        )


if __name__ == "__main__":
    main()
