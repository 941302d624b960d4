"""``xbc rescale``: the same function with one weight scale, or with non-negative matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from xbc.cli import console
from xbc.cli.options import json_option, limit_option, quiet_option
from xbc.system.outputs import check_file


@click.command("rescale")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="ONNX file to write.")
@click.option(
    "--balance",
    type=click.Choice(["weights", "activations", "both"]),
    default="weights",
    show_default=True,
    help="Make equal over all layers: the largest weight, the largest input, or both in a compromise.",
)
@click.option(
    "--unipolar", is_flag=True, help="Make the matrices non-negative instead, each with a reference column."
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Inputs (.npz): what activations are, and for the check."
)
@limit_option
@json_option
@quiet_option
def command(
    model: Path, output: Path, balance: Literal["weights", "activations", "both"], unipolar: bool,
    data: Path | None, limit: int | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Transform a model without changing its function, for uniform or one-signed crossbars (arXiv 1910.13850).

    Rescaling moves positive factors through ReLUs, pooling and residual sums from layer to layer until all
    layers share one full scale as far as the sums allow; 'quantize{scale=uniform}' then loses little. Both
    transforms are checked by onnxruntime on the data, or on random inputs: a model that computes something else
    is not written.

    \b
    Examples:
      xbc rescale model.onnx -o uniform.onnx
      xbc compile uniform.onnx --passes "quantize{bits=4,scale=uniform},..."
      xbc rescale model.onnx -o positive.onnx --unipolar
      xbc compile positive.onnx --passes "quantize,encode-signs{encoding=unipolar},..."
    """
    from xbc.driver.models import rescale_model

    check_file(output, "an ONNX", model, data)
    facts = rescale_model(model, output, balance=balance, unipolar=unipolar, data=data, limit=limit)
    console.print_json(facts) if as_json else click.echo("\n".join(_sentences(facts)))


def _sentences(facts: dict[str, Any]) -> list[str]:
    lines = []
    if "made" in facts:
        lines.append(
            f"{len(facts['made'])} matrices made non-negative with a reference column, {len(facts['found'])} were so "
            f"already, {len(facts['left'])} keep both signs"
        )
        lines += [f"  {name}: {reason}" for name, reason in facts["left"].items()]
    else:
        before, after = facts["weight_spread"]
        lines.append(f"largest weight, largest layer over smallest: {before:.3g} before, {after:.3g} after")
        if facts["activation_spread"]:
            before, after = facts["activation_spread"]
            lines.append(
                f"largest input, largest layer over smallest: {before:.3g} before, {after:.3g} after"
            )
        lines.append(f"{facts['gains']} digital gain(s) inserted")
    lines.append(
        f"largest difference of the outputs on {facts['checked_on']} samples: {facts['largest_difference']:.2g} of "
        f"their peak -> {facts['output']}"
    )
    return lines
