"""``xbc verify``: every promise of an emitted program, checked from its files alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from xbc.backend.problems import Broken, Findings, Problem, Report
from xbc.backend.program import Program, ProgramError
from xbc.backend.tables import MANIFEST
from xbc.chip.agreement import compare_with_module
from xbc.chip.replay import Progress, Replay, _silent, replay, steady_totals


def verify_program(folder: str | Path, progress: Progress = _silent) -> Report:
    """Checks digests, structure, order and counts of a program and replays it on a virtual chip.

    Damaged files end the check: what cannot be trusted is not replayed.  Tables that replay well are compared
    with the program's IR.

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
    totals = _totals(program, run)
    for name, found in _flat(totals):
        said = _look(program.manifest["totals"], name)
        if said != found:
            findings.add(Problem(MANIFEST, f"totals.{name} is given as {said}, the replay has {found}"))
    _check_counts(program, totals, run, findings)
    if not findings.count:
        findings.extend(compare_with_module(program))
    facts = {
        **totals,
        "weights": int(sum(codes.size for codes in run.codes.values())),
        "wear": wear_summary(run.wear),
    }
    return Report(tuple(findings.kept), findings.count, facts)


def effective_codes(program: Program, progress: Progress = _silent) -> dict[str, Array]:
    """Layer name -> ``[outputs, inputs]`` int32: the codes that the replayed cells stand for.

    The weight is ``code * scale`` of the layers table.

    Raises: XbcError when the replay finds a broken promise.
    """
    try:
        run = replay(program, progress)
    except Broken as broken:
        raise XbcError(f"{program.folder}: {broken.problems[0]}; compile the model again") from None
    if run.findings.count:
        raise XbcError(
            f"{program.folder}: {run.findings.kept[0]}; xbc verify lists all, compile the model again"
        )
    return run.codes


def wear_summary(wear: Array) -> dict[str, float]:
    """Writes per cell of the chip and steady inference: maximum, 99th percentile, mean."""
    return {"max": int(wear.max()), "p99": float(np.percentile(wear, 99)), "mean": float(wear.mean())}


def _totals(program: Program, run: Replay) -> dict[str, Any]:
    loads = program.loads
    return {
        "layers": len(program.layers),
        "sections": len(run.counts),
        "loads": len(run.counts),
        "steps": len(np.unique(loads["step"])),
        "write_rows": int(loads["write_count"].sum()),
        **steady_totals(run),
    }


def _check_counts(program: Program, totals: dict[str, Any], run: Replay, findings: Findings) -> None:
    """What the compiler counted itself, as far as a replay can tell."""
    counts = program.manifest.get("counts")
    if not isinstance(counts, Mapping):
        return
    wear = wear_summary(run.wear)
    known = {
        "weights": int(sum(codes.size for codes in run.codes.values())),
        "layers": totals["layers"],
        "sections": totals["sections"],
        "loads": totals["loads"],
        "set": totals["steady"]["set"],
        "reset": totals["steady"]["reset"],
        "writes.full": totals["full"],
        "writes.emitted": totals["steady"]["writes"],
        "first_deployment.full": totals["full"],
        "first_deployment.emitted": totals["first"]["writes"],
        **{f"wear.{name}": value for name, value in wear.items()},
    }
    for name, found in known.items():
        said = _look(counts, name)
        if said is not None and said != found:
            findings.add(Problem(MANIFEST, f"counts.{name} is given as {said}, the replay has {found}"))


def _look(table: Mapping[str, Any], name: str) -> Any:
    value: Any = table
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
