"""Which column group of a section an output takes, where several outputs share the rows."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from ir.arrays import Array
from ir.module import Layer
from ir.stages import Placed
from passes.counting import load_runs


def place_columns(pairs: list[tuple[Layer, Placed]], crossbars: int) -> list[Placed]:
    """Bodies whose outputs take the column groups that held the likest words in the load before.

    Two columns are as far apart as their sorted words (the rows are matched later); a section's groups are
    assigned to those of the section before it on its crossbar at the least sum.  Sections with empty groups, or of
    another width than the one before, stay as they are.  What is computed does not change.
    """
    before: list[Array | None] = [None] * crossbars
    placed: list[Array] = [body.outputs.copy() for _, body in pairs]
    ready: tuple[int, Array] | None = None
    for index, order in load_runs(pairs):
        body = pairs[index][1]
        if ready is None or ready[0] != index:
            words = body.wanted_words()
            ready = (index, np.sort(words, axis=1).astype(np.int32))
        full = np.asarray((body.outputs >= 0).all(axis=1))
        for s in order.tolist():
            mine, crossbar = ready[1][s], int(body.crossbar[s])
            last = before[crossbar]
            if last is not None and full[s] and last.shape == mine.shape and mine.shape[1] > 1:
                apart = np.abs(last[:, :, None] - mine[:, None, :]).sum(axis=0)
                taken = linear_sum_assignment(apart)[1]
                placed[index][s] = body.outputs[s, taken]
                mine = mine[:, taken]
            before[crossbar] = mine if full[s] else None
    return [body.lower(Placed, outputs=outputs) for (_, body), outputs in zip(pairs, placed, strict=True)]
