"""``xbc sensitivity``: how much the loss curves along every weight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xbc.cli import console
from xbc.cli.options import json_option, limit_option, quiet_option, seed_option, threads_option
from xbc.system.outputs import check_file

if TYPE_CHECKING:
    from xbc.sensitivity import Loss
    from xbc.sensitivity.diagonal import Method


@click.command("sensitivity")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Calibration set: an .npz file named after the model's input, classes (optional) in 'labels'.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File to write  [default: MODEL.sens.npz here]"
)
@click.option(
    "--loss",
    type=click.Choice(["cross-entropy", "empirical", "squared"]),
    default="cross-entropy",
    show_default=True,
    help="cross-entropy: its exact curvature in the logits; empirical: squared gradient with the labels; "
    "squared: half the squared error of the outputs.",
)
@click.option(
    "--method",
    type=click.Choice(["gradient", "recursion"]),
    default="gradient",
    show_default=True,
    help="gradient: mean square of the gradient of labels drawn from the model's output; recursion: SWIM's, "
    "curvature carried back as if positions and branches were independent.",
)
@click.option(
    "--noise",
    type=float,
    default=0.0,
    show_default=True,
    help="Programming error of all weights while they are graded, over the largest weight of the layer: for the "
    "choice of what to verify, that of an unverified write.",
)
@seed_option
@limit_option
@threads_option
@json_option
@quiet_option
def command(
    model: Path, data: Path, output: Path | None, loss: Loss, method: Method, noise: float, seed: int,
    limit: int | None, threads: int, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Diagonal second derivative of the loss in every crossbar weight (after SWIM, arXiv 2202.08395).

    One forward and one backward pass over the set. The file holds one float32 array [outputs, inputs] per
    layer, named after the layer, and the digest of the model; 'xbc compile --sensitivities' hands it to the
    passes select-write-verify and hold-codes.

    \b
    Examples:
      xbc sensitivity model.onnx --data calib.npz -o sens.npz
      xbc compile model.onnx --sensitivities sens.npz --passes "...,select-write-verify{fraction=0.1}"
    """
    from xbc.driver.models import measure_sensitivities

    path = check_file(output or Path(f"{model.stem}.sens.npz"), "an .npz", data, model)
    with console.progress_bars(quiet) as progress:
        facts = measure_sensitivities(
            model, data, path, loss=loss, method=method, noise=noise, seed=seed, limit=limit, threads=threads,
            progress=progress,
        ).facts  # fmt: skip
    console.print_json(facts) if as_json else _print(facts)


def _print(facts: dict[str, Any]) -> None:
    table = console.table(
        f"{facts['model']}: second derivative of {facts['loss']} over {facts['samples']} samples",
        "layer", "weights", "mean", "max", "share of the sum",
    )  # fmt: skip
    for row in facts["layers"]:
        table.add_row(
            row["name"], console.count(row["weights"]), f"{row['mean']:.3g}", f"{row['max']:.3g}",
            f"{100 * row['share']:.1f} %",
        )  # fmt: skip
    console.stdout().print(table)
    click.echo(f"-> {facts['output']}")
