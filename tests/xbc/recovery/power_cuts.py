"""Inferences with power cuts at random writes, and what has to hold after them; shared with the benchmark."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xbc.backend import Program
from xbc.backend.stream import start_levels
from xbc.recovery.journal import RECORD, Journal, read_journal
from xbc.recovery.loader import Loader, PowerCut
from xbc.recovery.resume import Position, locate, position_of_journal

WAYS = ("journal", "journal and read-back", "read-back")


@dataclass
class Outcome:
    cuts: int = 0
    redone_loads: int = 0
    extra_writes: int = 0
    ambiguous: int = 0
    wrong_cells: int = 0


def begin(program: Program, path: Path, number: int, loads: Iterable[int]) -> None:
    """A new journal in which these loads of an inference are finished."""
    path.unlink(missing_ok=True)
    with Journal(path, program, durable=False) as journal:
        for load in loads:
            journal.finish(number, load)


def interrupted_inference(program: Program, path: Path, draw: np.random.Generator, way: str) -> Outcome:
    """One inference (the first or a later one) whose power fails once or twice, and its resumption."""
    number = int(draw.integers(2))
    name = "first" if number == 0 else "steady"
    planned = program.total(f"{name}.writes")
    begin(program, path, 0, range(program.total("loads") * number))
    loader = Loader(program, start_levels(program, name))
    power_cuts = int(draw.integers(1, 3))
    outcome, finished = Outcome(), set[int]()
    left = planned
    while True:
        read_back = None
        if outcome.cuts and way == "read-back":
            found = locate(program, loader.levels, name)
            outcome.ambiguous += len(found) > 1
            position = true_position(found, finished, program)
            done = set(np.flatnonzero(position.done).tolist())
            # the interrupted load counts as finished when the cut pulse left the level that was wanted
            assert all(not writes_of(program, load, name) for load in done - finished - {loader.executed[-1]})
            finished.update(done)
            begin(program, path, number, sorted(done))
        else:
            position = position_of_journal(program, read_journal(path, program), number)
        if outcome.cuts and way != "journal":
            read_back = loader.levels.copy()
        begun = len(loader.executed)
        cut_at = int(draw.integers(left)) if outcome.cuts < power_cuts and left else None
        try:
            with Journal(path, program, durable=False) as journal:
                loader.run(position, journal, number, read_back, cut_at, draw)
            cut = False
        except PowerCut:
            cut = True
            outcome.cuts += 1
            with path.open("ab") as stream:  # the record that was being written is torn
                stream.write(draw.bytes(int(draw.integers(RECORD.size))))
        now = loader.executed[begun : len(loader.executed) - cut]
        outcome.redone_loads += sum(writes_of(program, load, name) > 0 for load in finished.intersection(now))
        finished.update(now)
        left = max(planned - loader.writes, 0)
        if not cut:
            break
    outcome.extra_writes = loader.writes - planned
    outcome.wrong_cells = int(np.count_nonzero(loader.levels != start_levels(program, "steady")))
    assert finished >= {load for load in range(program.total("loads")) if writes_of(program, load, name)}
    return outcome


def true_position(found: list[Position], finished: set[int], program: Program) -> Position:
    """The position at which exactly the finished loads are done, as far as they write anything."""
    for position in found:
        done = set(np.flatnonzero(position.done).tolist())
        if all(not count(program, load) for load in finished - done):
            return position
    raise AssertionError("the true position is not among those that the read-back fits")


def writes_of(program: Program, load: int, name: str) -> int:
    loads, end = program.loads, "_first" if name == "first" else ""
    return int(loads["set" + end][load] + loads["reset" + end][load])


def count(program: Program, load: int) -> int:
    return writes_of(program, load, "first") + writes_of(program, load, "steady")
