"""``xbc simulate``: run the network with what the cells hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xbc.cli import console
from xbc.cli.fidelity import Fidelity, fidelity_options, refuse_unused
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
from xbc.system.outputs import check_file


@click.command("simulate")
@program_argument
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    required=True,
    help="Inputs: an .npz file named after the model's.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the outputs to this .npz file.")
@fidelity_options
@seed_option
@limit_option
@batch_option
@sample_axis_option
@memory_option
@threads_option
@json_option
@quiet_option
def command(
    program: Path, inputs: Path, output: Path | None, fidelity: Fidelity, seed: int, limit: int | None,
    batch: int | None, sample_axis: SampleAxisWord, memory: int | None,
    threads: int, as_json: bool, quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Run the network with the weights that the cells hold after a replay of the program.

    Ideal fidelity: exact arithmetic on the stored levels, in onnxruntime. The other two run the crossbar
    layers through the target's converters, and its devices (one chip, chosen by the seed).

    \b
    Examples:
      xbc simulate model.xbc --inputs x.npz -o y.npz
      xbc simulate model.xbc --inputs x.npz --fidelity converters --set converters.adc_bits=6
      xbc simulate model.xbc --inputs set.npz --limit 10 --json
    """
    from xbc.simulate.data import write_npz
    from xbc.simulate.programs import output_facts, simulate_program

    if output is not None:
        check_file(output, "an .npz", inputs)
    refuse_unused(fidelity, options)
    with console.progress_bars(quiet) as progress:
        outputs, notes = simulate_program(
            program, inputs, fidelity=fidelity, settings=options["settings"], calibration=options["calibration"],
            adc=not options["no_adc"], percentile=options["percentile"], seed=seed, limit=limit, batch=batch,
            sample_axis=sample_axis, memory=memory, threads=threads, progress=progress,
        )  # fmt: skip
    for sentence in notes:
        console.note(f"xbc: note: {sentence}", quiet)
    if output is not None:
        write_npz(output, outputs)
    facts = output_facts(outputs)
    if as_json:
        console.print_json({**facts, "fidelity": fidelity, "output": None if output is None else str(output)})
        return
    table = console.table("", "output", "type", "shape", "min", "max", "rms", text=2)
    for entry in facts["outputs"]:
        table.add_row(
            entry["name"],
            entry["dtype"],
            str(entry["shape"]),
            *(f"{entry[k]:.4g}" for k in ("min", "max", "rms")),
        )
    console.stdout().print(table)
    console.note(f"peak memory {console.quantity(facts['peak_rss_bytes'], 'B')}", quiet)
    if output is not None:
        console.note(f"wrote {output}", quiet)
