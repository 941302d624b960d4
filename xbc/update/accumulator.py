"""The digital accumulator of threshold-accumulated updates (arXiv 2305.14547), in exact fixed point.

A weight's device holds an integer code; its accumulator holds the part of the requested changes that has not
been written.  Both are integers (the accumulator counts ``2**-fraction_bits`` of a code step), so that

    codes * 2**fraction_bits + accumulator

grows by exactly the request, whatever is written and whenever: nothing is lost to rounding.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError

FRACTION_BITS: Final = 20
"""Default resolution: a request is rounded to 2**-20 of a code step before it is accumulated."""
LARGEST_STEP: Final = 2.0**30
"""Requests are limited to this many code steps, so that 64-bit sums cannot overflow."""


def to_fixed(steps: Array, fraction_bits: int = FRACTION_BITS) -> Array:
    """Code steps (real numbers) as int64 multiples of ``2**-fraction_bits``, same shape.

    Raises: XbcError for a request that is not finite or beyond ``LARGEST_STEP`` code steps.
    """
    wide = np.asarray(steps, np.float64)
    if not np.isfinite(wide).all() or (wide.size and np.abs(wide).max() > LARGEST_STEP):
        raise XbcError(
            "an update asks for a change that is not finite or beyond 2**30 code steps: check the new weights"
        )
    return np.asarray(np.rint(np.ldexp(wide, fraction_bits)).astype(np.int64))


def check_threshold(threshold: float) -> float:
    """The threshold, in code steps.  Raises XbcError unless it is finite and above 0."""
    if not (0 < threshold < LARGEST_STEP):
        raise XbcError(f"threshold = {threshold:g} must be above 0 (in device levels; 1.0 is one level)")
    return threshold


def settle(
    codes: Array,
    accumulator: Array,
    *,
    threshold: float,
    low: Array | int,
    high: Array | int,
    fraction_bits: int = FRACTION_BITS,
) -> tuple[Array, Array]:
    """Moves what has passed the threshold from the accumulators into the codes.

    A weight whose accumulator is at least ``threshold`` code steps (in magnitude) goes to the code nearest to
    its full-precision value (halves away from zero), within ``low .. high``; all others stay.

    Args:
        codes: integers, any shape.
        low, high: broadcastable to ``codes``.
        accumulator: int64, same shape, in ``2**-fraction_bits`` of a code step.
    Returns: (codes, accumulator) after writing, new arrays of the same types.  Their fixed-point sum is
        that of the arguments.
    """
    limit = max(1, round(check_threshold(threshold) * (1 << fraction_bits)))
    magnitude = np.abs(accumulator)
    nearest = np.sign(accumulator) * ((magnitude + (1 << (fraction_bits - 1))) >> fraction_bits)
    wanted = np.clip(codes.astype(np.int64) + nearest, low, high)
    moved = np.where(magnitude >= limit, wanted - codes, 0)
    return (codes + moved).astype(codes.dtype), accumulator - (moved << fraction_bits)
