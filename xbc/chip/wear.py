"""Wear of a program's cells over its life, from the emitted tables."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ir.errors import XbcError
from passes.level_wear import lifetimes
from passes.solvers.levelling import Plan, Program, choose
from xbc import backend
from xbc.backend.stream import run_chunk, skipped_phase, stream_loads
from xbc.chip.chip import Chip

ENDURANCES = (1e5, 1e6, 1e7, 1e8, 1e9)


def wear_program(program: str | os.PathLike[str] | backend.Program) -> dict[str, Any]:
    """How a program wears its chip, and how long the worst cell lives with and without levelling.

    Returns: what ``xbc wear --json`` prints: ``writes_per_inference``, ``worst_cell``, ``mean``, ``by_column``, the
        ``plan`` of levelling that the program carries, ``lifetimes`` per endurance.
    Raises: XbcError.
    """
    opened = program if isinstance(program, backend.Program) else backend.Program.open(program)
    wear = program_wear(opened)
    plan = plan_of(opened)
    return {
        "writes_per_inference": int(wear.wear.sum()),
        "worst_cell": int(wear.wear.max()),
        "mean": float(wear.wear.mean()),
        "cells": wear.wear.size,
        "cells_used": int(wear.touched.sum()),
        "by_column": wear.wear.sum(axis=(0, 1)).tolist(),
        "plan": None
        if plan is None
        else {"inferences_per_epoch": plan.inferences, "epochs": len(plan.shifts)},
        "lifetimes": wear_table(opened, wear, plan),
    }


def program_wear(program: backend.Program) -> Program:
    """Wear, state and use of every cell, as levelling needs them.

    ``touched`` are the cells that some load drives, written or not.
    """
    chip = Chip.of(program.target)
    blank, state = chip.levels.copy(), chip.levels
    counts = {name: np.zeros(state.shape, np.int64) for name in ("first", "steady")}
    for part in stream_loads(program):
        bar = part.crossbar[part.owner()]
        for name, wear in counts.items():
            acts = part.phase != skipped_phase(name)
            np.add.at(wear, (bar[acts], part.row[acts], part.column[acts]), 1)
        run_chunk(state, part, "first")
    return Program(counts["steady"], counts["first"], state, _touched(program), blank)


def _touched(program: backend.Program) -> Any:
    target = program.target
    used = np.zeros((target.crossbars, target.rows, target.columns), np.bool_)
    width = [layer.columns_per_weight for layer in program.layers]
    crossbar = program.loads["crossbar"]
    at = 0
    for block in program.sections():
        inputs, outputs = block["inputs"], block["outputs"]
        for i in range(len(block["section"])):
            rows = inputs.row(i) >= 0
            layer = int(block["layer"][i])
            groups = np.ones(1, np.bool_) if program.layers[layer].gated else outputs.row(i) >= 0
            columns = np.repeat(groups, width[layer])
            used[crossbar[at + i], : len(rows), : len(columns)] |= rows[:, None] & columns
        at += len(block["section"])
    return used


def plan_of(program: backend.Program) -> Plan | None:
    """The rotation plan that the manifest carries, None without one.

    Raises: XbcError when it is damaged or names crossbars that the chip does not have.
    """
    facts = (program.manifest.get("provenance") or {}).get("facts", {})
    entry = facts.get("level-wear")
    if not isinstance(entry, dict) or "plan" not in entry:
        return None
    try:
        plan = Plan.from_dict(entry["plan"])
    except (KeyError, TypeError, ValueError):
        raise XbcError(
            f"{program.folder}: its plan of wear levelling is damaged; compile the model again"
        ) from None
    if any(not 0 <= c < program.target.crossbars for c in plan.fixed):
        raise XbcError(
            f"{program.folder}: its plan of wear levelling is for another chip; compile the model again"
        )
    return plan


def wear_table(program: backend.Program, wear: Program, plan: Plan | None) -> list[dict[str, Any]]:
    """Lifetimes at the target's endurance and at 1e5 to 1e9 writes.

    The plan is that of the manifest, or one chosen for each endurance.
    """
    target = program.target
    fixed = target.faulty.crossbars()
    axes = (True, target.routing != "fixed", True)
    rows = []
    for endurance in sorted({float(target.endurance), *ENDURANCES}):
        used = plan or choose(wear, endurance, fixed, axes, 256)
        rows.append(
            {
                "endurance": endurance,
                "plan": "manifest" if plan else "chosen",
                **lifetimes(wear, used, endurance),
            }
        )
    return rows
