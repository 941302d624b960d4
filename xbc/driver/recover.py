"""A program and the chip that holds it: what a read-back says, and the rest of what a power cut interrupted."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from ir.arrays import Array
from ir.errors import XbcError
from ir.progress import Progress, silent
from xbc.backend import Program
from xbc.chip import effective_codes
from xbc.recovery.journal import read_journal
from xbc.recovery.readback import (
    Deviations,
    Effect,
    compare,
    follow,
    read_levels,
    repair_table,
    with_deviations,
)
from xbc.recovery.rest import write_rest
from xbc.recovery.resume import checked_levels, decide, position_from_read_back
from xbc.simulate.data import Samples
from xbc.simulate.ideal import compiled_model, evaluate
from xbc.simulate.programs import ProgramLike, opened
from xbc.simulate.replayed import read_set
from xbc.system.files import whole_file
from xbc.system.outputs import check_file
from xbc.targets.text import target_toml

Inference = Literal["first", "steady"]
Levels = str | os.PathLike[str] | Array
"""Measured levels: a ``.npy`` or Parquet file (see ``read_levels``), or ``[crossbars, rows, columns]``."""


def _measured(program: Program, levels: Levels) -> tuple[Array, Array]:
    if isinstance(levels, np.ndarray):
        return checked_levels(program, levels), np.ones(levels.shape, np.bool_)
    return read_levels(Path(levels), program)


def readback_program(
    program: ProgramLike, levels: Levels, *, load: int | None = None, inference: Inference = "steady",
    stuck: bool = False, repair: str | os.PathLike[str] | None = None,
    faulty: str | os.PathLike[str] | None = None, data: Samples | None = None,
    limit: int | None = None, threads: int = 2, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Compare measured levels with the expected post-state of a load.

    Args:
        levels: of every cell, or a table of some.
        load: after which the chip was read, -1: before the first; None: the last.
        stuck: take deviating cells as dead: no later write changes them.
        repair: Parquet file to write the repairing writes to.
        faulty: TOML file to write the chip to, with every deviating cell listed as faulty.
        data: set; the network is run with what the chip then holds, and as intended.
        limit: only the first samples of ``data``.
    Returns: what ``xbc readback --json`` prints: ``cells_deviating``, ``cells``, ``layers``, ``repair_writes``, ...
    Raises: XbcError.
    """
    source = opened(program)
    if repair is not None:
        check_file(Path(repair), "a Parquet")
    if faulty is not None:
        check_file(Path(faulty), "a TOML")
    measured, known = _measured(source, levels)
    at = source.total("loads") - 1 if load is None else load
    deviations = compare(source, measured, known, at, inference)
    effect = follow(source, deviations, stuck)
    table, hopeless = repair_table(source, deviations)
    facts: dict[str, Any] = {
        "load": at,
        "inference": inference,
        "cells_measured": int(known.sum()),
        "cells_deviating": len(deviations),
        "cells_healed_by_the_program": int(effect.healed.sum()),
        "cells_beyond_repair": hopeless,
        "layers": _layers(source, effect),
        "cells": _cells(deviations, effect),
        "repair_writes": table.num_rows,
    }
    if repair is not None:
        _write_repair(Path(repair), table)
        facts["repair"] = str(repair)
    if faulty is not None:
        cells = with_deviations(source.target, deviations, known)
        with whole_file(Path(faulty)) as partial:
            chip = dataclasses.replace(source.target, faulty=cells)
            partial.write_text(target_toml(chip), encoding="utf-8")
        facts |= {"faulty": str(faulty), "cells_faulty": len(cells)}
    if data is not None:
        facts["evaluation"] = _evaluate(source, effect, data, limit, threads, progress)
    return facts


def resume_program(
    program: ProgramLike, output: str | os.PathLike[str], *, journal: str | os.PathLike[str] | None = None,
    levels: Levels | None = None, inference: Inference | None = None, number: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the rest of an interrupted inference to the directory ``output``, whole or not at all.

    Args:
        journal: of the loader: which loads are finished.
        levels: of every cell; alone, or with the journal so that cells that hold their level are not written again.
        inference: which one was interrupted, when there is no journal to say it.
        number: of the inference that was going on (0: the first), where the journal ends with a whole one.
    Returns: what ``xbc resume --json`` prints: ``loads_done``, ``loads_left``, ``writes_left``, ...
    Raises: XbcError, also where levels alone fit several states of the program.
    """
    if journal is None and levels is None:
        raise XbcError("resuming needs a journal, levels, or both")
    if journal is not None and inference is not None:
        raise XbcError("the journal says which inference it is: leave inference away")
    if journal is None and number is not None:
        raise XbcError("a number belongs to a journal; with a read-back alone say inference")
    source = opened(program)
    measured = None
    if levels is not None:
        measured, whole = _measured(source, levels)
        if not whole.all():
            raise XbcError(f"the levels leave {int((~whole).sum())} cells out: resuming needs all of them")
    facts: dict[str, Any] = {}
    if journal is not None:
        state = read_journal(Path(journal), source)
        position, going_on = decide(source, state, number, measured)
        facts = {
            "journal_records": state.records,
            "torn_bytes": state.torn,
            "inference_number": going_on,
        }
    elif measured is None or inference is None:
        raise XbcError("without a journal, inference says which one was interrupted: 'first' or 'steady'")
    else:
        position = position_from_read_back(source, measured, inference)
    return facts | write_rest(source, position, measured, Path(output))


def _layers(program: Program, effect: Effect) -> list[dict[str, Any]]:
    out = []
    for i, layer in enumerate(program.layers):
        change = effect.change[effect.layer == i]
        if len(change):
            out.append(
                {
                    "layer": layer.name,
                    "weights_changed": len(change),
                    "weights": layer.outputs * layer.inputs,
                    "largest_change": int(np.abs(change).max()),
                }
            )
    return out


def _cells(deviations: Deviations, effect: Effect) -> list[dict[str, Any]]:
    names = ("crossbar", "row", "column", "expected", "measured", "resident")
    columns = {name: getattr(deviations, name).tolist() for name in names}
    columns["healed"] = effect.healed.tolist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _write_repair(output: Path, table: Any) -> None:
    with whole_file(output) as partial:
        pq.write_table(table, partial, compression="zstd")


def _evaluate(
    program: Program, effect: Effect, data: Samples, limit: int | None, threads: int, progress: Progress
) -> dict[str, Any]:
    codes = effective_codes(program, progress)
    host = program.host_model()
    intended = compiled_model(host, program.layers, codes)
    held = compiled_model(host, program.layers, effect.codes(program, codes))
    sets = read_set(data, intended, limit)
    facts = evaluate(intended, held, sets, threads=threads, progress=progress)
    facts.pop("notes")
    return facts
