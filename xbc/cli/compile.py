"""``xbc compile``: ONNX in, program out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.text import Text

from xbc.cli import console
from xbc.cli.cost import cost_table
from xbc.cli.options import (
    json_option,
    pipeline_options,
    quiet_option,
    seed_option,
    set_option,
    threads_option,
)


@click.command("compile")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Program directory  [default: MODEL.xbc here]"
)
@click.option(
    "-t",
    "--target",
    default="gather-128",
    show_default=True,
    help="Chip: a name of 'xbc targets' or a TOML file.",
)
@set_option
@click.option(
    "-O",
    "level",
    type=int,
    metavar="LEVEL",
    help="Effort: -O0 to -O2 are lossless, -O3 holds codes within a budget  [default: -O2]",
)
@click.option(
    "--passes", "pipeline", metavar="TEXT", help="Pipeline instead of a level, e.g. 'quantize{bits=6},...'."
)
@click.option(
    "--outputs-per-section", "outputs", type=click.IntRange(0), default=0, metavar="K",
    help="Outputs that share a section's rows in -O levels; fewer than the target allows: fewer writes, more reads.",
)  # fmt: skip
@click.option(
    "--spare", type=float, default=0.0, metavar="S",
    help="Further sections in -O levels, as a share, rounded for each output (0.25: about a quarter more): fewer "
    "writes, more loads and reads.",
)  # fmt: skip
@click.option(
    "--quantize",
    metavar="OPTIONS",
    help="Options of quantize for a level, e.g. 'granularity=channel,bits=7'; '' keeps -O3 from choosing them.",
)
@click.option(
    "--sensitivities",
    type=click.Path(path_type=Path),
    help="File of 'xbc sensitivity' for this model, for select-write-verify, hold-codes and their like.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Samples (.npz) that -O3 chooses on; without --report-data on the even half, and the odd half is reported.",
)
@click.option("--report-data", type=click.Path(path_type=Path), help="Second set, only reported on.")
@click.option("--max-drop", type=float, help="Points of top-1 that -O3 may lose on --data  [default: 1.0]")
@click.option(
    "--max-error", type=float, help="Without --data: RMS code error per layer in LSB for -O3  [default: 0.5]"
)
@seed_option
@threads_option
@pipeline_options
@json_option
@quiet_option
def command(
    model: Path, output: Path | None, target: str, settings: dict[str, Any], level: int | None,
    pipeline: str | None, outputs: int, spare: float, quantize: str | None, sensitivities: Path | None,
    data: Path | None, report_data: Path | None, max_drop: float | None, max_error: float | None, seed: int,
    threads: int, print_before: str | None, print_after: str | None, time_passes: bool, verify_each: bool,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Compile an ONNX model to a reprogramming program for a crossbar chip.

    Writes a directory with the IR, the tables of sections, loads and cell writes, the host graph, and
    digests of all of them. It appears whole or not at all.

    \b
    Examples:
      xbc compile model.onnx
      xbc compile model.onnx --target isaac-128 --set crossbars=64 -O1 -o out.xbc --json
      xbc compile model.onnx --passes "quantize{bits=6},encode-signs,slice-bits,form-sections,deal-sections"
      xbc compile model.onnx -O3 --data samples.npz --max-drop 1.0
      xbc compile model.onnx --print-after sort-sections --time-passes
    """
    from xbc.cli.kernels import kernel_builds
    from xbc.cli.tracing import Tracing
    from xbc.driver.compile import DEFAULT_LEVEL, compile_model

    if level is not None and pipeline is not None:
        raise click.UsageError("-O and --passes exclude each other: a level is a pipeline")
    tracing = Tracing(print_before, print_after)
    with console.progress_bars(quiet or tracing.prints) as progress, kernel_builds(quiet) as kernels:
        result = compile_model(
            model, output, target=target, settings=settings, pipeline=pipeline,
            level=DEFAULT_LEVEL if level is None else level, outputs=outputs, spare=spare, quantize=quantize,
            sensitivities=sensitivities, data=data, report_data=report_data, max_drop=max_drop,
            max_error=max_error, seed=seed, threads=threads, progress=progress, verify_each=verify_each,
            before=tracing.before, after=tracing.after,
        )  # fmt: skip
    result.summary["kernel_seconds"] = round(kernels.seconds, 3)
    for sentence in result.notes:
        console.note(f"xbc: note: {sentence}", quiet)
    if time_passes:
        tracing.print_times(result.records)
    if as_json:
        console.print_json(result.summary)
    else:
        print_summary(result.summary)


def loss_rows(loss: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What -O3 gave up, on the samples kept for the report."""
    if loss is None:
        return []
    if "max_error" in loss:
        rms = max(p["rms_error"] for p in loss["curve"] if p["accepted"]) if loss["curve"] else 0.0
        return [("RMS code error, allowed per layer", f"{rms:.3f}, {loss['max_error']:g} LSB")]
    rows = [("agreement with the unmodified model", f"{100 * loss['agreement']:.2f} % of {loss['samples']}")]
    if loss["drop"] is not None:
        low, high = (100 * bound for bound in loss["interval"])
        rows.append(
            (
                "top-1 before, after",
                f"{100 * loss['reference']:.2f} %, {100 * loss['compiled']:.2f} %",
            )
        )
        rows.append(("drop in points, 95 % interval", f"{100 * loss['drop']:.2f}, {low:.2f} .. {high:.2f}"))
    return rows


def print_summary(facts: dict[str, Any]) -> None:
    """The compile table."""
    out = console.stdout()
    out.print(
        console.bold_first(
            facts["model"],
            f" on {facts['target']}: "
            f"{console.count(facts['weights'])} weights in "
            f"{console.count(facts['layers'])} layers, {console.seconds(facts['seconds'])} -> {facts['output']}\n",
        )
    )
    passes = console.table("Passes", "pass", "sections", "writes/inference", "seconds")
    for step in facts["passes"]:
        passes.add_row(
            step["text"],
            console.count(step["sections"]),
            console.count(step["writes"]),
            f"{step['seconds']:.2f}",
        )
    out.print(passes, "")
    out.print(cost_table(facts["cost"]), "")
    writes = console.table("Cell writes", "", "per inference", "natural / this", "first deployment")
    for kind, meaning in FOUR_COUNTS.items():
        steady = facts["writes"][kind]
        times = facts["writes"]["natural"] / steady if steady else None
        writes.add_row(
            Text.assemble(f"{kind} ", (f"({meaning})", "dim")), console.count(steady), console.ratio(times),
            console.count(facts["first_deployment"][kind]),
        )  # fmt: skip
    out.print(writes, "")
    candidates = (facts.get("loss") or {}).get("quantizers")
    if candidates:
        out.print(quantizer_table(candidates), "")
    curve = (facts.get("loss") or {}).get("curve")
    if curve:
        out.print(curve_table(curve), "")
    wear = facts["wear"]
    rest = console.table("", "", "")
    rest.show_header = False
    rest.add_row("reduction (natural / emitted)", console.ratio(facts["reduction"]))
    rest.add_row("writes above the information bound", console.ratio(facts["times_above_bound"]))
    rest.add_row("order of loads above the optimum", order_words(facts["order"]))
    rest.add_row(
        "SET, RESET per inference", f"{console.count(facts['set'])}, {console.count(facts['reset'])}"
    )
    rest.add_row(
        "wear per inference: max, p99, mean",
        ", ".join(console.figure(wear[k]) for k in ("max", "p99", "mean")),
    )
    if "faults" in facts:
        rest.add_row("faulty cells", fault_words(facts["faults"]))
    rest.add_row("lifetime of the worst cell, inferences", console.count(facts["lifetime_inferences"]))
    reads = facts["reads"]
    if reads["phases"] != facts["sections"]:
        rest.add_row(
            "reads per section and product", f"{reads['phases'] / facts['sections']:.1f} (one per output)"
        )
    rest.add_row("row maps in the hardware", console.quantity(facts["row_map_bytes"], "B"))
    rest.add_row("nodes with weights left to the host", console.count(len(facts["unmapped"])))
    for kind, spent in facts["spent"].items():
        times = f"{spent['times']} x, " if spent["times"] > 1 else ""
        rest.add_row(
            f"time {kind}" if kind == "compiling" else f"time of {kind}",
            f"{times}{console.seconds(spent['seconds'])}, {spent['cpu_seconds']:.1f} CPU s",
        )
    if facts["kernel_seconds"]:
        rest.add_row(
            "of it building kernels, once",
            f"{console.seconds(facts['kernel_seconds'])}, in the seconds of the passes",
        )
    for name, value in loss_rows(facts.get("loss")):
        rest.add_row(name, value)
    out.print(rest)
    for node in facts["unmapped"][:SHOWN_UNMAPPED]:
        out.print(console.dim(f"  {node['op_type']} {node['node']}: {node['reason']}"))
    if len(facts["unmapped"]) > SHOWN_UNMAPPED:
        out.print(
            console.dim(
                f"  and {len(facts['unmapped']) - SHOWN_UNMAPPED} more: xbc inspect {facts['output']}"
            )
        )
    if not facts["writes"]["emitted"]:
        out.print("Nothing is rewritten between inferences: every section finds its levels in the cells.")


def fault_words(faults: dict[str, Any]) -> str:
    """What was done about faulty cells."""
    return (
        f"{console.count(faults['cells'])} on {console.count(faults['crossbars'])} crossbars: "
        f"{console.count(faults['rows_exchanged'])} rows exchanged, {console.count(faults['sections_added'])} sections "
        f"added, {console.count(faults['weights_held'])} weights held (RMS code error {faults['rms_error']:.3g} LSB)"
    )


def order_words(order: dict[str, Any] | None) -> str:
    """How far the order of loads may be from the shortest one, by its lower bound (None: nothing was searched)."""
    if order is None or not order["lower_bound"]:
        return "not bounded"
    proven = f"{console.count(order['proven_optimal'])} of {console.count(order['groups'])} groups proven"
    capped = f", {console.count(order['time_caps'])} windows met a time cap" if order["time_caps"] else ""
    return f"at most {100 * order['gap']:.1f} % ({proven}{capped})"


def curve_table(curve: list[dict[str, Any]]) -> Any:
    """The programs that -O3 tried, the trade-off between writes and loss on the calibration samples."""
    table = console.table(
        "Tried on the calibration samples", "lambda", "writes/inference", "natural / this", "RMS code error, LSB",
        "drop, points", "of the budget", "",
    )  # fmt: skip
    for point in curve:
        table.add_row(
            f"{point['lambda']:.4g}", console.count(point["writes"]), console.ratio(point["reduction"]),
            f"{point['rms_error']:.3f}", "" if point["drop"] is None else f"{100 * point['drop']:.2f}",
            "" if point["severity"] is None else f"{100 * point['severity']:.0f} %",
            "within" if point["accepted"] else "beyond",
        )  # fmt: skip
    return table


def quantizer_table(candidates: list[dict[str, Any]]) -> Any:
    """The ways to quantise that -O3 compared."""
    table = console.table(
        "Quantisers", "quantize", "predicted loss of quantising", "predicted writes", "writes"
    )
    for row in candidates:
        predicted = row["predicted_writes"]
        table.add_row(
            row["quantize"] + (" (chosen)" if row["chosen"] else ""),
            f"{row['quantization_loss']:.2g}",
            "loses too much" if predicted is None else console.count(predicted),
            console.count(row["writes"]) if row["writes"] is not None else "",
        )
    return table


FOUR_COUNTS = {
    "full": "every cell of every load",
    "natural": "natural order: the baseline",
    "scheduled": "this order, exact codes",
    "emitted": "as the program writes",
}
SHOWN_UNMAPPED = 5
