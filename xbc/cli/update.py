"""``xbc update``: a deployed program and the next version of its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xbc.cli import console
from xbc.cli.options import json_option, program_argument, quiet_option

CLEARLY_MORE = 1.5
"""From this many times the writes of the deployed program on, compiling anew is worth a word."""


@click.command("update")
@program_argument
@click.argument("model", type=click.Path(path_type=Path), metavar="NEW.onnx")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Directory of the delta program."
)
@click.option(
    "--threshold",
    type=float,
    default=1.0,
    show_default=True,
    help="Device levels a weight must be off before it is written; 0.5 writes every change of code.",
)
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    help="Levels read back from the chip (as for xbc readback): start from what really stands in the cells.",
)
@json_option
@quiet_option
def command(
    program: Path,
    model: Path,
    output: Path,
    threshold: float,
    measured: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn a deployed program into the next version of its network with few cell writes.

    A weight is written only when its accumulated change has passed the threshold; what is not written stays
    in a digital accumulator that travels with the program, and the next update continues from it (arXiv
    2305.14547). The output is a whole program of the new version with the cell writes that lead to it.

    \b
    Examples:
      xbc update model.xbc finetuned.onnx -o v2.xbc
      xbc update v2.xbc again.onnx -o v3.xbc --threshold 1.5
    """
    from xbc.update.emit import update_program

    with console.progress_bars(quiet) as progress:
        done = update_program(
            program, model, output, threshold=threshold, measured=measured, progress=progress
        )
    console.print_json(done.facts) if as_json else _print(done.facts)


def _print(facts: dict[str, Any]) -> None:
    table = console.table(
        f"{facts['model']} as version {facts['version']}, threshold {facts['threshold']:g}",
        "layer", "weights", "asked for", "written", "at the limit", "largest accumulated",
    )  # fmt: skip
    for row in facts["layers"]:
        table.add_row(
            row["name"], console.count(row["weights"]), console.count(row["asked"]),
            console.count(row["written"]), console.count(row["limited"]), f"{row['accumulated_max']:.3g}",
        )  # fmt: skip
    out = console.stdout()
    out.print(table)
    out.print(
        f"{console.count(facts['cells_written'])} cells written once ({console.count(facts['set'])} SET, "
        f"{console.count(facts['reset'])} RESET) -> {facts['output']}"
    )
    before, after = facts["steady_writes_deployed"], facts["steady_writes"]
    out.print(
        f"every inference: {console.count(before)} cell writes before, {console.count(after)} now; worst cell "
        f"{console.count(facts['wear_max_deployed'])} before, {console.count(facts['wear_max'])} now"
    )
    if facts["limited"]:
        out.print(
            f"{console.count(facts['limited'])} weights are at the limit: the new value does not fit the range (or the "
            "sign) of their cells; they hold the nearest that does",
            soft_wrap=True,
        )
    if after > CLEARLY_MORE * before:
        out.print(
            "note: sections and rows keep the order that suited the old weights; a program of its own orders and "
            f"matches them again: xbc compile {facts['model']} (then its first deployment writes the chip anew)",
            soft_wrap=True,
        )
