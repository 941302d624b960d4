"""``xbc report``: a program, or several, as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from xbc.cli import console
from xbc.cli.options import json_option, quiet_option
from xbc.cli.outputs import check_file


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
    plots: Path | None, plot_format: str, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write a report: one HTML file that opens without a network, in light and dark, on a phone.

    With several programs the report compares them, each against the first.

    \b
    Examples:
      xbc report model.xbc
      xbc report model.xbc -o model.html --evaluation accuracy.json --plots figures
      xbc report before.xbc after.xbc -o change.html
    """
    from xbc.report.facts import gather, load_evaluation
    from xbc.report.page import summary
    from xbc.report.write import write_plots, write_report

    if evaluation is not None and len(programs) > 1:
        raise click.UsageError("--evaluation belongs to one program: leave it away when comparing")
    if len(programs) > 4:
        raise click.UsageError("at most four programs can be compared")
    target = check_file(output or Path(f"{programs[0].resolve().stem}.html"), "an HTML", evaluation)
    found = None if evaluation is None else load_evaluation(evaluation)
    with console.progress_bars(quiet) as progress:
        facts = [gather(program, found, tradeoff, progress) for program in programs]
    size = write_report(facts, target)
    files = write_plots(facts, plots, plot_format) if plots is not None else []
    if as_json:
        console.print_json(
            {
                "report": str(target),
                "bytes": size,
                "plots": [str(path) for path in files],
                "programs": [summary(one) for one in facts],
            }
        )
        return
    extra = f", {len(files)} plots in {plots}" if files else ""
    click.echo(f"report: {target}, {console.quantity(size, 'B')}{extra}")
