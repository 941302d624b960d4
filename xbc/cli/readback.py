"""``xbc readback``: what the chip really holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from xbc.cli import console
from xbc.cli.options import json_option, limit_option, program_argument, quiet_option, threads_option
from xbc.system.outputs import check_file

_SHOWN = 20


@click.command("readback")
@program_argument
@click.option(
    "--levels",
    type=click.Path(path_type=Path),
    required=True,
    help="Measured levels: a .npy [crossbars, rows, columns] or a table of crossbar, row, column, level.",
)
@click.option(
    "--load", type=int, help="Load after which the chip was read, -1: before the first  [default: the last]"
)
@click.option("--inference", type=click.Choice(["first", "steady"]), default="steady", show_default=True)
@click.option("--stuck", is_flag=True, help="Take deviating cells as dead: no later write changes them.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the repair program to this .parquet file."
)
@click.option(
    "--faulty",
    type=click.Path(path_type=Path),
    help="Write the chip with every deviating cell listed as faulty to this .toml file.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Set: accuracy with what the chip holds.")
@limit_option
@threads_option
@json_option
@quiet_option
def command(
    program: Path, levels: Path, load: int | None, inference: Literal["first", "steady"], stuck: bool,
    output: Path | None, faulty: Path | None, data: Path | None, limit: int | None, threads: int,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Compare measured levels with the expected post-state of a load, and emit the repair.

    Lists the deviating cells and the layers whose weights they change in the inference that follows: a
    deviation lasts until the program writes its cell again. With --data the network is run with the
    weights that the cells then hold, against the same network without deviations.

    \b
    Examples:
      xbc readback model.xbc --levels measured.npy
      xbc readback model.xbc --levels cells.parquet --load 117 --inference first -o repair.parquet
      xbc readback model.xbc --levels measured.npy --stuck --data set.npz --json
      xbc readback model.xbc --levels measured.npy --faulty chip.toml
    """
    from xbc.driver.recover import readback_program

    if output is not None:
        check_file(output, "a Parquet", levels, data)
    if faulty is not None:
        check_file(faulty, "a TOML", levels, data)
    with console.progress_bars(quiet) as progress:
        facts = readback_program(
            program, levels, load=load, inference=inference, stuck=stuck, repair=output, faulty=faulty, data=data,
            limit=limit, threads=threads, progress=progress,
        )  # fmt: skip
    if as_json:
        console.print_json(facts)
    else:
        _print(facts)


def _print(facts: dict[str, Any]) -> None:
    out = console.stdout()
    where = f"after load {facts['load']}" if facts["load"] >= 0 else "before the first load"
    out.print(
        f"{where} ({facts['inference']} inference): {facts['cells_deviating']:,} of "
        f"{facts['cells_measured']:,} "
        f"measured cells deviate; the program itself overwrites {facts['cells_healed_by_the_program']:,} of "
        f"them, "
        f"{facts['cells_beyond_repair']:,} are listed as faulty"
    )
    if facts["cells"]:
        cells = console.table(
            "\nCells", "crossbar", "row", "column", "expected", "measured", "load in the crossbar", text=0
        )
        for cell in facts["cells"][:_SHOWN]:
            cells.add_row(
                *(str(cell[k]) for k in ("crossbar", "row", "column", "expected", "measured", "resident"))
            )
        out.print(cells)
        if len(facts["cells"]) > _SHOWN:
            out.print(f"... and {len(facts['cells']) - _SHOWN:,} more (--json lists all)")
    if facts["layers"]:
        layers = console.table(
            "\nWeights of the next inference", "layer", "changed", "of", "largest change of a code"
        )
        for row in facts["layers"]:
            layers.add_row(
                row["layer"],
                *(console.count(row[k]) for k in ("weights_changed", "weights", "largest_change")),
            )
        out.print(layers)
    elif facts["cells_deviating"]:
        out.print("no weight of the next inference is touched")
    if "evaluation" in facts:
        found = facts["evaluation"]
        name = "top-1" if found["metric"] == "top-1" else "equal decisions"
        if found["metric"] == "top-1":
            low, high = (100 * bound for bound in found["interval"])
            out.print(
                f"\n{name}: {100 * found['reference']:.2f} % as intended, {100 * found['compiled']:.2f} % "
                f"with what "
                f"the chip holds (n = {found['samples']:,}; 95 % interval of the drop {low:+.2f} to "
                f"{high:+.2f})"
            )
        else:
            out.print(f"\n{name}: {100 * found['agreement']:.2f} % (n = {found['samples']:,})")
    if "faulty" in facts:
        out.print(
            f"\n{facts['cells_faulty']:,} faulty cells -> {facts['faulty']}; the next program goes around them: "
            f"xbc compile MODEL.onnx -t {facts['faulty']}"
        )
    if "repair" in facts:
        out.print(f"\nrepair: {facts['repair_writes']:,} writes -> {facts['repair']}")
