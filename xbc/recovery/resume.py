"""Going on after a power cut: what is finished, and what is still to write.

Every write gives the level that its cell takes, so the writes of an interrupted load can be done again, and
a cell that was caught in the middle of a pulse ends where it should.  What is finished is known from the
loader's journal, or is found by comparing a read-back with the states that the program goes through.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numba import njit

from ir.arrays import Array
from ir.errors import XbcError
from xbc.backend.program import Program
from xbc.backend.stream import Loads, skipped_phase, start_levels, stream_loads
from xbc.recovery.journal import State

MOST_POSITIONS: Final = 8


@dataclass(frozen=True)
class Position:
    """How far a chip has come.

    Fields:
        inference: ``first`` (from blank cells) or ``steady``.
        done: ``[loads]`` bool, finished loads of this inference.
    """

    inference: str
    done: Array

    def uncertain(self, program: Program) -> Array:
        """``[loads]`` bool: the first unfinished load of every crossbar.

        Its writes may have been begun: a cell it writes holds the level before, the level after or, where a
        pulse was cut, any other.
        """
        previous = program.loads["previous"]
        return np.asarray(~self.done & ((previous < 0) | self.done[np.maximum(previous, 0)]))


@njit(cache=True, nogil=True)
def _close_step(state: Any, fits: Any) -> None:
    if state[0] == state[1] and state[4] >= 0:
        fits[state[4]] = True
    state[0] += state[2] - state[1]
    state[1] = state[2] = 0


@njit(cache=True, nogil=True)
def _follow(
    load: int, step: Any, crossbar: Any, write_at: Any, row: Any, column: Any, after: Any, phase: Any,
    skip: int,
    levels: Any, chip: Any, state: Any, fits: Any, missing: Any, acting: Any,
) -> None:  # fmt: skip
    """Walks loads and notes which steps the read-back ``levels`` can have been interrupted in.

    ``state``: cells that differ before the step, those of them that the step writes, cells it writes that
    differ from what it writes, number and first load of the step.  ``fits[first load]``: every differing
    cell is one that the step writes.  ``missing``/``acting``: writes of each load whose cell does not hold
    their level / in all.
    """
    for i in range(crossbar.shape[0]):
        if step[i] != state[3]:
            _close_step(state, fits)
            state[3], state[4] = step[i], load + i
        c = crossbar[i]
        for w in range(write_at[i], write_at[i + 1]):
            if phase[w] == skip:
                continue
            found = levels[c, row[w], column[w]]
            state[1] += chip[c, row[w], column[w]] != found
            differs = after[w] != found
            state[2] += differs
            missing[load + i] += differs
            acting[load + i] += 1
            chip[c, row[w], column[w]] = after[w]


def locate(program: Program, levels: Array, inference: str) -> list[Position]:
    """Where in an inference the chip can be when it holds ``levels``.

    The loader finishes a step before it begins the next one; inside the interrupted step the writes may have
    come in any order, and any cell they write may hold any level.  Positions between which nothing is written
    count as one (the earliest); more than ``MOST_POSITIONS`` are not listed.

    Args:
        levels: ``[crossbars, rows, columns]`` uint8, what was read back.
    Raises: XbcError when the shape is not the chip's.
    """
    chip = start_levels(program, inference)
    levels = checked_levels(program, levels)
    loads = program.total("loads")
    fits = np.zeros(loads, np.bool_)
    missing, acting = np.zeros(loads, np.int64), np.zeros(loads, np.int64)
    state = np.array([np.count_nonzero(chip != levels), 0, 0, -1, -1], np.int64)
    for part in stream_loads(program):
        _follow(
            part.start, part.step, part.crossbar, part.write_at, part.row, part.column, part.after,
            part.phase,
            skipped_phase(inference), levels, chip, state, fits, missing, acting,
        )  # fmt: skip
    _close_step(state, fits)
    step = program.loads["step"]
    found: list[Position] = []
    for first in np.flatnonzero(fits).tolist():
        done = np.arange(loads) < first
        done |= (step == step[first]) & (missing == 0)
        if not found or np.any(acting[done & ~found[-1].done]):
            found.append(Position(inference, done))
        if len(found) > MOST_POSITIONS:
            return found
    if state[0] == 0 and (not found or np.any(acting[~found[-1].done])):
        found.append(Position(inference, np.ones(loads, np.bool_)))
    return found


def checked_levels(program: Program, levels: Array) -> Array:
    """``levels`` as uint8.  Raises XbcError unless they are levels of every cell of the program's chip.

    Whole numbers of a floating type are levels too.
    """
    target = program.target
    shape = (target.crossbars, target.rows, target.columns)
    if levels.shape != shape:
        raise XbcError(
            f"the read-back has shape {list(levels.shape)}, the chip of the program is {list(shape)}"
        )
    top = 2**target.bits_per_cell - 1
    if levels.dtype.kind not in "uif":
        raise XbcError(f"the read-back has type {levels.dtype}; give integers 0 to {top}")
    broken = levels != np.rint(levels) if levels.dtype.kind == "f" else np.zeros(0, np.bool_)
    for what, wrong in (("no level", broken), ("out of range", (levels < 0) | (levels > top))):
        if wrong.any():
            place = [int(i) for i in np.argwhere(wrong)[0]]
            raise XbcError(
                f"the read-back holds {levels[tuple(place)]} at {place} (crossbar, row, column), which is {what}: "
                f"levels of this chip are whole numbers from 0 to {top}; convert conductances to the "
                f"nearest level first"
            )
    return levels.astype(np.uint8, copy=False)


def position_from_read_back(program: Program, levels: Array, inference: str) -> Position:
    """The one position that a read-back fits.

    Raises: XbcError when it fits none (cells deviate: repair first) or several (a journal is needed).
    """
    found = locate(program, levels, inference)
    if not found:
        raise XbcError(
            f"the read-back fits no point of the {inference} inference of {program.folder}: cells deviate "
            f"beyond the interrupted load; give the journal, or repair the chip with xbc readback"
        )
    if len(found) > 1:
        places = ", ".join(str(int(p.done.sum())) for p in found[:MOST_POSITIONS])
        raise XbcError(
            f"the read-back fits several points of the {inference} inference (after {places} finished "
            f"loads): the cells alone do not tell which; give the journal"
        )
    return found[0]


def rest_of(
    program: Program, position: Position, levels: Array | None = None
) -> Iterator[tuple[Array, Array, Loads]]:
    """What is still to be loaded, in load order.

    Writes of other inferences than the position's are left out.  Writes of an interrupted load are all
    verified (their cells may hold anything); with a read-back only those remain whose cell does not hold
    the level yet.

    Yields: (load ids ``[n]``, uncertain ``[n]`` bool, the loads themselves with the writes to do).
    """
    uncertain = position.uncertain(program)
    skip = skipped_phase(position.inference)
    for part in stream_loads(program):
        todo = ~position.done[part.start : part.stop]
        if not todo.any():
            continue
        owner = part.owner()
        doubtful = uncertain[part.start : part.stop][owner]
        acts = todo[owner] & (part.phase != skip)
        before = part.before
        if levels is not None:
            found = levels[part.crossbar[owner], part.row, part.column]
            acts &= ~doubtful | (found != part.after)
            before = np.where(doubtful, found, before).astype(np.uint8)
        counts = np.bincount(owner[acts], minlength=len(part))[todo]
        yield (
            np.flatnonzero(todo) + part.start,
            uncertain[part.start : part.stop][todo],
            replace(
                part,
                step=part.step[todo],
                crossbar=part.crossbar[todo],
                section=part.section[todo],
                previous=part.previous[todo],
                crc_first=part.crc_first[todo],
                crc_steady=part.crc_steady[todo],
                write_at=np.concatenate([[0], np.cumsum(counts)]),
                row=part.row[acts],
                column=part.column[acts],
                before=before[acts],
                after=part.after[acts],
                phase=part.phase[acts],
                verify=(part.verify | doubtful)[acts],
            ),
        )


def position_of_journal(program: Program, state: State, number: int | None = None) -> Position:
    """Where the loader stands according to its journal.

    Args:
        number: of the inference that is going on; None: the last one that the journal names.
    Raises: XbcError when the journal is not at that inference.
    """
    done = state.done
    if number is not None and number != state.inference:
        if number != state.inference + 1 or not done.all():
            raise XbcError(f"the journal stands in inference {state.inference}, not at the start of {number}")
        done = np.zeros_like(done)
    inference = state.inference if number is None else number
    return Position("first" if inference == 0 else "steady", done)


def misfits(program: Program, position: Position, levels: Array) -> Array:
    """``[cells, 3]`` crossbar, row and column of cells that a chip at ``position`` cannot hold as read back.

    Cells that a load writes which may have been begun can hold anything.
    """
    expected = start_levels(program, position.inference)
    free = np.zeros(expected.shape, np.bool_)
    begun, skip = position.uncertain(program), skipped_phase(position.inference)
    for part in stream_loads(program):
        owner = part.owner()
        acts, bar = part.phase != skip, part.crossbar[owner]
        done = acts & position.done[part.start : part.stop][owner]
        expected[bar[done], part.row[done], part.column[done]] = part.after[done]  # the last write stays
        open_ = acts & begun[part.start : part.stop][owner]
        free[bar[open_], part.row[open_], part.column[open_]] = True
    return np.argwhere((levels != expected) & ~free)


def decide(
    program: Program, state: State, number: int | None = None, levels: Array | None = None
) -> tuple[Position, int]:
    """(position, number of its inference) by journal, inference number and read-back together.

    A journal whose last inference is whole does not say whether the next one had begun: its first loads leave no
    record before they end.  The number or the read-back does.

    Args:
        number: of the inference that was going on, None where it is not known.
        levels: ``[crossbars, rows, columns]`` uint8, what was read back, None without.
    Raises: XbcError when they leave it open, or contradict each other.
    """
    last = state.inference
    if number is None and levels is None and state.done.all() and len(state.done):
        raise XbcError(
            f"the journal ends inference {last}; whether inference {last + 1} had begun it does not say: give "
            f"--number {last + 1} when it may have, --number {last} when not, or a read-back (--levels)"
        )
    tries = [last if number is None else number]
    if number is None and state.done.all():
        tries.append(last + 1)
    wrong = None
    for inference in tries:
        position = position_of_journal(program, state, inference)
        if levels is None:
            return position, inference
        found = misfits(program, position, checked_levels(program, levels))
        if not len(found):
            return position, inference
        wrong = found if wrong is None or len(found) < len(wrong) else wrong
    assert wrong is not None
    bar, row, column = wrong[0].tolist()
    raise XbcError(
        f"the read-back does not fit the journal: {len(wrong)} cells that no begun load writes hold another level, "
        f"first crossbar {bar}, row {row}, column {column}; repair them first (xbc readback)"
    )
