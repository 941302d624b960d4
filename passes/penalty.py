"""What an error in a stored number costs, in cell writes."""

from __future__ import annotations

import numpy as np

from ir.arrays import Array
from ir.cells import CellFormat
from ir.module import Module
from passes.base import Context

SENSITIVITIES = "sensitivities"
"""Key of ``Context.data``: layer name -> array that broadcasts to ``[outputs, inputs]``."""


def sensitivity(context: Context, layer: str) -> Array | None:
    """How much the loss cares about a squared code error of each weight; None where unknown (then 1)."""
    table = context.data.get(SENSITIVITIES)
    return None if table is None else np.asarray(table[layer], np.float32)


def layer_penalties(module: Module, lambda_: float, context: Context) -> dict[str, float]:
    """Mean penalty of each layer: lambda times its mean sensitivity."""
    out = {}
    for layer in module.layers:
        s = sensitivity(context, layer.name)
        out[layer.name] = lambda_ * (1.0 if s is None else float(s.mean(dtype=np.float64)))
    return out


def state_values(cells: CellFormat) -> Array:
    """``[2**word_bits]`` float32: the number each word stands for (offset not subtracted: differences count)."""
    return cells.decode(np.arange(1 << cells.word_bits, dtype=np.uint32)).astype(np.float32)
