"""``xbc report``: a program, or several, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from xbc.cli import console
from xbc.cli.options import json_option, quiet_option
from xbc.system.outputs import check_file


@click.command("report")
@click.argument(
    "programs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="PROGRAM.xbc..."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="HTML file to write  [default: PROGRAM.html]"
)
@click.option(
    "--evaluation", type=click.Path(path_type=Path), help="Output of 'xbc evaluate --json' for the program."
)
@click.option(
    "--trade-off/--no-trade-off",
    "tradeoff",
    default=None,
    help="Program the network at several lambdas for the trade-off curve  [default: up to 2 M weights]",
)
@click.option(
    "--plots", type=click.Path(path_type=Path), metavar="DIR", help="Write every plot as a file too."
)
@click.option("--plot-format", type=click.Choice(["svg", "png"]), default="svg", show_default=True)
@json_option
@quiet_option
def command(
    programs: tuple[Path, ...], output: Path | None, evaluation: Path | None, tradeoff: bool | None,
    plots: Path | None, plot_format: Literal["svg", "png"], as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write a report: one HTML file that opens without a network, in light and dark, on a phone.

    With several programs the report compares them, each against the first.

    \b
    Examples:
      xbc report model.xbc
      xbc report model.xbc -o model.html --evaluation accuracy.json --plots figures
      xbc report before.xbc after.xbc -o change.html
    """
    from xbc.report.write import report_programs

    target = check_file(output or Path(f"{programs[0].resolve().stem}.html"), "an HTML", evaluation)
    with console.progress_bars(quiet) as progress:
        facts = report_programs(
            programs, target, evaluation=evaluation, tradeoff=tradeoff, plots=plots, plot_format=plot_format,
            progress=progress,
        )  # fmt: skip
    if as_json:
        console.print_json(facts)
        return
    extra = f", {len(facts['plots'])} plots in {plots}" if facts["plots"] else ""
    click.echo(f"report: {target}, {console.quantity(facts['bytes'], 'B')}{extra}")
