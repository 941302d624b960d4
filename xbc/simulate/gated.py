"""Sections whose rows have outputs of their own (scope=layer): what each read of them drives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ir.arrays import Array
from ir.stages import UNUSED, Programmed


@dataclass(frozen=True, eq=False)
class Reads:
    """The reads of a section table, each of one output.

    Fields:
        body: a section for each read, with the rows it drives (moved together); its place in time and space is
            that of the section it reads.
        section: ``[reads]`` section that is read.
        row: ``[reads, rows]`` row of that section which stands in each row of ``body``; 0 behind the last.
    """

    body: Programmed
    section: Array
    row: Array

    def of_cells(self, values: Array) -> Array:
        """``[sections, rows, ...]`` values of cells as the reads meet them, ``[reads, rows, ...]``."""
        return np.asarray(values[self.section[:, None], self.row])


def one_output_reads(body: Programmed) -> Reads | None:
    """The reads of a body, None when every section is read in one go.

    Rows of other outputs are not driven in a read: to the converters they are what don't-care rows are.
    """
    if body.row_outputs is None:
        return None
    section, row = np.nonzero(body.row_outputs >= 0)
    output = body.row_outputs[section, row]
    order = np.lexsort((row, output, section))
    section, row, output = section[order], row[order], output[order]
    fresh = (np.diff(section, prepend=-1) != 0) | (np.diff(output, prepend=-1) != 0)
    read = np.cumsum(fresh) - 1
    first = np.flatnonzero(fresh)
    place = np.arange(len(read)) - first[read]
    shape = len(first), int(place.max(initial=-1)) + 1
    rows = np.zeros(shape, np.int32)
    rows[read, place] = row
    inputs = np.full(shape, UNUSED, np.int32)
    inputs[read, place] = body.inputs[section, row]
    stored = np.zeros((*shape, 1), body.stored.dtype)
    stored[read, place] = body.stored[section, row]
    of = section[first]
    fields = {name: getattr(body, name)[of] for name in ("rank", "polarity", "crossbar", "step")}
    apart = body.lower(
        Programmed,
        outputs=output[first, None].astype(np.int32),
        inputs=inputs,
        stored=stored,
        flip=None if body.flip is None else body.flip[of],
        verify=None,
        row_outputs=None,
        **fields,
    )
    return Reads(apart, of, rows)
