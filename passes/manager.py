"""Runs a pipeline: checks stages, verifies between passes, times, and records what each pass changed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ir.errors import XbcError
from ir.faulty import FaultyCells
from ir.module import Module
from ir.stages import STAGES, Body, Placed, Programmed, Sectioned
from ir.verify import VerifyError, check_module
from passes.base import Context, Outcome, Pass
from passes.counting import count_module

Hook = Callable[[str, Pass, Module], None]


class PassError(XbcError):
    """A pass failed; the message names it and those that had run."""


@dataclass(frozen=True)
class PassRecord:
    """What one pass did.

    Fields:
        name: of the pass.
        text: pass and options as pipeline text.
        stage: stage of the module afterwards.
        seconds: of the pass itself, verification and counting not included.
        sections: sections afterwards, None before there are any.
        writes: steady-state writes per inference afterwards, None before placement.
        facts: what the pass learned.
        notes: sentences that the user should read.
    """

    name: str
    text: str
    stage: str
    seconds: float
    sections: int | None = None
    writes: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass
class Options:
    """How a pipeline is run.

    Fields:
        verify_each: run the verifier after every pass.
        count_each: count the writes after every pass that leaves the module placed.
        before, after: called around each pass with ("before"/"after", pass, module).
    """

    verify_each: bool = True
    count_each: bool = True
    before: Hook | None = None
    after: Hook | None = None


@dataclass
class Run:
    """The outcome of a pipeline."""

    module: Module
    records: list[PassRecord] = field(default_factory=list)


def gather_notes(records: Sequence[PassRecord]) -> list[str]:
    """What the passes would have the user read, in their order."""
    return [note for record in records for note in record.notes]


def gather_facts(records: Sequence[PassRecord]) -> dict[str, Any]:
    """What the passes learned, by pass name; of one that ran twice, the last time."""
    return {record.name: dict(record.facts) for record in records if record.facts}


def run_pipeline(
    module: Module, passes: Sequence[Pass], context: Context | None = None, options: Options | None = None
) -> Run:
    """Runs the passes in order.

    Raises: PassError naming the pass that failed and those already run; the given module is untouched.
    """
    context = context or Context()
    options = options or Options()
    run = Run(module)
    perfect = dataclasses.replace(module.target, faulty=FaultyCells())
    settled = not any(step.respects_faults for step in passes)
    for position, step in enumerate(passes):
        done = ", ".join(r.name for r in run.records) or "none"
        _check_requirement(run.module, step, done)
        if options.before is not None:
            options.before("before", step, run.module)
        context.progress(step.name, position, len(passes))
        started = time.perf_counter()
        try:
            outcome = step.run(run.module, context)
            seconds = time.perf_counter() - started
            _check_promise(outcome.module, step)
            dropped = _check_rise(run.module, outcome.module, step)
            run.module = outcome.module
            settled = settled or step.respects_faults
            if options.verify_each:
                check_module(run.module if settled else dataclasses.replace(run.module, target=perfect))
        except VerifyError as error:
            raise PassError(
                f"pass {step.name!r} made an invalid module (passes before it: {done}): {error}"
            ) from error
        except PassError:
            raise
        except XbcError as error:
            raise PassError(f"{error} (in pass {step.name!r}; passes already run: {done})") from error
        run.records.append(_record(outcome, step, seconds, options.count_each, dropped))
        if options.after is not None:
            options.after("after", step, run.module)
    return run


def _check_requirement(module: Module, step: Pass, done: str) -> None:
    for layer in module.layers:
        if not step.accepts(layer.body):
            raise PassError(
                f"pass {step.name!r} needs layers at stage {step.requires.stage()!r}, but layer {layer.name!r} is at "
                f"{layer.body.stage()!r} (passes already run: {done}); {_cure(step, layer.body)}"
            )


def _cure(step: Pass, body: Body) -> str:
    from passes.table import PASSES, load_pass

    if isinstance(body, step.ensures):
        return f"leave this {step.name} out, or compile from an ONNX model"
    makers = [
        name for name in PASSES.built_in if load_pass(name).ensures is step.requires and name != step.name
    ]
    return f"put one of these before it: {', '.join(makers)}" if makers else "compile from an ONNX model"


def _check_promise(module: Module, step: Pass) -> None:
    for layer in module.layers:
        if not isinstance(layer.body, step.ensures):
            raise PassError(
                f"pass {step.name!r} promised stage {step.ensures.stage()!r} but left layer {layer.name!r} at "
                f"{layer.body.stage()!r}: this is a bug in the pass"
            )


PARTS = {"crossbar": (Placed, "placement"), "stored": (Programmed, "stored words")}
"""Fields that stages beyond the sections add, and what they are called."""


def _check_rise(before: Module, after: Module, step: Pass) -> tuple[str, ...]:
    """A note on what the pass dropped, none when it dropped nothing.

    Raises: PassError when a layer fell to an earlier stage and the pass does not declare it.
    """
    dropped: dict[str, int] = {}
    known = {layer.name: layer.body for layer in before.layers}
    for layer in after.layers:
        body = known.get(layer.name)
        if body is None:
            continue
        if step.back_to is None:
            if STAGES.index(type(layer.body)) < STAGES.index(type(body)):
                raise PassError(
                    f"pass {step.name!r} took layer {layer.name!r} from stage {body.stage()!r} back to "
                    f"{layer.body.stage()!r} and does not declare it (back_to): this is a bug in the pass"
                )
            continue
        for name, (stage, what) in PARTS.items():
            lost = isinstance(body, stage) and not issubclass(step.back_to, stage)
            kept = getattr(layer.body, name, None) is getattr(body, name, None)
            if lost and not kept and not (name == "stored" and _exact(body)):
                dropped[what] = dropped.get(what, 0) + 1
    if not dropped or step.back_to is None:
        return ()
    layers = max(dropped.values())
    return (
        f"{step.name} works from stage {step.back_to.stage()!r}: {' and '.join(dropped)} of {layers} "
        f"layer{'s' if layers > 1 else ''} dropped",
    )


def _exact(body: Body) -> bool:
    """Whether the stored words are those of the codes, so that nothing is lost with them."""
    return isinstance(body, Programmed) and np.array_equal(body.stored, body.wanted_words())


def _record(outcome: Outcome, step: Pass, seconds: float, count: bool, notes: tuple[str, ...]) -> PassRecord:
    module = outcome.module
    stage = module.stage()
    at = STAGES.index(stage)
    sections = writes = None
    if module.layers and at >= STAGES.index(Sectioned):
        sections = sum(layer.at(Sectioned).sections for layer in module.layers)
    if count and module.layers and at >= STAGES.index(Placed):
        writes = count_module(module).steady.total
    return PassRecord(
        step.name, str(step), stage.stage(), seconds, sections, writes, outcome.facts, notes + outcome.notes
    )


def finish(module: Module) -> Module:
    """A module at stage Programmed: exact words in the cells where no pass has decided otherwise."""
    layers = []
    for layer in module.layers:
        body = layer.at(Placed)
        layers.append(
            layer
            if isinstance(body, Programmed)
            else layer.with_body(body.lower(Programmed, stored=body.wanted_words()))
        )
    return module.with_layers(layers)
