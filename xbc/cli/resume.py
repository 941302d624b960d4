"""``xbc resume``: what is left to write after a power cut."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from xbc.cli import console
from xbc.cli.options import json_option, program_argument


@click.command("resume")
@program_argument
@click.option("--journal", type=click.Path(path_type=Path), help="Journal of the loader: what is finished.")
@click.option(
    "--levels",
    type=click.Path(path_type=Path),
    help="Read-back of the whole chip: a .npy or a table of crossbar, row, column, level.",
)
@click.option(
    "--inference",
    type=click.Choice(["first", "steady"]),
    help="Inference that was interrupted, when there is no journal to say it.",
)
@click.option(
    "--number",
    type=click.IntRange(0, 2**32 - 1),
    help="Number of the inference that was going on (0: the first), where the journal ends with a whole one.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Directory to write.")
@json_option
def command(
    program: Path,
    journal: Path | None,
    levels: Path | None,
    inference: Literal["first", "steady"] | None,
    number: int | None,
    output: Path,
    as_json: bool,
) -> None:
    """Emit the rest of an inference that was interrupted.

    The journal says which loads are finished; whether the next inference had begun when its last one is
    whole, --number or a read-back says. A read-back alone is compared with every state that the program
    goes through; when it fits several, xbc asks for the journal. With both, cells that hold their level
    already are not written again, and a read-back that does not fit the journal is refused. The rest is a
    directory with loads.parquet and writes.parquet; all writes of an interrupted load are to be verified.

    \b
    Examples:
      xbc resume model.xbc --journal loader.journal -o rest
      xbc resume model.xbc --journal loader.journal --number 1 --levels measured.npy -o rest
      xbc resume model.xbc --levels measured.npy --inference steady -o rest
    """
    from xbc.driver.recover import resume_program

    facts = resume_program(
        program, output, journal=journal, levels=levels, inference=inference, number=number
    )
    if as_json:
        console.print_json(facts)
        return
    if not facts["loads_left"]:
        click.echo(f"the {facts['inference']} inference is finished: nothing is left to write")
    click.echo(
        f"{facts['loads_done']:,} of {facts['loads']:,} loads are finished; {facts['loads_left']:,} loads with "
        f"{facts['writes_left']:,} writes are left ({facts['writes_uncertain']:,} in interrupted loads) -> "
        f"{output}"
    )
