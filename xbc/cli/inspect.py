"""``xbc inspect``: what is written where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xbc.cli import console
from xbc.cli.options import json_option

if TYPE_CHECKING:
    from ir.arrays import Array
    from ir.module import Layer, Module


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
        facts = picture.layer_facts(layer, section, rows)
        console.print_json(facts) if as_json else picture.draw(layer, facts, console.stdout())
        return
    facts = {"pipeline": pipeline, **module_facts(module)}
    if as_json:
        console.print_json(facts)
        return
    print_facts(facts)
    if program.is_dir():
        console.stdout().print(
            f"[dim]read from the manifest and the IR; whether the tables fit them: xbc verify {program}[/]",
            soft_wrap=True,
        )


def module_facts(module: Module) -> dict[str, Any]:
    """Layers, wear and unmapped nodes of a module at any stage."""
    from ir.stages import Placed
    from passes.counting import count_module

    counts = None
    if module.layers and all(isinstance(layer.body, Placed) for layer in module.layers):
        counts = count_module(module)
    writes = counts.layer_writes if counts else {}
    return {
        "module": module.name,
        "target": module.target.to_dict(),
        "weights": module.weights,
        "layers": [layer_row(layer, writes.get(layer.name)) for layer in module.layers],
        "edges": [list(edge) for edge in module.edges],
        "wear": _wear(module, counts.wear, counts.wear_summary()) if counts else None,
        "unmapped": [
            {"node": u.node, "op_type": u.op_type, "weights": u.weights, "reason": u.reason}
            for u in module.unmapped
        ],
    }


def layer_row(layer: Layer, writes: int | None) -> dict[str, Any]:
    """One line of the layers table; keys of stages that the layer has not reached are None."""
    import numpy as np

    from ir.stages import Encoded, Placed, Programmed, Quantized, Sectioned, Sliced

    body = layer.body
    outputs, inputs = body.shape
    error = None
    if isinstance(body, Programmed):
        difference = (body.effective_codes() - body.codes).astype(np.float64)
        error = float(np.sqrt(np.mean(difference**2))) if difference.size else 0.0
    return {
        "name": layer.name,
        "node": layer.origin.node,
        "op_type": layer.origin.op_type,
        "stage": body.stage(),
        "outputs": outputs,
        "inputs": inputs,
        "groups": layer.origin.groups,
        "products": layer.origin.products,
        "bits": body.bits if isinstance(body, Quantized) else None,
        "scales": int(body.scale.size) if isinstance(body, Quantized) else None,
        "encoding": body.encoding if isinstance(body, Encoded) else None,
        "cells_per_weight": body.cells.columns if isinstance(body, Sliced) else None,
        "sections": body.sections if isinstance(body, Sectioned) else None,
        "crossbars": int(np.unique(body.crossbar).size) if isinstance(body, Placed) else None,
        "writes": writes,
        "rms_code_error": error,
    }


def _wear(module: Module, wear: Array, summary: dict[str, float]) -> dict[str, Any]:
    """Writes per cell and inference: summary, histogram over powers of two, mean per bit slice."""
    import numpy as np

    from ir.stages import Sliced

    edges = [0, 1, 2]
    while edges[-1] <= int(wear.max(initial=0)):
        edges.append(edges[-1] * 2)
    cells, _ = np.histogram(wear, bins=np.array([*edges, np.iinfo(np.int64).max], np.float64))
    columns = {layer.at(Sliced).cells.columns for layer in module.layers}
    by_digit = None
    if len(columns) == 1:
        (width,) = columns
        used = wear.shape[2] // width * width
        by_digit = wear[:, :, :used].reshape(-1, used // width, width).mean(axis=(0, 1)).round(4).tolist()
    return {
        **summary,
        "lifetime_inferences": module.target.endurance / summary["max"] if summary["max"] else None,
        "histogram": [
            {"writes_from": low, "cells": int(n)} for low, n in zip(edges, cells, strict=True) if n
        ],
        "mean_by_digit": by_digit,
    }


def print_facts(facts: dict[str, Any]) -> None:
    """The tables of ``xbc inspect``."""
    out = console.stdout()
    target = facts["target"]
    stages = {row["stage"] for row in facts["layers"]}
    out.print(
        f"[bold]{facts['module']}[/] on [bold]{target['name']}[/]: "
        f"{console.count(target['crossbars'])} crossbar(s) of {target['rows']} x {target['columns']} cells, "
        f"{target['bits_per_cell']} bit(s) per cell, "
        f"{target['routing']} routing; {console.count(facts['weights'])} weights, "
        f"stage {' and '.join(sorted(stages))}"
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
    out.print("[dim]outputs x inputs / groups; rms error of the stored codes in steps of the last bit[/]")
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
        out.print(f"\n[dim]cells of a layer: xbc inspect ... --layer {facts['layers'][0]['name']}[/]")


def _print_wear(wear: dict[str, Any], out: Any) -> None:
    out.print(
        f"\n[bold]Wear[/] (writes per cell and inference): max {console.figure(wear['max'])}, "
        f"p99 {console.figure(wear['p99'])}, mean {console.figure(wear['mean'])}; "
        f"worst cell lives {console.count(wear['lifetime_inferences'])} inferences"
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
