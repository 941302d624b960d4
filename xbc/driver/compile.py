"""From an ONNX file to an emitted program in one call; ``xbc compile`` is this function."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ir.arrays import Array
from ir.display import html_table
from ir.errors import XbcError
from ir.module import Module
from ir.progress import Progress
from ir.stages import Body, Placed, Sectioned
from ir.target import Target
from ir.verify import check_module
from passes.avoid_faults import AvoidFaults, with_faults
from passes.base import Context
from passes.manager import Hook, Options, PassRecord, Run, finish, gather_facts, gather_notes, run_pipeline
from passes.pairs import free_pairs
from passes.pipeline import AS_IT_IS, O3, Pipeline, Shape, level_pipeline, parse_pipeline
from passes.sort_sections import MOST_SPARE
from xbc.backend.tables import FIRST_ONLY
from xbc.budget.meter import Meter
from xbc.driver.command import budget_words, target_words
from xbc.frontend.given import GivenModel, file_of, from_memory

if TYPE_CHECKING:
    from xbc.backend import Program
    from xbc.frontend import Imported

DEFAULT_LEVEL = 2


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

    def __repr__(self) -> str:
        writes = self.summary["writes"]
        return (
            f"<Compiled {self.summary['model']} on {self.summary['target']}: {writes['emitted']:,} writes per "
            f"inference, {writes['natural']:,} in natural order -> {self.directory}>"
        )

    def _repr_html_(self) -> str:
        rows = [
            (kind, writes, self.summary["first_deployment"][kind])
            for kind, writes in self.summary["writes"].items()
        ]
        return html_table(repr(self).strip("<>"), ("cell writes", "per inference", "first deployment"), rows)

    @property
    def program(self) -> Program:
        """The emitted program, opened."""
        from xbc.backend import Program

        return Program.open(self.directory)


@from_memory
def compile_model(
    model: GivenModel,
    output: str | os.PathLike[str] | None = None,
    *,
    target: str | os.PathLike[str] | Target = "gather-128",
    settings: Mapping[str, Any] | None = None,
    pipeline: str | None = None,
    level: int = DEFAULT_LEVEL,
    outputs: int = 0,
    spare: float = 0.0,
    quantize: str | None = None,
    sensitivities: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    report_data: str | os.PathLike[str] | None = None,
    max_drop: float | None = None,
    max_error: float | None = None,
    seed: int = 0,
    threads: int = 2,
    progress: Progress | None = None,
    verify_each: bool = True,
    before: Hook | None = None,
    after: Hook | None = None,
) -> Compiled:
    """Compile ``model`` and write the program to ``output``, whole or not at all.

    Args:
        model: an ONNX file, its bytes or the protobuf.
        output: directory to write; ``<model>.xbc`` in the current directory when None.  An older program
            there is replaced once the new one is complete.
        target: a shipped chip's name, a TOML file, or a Target.
        settings: keys of the target to replace, dotted (``{"crossbars": 64}``).
        pipeline: pipeline text; None takes that of ``level``.  One that ends before the sections are placed
            is completed with ``deal-sections``.
        level: 0..3 for -O0 to -O3, see ``passes.pipeline``; -O3 holds codes within a loss budget.
        outputs: most outputs that share the rows of a section, for levels; 0: as many as the target allows.
        spare: share of further sections, for levels: rows that do not fit stay empty, so fewer cells change.
        quantize: options of ``quantize`` for levels (``granularity=channel,bits=7``); None: the defaults, and what
            leaves the fewest writes at -O3 with ``data``.
        sensitivities: file of ``xbc sensitivity`` for this model, for the passes that use it.
        data: ``.npz`` that -O3 calibrates on; half of it, unless ``report_data`` is given, is kept for the
            report.
        report_data: second set, only reported on.
        max_drop: points of top-1 that -O3 may lose (default 1.0 with ``data``).
        max_error: without ``data``: root mean square code error per layer, in LSB, that -O3 may leave
            (default 0.5).
        seed: of every random choice.
        threads: worker threads; the program does not depend on it.
        progress: called with (what, done, total).
        verify_each: check the IR after every pass, not only at the end.
        before, after: called around every pass with ("before" or "after", pass, module).
    Raises: XbcError for every fault in the input.
    """
    from xbc.backend import emit_program
    from xbc.driver.summary import count_all, write_cost
    from xbc.frontend import import_model, why_no_layers
    from xbc.targets import load_target

    meter = Meter()
    source = file_of(model)
    directory = check_output(Path(output) if output is not None else Path(f"{source.stem}.xbc"))
    chip = load_target(target, settings)
    lossy = pipeline is None and level == O3
    check_budget(lossy, data, report_data, max_drop, max_error)
    check_spare(spare)
    shape = Shape(outputs, spare, quantize or "")
    if pipeline is not None and (outputs or spare):
        raise XbcError(
            "outputs per section and spare sections belong to a level; in a pipeline say form-sections{outputs=...} "
            "and sort-sections{spare=...}"
        )
    if quantize is not None and pipeline is not None:
        raise XbcError(f"options of quantize belong to a level; in a pipeline say quantize{{{quantize}}}")
    shape.of(level_pipeline(2))  # refused before the work starts
    passes = Pipeline() if lossy else select_passes(pipeline, level, shape)
    context = Context(seed=seed, threads=threads)
    if progress is not None:
        context = replace(context, progress=progress)

    context.progress("reading the model", 0, 1)
    imported = import_model(source, chip)
    module = imported.module
    if not module.layers:
        raise XbcError(
            f"{source} has no layer that a crossbar can hold: {why_no_layers(imported.host, module.unmapped)}"
        )
    if pipeline is None and not lossy and free_pairs(module):
        passes = shape.of(level_pipeline(level, pairs=True))
    passes = passes if lossy else with_faults(passes, chip)
    if sensitivities is not None:
        if not lossy and not any(step.weighs() for step in passes):
            raise XbcError(
                "--sensitivities: no pass of this pipeline uses them; give -O3, or a pipeline with "
                "select-write-verify or hold-codes"
            )
        from xbc.sensitivity import load_sensitivities

        context = replace(context, sensitivities=load_sensitivities(sensitivities, module))
    options = Options(verify_each=verify_each, before=before, after=after)
    loss: dict[str, Any] | None = None
    notes = [*imported.notes, *passes.notes]
    if lossy:
        run, passes, loss = hold_within(
            imported,
            source,
            Budget(data, report_data, max_drop, max_error),
            shape,
            context,
            options,
            notes,
            meter,
            quantize,
        )
    else:
        run = run_pipeline(module, passes, context, options)
    completion = Pipeline()
    if not issubclass(run.module.stage(), Placed):
        completion = with_faults(missing_passes(run.module), chip)
        notes.append(f"the pipeline ended before sections were placed: {completion} follows it")
    if pipeline is None and level and chip.routing == "gather":
        completion = completion.then(parse_pipeline("order-inputs"))
    if completion:
        rest = run_pipeline(run.module, completion, context, options)
        passes = passes.then(completion)
        run = Run(rest.module, run.records + rest.records)
    notes += gather_notes(run.records)
    done = finish(run.module)
    if lossy or not verify_each:
        check_module(done)

    context.progress("counting writes", 0, 1)
    counts = count_all(done)
    text = str(passes)
    chosen = ["--passes", text]
    if lossy:
        chosen = budget_words(data, report_data, max_drop, max_error)
        chosen += shape.words()
        chosen += ["--quantize", quantize] if quantize is not None else []
    chip_words = target_words(target, settings, chip, directory)
    command = ["xbc", "compile", source.name, *chip_words, *chosen, "--seed", str(seed)]
    if sensitivities is not None:
        command += ["--sensitivities", Path(sensitivities).name]
    facts = gather_facts(run.records) | ({} if loss is None else {"loss": loss})
    provenance = {"command": shlex.join(command), "pipeline": text, "seed": seed, "facts": facts}
    emit_program(
        done, imported.host, directory, provenance=provenance, counts=counts, progress=context.progress
    )
    energy, duration = write_cost(*read_loads(directory), chip)
    spent = meter.facts()
    summary = {
        "model": source.name,
        "target": chip.name,
        **counts,
        "energy_pj": energy,
        "time_ns": duration,
        "pipeline": text,
        "seed": seed,
        "output": str(directory),
        **({"faults": facts[AvoidFaults.name]} if AvoidFaults.name in facts else {}),
        "order": facts.get("order-sections", {}).get("network"),
        **({} if loss is None else {"loss": loss}),
        "seconds": round(sum(row["seconds"] for row in spent.values()), 3),
        "spent": spent,
        "passes": [pass_facts(record) for record in run.records],
    }
    return Compiled(directory, done, tuple(run.records), summary, tuple(notes))


def select_passes(pipeline: str | None, level: int, shape: Shape = AS_IT_IS) -> Pipeline:
    """The passes of a pipeline text, or of a level when there is none."""
    if pipeline is not None:
        return parse_pipeline(pipeline)
    return shape.of(level_pipeline(level))


@dataclass(frozen=True)
class Budget:
    """What -O3 may lose, and the sets it is judged on (see ``compile_model``)."""

    data: str | os.PathLike[str] | None
    report_data: str | os.PathLike[str] | None
    max_drop: float | None
    max_error: float | None


def check_spare(spare: float) -> None:
    """Raises XbcError for a share of spare sections that is no number from 0 to ``MOST_SPARE``."""
    if not 0 <= spare <= MOST_SPARE:
        raise XbcError(
            f"spare = {spare:g} must be a number from 0 to {MOST_SPARE:g} (0.25: a quarter more sections)"
        )


def check_budget(
    lossy: bool,
    data: str | os.PathLike[str] | None,
    report_data: str | os.PathLike[str] | None,
    max_drop: float | None,
    max_error: float | None,
) -> None:
    """Raises XbcError for options that contradict each other."""
    given = [
        name
        for name, value in (("--data", data), ("--max-drop", max_drop), ("--max-error", max_error))
        if value is not None
    ]
    if not lossy and given:
        raise XbcError(f"{given[0]} belongs to -O3")
    if max_drop is not None and data is None:
        raise XbcError(
            "--max-drop needs --data: a drop is measured on samples; or bound code errors with --max-error"
        )
    if max_error is not None and data is not None:
        raise XbcError("--max-error and --data exclude each other: with data the loss itself is bounded")
    if report_data is not None and data is None:
        raise XbcError("--report-data needs --data, the set to calibrate on")
    for name, value in (("--max-drop", max_drop), ("--max-error", max_error)):
        if value is not None and not 0 < value < float("inf"):
            raise XbcError(f"{name} = {value} must be positive")


def hold_within(
    imported: Imported, source: Path, budget: Budget, shape: Shape, context: Context, options: Options,
    notes: list[str], meter: Meter, quantize: str | None,
) -> tuple[Run, Pipeline, dict[str, Any]]:  # fmt: skip
    """-O3: the run, its pipeline, and what it lost (the ``loss`` object of the summary)."""
    from xbc.budget.judge import Judge, check_samples, split
    from xbc.budget.steps import prepare
    from xbc.budget.tune import add_moments, add_sensitivities, tune_best
    from xbc.budget.without_data import bound_error
    from xbc.simulate.data import load_data
    from xbc.simulate.host import HostSession
    from xbc.simulate.samples import SampleAxis

    loss: dict[str, Any]
    target = imported.module.target
    if budget.data is None:
        prepared = prepare(imported.module, context, options, shape)
        limit = 0.5 if budget.max_error is None else budget.max_error
        tuned = bound_error(prepared.module, limit, context)
        final = run_pipeline(tuned.module, with_faults(Pipeline(), target), context, options)
        loss = {"max_error": limit}
    else:
        session = HostSession(source, threads=context.threads, axis=SampleAxis(imported.host))
        ports = session.inputs
        calibration = load_data(budget.data, ports)
        check_samples(session, calibration)
        if budget.report_data is None:
            calibration, report = split(calibration)
        else:
            report = load_data(budget.report_data, ports)
        limit = 1.0 if budget.max_drop is None else budget.max_drop
        context = add_sensitivities(imported, calibration, context, notes, meter)
        context = add_moments(imported, calibration, context, notes, meter, shape)
        judge = Judge(source, imported, calibration, context, meter)
        chosen = tune_best(imported.module, judge, limit, context, options, shape, quantize is None)
        tuned, prepared = chosen.tuned, chosen.prepared
        final = run_pipeline(tuned.module, with_faults(Pipeline(), target), context, options)
        lost = Judge(source, imported, report, context, meter)(final.module)
        loss = {
            "max_drop": limit,
            "calibration_samples": len(next(iter(calibration.inputs.values()))),
            **lost,
            "quantizers": chosen.candidates,
        }
    loss["curve"] = [point.facts() for point in tuned.curve]
    notes += tuned.notes
    steps = with_faults(prepared.steps.then(tuned.steps), target)
    return Run(final.module, prepared.records + tuned.records + final.records), steps, loss


def missing_passes(module: Module) -> Pipeline:
    """What a pipeline that ends with the order of sections still needs: their placement.

    Raises: XbcError when there are no sections yet.
    """
    stage = module.stage()
    if not issubclass(stage, Sectioned):
        raise XbcError(
            f"the pipeline ends at stage {stage.stage()!r}, a program needs sections: "
            f"go on with {rest_of_level(stage)}"
        )
    return parse_pipeline("deal-sections")


def rest_of_level(stage: type[Body]) -> Pipeline:
    """What -O0 does behind the pass that makes ``stage``; all of it where none does."""
    steps = level_pipeline(0)
    maker = next((step.name for step in steps if step.ensures is stage), None)
    return steps if maker is None else steps.after(maker)


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
