"""``xbc rescale``: the same function with one weight scale, or with non-negative matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xbc.cli import console
from xbc.cli.options import json_option, limit_option, quiet_option
from xbc.cli.outputs import check_file


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
    model: Path, output: Path, balance: str, unipolar: bool, data: Path | None, limit: int | None, as_json: bool,
    quiet: bool,
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
    import numpy as np
    import onnx

    from ir.errors import XbcError
    from xbc.frontend import import_model
    from xbc.rescale.proof import check_same_function
    from xbc.rescale.scaling import rescale_model, spread
    from xbc.rescale.unipolar import unipolar_model
    from xbc.sensitivity.diagonal import data_port
    from xbc.simulate.data import load_data
    from xbc.targets import load_target

    check_file(output, "an ONNX", model, data)
    imported = import_model(model, load_target("gather-128"))
    port = data_port(imported)
    given = None if data is None else load_data(data, [port]).inputs[port.name][:limit]
    facts: dict[str, Any] = {"model": model.name, "output": str(output)}
    if unipolar:
        made = unipolar_model(imported)
        changed = made.model
        facts |= {"made": list(made.made), "found": list(made.found), "left": made.left}
    else:
        done = rescale_model(imported, balance=balance, calibration=given)  # type: ignore[arg-type]
        changed = done.model
        facts |= {
            "balance": balance,
            "gains": done.gains,
            "weight_spread": [spread(done.before), spread(done.after)],
            "activation_spread": [spread(done.activations_before), spread(done.activations_after)] if given is not None
            else None,
            "layers": {name: [done.before[name], done.after[name]] for name in done.before},
        }  # fmt: skip
    if given is None:
        shape = [n or (1 if i == 0 else 0) for i, n in enumerate(port.shape)]
        if not all(shape):
            raise XbcError(f"rescale: the input is {port}: give --data, so that the result can be checked")
        given = np.random.default_rng(0).standard_normal(shape).astype(port.dtype)
    facts["largest_difference"] = check_same_function(imported, changed, given)
    facts["checked_on"] = len(given)
    half = output.with_name(output.name + ".part")
    try:
        onnx.save(changed, half)
        half.replace(output)
    finally:
        half.unlink(missing_ok=True)
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
