"""Tables of which rows are looked up: embeddings."""

from __future__ import annotations

from typing import Final

import numpy as np

from xbc.operators.definition import MICROSOFT, Operator
from xbc.operators.step import Result, Step

_TABLE = "embedding table: rows are looked up, nothing is summed"


def _gather(step: Step) -> Result:
    x, index = step.value(0), step.value(1)
    axis = int(step.attribute("axis", 0)) % x.ndim
    out = np.zeros((x.shape[axis], *x.shape[:axis], *x.shape[axis + 1 :]), np.float32)
    moved = np.moveaxis(step.s, list(range(axis, axis + index.ndim)), list(range(index.ndim)))
    np.add.at(out, np.where(index < 0, index + x.shape[axis], index), moved)
    return [np.moveaxis(out, 0, axis)]


OPERATORS: Final = (
    Operator("Gather", refused=_TABLE, rule=_gather),
    Operator("GatherND", refused=_TABLE),
    Operator("GatherElements", refused=_TABLE),
    Operator("EmbedLayerNormalization", MICROSOFT, refused=_TABLE),
    Operator("QEmbedLayerNormalization", MICROSOFT, refused=_TABLE),
    Operator("GatherBlockQuantized", MICROSOFT, refused=_TABLE),
    Operator("WordConvEmbedding", MICROSOFT, refused=_TABLE),
)
