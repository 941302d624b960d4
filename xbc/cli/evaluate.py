"""``xbc evaluate``: accuracy before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xbc.cli import console
from xbc.cli.fidelity import IDEAL, Fidelity, cost_line, fidelity_options, layer_lines, refuse_unused
from xbc.cli.options import (
    SampleAxisWord,
    batch_option,
    json_option,
    limit_option,
    memory_option,
    program_argument,
    quiet_option,
    sample_axis_option,
    seed_option,
    threads_option,
)


@click.command("evaluate")
@program_argument
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Set: an .npz file named after the model's inputs, classes in 'labels'.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="The model that was compiled: the reference. Without it: the quantised model.",
)
@click.option("--output", metavar="NAME", help="Output that is classified  [default: the first]")
@fidelity_options
@click.option("--blame", is_flag=True, help="Make each layer ideal in turn and rank what that gains.")
@seed_option
@limit_option
@batch_option
@sample_axis_option
@memory_option
@threads_option
@json_option
@quiet_option
def command(
    program: Path, data: Path, model: Path | None, output: str | None, fidelity: Fidelity, seed: int,
    limit: int | None, batch: int | None, sample_axis: SampleAxisWord, memory: int | None,
    threads: int, as_json: bool, quiet: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Compare the network that the cells hold with the model before compiling, over a set.

    The program is replayed from its files; the levels that then stand in the cells are the weights. With
    labels the metric is top-1 before and after, with the 95 % interval of the drop; without labels it is
    the share of equal decisions. The error of the outputs is reported in both cases.

    The reference is the file given with --model (checked against the digest in the manifest). A program
    does not contain its model, so without --model the reference is the same network with exact codes: what
    the skipped writes cost, not what quantisation costs.

    \b
    Examples:
      xbc evaluate model.xbc --data set.npz --model model.onnx
      xbc evaluate model.xbc --data set.npz --limit 500 --json
    """
    from xbc.simulate.programs import evaluate_program

    refuse_unused(fidelity, options)
    with console.progress_bars(quiet) as progress:
        facts = evaluate_program(
            program, data, model=model, output=output, fidelity=fidelity, settings=options["settings"],
            calibration=options["calibration"], adc=not options["no_adc"], percentile=options["percentile"],
            trials=options["trials"], narrow=options["narrow"], blame=options["blame"], seed=seed, limit=limit,
            batch=batch, sample_axis=sample_axis,
            memory=memory, threads=threads, progress=progress,
        )  # fmt: skip
    notes = facts.pop("notes")
    for sentence in notes:
        console.note(f"xbc: note: {sentence}", quiet)
    if as_json:
        console.print_json(facts)
    else:
        click.echo("\n".join(sentences(facts, model)))


def sentences(facts: dict[str, Any], model: Path | None) -> list[str]:
    """The comparison for people."""
    origin = (
        f"{model}"
        if model is not None
        else "the same network with exact codes (give --model for the original)"
    )
    lines = [f"reference: {origin}", f"samples: {facts['samples']:,}"]
    if facts["metric"] == "top-1":
        low, high = (100 * bound for bound in facts["interval"])
        lines.append(
            f"top-1: {100 * facts['reference']:.2f} % before, {100 * facts['compiled']:.2f} % after: drop "
            f"{100 * facts['drop']:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"
        )
    if facts["agreement"] is not None:
        lines.append(f"equal decisions: {100 * facts['agreement']:.2f} %")
    lines.append(
        f"error of {facts['output']!r}: rms {facts['rms_error']:.3g}, largest {facts['max_abs_error']:.3g} "
        f"(rms of the output {facts['rms_reference']:.3g})"
    )
    if facts.get("non_finite"):
        lines.append(f"{facts['non_finite']:,} values are infinite or NaN in one of the two only")
    return lines + (simulation_sentences(facts) if facts["fidelity"] != IDEAL else [])


def simulation_sentences(facts: dict[str, Any]) -> list[str]:
    """What a simulation adds to the comparison."""
    lines = [f"fidelity: {facts['fidelity']}; {cost_line(facts)}"]
    if trials := facts["trials"]:
        low, high = trials["interval"]
        early = ", stopped early" if trials["stopped"] else ""
        if trials["metric"] == "minus rms error":
            mean, bounds = f"{trials['mean']:.4g}", f"{low:.4g} to {high:.4g}"
        else:
            mean, bounds = f"{100 * trials['mean']:.2f} %", f"{100 * low:.2f} to {100 * high:.2f} %"
        lines.append(
            f"{trials['metric']} over {len(trials['values'])} chips{early}: mean {mean}, 95 % interval "
            f"{bounds} (the lines above are the last chip's)"
        )
    lines += ["", *layer_lines(facts)]
    if "blame" in facts:
        lines += ["", "made ideal                               metric gains   output error falls by"]
        lines += [
            f"{e['layer'][:40]:40s} {100 * e['score_gain']:+10.2f} % {100 * e['error_gain']:18.1f} %"
            for e in facts["blame"]
        ]
    return lines
