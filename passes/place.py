"""Placement arithmetic: crossbar and step of sections that stand in load order."""

from __future__ import annotations

import numpy as np

from ir.arrays import Array
from ir.module import Module
from ir.stages import Placed, Sectioned


def contiguous_crossbars(sections: int, crossbars: int) -> Array:
    """``[sections]`` int32: equal runs of the path, one per crossbar (spread when there are fewer sections)."""
    return (np.arange(sections, dtype=np.int64) * crossbars // max(sections, 1)).astype(np.int32)


def interleaved_crossbars(sections: int, crossbars: int) -> Array:
    """``[sections]`` int32: section i goes to crossbar i mod crossbars."""
    return (np.arange(sections, dtype=np.int64) % crossbars).astype(np.int32)


def steps_on(crossbar: Array) -> Array:
    """``[sections]`` int64: position of each section among those of its crossbar, in table order."""
    order = np.argsort(crossbar, kind="stable")
    sorted_bars = crossbar[order]
    starts = np.flatnonzero(np.diff(sorted_bars, prepend=-1))
    position = np.arange(len(order), dtype=np.int64)
    position -= np.repeat(position[starts], np.diff(np.append(starts, len(order))))
    out = np.empty(len(order), np.int64)
    out[order] = position
    return out


def place(module: Module, crossbars_of: list[Array]) -> Module:
    """Module with each layer's sections on the given crossbars, layers one after the other in module order.

    The table rows are brought into load order: ascending step, then crossbar.
    """
    layers, base = [], 0
    for layer, crossbar in zip(module.layers, crossbars_of, strict=True):
        body = layer.at(Sectioned)
        step = steps_on(crossbar) + base
        fields = {"crossbar": crossbar.astype(np.int32), "step": step}
        placed = body.lower(Placed, **fields)
        base = int(step.max()) + 1 if len(step) else base
        layers.append(layer.with_body(placed))
    return module.with_layers(layers)


def contiguous(module: Module) -> Module:
    """Every layer's path cut into equal runs, one per crossbar."""
    bars = [
        contiguous_crossbars(layer.at(Sectioned).sections, module.target.crossbars) for layer in module.layers
    ]
    return place(module, bars)
