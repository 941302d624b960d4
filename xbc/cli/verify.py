"""``xbc verify``: replay a program on the virtual chip."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from xbc.cli import console
from xbc.cli.options import json_option, program_argument, quiet_option

SHOWN = 20
FAULTY = 1


@click.command("verify")
@program_argument
@json_option
@quiet_option
@click.pass_context
def command(ctx: click.Context, program: Path, as_json: bool, quiet: bool) -> None:
    """Replay a program from its files on the virtual chip and check every promise in it.

    Checked are the digest of every file, the structure of the tables, the order of loads and their
    dependencies, the level of every written cell before and after, the state of every crossbar after every
    load, that every weight stands where the sections say, that the IR says the same, and all counts; not
    what the compiler notes of its own search and loss (provenance.facts). Exit code 0: sound; 1: faults were
    found and are listed.

    \b
    Examples:
      xbc verify model.xbc
      xbc verify model.xbc --json
    """
    from xbc.driver.verify import verify_program

    with console.progress_bars(quiet) as progress:
        report = verify_program(program, progress)
    if as_json:
        console.print_json(
            {
                "ok": report.ok,
                "found": report.found,
                "problems": [dataclasses.asdict(problem) for problem in report.problems],
                **report.facts,
            }
        )
    elif report.ok:
        facts = report.facts
        click.echo(
            f"{program} is sound: {facts['loads']:,} loads and {facts['write_rows']:,} writes replayed, "
            f"{facts['weights']:,} weights found in the cells, every file, state and count as promised"
        )
    else:
        for problem in report.problems[:SHOWN]:
            click.echo(str(problem))
        if report.found > SHOWN:
            click.echo(f"... and {report.found - SHOWN:,} more")
        click.echo(
            f"{program} is faulty: {report.found:,} problem(s); do not load it, compile the model again"
        )
    if not report.ok:
        ctx.exit(FAULTY)
