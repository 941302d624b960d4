"""``xbc resume``: what is left to write after a power cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    inference: str | None,
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
    from xbc.backend import Program
    from xbc.recovery.journal import read_journal
    from xbc.recovery.readback import read_levels
    from xbc.recovery.rest import write_rest
    from xbc.recovery.resume import decide, position_from_read_back

    if journal is None and levels is None:
        raise click.UsageError("give --journal, --levels or both")
    if journal is not None and inference is not None:
        raise click.UsageError("the journal says which inference it is: leave --inference away")
    if journal is None and number is not None:
        raise click.UsageError("--number belongs to --journal; with a read-back alone give --inference")
    if journal is None and inference is None:
        raise click.UsageError("without a journal, --inference says which inference was interrupted")
    opened = Program.open(program)
    measured = None
    if levels is not None:
        measured, whole = read_levels(levels, opened)
        if not whole.all():
            raise click.UsageError(
                f"{levels} leaves {int((~whole).sum())} cells out: resuming needs all of them"
            )
    facts: dict[str, Any] = {}
    if journal is not None:
        state = read_journal(journal, opened)
        position, going_on = decide(opened, state, number, measured)
        facts = {
            "journal_records": state.records,
            "torn_bytes": state.torn,
            "inference_number": going_on,
        }
    else:
        assert measured is not None
        assert inference is not None
        position = position_from_read_back(opened, measured, inference)
    facts |= write_rest(opened, position, measured, output)
    if as_json:
        console.print_json(facts)
        return
    if not facts["loads_left"]:
        click.echo(f"the {position.inference} inference is finished: nothing is left to write")
    click.echo(
        f"{facts['loads_done']:,} of {facts['loads']:,} loads are finished; {facts['loads_left']:,} loads with "
        f"{facts['writes_left']:,} writes are left ({facts['writes_uncertain']:,} in interrupted loads) -> "
        f"{output}"
    )
