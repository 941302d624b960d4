"""``xbc opt``: run passes on a program's IR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xbc.cli import console
from xbc.cli.options import json_option, pipeline_options, quiet_option, seed_option, threads_option
from xbc.system.outputs import check_file


@click.command("opt")
@click.argument("program", type=click.Path(path_type=Path), metavar="PROGRAM.xir")
@click.option(
    "--passes", "pipeline", metavar="TEXT", help="Passes to run; none just checks and prints the IR."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="NEW.xir",
    help="File to write (and NEW.arrays/).",
)
@click.option(
    "--sensitivities",
    type=click.Path(path_type=Path),
    help="File of 'xbc sensitivity' for the passes that weigh errors.",
)
@seed_option
@threads_option
@pipeline_options
@json_option
@quiet_option
def command(
    program: Path, pipeline: str | None, output: Path | None, sensitivities: Path | None, seed: int, threads: int,
    print_before: str | None, print_after: str | None, time_passes: bool, verify_each: bool,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Run passes on the textual IR and write the result, or print it when no -o is given.

    PROGRAM.xir is a file that 'xbc opt -o' wrote or one written by hand, or a compiled directory (its
    program.xir).

    \b
    Examples:
      xbc opt model.xbc/program.xir --passes "sort-sections" -o new.xir
      xbc opt tiny.xir --passes "slice-bits,form-sections" --print-before all --print-after all
      xbc opt model.xbc --passes "stick-bits{fraction=0.25}" --time-passes --json
    """
    from ir.storage import load_module, save_module
    from ir.text import print_module
    from ir.verify import check_module
    from passes.base import Context
    from passes.manager import Options, gather_notes, run_pipeline
    from passes.pipeline import Pipeline, parse_pipeline
    from xbc.cli.tracing import Tracing
    from xbc.driver.compile import pass_facts

    tracing = Tracing(print_before, print_after)
    passes = parse_pipeline(pipeline) if pipeline is not None else Pipeline()
    source = program / "program.xir" if program.is_dir() else program
    if output is not None:
        check_file(output, "an IR", source)
    module = load_module(source)
    known = None
    if sensitivities is not None:
        from xbc.sensitivity import load_sensitivities

        known = load_sensitivities(sensitivities, module)
    with console.progress_bars(quiet or tracing.prints) as progress:
        run = run_pipeline(
            module, passes, Context(seed=seed, threads=threads, progress=progress, sensitivities=known),
            Options(verify_each=verify_each, before=tracing.before, after=tracing.after),
        )  # fmt: skip
        if not verify_each:
            check_module(run.module)
        if output is not None:
            save_module(run.module, output)
    for sentence in [*passes.notes, *gather_notes(run.records)]:
        console.note(f"xbc: note: {sentence}", quiet)
    if time_passes:
        tracing.print_times(run.records)
    facts: dict[str, Any] = {
        "module": run.module.name,
        "stage": run.module.stage().stage(),
        "layers": len(run.module.layers),
        "output": str(output) if output is not None else None,
        "passes": [pass_facts(record) for record in run.records],
    }
    if as_json:
        console.print_json(facts)
    elif output is None:
        click.echo(print_module(run.module), nl=False)
    else:
        table = console.table("", "pass", "sections", "writes/inference", "seconds")
        for step in facts["passes"]:
            table.add_row(
                step["text"],
                console.count(step["sections"]),
                console.count(step["writes"]),
                f"{step['seconds']:.2f}",
            )
        console.stdout().print(table)
        console.note(f"wrote {output}", quiet)
