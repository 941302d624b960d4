"""How few writes any program can do with: the information that a load has to bring, and what a flipped cell can tell.

docs/bound.md derives the bound and says what it assumes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ir.arrays import Array
from ir.module import Module
from ir.stages import Programmed
from xbc.schedule.maps import alone

_SLOPES = np.geomspace(1e-4, 16.0, 24)
_TURNS = 20


def flip_share(bits: float, levels: int) -> float:
    """Least share of cells that must change to tell ``bits`` per cell: h(x) + x log2(levels - 1) = bits, x in 0..1."""
    top = 1 - 1 / levels
    low, high = 0.0, top
    if bits <= 0:
        return 0.0
    for _ in range(60):
        x = (low + high) / 2
        told = -x * math.log2(x) - (1 - x) * math.log2(1 - x) + x * math.log2(levels - 1)
        low, high = (x, high) if told < bits else (low, x)
    return low


def spectrum(values: Array) -> tuple[Array, Array]:
    """(different values, ascending, share of each) of whole numbers."""
    low = int(values.min(initial=0))
    counts = np.bincount((values.reshape(-1) - low).astype(np.int64))
    found = np.flatnonzero(counts)
    return found + low, counts[found] / max(values.size, 1)


def entropy(values: Array) -> float:
    """Bits of a whole number drawn from ``values``."""
    _, share = spectrum(values)
    return float(-(share * np.log2(share)).sum())


def rate(values: Array, error: float) -> float:
    """Bits per value that whole numbers within a mean squared ``error`` of ``values`` need at least.

    Every slope s and weighting that sum_x p(x) w(x) 2**(-s d(x, y)) <= 1 for all y allow bounds the rate-distortion
    function from below by sum_x p(x) log2 w(x) - s error (Berger); weightings from Blahut's iteration.
    """
    found, p = spectrum(values)
    if error <= 0 or len(found) < 2:
        return entropy(values)
    grid = np.arange(int(found.min()), int(found.max()) + 1)
    if len(grid) > 1 << 12:
        return max(0.0, entropy(values) - 0.5 * math.log2(2 * math.pi * math.e * (error + 1 / 12)))
    distance = (found[:, None] - grid[None, :]).astype(np.float64) ** 2
    best = 0.0
    for s in _SLOPES:
        kernel = np.exp2(-s * distance)
        q = np.full(len(grid), 1 / len(grid))
        for _ in range(_TURNS):
            weight = 1 / np.maximum(kernel @ q, 1e-300)
            told = (p * weight) @ kernel
            q = q * told
        best = max(best, float((p * np.log2(weight)).sum() - math.log2(float(told.max())) - s * error))
    return min(best, entropy(values))


def map_freedom(body: Programmed, routing: str) -> float:
    """Bits of a layer that the choice of rows, column groups, order and crossbars of its sections can tell."""
    used = body.driven().sum(axis=1)
    lgamma = np.vectorize(math.lgamma, otypes=[np.float64])
    bits = 0.0
    if body.row_outputs is not None:  # any weight of the layer in any row of its sections
        bits += math.lgamma(body.codes.size + 1) / math.log(2)
    elif routing == "gather":  # any input of the outputs in any row of their sections
        bits += len(np.unique(body.outputs[:, 0])) * math.lgamma(body.shape[1] + 1) / math.log(2)
    if routing != "fixed" and len(used):  # which rows, and in what order
        rows = lgamma(body.rows + 1.0) - lgamma(body.rows - used + 1.0)
        bits += float((rows - (lgamma(used + 1.0) if routing == "gather" else 0.0)).sum()) / math.log(2)
    bits += body.sections * math.lgamma(body.group_width + 1) / math.log(2)
    bits += math.lgamma(body.sections + 1) / math.log(2)
    if body.flip is not None:
        bits += float((body.outputs >= 0).sum()) * body.cells.columns
    return bits


def layer_bound(body: Programmed, routing: str, loads: int) -> float:
    """Least writes per inference of a layer of which ``loads`` sections are loaded into crossbars that hold others."""
    if not body.sections or not loads:
        return 0.0
    held = body.effective_codes()
    error = float(np.mean((held.astype(np.float64) - body.codes) ** 2))
    values = np.abs(body.codes) if body.encoding == "driver" else body.codes
    needed = rate(values, error) - map_freedom(body, routing) / body.codes.size
    cells = body.cells.columns
    share = flip_share(needed / cells, 1 << body.bits_per_cell)
    return share * cells * body.codes.size * loads / body.sections


def bound_facts(module: Module, writes: int) -> dict[str, Any]:
    """The bound of a programmed module at the codes that it holds, and how far ``writes`` are above it.

    Returns: ``times_above_bound`` (None where the bound is 0) and ``information_bound``: ``writes`` of the network,
        and of every layer in ``layers``.
    """
    bodies = [layer.at(Programmed) for layer in module.layers]
    crossbar = np.concatenate([np.zeros(0, np.int32), *(body.crossbar for body in bodies)])
    shared = ~alone(crossbar)
    cuts = np.cumsum([body.sections for body in bodies])[:-1]
    routing = module.target.routing
    layers = {
        layer.name: layer_bound(body, routing, int(part.sum()))
        for layer, body, part in zip(module.layers, bodies, np.split(shared, cuts), strict=True)
    }
    total = sum(layers.values())
    above = writes / total if total >= 1 else None
    return {"times_above_bound": above, "information_bound": {"writes": total, "layers": layers}}
