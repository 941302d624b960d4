"""``xbc wear``: how the cells age."""

from __future__ import annotations

from pathlib import Path

import click

from xbc.cli import console
from xbc.cli.options import json_option, program_argument


@click.command("wear")
@program_argument
@json_option
def command(program: Path, as_json: bool) -> None:
    """Show how a program wears its chip, and how long the worst cell lives with and without levelling.

    Levelling rotates crossbars, rows and columns between epochs of inferences (pass level-wear). A program
    compiled with that pass carries its plan; for any other, a plan of 256 epochs is computed here to show
    what levelling would give. Perfect levelling spreads the same writes evenly over all cells.

    \b
    Examples:
      xbc wear model.xbc
      xbc compile model.onnx --passes "quantize,...,deal-sections,level-wear" -o levelled.xbc
      xbc wear levelled.xbc --json
    """
    from xbc.chip.wear import wear_program

    facts = wear_program(program)
    if as_json:
        console.print_json(facts)
        return
    out = console.stdout()
    out.print(
        f"{facts['writes_per_inference']:,} writes per inference on {facts['cells']:,} cells: mean "
        f"{facts['mean']:.3g}, worst cell {facts['worst_cell']:,}"
    )
    plan = facts["plan"]
    held = (
        "no plan in the program"
        if plan is None
        else f"{plan['epochs']} epochs of {plan['inferences_per_epoch']:,} inferences"
    )
    out.print(f"levelling: {held}")
    life = console.table(
        "\nInferences until the worst cell is worn out", "endurance", "still", "levelled", "perfect", "share"
    )
    for row in facts["lifetimes"]:
        share = row["share_of_perfect"]
        life.add_row(
            f"{row['endurance']:.0e}",
            *(console.count(row[f"lifetime_{name}"]) for name in ("still", "levelled", "perfect")),
            "-" if share is None else f"{share:.1%}",
        )
    out.print(life)
