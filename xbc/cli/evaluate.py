"""``xbc evaluate``: accuracy before and after."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ir.progress import Progress
from xbc.cli import console
from xbc.cli.fidelity import IDEAL, cost_line, fidelity_options, layer_lines, refuse_unused
from xbc.cli.options import (
    batch_option,
    json_option,
    limit_option,
    memory_option,
    program_argument,
    quiet_option,
    sample_axis_option,
    samples_per_run,
    seed_option,
    threads_option,
)

if TYPE_CHECKING:
    from xbc.backend import Program
    from xbc.simulate.host import Model
    from xbc.simulate.memory import Batch


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
    program: Path, data: Path, model: Path | None, output: str | None, fidelity: str, seed: int,
    limit: int | None, batch: int | None, sample_axis: str, memory: int | None, threads: int,
    as_json: bool, quiet: bool, **options: Any,
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
    from xbc.backend import Program
    from xbc.simulate.ideal import evaluate
    from xbc.simulate.replayed import check_is_the_model, exact_model, host_axis, read_set, replayed_model

    refuse_unused(fidelity, options)
    opened = Program.open(program)
    runs = samples_per_run(batch, memory)
    if model is not None:
        check_is_the_model(opened, model)
    with console.progress_bars(quiet) as progress:
        reference = model if model is not None else exact_model(opened)
        if fidelity == IDEAL:
            compiled = replayed_model(opened, progress)
            sets = read_set(data, compiled, limit)
            facts = evaluate(
                reference, compiled, sets, output=output, threads=threads, batch=runs,
                axis=host_axis(opened, sample_axis, sets), progress=progress,
            )  # fmt: skip
            facts["fidelity"] = IDEAL
        else:
            facts = _simulated(
                opened,
                reference,
                data,
                fidelity,
                options,
                output,
                seed,
                limit,
                runs,
                sample_axis,
                threads,
                progress,
            )
    notes = facts.pop("notes")
    facts["reference_is"] = "model" if model is not None else "exact-codes"
    for sentence in notes:
        console.note(f"xbc: note: {sentence}", quiet)
    if as_json:
        console.print_json(facts)
    else:
        click.echo("\n".join(sentences(facts, model)))


def _simulated(
    program: Program, reference: Model, data: Path, fidelity: str, options: dict[str, Any],
    output: str | None, seed: int, limit: int | None, batch: Batch, sample_axis: str, threads: int, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """The facts at converter or device fidelity."""
    from xbc.cli.fidelity import settings_of
    from xbc.simulate.blame import blame
    from xbc.simulate.data import load_data
    from xbc.simulate.fidelity import Reference, Simulation, evaluate
    from xbc.simulate.replayed import cut_set, open_chip
    from xbc.simulate.samples import SampleAxis

    chip = open_chip(program, options["settings"], options["calibration"], progress)
    sets = cut_set(load_data(data, chip.ports), limit)
    axis = SampleAxis(chip.host, sample_axis, cut=sets.cut)
    simulation = Simulation(
        chip.host, chip.module, settings_of(fidelity, options, seed), calibration=chip.calibration,
        threads=threads, batch=batch, axis=axis, progress=progress,
    )  # fmt: skip
    against = Reference.of(
        reference, sets, output=output, threads=threads, batch=batch, axis=axis, progress=progress
    )  # fmt: skip
    facts = evaluate(against, simulation, progress)
    if options["blame"]:
        ranked = blame(against, simulation, progress=progress)
        facts["blame"] = [dataclasses.asdict(entry) for entry in ranked]
    return facts


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
        lines.append(
            f"{trials['metric']} over {len(trials['values'])} chips{early}: mean {trials['mean']:.4f}, 95 % "
            f"interval {low:.4f} to {high:.4f} (the lines above are the last chip's)"
        )
    lines += ["", *layer_lines(facts)]
    if "blame" in facts:
        lines += ["", "made ideal                               metric gains   output error falls by"]
        lines += [
            f"{e['layer'][:40]:40s} {100 * e['score_gain']:+10.2f} % {100 * e['error_gain']:18.1f} %"
            for e in facts["blame"]
        ]
    return lines
