"""``xbc readback``: what the chip really holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xbc.cli import console
from xbc.cli.options import json_option, limit_option, program_argument, quiet_option, threads_option
from xbc.cli.outputs import check_file

if TYPE_CHECKING:
    from ir.target import Target
    from xbc.backend import Program
    from xbc.recovery.readback import Deviations, Effect

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
    program: Path, levels: Path, load: int | None, inference: str, stuck: bool, output: Path | None,
    faulty: Path | None, data: Path | None,
    limit: int | None, threads: int, as_json: bool, quiet: bool,
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
    from xbc.backend import Program
    from xbc.recovery.readback import compare, follow, read_levels, repair_table, with_deviations

    opened = Program.open(program)
    if output is not None:
        check_file(output, "a Parquet", levels, data)
    if faulty is not None:
        check_file(faulty, "a TOML", levels, data)
    measured, known = read_levels(levels, opened)
    at = opened.total("loads") - 1 if load is None else load
    deviations = compare(opened, measured, known, at, inference)
    effect = follow(opened, deviations, stuck)
    table, hopeless = repair_table(opened, deviations)
    facts: dict[str, Any] = {
        "load": at,
        "inference": inference,
        "cells_measured": int(known.sum()),
        "cells_deviating": len(deviations),
        "cells_healed_by_the_program": int(effect.healed.sum()),
        "cells_beyond_repair": hopeless,
        "layers": _layers(opened, effect),
        "cells": _cells(deviations, effect),
        "repair_writes": table.num_rows,
    }
    if output is not None:
        _write_repair(output, table)
        facts["repair"] = str(output)
    if faulty is not None:
        cells = with_deviations(opened.target, deviations, known)
        _write_chip(faulty, dataclasses.replace(opened.target, faulty=cells))
        facts |= {"faulty": str(faulty), "cells_faulty": len(cells)}
    if data is not None:
        facts["evaluation"] = _evaluate(opened, effect, data, limit, threads, quiet)
    if as_json:
        console.print_json(facts)
    else:
        _print(facts)


def _layers(program: Program, effect: Effect) -> list[dict[str, Any]]:
    import numpy as np

    out = []
    for i, layer in enumerate(program.layers):
        change = effect.change[effect.layer == i]
        if len(change):
            out.append(
                {
                    "layer": layer.name,
                    "weights_changed": len(change),
                    "weights": layer.outputs * layer.inputs,
                    "largest_change": int(np.abs(change).max()),
                }
            )
    return out


def _cells(deviations: Deviations, effect: Effect) -> list[dict[str, Any]]:
    names = ("crossbar", "row", "column", "expected", "measured", "resident")
    columns = {name: getattr(deviations, name).tolist() for name in names}
    columns["healed"] = effect.healed.tolist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _write_chip(output: Path, target: Target) -> None:
    from xbc.system.files import whole_file
    from xbc.targets.text import target_toml

    with whole_file(output) as partial:
        partial.write_text(target_toml(target), encoding="utf-8")


def _write_repair(output: Path, table: Any) -> None:
    import pyarrow.parquet as pq

    from xbc.system.files import whole_file

    with whole_file(output) as partial:
        pq.write_table(table, partial, compression="zstd")


def _evaluate(
    program: Program, effect: Effect, data: Path, limit: int | None, threads: int, quiet: bool
) -> dict[str, Any]:

    from xbc.chip import effective_codes
    from xbc.simulate.ideal import compiled_model, evaluate
    from xbc.simulate.replayed import read_set

    with console.progress_bars(quiet) as progress:
        codes = effective_codes(program, progress)
        host = program.host_model()
        intended = compiled_model(host, program.layers, codes)
        held = compiled_model(host, program.layers, effect.codes(program, codes))
        sets = read_set(data, intended, limit)
        facts = evaluate(intended, held, sets, threads=threads, progress=progress)
    facts.pop("notes")
    return facts


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
