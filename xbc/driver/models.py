"""What a notebook does with a model before compiling it: second derivatives, rescaling."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from ir.arrays import Array
from ir.errors import XbcError
from ir.progress import Progress, silent
from xbc.frontend import import_model
from xbc.frontend.given import GivenModel, file_of, from_memory
from xbc.rescale.proof import check_same_function
from xbc.rescale.scaling import rescale_model as rescaled
from xbc.rescale.scaling import spread
from xbc.rescale.unipolar import unipolar_model
from xbc.sensitivity import Loss, model_sensitivities, save_sensitivities
from xbc.sensitivity.diagonal import Method, data_port
from xbc.simulate.data import Samples, load_data
from xbc.simulate.replayed import cut_set
from xbc.system.files import whole_file
from xbc.system.outputs import check_file
from xbc.targets import DEFAULT_TARGET, load_target


@dataclass(frozen=True)
class Graded:
    """Second derivatives of the loss in every crossbar weight.

    Fields:
        layers: name -> float32 ``[outputs, inputs]``.
        facts: what ``xbc sensitivity --json`` prints.
    """

    layers: dict[str, Array]
    facts: dict[str, Any]

    def __repr__(self) -> str:
        return (
            f"<Graded: {self.facts['loss']} over {self.facts['samples']} samples, {len(self.layers)} layers>"
        )


@from_memory
def measure_sensitivities(
    model: GivenModel, data: Samples, output: str | os.PathLike[str] | None = None, *,
    loss: Loss = "cross-entropy", method: Method = "gradient", noise: float = 0.0, seed: int = 0,
    limit: int | None = None, threads: int = 2, progress: Progress = silent,
) -> Graded:  # fmt: skip
    """Diagonal second derivative of the loss in every crossbar weight (after SWIM, arXiv 2202.08395).

    Args:
        model: an ONNX file, its bytes or the protobuf.
        data: a ``.npz`` file, or arrays by name: the model's input and, optionally, ``labels``.
        output: file that ``compile_model(sensitivities=...)`` takes; None: none is written.
        loss: ``cross-entropy`` (exact curvature in the logits), ``empirical`` (squared gradient with the labels),
            ``squared`` (half the squared error of the outputs).
        method: ``gradient`` (mean square of the gradient of labels drawn from the output) or ``recursion``.
        noise: programming error of all weights meanwhile, over the largest weight of the layer.
    Raises: XbcError.
    """
    file = file_of(model)
    path = None if output is None else check_file(Path(output), "an .npz", file)
    imported = import_model(file, load_target(DEFAULT_TARGET))
    port = data_port(imported)
    sets = cut_set(load_data(data, [port]), limit)
    found = model_sensitivities(
        imported, sets.inputs[port.name], sets.labels, loss=loss, method=method, seed=seed, noise=noise,
        progress=progress, threads=threads,
    )  # fmt: skip
    if path is not None:
        save_sensitivities(found, path)
    total = sum(float(v.sum(dtype=np.float64)) for v in found.layers.values())
    facts = {
        "model": file.name,
        "output": None if output is None else str(output),
        "samples": found.samples,
        "loss": found.loss,
        "method": found.method,
        "noise": found.noise,
        "layers": [
            {
                "name": layer.name,
                "weights": layer.weights,
                "mean": float(found.layers[layer.name].mean()),
                "max": float(found.layers[layer.name].max()),
                "share": float(found.layers[layer.name].sum(dtype=np.float64)) / total if total else 0.0,
            }
            for layer in imported.module.layers
        ],
    }
    return Graded(dict(found.layers), facts)


@from_memory
def rescale_model(
    model: GivenModel, output: str | os.PathLike[str], *,
    balance: Literal["weights", "activations", "both"] = "weights", unipolar: bool = False,
    data: Samples | None = None, limit: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write a model of the same function for uniform or one-signed crossbars (arXiv 1910.13850).

    Args:
        model: an ONNX file, its bytes or the protobuf.
        output: ONNX file to write, only when onnxruntime finds the same function.
        balance: what becomes equal over all layers: the largest weight, the largest input, or both in a compromise.
        unipolar: make the matrices non-negative instead, each with a reference column.
        data: inputs: what activations are, and for the check; random ones without.
    Returns: what ``xbc rescale --json`` prints.
    Raises: XbcError.
    """
    file = file_of(model)
    target = check_file(Path(output), "an ONNX", file)
    imported = import_model(file, load_target(DEFAULT_TARGET))
    port = data_port(imported)
    given = None if data is None else load_data(data, [port]).inputs[port.name][:limit]
    facts: dict[str, Any] = {"model": file.name, "output": str(output)}
    if unipolar:
        made = unipolar_model(imported)
        changed = made.model
        facts |= {"made": list(made.made), "found": list(made.found), "left": made.left}
    else:
        done = rescaled(imported, balance=balance, calibration=given)
        changed = done.model
        activations = [spread(done.activations_before), spread(done.activations_after)]
        facts |= {
            "balance": balance,
            "gains": done.gains,
            "weight_spread": [spread(done.before), spread(done.after)],
            "activation_spread": activations if given is not None else None,
            "layers": {name: [done.before[name], done.after[name]] for name in done.before},
        }
    if given is None:
        shape = [n or (1 if i == 0 else 0) for i, n in enumerate(port.shape)]
        if not all(shape):
            raise XbcError(f"rescale: the input is {port}: give data, so that the result can be checked")
        given = np.random.default_rng(0).standard_normal(shape).astype(port.dtype)
    facts["largest_difference"] = check_same_function(imported, changed, given)
    facts["checked_on"] = len(given)
    with whole_file(target) as partial:
        onnx.save(changed, partial)
    return facts
