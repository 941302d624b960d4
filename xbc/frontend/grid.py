"""Finding the integers behind weights that an exporter quantised but stored as floats.

Converters of 8-bit networks often write activations as Q/DQ pairs and the weights as floats ``code * scale``.
Quantising those again would move them.  A grid is accepted only when every weight is reproduced bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ir.arrays import F32, Array

LEVELS = 256
CONVENTION = 127
"""Largest code of a symmetric 8-bit range; tried before smaller equivalents."""


@dataclass(frozen=True)
class Grid:
    """``codes [outputs, inputs]`` int16 and ``scale [1]`` or ``[outputs]``; their product is the weights."""

    codes: Array
    scale: F32

    @property
    def limits(self) -> tuple[int, int]:
        """The 8-bit range that the codes come from: signed when they fit it, else 256 codes around zero."""
        low, high = int(self.codes.min()), int(self.codes.max())
        if low >= -128 and high <= 127:
            return -128, 127
        start = min(low, 0)
        return start, start + LEVELS - 1


def find_grid(values: F32) -> Grid | None:
    """The 8-bit grid that the weights lie on exactly: one scale, else one per output; None without a grid.

    Args:
        values: ``[outputs, inputs]`` float32, finite.
    """
    whole = _fit(values.reshape(-1))
    if whole is not None:
        codes, scale = whole
        return Grid(codes.reshape(values.shape), np.array([scale], np.float32))
    codes = np.empty(values.shape, np.int16)
    scales = np.empty(values.shape[0], np.float32)
    telling = False
    for row in range(values.shape[0]):
        found = _fit(values[row])
        if found is None:
            return None
        codes[row], scales[row] = found
        telling = telling or np.unique(np.abs(codes[row])).size > 2
    if not telling or int(codes.max()) - int(codes.min()) >= LEVELS:
        return None  # one magnitude per output lies on a grid of its own whatever it is
    return Grid(codes, scales)


def _fit(values: F32) -> tuple[Array, np.float32] | None:
    head = values[: 4 * LEVELS]
    if np.unique(head).size > LEVELS:
        return None
    distinct, where = np.unique(values, return_inverse=True)
    if distinct.size > LEVELS:
        return None
    top = np.float64(np.abs(distinct).max())
    if top == 0:
        return np.zeros(values.shape, np.int16), np.float32(1)
    highest = np.arange(1, LEVELS)
    steps = distinct.astype(np.float64)[None, :] * (highest[:, None] / top)
    near = np.abs(steps - np.rint(steps)).max(axis=1) < 1e-3
    order = [n for n in (CONVENTION, *highest) if near[n - 1]]
    for n in order:
        codes = np.rint(distinct.astype(np.float64) * (n / top)).astype(np.int16)
        if int(codes.max()) - int(codes.min()) >= LEVELS:
            continue
        scale = _exact_scale(distinct, codes)
        if scale is not None:
            return codes[where.reshape(-1)], scale
    return None


def _exact_scale(values: F32, codes: Array) -> np.float32 | None:
    """The float32 scale with ``codes * scale == values`` in float32, if there is one."""
    used = codes != 0
    if values[~used].any():
        return None
    magnitude, factor = np.abs(values[used]), np.abs(codes[used]).astype(np.float64)
    half = np.spacing(magnitude).astype(np.float64) / 2
    low = float(((magnitude.astype(np.float64) - half) / factor).max())
    high = float(((magnitude.astype(np.float64) + half) / factor).min())
    scale = np.float32(low)
    for _ in range(4):
        if low <= float(scale) <= high and np.array_equal(codes.astype(np.float32) * scale, values):
            return scale
        scale = np.nextafter(scale, np.float32(np.inf))
    return None
