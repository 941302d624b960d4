"""Words into cells: which of them spell a code that the host could not take back."""

from __future__ import annotations

import numpy as np

from ir.arrays import Array
from ir.module import Module
from ir.stages import Placed, Programmed


def programmed(module: Module, bodies: list[Placed], stored: list[Array]) -> Module:
    """The module with ``stored`` words, ``[sections, rows, G]`` per layer, in the cells of ``bodies``."""
    cells = zip(module.layers, bodies, stored, strict=True)
    return module.with_layers(
        [layer.with_body(body.lower(Programmed, stored=words)) for layer, body, words in cells]
    )


def within_limits(body: Placed, words: Array) -> Array:
    """``words`` with those replaced by exact ones whose code the host could not take back."""
    outside = outside_limits(body, words)
    return np.where(outside, body.wanted_words(), words) if outside.any() else words


def outside_limits(body: Placed, words: Array) -> Array:
    """``[sections, rows, G]`` bool: the code of the stored word is outside the body's limits."""
    held = body.lower(Programmed, stored=words.copy())
    outside = np.zeros(words.shape, np.bool_)
    chunk = max(1, 2**22 // max(1, body.rows * body.group_width))
    for start in range(0, body.sections, chunk):
        part = slice(start, start + chunk)
        if _surely_inside(body, words[part]):
            continue
        codes = held.stored_codes(part)
        own = np.maximum(body.weight_outputs(part), 0)
        limits = body.limits[own if len(body.limits) > 1 else np.zeros_like(own)]
        outside[part] = (codes < limits[..., 0]) | (codes > limits[..., 1])
    return outside


def _surely_inside(body: Placed, words: Array) -> bool:
    """Whether magnitudes alone show that no code is outside the limits."""
    if body.encoding not in ("driver", "split"):
        return False
    return bool(words.max(initial=0) <= min(body.limits[:, 1].min(), -body.limits[:, 0].max()))
