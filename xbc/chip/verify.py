"""``xbc verify``: every promise of an emitted program, checked from its files alone."""

from __future__ import annotations

from pathlib import Path

from ir.arrays import Array
from ir.errors import XbcError
from ir.progress import Progress, silent
from passes.counting import wear_summary
from xbc.backend.problems import Broken, Problem, Report
from xbc.backend.program import Program, ProgramError
from xbc.backend.tables import MODULE
from xbc.chip.agreement import compare_with_module
from xbc.chip.figures import Recount, check_replayed, check_stated, replayed_totals
from xbc.chip.replay import Replay, replay


def verify_program(folder: str | Path, progress: Progress = silent, recount: Recount | None = None) -> Report:
    """Checks digests, structure, order and counts of a program and replays it on a virtual chip.

    Damaged files end the check: what cannot be trusted is not replayed.  Tables that replay well are compared
    with the program's IR, and the counts that no replay tells with those that ``recount`` finds in it.

    Raises: XbcError when ``folder`` holds no program of this format version, its manifest is damaged, or its
        chip is too large to simulate.
    """
    program = Program.open(folder, check=False)
    if program.faults:
        problems = tuple(Problem(name, fault) for name, fault in program.faults.items())
        return Report(problems, len(problems))
    try:
        run = replay(program, progress)
    except Broken as broken:
        return Report(broken.problems, len(broken.problems))
    except ProgramError as error:
        return Report((Problem(error.file, error.fault),), 1)
    findings = run.findings
    totals = replayed_totals(program, run)
    findings.extend(check_replayed(program, run, totals))
    unchecked: list[str] = []
    if not findings.count:
        try:
            module = program.module()
        except XbcError as error:
            findings.add(Problem(MODULE, str(error)))
        else:
            findings.extend(compare_with_module(program, module, run))
            if not findings.count:
                stated, unchecked = check_stated(program, module, recount)
                findings.extend(stated)
    facts = {
        **totals,
        "weights": int(sum(codes.size for codes in run.codes.values())),
        "wear": wear_summary(run.wear),
        "unchecked": unchecked,
    }
    return Report(tuple(findings.kept), findings.count, facts)


def sound_replay(program: Program, progress: Progress = silent) -> Replay:
    """A replay without findings.

    Raises: XbcError when it finds a broken promise.
    """
    try:
        run = replay(program, progress)
    except Broken as broken:
        raise XbcError(f"{program.folder}: {broken.problems[0]}; compile the model again") from None
    if run.findings.count:
        raise XbcError(
            f"{program.folder}: {run.findings.kept[0]}; xbc verify lists all, compile the model again"
        )
    return run


def effective_codes(program: Program, progress: Progress = silent) -> dict[str, Array]:
    """Layer name -> ``[outputs, inputs]`` int32: the codes that the replayed cells stand for.

    The weight is ``code * scale`` of the layers table.

    Raises: XbcError when the replay finds a broken promise.
    """
    return sound_replay(program, progress).codes
