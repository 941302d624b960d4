"""``xbc inspect``: what is written where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xbc.cli import console
from xbc.cli.options import json_option


@click.command("inspect")
@click.argument("program", type=click.Path(path_type=Path), metavar="PROGRAM.xbc")
@click.option("--layer", "layer_name", metavar="NAME", help="Show one layer down to its cells.")
@click.option(
    "--section", type=click.IntRange(0), default=0, show_default=True, help="Section of the layer to draw."
)
@click.option(
    "--rows", type=click.IntRange(1), default=16, show_default=True, help="Rows of the section to draw."
)
@json_option
def command(program: Path, layer_name: str | None, section: int, rows: int, as_json: bool) -> None:
    """Show what a program holds: stages, layers, sections, wear, and the nodes left to the host.

    Reads the manifest and the IR, not the tables of writes: whether the program is whole says 'xbc verify'.
    With --layer: the cells of one section and what the next load on the same crossbar changes in them.
    PROGRAM.xbc is a compiled directory, or a .xir file at any stage.

    \b
    Examples:
      xbc inspect model.xbc
      xbc inspect model.xbc --layer conv1
      xbc inspect model.xbc --layer conv1 --section 12 --rows 128
      xbc inspect model.xbc --json
    """
    from ir.storage import load_module
    from xbc.driver.describe import layer_facts, module_facts

    source = program / "program.xir" if program.is_dir() else program
    if program.is_dir():
        from xbc.backend.manifest import read_manifest

        pipeline = str((read_manifest(program).get("provenance") or {}).get("pipeline", ""))
    else:
        pipeline = ""
    module = load_module(source)
    if layer_name is not None:
        from xbc.cli import picture

        layer = module.layer(layer_name)
        facts = layer_facts(layer, section, rows)
        console.print_json(facts) if as_json else picture.draw(layer, facts, console.stdout())
        return
    facts = {"pipeline": pipeline, **module_facts(module)}
    if as_json:
        console.print_json(facts)
        return
    print_facts(facts)
    if program.is_dir():
        console.stdout().print(
            console.dim(
                f"read from the manifest and the IR; whether the tables fit them: xbc verify {program}"
            ),
            soft_wrap=True,
        )


def print_facts(facts: dict[str, Any]) -> None:
    """The tables of ``xbc inspect``."""
    out = console.stdout()
    target = facts["target"]
    stages = {row["stage"] for row in facts["layers"]}
    out.print(
        console.bold_first(
            facts["module"],
            f" on {target['name']}: "
            f"{console.count(target['crossbars'])} crossbar(s) of {target['rows']} x {target['columns']} cells, "
            f"{target['bits_per_cell']} bit(s) per cell, "
            f"{target['routing']} routing; {console.count(facts['weights'])} weights, "
            f"stage {' and '.join(sorted(stages))}",
        )
    )
    if facts["pipeline"]:
        out.print(f"pipeline: {facts['pipeline']}", soft_wrap=True)
    total = sum(row["writes"] or 0 for row in facts["layers"])
    layers = console.table(
        "\nLayers", "layer", "op", "encoding", "bits", "outputs x inputs", "sections", "writes", "share",
        "rms error", text=3,
    )  # fmt: skip
    for row in facts["layers"]:
        groups = f" / {row['groups']}" if row["groups"] > 1 else ""
        layers.add_row(
            row["name"], row["op_type"], row["encoding"] or "-", console.count(row["bits"]),
            f"{row['outputs']} x {row['inputs']}{groups}",
            console.count(row["sections"]), console.count(row["writes"]),
            f"{(row['writes'] or 0) / total:.1%}" if total else "-",
            "-" if row["rms_code_error"] is None else f"{row['rms_code_error']:.3g}",
        )  # fmt: skip
    out.print(layers)
    out.print(
        console.dim("outputs x inputs / groups; rms error of the stored codes in steps of the last bit")
    )
    if facts["wear"]:
        _print_wear(facts["wear"], out)
    if facts["unmapped"]:
        nodes = console.table("\nLeft to the host", "node", "op", "reason", "weights", text=3)
        for node in facts["unmapped"]:
            nodes.add_row(node["node"], node["op_type"], node["reason"], console.count(node["weights"]))
        out.print(nodes)
    else:
        out.print("\nEvery node with static weights is mapped.")
    if facts["layers"]:
        out.print(console.dim(f"\ncells of a layer: xbc inspect ... --layer {facts['layers'][0]['name']}"))


def _print_wear(wear: dict[str, Any], out: Any) -> None:
    out.print(
        console.bold_first(
            "\nWear",
            f" (writes per cell and inference): max {console.figure(wear['max'])}, "
            f"p99 {console.figure(wear['p99'])}, mean {console.figure(wear['mean'])}; "
            f"worst cell lives {console.count(wear['lifetime_inferences'])} inferences",
        )
    )
    largest = max(entry["cells"] for entry in wear["histogram"])
    for entry in wear["histogram"]:
        low = entry["writes_from"]
        label = str(low) if low < 2 else f"{low:,} to {2 * low - 1:,}"
        bar = "#" * max(1, round(40 * entry["cells"] / largest))
        out.print(f"  {label:>22} writes {entry['cells']:>12,} cells  {bar}", highlight=False)
    if wear["mean_by_digit"]:
        digits = "  ".join(console.figure(value) for value in wear["mean_by_digit"])
        out.print(f"  mean by digit of a weight, most significant first: {digits}")
