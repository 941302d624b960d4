"""A program on its inputs: outputs, accuracy, accuracy over settings.  ``xbc simulate``, ``evaluate``, ``sweep``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.progress import Progress, silent
from xbc.backend import Program
from xbc.frontend.given import GivenModel, model_file
from xbc.simulate import ideal
from xbc.simulate.blame import blame as rank_blame
from xbc.simulate.data import Samples, load_data
from xbc.simulate.fidelity import Reference, Settings, Simulation, evaluate
from xbc.simulate.host import Model
from xbc.simulate.memory import Batch, Budget, parse_size, peak_rss_bytes
from xbc.simulate.replayed import (
    ReplayedChip,
    check_is_the_model,
    cut_set,
    exact_model,
    host_axis,
    open_chip,
    ports_of,
    replayed_model,
)
from xbc.simulate.samples import SampleAxis
from xbc.simulate.sweep import Axis, Point, parse_axis, sweep

SampleAxisWord = Literal["auto", "0", "none"]
Fidelity = Literal["ideal", "converters", "devices"]
ProgramLike = str | os.PathLike[str] | Program


class Simulated(NamedTuple):
    """Output name -> ``[samples, ...]``, and sentences on how the model was run."""

    outputs: dict[str, Array]
    notes: tuple[str, ...]


class Swept(NamedTuple):
    """One point per combination, the last axis fastest, and sentences on how the model was run."""

    points: list[Point]
    notes: tuple[str, ...]


def opened(program: ProgramLike) -> Program:
    """The program, read when it is a path."""
    return program if isinstance(program, Program) else Program.open(program)


def samples_per_run(batch: int | None, memory: int | str | None) -> Batch:
    """What ``batch`` and ``memory`` ask for, which exclude each other."""
    if memory is None:
        return batch
    if batch is not None:
        raise XbcError("memory chooses the samples per run: leave batch out")
    try:
        return Budget(parse_size(memory) if isinstance(memory, str) else memory)
    except ValueError:
        raise XbcError(f"memory = {memory!r} is no size like 800MB, 1.5GB or 2GiB") from None


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises XbcError for keys of the target that a compiled program depends on."""
    for key in settings:
        if not key.startswith(("converters.", "device.")):
            raise XbcError(
                f"setting {key}: the program is made for its chip; only keys of converters and device can be "
                f"replaced here, e.g. converters.adc_bits=6 or device.sigma_verified=0.03"
            )


def _chip(
    program: Program, fidelity: str, settings: Mapping[str, Any] | None, calibration: Samples | None, adc: bool,
    narrow: float | None, progress: Progress,
) -> ReplayedChip | None:  # fmt: skip
    """The replayed chip, None at ideal fidelity, which takes no options of a simulation."""
    given = {"settings": settings, "calibration": calibration, "adc": not adc, "narrow": narrow}
    if fidelity == "ideal":
        unused = [name for name, value in given.items() if value]
        if unused:
            raise XbcError(
                f"{unused[0]} has no meaning at ideal fidelity: choose fidelity converters or devices"
            )
        return None
    check_settings(settings or {})
    return open_chip(program, settings or {}, calibration, progress)


@contextmanager
def _reference(program: Program, model: GivenModel | None) -> Iterator[Model]:
    """The model that was compiled, checked against the manifest, or without one the network with exact codes."""
    if model is None:
        yield exact_model(program)
        return
    with model_file(model) as file:
        check_is_the_model(program, file)
        yield file


def simulate_program(
    program: ProgramLike, inputs: Samples, *, fidelity: Fidelity = "ideal",
    settings: Mapping[str, Any] | None = None, calibration: Samples | None = None, adc: bool = True,
    percentile: float = 99.99, seed: int = 0, limit: int | None = None, batch: int | None = None,
    sample_axis: SampleAxisWord = "auto", memory: int | str | None = None, threads: int = 2,
    progress: Progress = silent,
) -> Simulated:  # fmt: skip
    """Outputs of the network with the weights that the cells hold after a replay of the program.

    Args:
        program: a compiled directory or an open ``Program``.
        inputs: a ``.npz`` file, or arrays by the names of the model's inputs.
        fidelity: ``ideal``: exact weights in onnxruntime; ``converters``: integer inputs, column sums through ADCs;
            ``devices``: the conductances of one chip (of ``seed``) with their errors, then the converters.
        settings: keys of the target's converters or device table to replace (``{"converters.adc_bits": 6}``).
        calibration: inputs that fix calibrated ranges of inputs and ADCs, as ``inputs``.
        adc: False: column sums as they are.
        percentile: of the calibration's column sums that a calibrated ADC covers.
        limit: only the first samples.
        sample_axis: whether the first axis of the inputs counts samples: ``auto`` (the graph decides), ``0`` (yes),
            ``none`` (one whole input).
        batch, memory: samples per run, or the memory to stay within (bytes or ``"2GB"``) instead.
    Raises: XbcError.
    """
    source, runs = opened(program), samples_per_run(batch, memory)
    chip = _chip(source, fidelity, settings, calibration, adc, None, progress)
    if chip is None:
        model = replayed_model(source, progress)
        data = cut_set(load_data(inputs, ports_of(model)), limit)
        axis = host_axis(source, sample_axis, data)
        return Simulated(
            *ideal.simulate(model, data, threads=threads, batch=runs, axis=axis, progress=progress)
        )
    data = cut_set(load_data(inputs, chip.ports), limit)
    simulation = Simulation(
        chip.host, chip.module, Settings(fidelity, adc, percentile, seed), calibration=chip.calibration,
        threads=threads, batch=runs, axis=SampleAxis(chip.host, sample_axis, cut=data.cut), progress=progress,
    )  # fmt: skip
    if fidelity == "devices":
        simulation.new_chip(0)
    outputs = simulation.session.plan.together(simulation.run(data, progress=progress))
    return Simulated(outputs, tuple(simulation.session.notes))


def evaluate_program(
    program: ProgramLike, data: Samples, *, model: GivenModel | None = None, output: str | None = None,
    fidelity: Fidelity = "ideal", settings: Mapping[str, Any] | None = None, calibration: Samples | None = None,
    adc: bool = True, percentile: float = 99.99, trials: int = 5, narrow: float | None = None, blame: bool = False,
    seed: int = 0, limit: int | None = None, batch: int | None = None,
    sample_axis: SampleAxisWord = "auto", memory: int | str | None = None,
    threads: int = 2, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """The network that the cells hold, compared with the model before compiling, over a set.

    Args:
        program, fidelity, settings, calibration, adc, percentile, limit, batch, memory: as in ``simulate_program``.
        data: a ``.npz`` file, or arrays by name: the model's inputs and, optionally, ``labels``.
        model: the model that was compiled (its digest is checked): the reference.  None: the network with exact
            codes, so that only what skipped writes cost is seen.
        output: name of the output that is classified, None: the first.
        trials: chips at device fidelity, at most; narrow: stop when the 95 % interval is within plus or minus this.
        blame: make each layer ideal in turn and rank what that gains.
    Returns: what ``xbc evaluate --json`` prints (``metric``, ``reference``, ``compiled``, ``drop``, ``interval``,
        ``agreement``, ``rms_error``, ``samples``, ...), and ``notes``.
    Raises: XbcError.
    """
    if fidelity == "ideal" and blame:
        raise XbcError("blame has no meaning at ideal fidelity: choose fidelity converters or devices")
    source, runs = opened(program), samples_per_run(batch, memory)
    chip = _chip(source, fidelity, settings, calibration, adc, narrow, progress)
    facts: dict[str, Any]
    with _reference(source, model) as reference:
        if chip is None:
            compiled = replayed_model(source, progress)
            sets = cut_set(load_data(data, ports_of(compiled)), limit)
            facts = ideal.evaluate(
                reference, compiled, sets, output=output, threads=threads, batch=runs,
                axis=host_axis(source, sample_axis, sets), progress=progress,
            )  # fmt: skip
            facts["fidelity"] = fidelity
        else:
            sets = cut_set(load_data(data, chip.ports), limit)
            axis = SampleAxis(chip.host, sample_axis, cut=sets.cut)
            simulation = Simulation(
                chip.host, chip.module, Settings(fidelity, adc, percentile, seed, trials, narrow),
                calibration=chip.calibration, threads=threads, batch=runs, axis=axis, progress=progress,
            )  # fmt: skip
            against = Reference.of(
                reference, sets, output=output, threads=threads, batch=runs, axis=axis, progress=progress
            )
            facts = evaluate(against, simulation, progress)
            if blame:
                ranked = rank_blame(against, simulation, progress=progress)
                facts["blame"] = [dataclasses.asdict(entry) for entry in ranked]
    facts["reference_is"] = "model" if model is not None else "exact-codes"
    return facts


def sweep_program(
    program: ProgramLike, over: Sequence[str], data: Samples, *, model: GivenModel | None = None,
    output: str | None = None, settings: Mapping[str, Any] | None = None, calibration: Samples | None = None,
    adc: bool = True, percentile: float = 99.99, trials: int = 5, narrow: float | None = None, seed: int = 0,
    limit: int | None = None, batch: int | None = None,
    sample_axis: SampleAxisWord = "auto", memory: int | str | None = None, threads: int = 2,
    progress: Progress = silent,
) -> Swept:  # fmt: skip
    """Accuracy over settings of the converters, or of the devices as soon as one of their keys is swept.

    Args:
        over: ``KEY=VALUES`` texts, values as ``4..10`` or ``0.01,0.02``; every combination is run.
        others: as in ``evaluate_program``.
    Raises: XbcError.
    """
    axes = [parse_axis(text) for text in over]
    if not axes:
        raise XbcError("a sweep needs settings to go over, e.g. converters.adc_bits=4..8")
    source, runs = opened(program), samples_per_run(batch, memory)
    fidelity = fidelity_of(axes)
    chip = _chip(source, fidelity, settings, calibration, adc, narrow, progress)
    assert chip is not None  # never ideal
    with _reference(source, model) as reference:
        sets = cut_set(load_data(data, chip.ports), limit)
        axis = SampleAxis(chip.host, sample_axis, cut=sets.cut)
        against = Reference.of(
            reference, sets, output=output, threads=threads, batch=runs, axis=axis, progress=progress
        )
    points = sweep(
        chip.host, chip.module, axes, against, Settings(fidelity, adc, percentile, seed, trials, narrow),
        calibration=chip.calibration, threads=threads, batch=runs, axis=axis, progress=progress,
    )  # fmt: skip
    return Swept(points, tuple(against.notes))


def fidelity_of(axes: Sequence[Axis]) -> Literal["converters", "devices"]:
    """The fidelity that a sweep needs."""
    return "devices" if any(axis.key.startswith("device.") for axis in axes) else "converters"


def output_facts(outputs: Mapping[str, Array]) -> dict[str, Any]:
    """Shape and range of every output, and the peak memory of this process."""
    return {
        "outputs": [_range(name, array) for name, array in outputs.items()],
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _range(name: str, array: Array) -> dict[str, Any]:
    values = array.astype(np.float64) if array.size else np.zeros(1)
    return {
        "name": name,
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "min": float(values.min()),
        "max": float(values.max()),
        "rms": float(np.sqrt(np.mean(values**2))),
    }
