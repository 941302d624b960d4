"""The loads of a program as a bounded stream: what every export format reads and every export reader gives
back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import njit

from ir.arrays import Array
from ir.errors import XbcError
from ir.target import Target
from xbc.backend.program import Program
from xbc.backend.structure import check_tables
from xbc.backend.tables import FIRST_ONLY, LATER_ONLY
from xbc.backend.walk import blank_chip

WRITE_COLUMNS: Final = ("row", "column", "before", "after", "phase", "verify")
CHUNK_WRITES: Final = 1 << 20
CHUNK_IMAGE_BYTES: Final = 1 << 24


@dataclass(frozen=True)
class Loads:
    """Consecutive loads of a program and their writes.

    Fields:
        start: id of the first load.
        step, crossbar, section, previous, crc_first, crc_steady: ``[n]``, as in the loads table.
        write_at: ``[n + 1]`` int64; writes of load ``start + i`` are ``write_at[i] .. write_at[i + 1]``.
        row, column, before, after, phase, verify: ``[writes]``, as in the writes table.
    """

    start: int
    step: Array
    crossbar: Array
    section: Array
    previous: Array
    crc_first: Array
    crc_steady: Array
    write_at: Array
    row: Array
    column: Array
    before: Array
    after: Array
    phase: Array
    verify: Array

    def __len__(self) -> int:
        """Number of loads."""
        return len(self.crossbar)

    @property
    def stop(self) -> int:
        """Id after the last load."""
        return self.start + len(self)

    def owner(self) -> Array:
        """``[writes]`` int64: index (in this chunk) of the load that each write belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.write_at))


def count_of(program: Program, loads: int | None) -> int:
    """How many loads an export of the first ``loads`` ones has.

    Raises: XbcError when the program has fewer.
    """
    total = program.total("loads")
    if loads is None:
        return total
    if not 1 <= loads <= total:
        raise XbcError(f"--loads {loads} is outside 1..{total}, the loads of {program.folder}")
    return loads


def stream_loads(
    program: Program, start: int = 0, stop: int | None = None, most: int | None = None
) -> Iterator[Loads]:
    """Chunks of at most ``most`` loads and about ``CHUNK_WRITES`` writes, in load order.

    Raises: XbcError when the tables contradict each other.
    """
    check_tables(program)
    table = program.loads
    stop = program.total("loads") if stop is None else stop
    if stop <= start:
        return
    first_row = table["write_start"]
    ends = first_row + table["write_count"]
    rows = _Rows(program, int(first_row[start]), int(ends[stop - 1]))
    a = start
    while a < stop:
        reach = int(np.searchsorted(ends, first_row[a] + CHUNK_WRITES, side="right"))
        b = min(stop, max(reach, a + 1), a + most if most else stop)
        part = slice(a, b)
        writes = rows.take(int(ends[b - 1] - first_row[a]))
        chunk = Loads(
            start=a,
            step=table["step"][part],
            crossbar=table["crossbar"][part],
            section=table["section"][part],
            previous=table["previous"][part],
            crc_first=table["post_crc_first"][part],
            crc_steady=table["post_crc_steady"][part],
            write_at=np.append(first_row[part] - first_row[a], ends[b - 1] - first_row[a]),
            **writes,
        )
        check_places(chunk, program.target, str(program.folder))
        yield chunk
        a = b


def check_places(chunk: Loads, target: Target, where: str) -> None:
    """Raises XbcError unless every crossbar, row, column and level of the writes is one of the chip's."""
    limits = {
        "crossbar": target.crossbars,
        "row": target.rows,
        "column": target.columns,
        "before": 2**target.bits_per_cell,
        "after": 2**target.bits_per_cell,
        "phase": 3,
    }
    for name, limit in limits.items():
        values = getattr(chunk, name)
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < limit:
            wrong = int(values.max()) if int(values.max()) >= limit else int(values.min())
            raise XbcError(
                f"{where}: {name} {wrong} is outside 0..{limit - 1}: this is no program of its chip"
            )


class _Rows:
    """Rows of the writes table, taken by number."""

    def __init__(self, program: Program, start: int, stop: int) -> None:
        self._program = program
        self._blocks = program.writes(start, stop)
        self._held: dict[str, Array] | None = None

    def take(self, rows: int) -> dict[str, Array]:
        parts: list[dict[str, Array]] = []
        while rows:
            if self._held is None:
                block = next(self._blocks, None)
                if block is None:
                    raise XbcError(
                        f"{self._program.folder}: the writes table ends early; compile the model again"
                    )
                self._held = {name: block[name] for name in WRITE_COLUMNS}
            here = min(rows, len(self._held["row"]))
            parts.append({name: column[:here] for name, column in self._held.items()})
            left = {name: column[here:] for name, column in self._held.items()}
            self._held = left if len(left["row"]) else None
            rows -= here
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return {name: np.zeros(0, np.bool_ if name == "verify" else np.int32) for name in WRITE_COLUMNS}
        return {name: np.concatenate([part[name] for part in parts]) for name in WRITE_COLUMNS}


def skipped_phase(inference: str) -> int:
    """The phase of writes that an inference does not do."""
    return LATER_ONLY if inference == "first" else FIRST_ONLY


@njit(cache=True, nogil=True)
def apply_loads(
    levels: Any,
    crossbar: Any,
    write_at: Any,
    row: Any,
    column: Any,
    after: Any,
    phase: Any,
    skip: int,
    images: Any,
) -> None:
    """Applies the writes of loads to ``levels [crossbars, rows, columns]``, except those of phase ``skip``.

    ``images [n, rows, columns]`` (or of length 0) takes the crossbar after each load.
    """
    keep = images.shape[0] > 0
    for i in range(crossbar.shape[0]):
        c = crossbar[i]
        for w in range(write_at[i], write_at[i + 1]):
            if phase[w] != skip:
                levels[c, row[w], column[w]] = after[w]
        if keep:
            for r in range(levels.shape[1]):
                for k in range(levels.shape[2]):
                    images[i, r, k] = levels[c, r, k]


def run_chunk(levels: Array, chunk: Loads, inference: str, images: Array | None = None) -> None:
    """Applies a chunk of ``stream_loads``, which has checked its places, to ``levels`` of that chip in place."""
    empty = np.zeros((0, 1, 1), np.uint8)
    apply_loads(
        levels, chunk.crossbar, chunk.write_at, chunk.row, chunk.column, chunk.after, chunk.phase,
        skipped_phase(inference), empty if images is None else images,
    )  # fmt: skip


def start_levels(program: Program, inference: str) -> Array:
    """``[crossbars, rows, columns]`` uint8 before the first load: blank cells, or what an inference leaves
    behind.
    """
    levels = blank_chip(program.target)[0]
    if inference == "steady":
        for chunk in stream_loads(program):
            run_chunk(levels, chunk, "first")
    return levels


def stream_images(
    program: Program, inference: str, stop: int | None = None, levels: Array | None = None
) -> Iterator[tuple[Loads, Array]]:
    """(loads, ``[n, rows, columns]`` uint8 the crossbar after each of them) in bounded memory.

    Args:
        levels: where the chip stands before the first load; changed in place.  ``start_levels`` when None.
    """
    target = program.target
    if levels is None:
        levels = start_levels(program, inference)
    most = max(1, CHUNK_IMAGE_BYTES // (target.rows * target.columns))
    for chunk in stream_loads(program, 0, stop, most):
        images = np.empty((len(chunk), target.rows, target.columns), np.uint8)
        run_chunk(levels, chunk, inference, images)
        yield chunk, images
