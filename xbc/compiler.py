"""From an ONNX file to an emitted program in one call; ``xbc compile`` is this function."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Module
from ir.stages import Body, Placed, Sectioned
from ir.target import Target
from ir.verify import check_module
from passes.base import Context, Pass, Progress
from passes.manager import Hook, Options, PassRecord, Run, finish, run_pipeline
from passes.pipeline import LEVELS, format_pipeline, parse_pipeline

DEFAULT_LEVEL = 2
FIRST_ONLY = 1
"""Phase of writes that only the first inference needs."""


@dataclass(frozen=True)
class Compiled:
    """An emitted program and what became of the model.

    Fields:
        directory: the program (see the program format page).
        module: its IR, at stage Programmed.
        records: one per pass.
        summary: what ``xbc compile --json`` prints.
        notes: sentences on how the model was read.
    """

    directory: Path
    module: Module
    records: tuple[PassRecord, ...]
    summary: dict[str, Any]
    notes: tuple[str, ...] = ()


def compile_model(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    target: str | Path | Target = "gather-128",
    settings: Mapping[str, Any] | None = None,
    pipeline: str | None = None,
    level: int = DEFAULT_LEVEL,
    sensitivities: str | os.PathLike[str] | None = None,
    seed: int = 0,
    threads: int = 2,
    progress: Progress | None = None,
    verify_each: bool = True,
    before: Hook | None = None,
    after: Hook | None = None,
) -> Compiled:
    """Compile ``model`` and write the program to ``output``, whole or not at all.

    Args:
        model: an ONNX file.
        output: directory to write; ``<model>.xbc`` in the current directory when None.  An older program
            there is replaced once the new one is complete.
        target: a shipped chip's name, a TOML file, or a Target.
        settings: keys of the target to replace, dotted (``{"crossbars": 64}``).
        pipeline: pipeline text; None takes that of ``level``.  One that ends before the sections are placed
            is completed with ``deal-sections``.
        level: 0..2, see ``passes.pipeline.LEVELS``.
        sensitivities: file of ``xbc sensitivity`` for this model, for the passes that use it.
        seed: of every random choice.
        threads: worker threads; the program does not depend on it.
        progress: called with (what, done, total).
        verify_each: check the IR after every pass, not only at the end.
        before, after: called around every pass with ("before" or "after", pass, module).
    Raises: XbcError for every fault in the input.
    """
    from xbc.backend import emit_program
    from xbc.frontend import import_model
    from xbc.summary import count_all, write_cost
    from xbc.targets import load_target

    started = time.perf_counter()
    source = Path(model)
    directory = check_output(Path(output) if output is not None else Path(f"{source.stem}.xbc"))
    chip = target if isinstance(target, Target) else load_target(target)
    if settings:
        chip = chip.override(settings)
    passes = select_passes(pipeline, level)
    context = Context(seed=seed, threads=threads)
    if progress is not None:
        context.progress = progress

    context.progress("reading the model", 0, 1)
    imported = import_model(source, chip)
    module = imported.module
    if not module.layers:
        raise XbcError(
            f"{source} has no layer with static weights that a crossbar can hold"
            + (f"; {len(module.unmapped)} nodes stay in the host graph" if module.unmapped else "")
        )
    if sensitivities is not None:
        from xbc.sensitivity import load_sensitivities

        found = load_sensitivities(sensitivities, module)
        context.data |= {"sensitivities": found.layers, "sensitivities_loss": found.loss}
    options = Options(verify_each=verify_each, before=before, after=after)
    run = run_pipeline(module, passes, context, options)
    if not issubclass(run.module.stage(), Placed):
        completion = missing_passes(run.module)
        rest = run_pipeline(run.module, completion, context, options)
        passes += completion
        run = Run(rest.module, run.records + rest.records)
    done = finish(run.module)
    if not verify_each:
        check_module(done)

    context.progress("counting writes", 0, 1)
    counts = count_all(done)
    text = format_pipeline(passes)
    command = ["xbc", "compile", source.name, "--target", chip.name, "--passes", text, "--seed", str(seed)]
    if sensitivities is not None:
        command += ["--sensitivities", Path(sensitivities).name]
    provenance = {"command": shlex.join(command), "pipeline": text, "seed": seed, "facts": context.facts}
    emit_program(
        done, imported.host, directory, provenance=provenance, counts=counts, progress=context.progress
    )
    energy, duration = write_cost(*read_loads(directory), chip)
    summary = {
        "model": source.name,
        "target": chip.name,
        **counts,
        "energy_pj": energy,
        "time_ns": duration,
        "pipeline": text,
        "seed": seed,
        "output": str(directory),
        "seconds": round(time.perf_counter() - started, 3),
        "passes": [pass_facts(record) for record in run.records],
    }
    return Compiled(directory, done, tuple(run.records), summary, imported.notes)


def select_passes(pipeline: str | None, level: int) -> list[Pass]:
    """The passes of a pipeline text, or of a level when there is none."""
    if pipeline is not None:
        return parse_pipeline(pipeline)
    if level not in LEVELS:
        known = ", ".join(f"-O{known}" for known in LEVELS)
        raise XbcError(f"unknown level -O{level}; known: {known}")
    return parse_pipeline(LEVELS[level])


def missing_passes(module: Module) -> list[Pass]:
    """What a pipeline that ends with the order of sections still needs: their placement.

    Raises: XbcError when there are no sections yet.
    """
    stage = module.stage()
    if not issubclass(stage, Sectioned):
        raise XbcError(
            f"the pipeline ends at stage {stage.stage()!r}, a program needs sections: "
            f"go on with {LEVELS[0].partition(stage_maker(stage) + ',')[2] or LEVELS[0]}"
        )
    return parse_pipeline("deal-sections")


def stage_maker(stage: type[Body]) -> str:
    """Name of the pass of the lowest level that makes ``stage``."""
    return next((step.name for step in parse_pipeline(LEVELS[0]) if step.ensures is stage), "")


def pass_facts(record: PassRecord) -> dict[str, Any]:
    """One pass as the JSON output lists it."""
    return {
        "name": record.name,
        "text": record.text,
        "seconds": round(record.seconds, 4),
        "sections": record.sections,
        "writes": record.writes,
    }


def read_loads(directory: Path) -> tuple[Array, Array, Array, Array, Array]:
    """What costs time or energy: each load's step, cells SET and RESET, how many of these are verified."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(
        directory / "loads.parquet", columns=["step", "set", "reset", "write_verify"]
    )
    step, raised, lowered, any_verified = (column.to_numpy() for column in table.columns)
    verified = np.zeros((2, len(step)), np.int64)
    if any_verified.any():
        columns = ["load", "before", "after", "phase", "verify"]
        with pyarrow.parquet.ParquetFile(directory / "writes.parquet") as writes:
            for batch in writes.iter_batches(1 << 20, columns=columns):
                load, before, after, phase, verify = (c.to_numpy(zero_copy_only=False) for c in batch.columns)
                steady = verify & (phase != FIRST_ONLY)
                for row, kind in zip(verified, (after > before, after < before), strict=True):
                    row += np.bincount(load[steady & kind], minlength=len(step))
    return step, raised, lowered, verified[0], verified[1]


def check_output(directory: Path) -> Path:
    """``directory`` when a program can be written there; asked before the work starts.

    Raises: XbcError when its parent is missing or not writable, or something else than a program is there.
    """
    parent = directory.absolute().parent
    if not parent.is_dir():
        raise XbcError(f"cannot write {directory}: the folder {parent} does not exist")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise XbcError(f"cannot write {directory}: the folder {parent} is not writable")
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise XbcError(f"cannot write {directory}: a file of that name is there; give another name with -o")
    if directory.is_dir() and any(directory.iterdir()) and not (directory / "manifest.json").is_file():
        raise XbcError(
            f"cannot write {directory}: it holds other files than a program; give another name with -o"
        )
    return directory
