"""A loader with a journal: what firmware has to do, run on the virtual chip; power can be cut at any
write.
"""

from __future__ import annotations

import zlib

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from xbc.backend.program import Program
from xbc.recovery.journal import Journal
from xbc.recovery.resume import Position, rest_of


class PowerCut(Exception):  # noqa: N818 - what happens to a loader, not a fault of the input
    """The power failed in the middle of programming."""


class Loader:
    """Writes the rest of an inference, load by load, and notes every finished one.

    Fields:
        levels: ``[crossbars, rows, columns]`` uint8, the chip.
        executed: ids of the loads that were begun, in order.
        writes: cell writes done.
    """

    def __init__(self, program: Program, levels: Array) -> None:
        """A loader for a chip, which it changes."""
        self.program = program
        self.levels = levels
        self.executed: list[int] = []
        self.writes = 0

    def run(
        self,
        position: Position,
        journal: Journal | None,
        number: int,
        read_back: Array | None = None,
        cut_at: int | None = None,
        draw: np.random.Generator | None = None,
    ) -> None:
        """Loads everything that is not done.

        Args:
            number: of the inference, for the journal.
            read_back: measured levels: only cells that differ are written again.
            cut_at: number of this run's write at which the power fails; that cell is left at a random level.
            draw: of the random level.
        Raises: PowerCut; XbcError when a finished load does not give the promised state.
        """
        start = self.writes
        for ids, _, part in rest_of(self.program, position, read_back):
            for i, load in enumerate(ids.tolist()):
                bar = self.levels[int(part.crossbar[i])]
                a, b = int(part.write_at[i]), int(part.write_at[i + 1])
                self.executed.append(load)
                stop = b
                if cut_at is not None and self.writes - start + b - a > cut_at:
                    stop = a + cut_at - (self.writes - start)
                bar[part.row[a:stop], part.column[a:stop]] = part.after[a:stop]
                self.writes += stop - a
                if stop < b:
                    level = 0 if draw is None else int(draw.integers(2**self.program.target.bits_per_cell))
                    bar[part.row[stop], part.column[stop]] = level
                    raise PowerCut(f"at write {stop - a} of load {load}")
                wanted = (part.crc_first if position.inference == "first" else part.crc_steady)[i]
                found = zlib.crc32(bar)
                if found != int(wanted):
                    raise XbcError(
                        f"after load {load} the crossbar has CRC {found:#010x} instead of {int(wanted):#010x}"
                    )
                if journal is not None:
                    journal.finish(number, load)
