"""The network with the weights that the replayed cells hold, and the sets it is run on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Module
from ir.progress import Progress
from ir.stages import Quantized
from xbc.backend import Program
from xbc.chip import effective_codes
from xbc.simulate.data import DataSet, Samples, load_data
from xbc.simulate.feeds import Port
from xbc.simulate.ideal import compiled_model
from xbc.simulate.samples import SampleAxis
from xbc.simulate.truth import replayed_module


def replayed_model(program: Program, progress: Progress) -> onnx.ModelProto:
    """The network as the chip computes it after a replay of the emitted files."""
    codes = effective_codes(program, progress)
    return compiled_model(program.host_model(), program.layers, codes)


def exact_model(program: Program) -> onnx.ModelProto:
    """The network with the codes that were wanted: the quantised model, before any write was skipped."""
    codes = {layer.name: layer.at(Quantized).codes for layer in program.module().layers}
    return compiled_model(program.host_model(), program.layers, codes)


def check_is_the_model(program: Program, model: Path) -> None:
    """Raises XbcError unless ``model`` is the file that was compiled."""
    try:
        with model.open("rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise XbcError(f"{model} cannot be read: {error.strerror}") from None
    wanted = program.manifest["model"]["sha256"]
    if found != wanted:
        raise XbcError(
            f"{model} is not the model that {program.folder} was compiled from: its SHA-256 is "
            f"{found[:12]}..., the manifest says {str(wanted)[:12]}..."
        )


def ports_of(model: onnx.ModelProto) -> list[Port]:
    """The inputs that a set has to give."""
    held = {tensor.name for tensor in model.graph.initializer}
    ports = []
    for value in model.graph.input:
        if value.name not in held:
            kind = value.type.tensor_type
            dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
            name = (
                np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
                if kind.elem_type
                else "any"
            )
            ports.append(Port(value.name, name, dims))
    return ports


def read_set(path: Samples, model: onnx.ModelProto, limit: int | None) -> DataSet:
    """The set, at most its first ``limit`` samples."""
    return cut_set(load_data(path, ports_of(model)), limit)


def cut_set(data: DataSet, limit: int | None) -> DataSet:
    """The first ``limit`` samples of a set."""
    if limit is None:
        return data

    def cut(array: Array) -> Array:
        return array[:limit] if array.ndim else array

    inputs = {name: cut(array) for name, array in data.inputs.items()}
    shorter = any(a.ndim and len(a) > limit for a in data.inputs.values())
    return DataSet(inputs, None if data.labels is None else cut(data.labels), shorter)


def host_axis(program: Program, word: str, data: DataSet) -> SampleAxis:
    """The question whether rows of ``data`` are samples, asked of the program's host graph."""
    return SampleAxis(onnx.load_from_string(program.host_bytes()), word, cut=data.cut)


@dataclass(frozen=True)
class ReplayedChip:
    """A replayed program, ready to be simulated.

    Fields:
        ports: the model's inputs.
        calibration: input name -> samples.
    """

    host: onnx.ModelProto
    module: Module
    ports: tuple[Port, ...]
    calibration: dict[str, Array] | None


def open_chip(
    program: Program, settings: Mapping[str, Any], calibration: Samples | None, progress: Progress
) -> ReplayedChip:
    """The replayed program with ``settings`` put into its target and the calibration set read."""
    target = program.target.override(settings)
    host = program.host_model()
    taken = {layer.tensor for layer in program.layers}
    ports = tuple(port for port in ports_of(host) if port.name not in taken)
    samples = None if calibration is None else load_data(calibration, ports).inputs
    module = dataclasses.replace(replayed_module(program, progress), target=target)
    return ReplayedChip(host, module, ports, samples)
