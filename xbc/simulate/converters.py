"""DACs and ADCs: how an integer input is applied read by read, and what an ADC makes of a column sum.

Everything here is integer arithmetic.  A column sum is counted in level units: the sum over driven rows of
(cell level) x (DAC code of that read).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.target import CALIBRATED, Converters, Target


@dataclass(frozen=True)
class Coding:
    """Integer codes that stand for a layer's inputs: 0 .. 2**bits - 1, or two's complement when signed."""

    bits: int
    signed: bool

    @property
    def low(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def magnitude(self) -> int:
        """Largest absolute value of a code."""
        return max(-self.low, self.high)

    @property
    def dtype(self) -> type[np.integer]:
        """Narrowest type that holds every code."""
        for kind in (np.uint8, np.int8, np.uint16, np.int16):
            if np.iinfo(kind).min <= self.low and self.high <= np.iinfo(kind).max:
                return kind
        return np.int32


@dataclass(frozen=True)
class Phase:
    """One read: the DAC applies bits ``shift .. shift + width - 1`` of every code.

    Fields:
        weight: what one unit of the read's column sum counts in the product (negative for the sign bit).
    """

    shift: int
    width: int
    weight: int

    @property
    def top(self) -> int:
        """Largest DAC code."""
        return (1 << self.width) - 1


def phases(coding: Coding, converters: Converters) -> tuple[tuple[Phase, ...], int]:
    """(reads of one product, offset added to the codes before they are applied).

    Unsigned codes are cut into digits of ``dac_bits``.  Signed codes in two's complement get one more read,
    of their sign bit, with negative weight; with ``offset`` they are shifted to 0 .. 2**bits - 1 first.
    """
    offset, digits = 0, coding.bits
    if coding.signed and converters.signed_inputs == "offset":
        offset = 1 << (coding.bits - 1)
    elif coding.signed:
        digits -= 1
    reads = [
        Phase(shift, min(converters.dac_bits, digits - shift), 1 << shift)
        for shift in range(0, digits, converters.dac_bits)
    ]
    if digits < coding.bits:
        reads.append(Phase(digits, 1, -(1 << digits)))
    return tuple(reads), offset


@dataclass(frozen=True)
class Adc:
    """Transfer of an ADC: code ``clip(round(sum / step), 0, 2**bits - 1)``, worth ``code * step``.

    Fields:
        bits: resolution.
        full_scale: column sum that the top code stands for when codes are coarser than one unit.
        floor: round down instead of to the nearest code (halves up).
    """

    bits: int
    full_scale: int
    floor: bool = False

    @property
    def top(self) -> int:
        """Largest code."""
        return (1 << self.bits) - 1

    @property
    def step(self) -> float:
        """Column-sum units per code; never below 1, the smallest difference of ideal sums."""
        return max(1.0, self.full_scale / self.top)

    @property
    def exact_up_to(self) -> int:
        """Largest integer sum below which every sum is converted without error."""
        return self.top if self.full_scale <= self.top else 0

    def codes(self, sums: Array) -> Array:
        """int64 codes of non-negative integer column sums, any shape."""
        sums = sums.astype(np.int64)
        if self.full_scale > self.top:
            half = 0 if self.floor else self.full_scale
            sums = (2 * sums * self.top + half) // (2 * self.full_scale)
        return np.minimum(sums, self.top)

    @property
    def range_top(self) -> int:
        """Sums above this are clipped."""
        return max(self.top, self.full_scale)

    def transfer(self, largest: int) -> tuple[int, int, int, int]:
        """(multiplier, addend, shift, top); the code is ``min((sum * multiplier + addend) >> shift, top)``.

        The multiplier is rounded up, so the error is upwards and below ``largest / 2**shift`` codes; a sum
        that is not yet due for the next code is at least ``1 / (2 * full_scale)`` codes away from it.
        Hence equal to ``codes`` for all sums 0 .. ``largest``.
        Raises: XbcError when a product does not fit 63 bits.
        """
        if self.full_scale <= self.top:
            return 1, 0, 0, self.top
        shift = (2 * largest * self.full_scale).bit_length()
        multiplier = -(-(self.top << shift) // self.full_scale)
        addend = 0 if self.floor else 1 << (shift - 1)
        if largest * multiplier + addend >= 2**63:
            raise XbcError(
                f"column sums up to {largest} with a full scale of {self.full_scale} are beyond the "
                f"simulator's integers: lower converters.dac_bits or converters.adc_bits"
            )
        return multiplier, addend, shift, self.top


def adc_for(target: Target, dac_top: int, calibrated: int | None, converters: Converters) -> Adc:
    """The ADC of a column.

    Args:
        target: gives rows and levels, hence the largest sum the hardware can produce.
        dac_top: largest DAC code of a read.
        calibrated: largest sum seen in calibration, needed for the ``calibrated`` and ``shared`` ranges.
        converters: the target's, or a replacement of them.
    Raises: XbcError when the range needs a calibration and there is none.
    """
    floor = converters.adc_rounding == "floor"
    if converters.adc_range == "clipped":
        return Adc(converters.adc_bits, (1 << converters.adc_bits) - 1, floor)
    if converters.adc_range in CALIBRATED:
        if calibrated is None:
            raise XbcError(
                f"adc_range = {converters.adc_range!r} needs calibration inputs: give --calibration SET.npz, or set "
                "converters.adc_range to full or clipped"
            )
        return Adc(converters.adc_bits, max(1, calibrated), floor)
    return Adc(converters.adc_bits, target.rows * ((1 << target.bits_per_cell) - 1) * dac_top, floor)


@dataclass(frozen=True)
class InputScale:
    """Quantisation of a layer's real inputs: ``value ~ scale * (code - zero_point)``.

    Fields:
        scale: ``[]`` or ``[samples]`` float32, positive.
        zero_point: ``[]`` or ``[samples]`` int32, the code of 0.
    """

    coding: Coding
    scale: Array
    zero_point: Array

    def part(self, samples: slice) -> InputScale:
        """The grid of some of the samples."""
        if not np.ndim(self.scale):
            return self
        return InputScale(self.coding, self.scale[samples], self.zero_point[samples])

    def codes(self, values: Array) -> Array:
        """Codes, in the narrowest type, of float values ``[samples, ...]``."""
        shape = (-1,) + (1,) * (values.ndim - 1) if np.ndim(self.scale) else ()
        scale, zero = np.reshape(self.scale, shape), np.reshape(self.zero_point, shape)
        scaled = np.rint(values / scale)
        scaled += zero
        np.clip(scaled, self.coding.low, self.coding.high, out=scaled)
        return np.asarray(scaled.astype(self.coding.dtype))


def fit_inputs(low: Array, high: Array, converters: Converters) -> InputScale:
    """Symmetric grid over ``[low, high]`` (scalars or ``[samples]``) with 0 as one of its points.

    Inputs that are never negative use all codes for the positive side; a set of samples shares one coding.
    """
    signed = bool(np.min(low, initial=0.0) < 0)
    coding = Coding(converters.input_bits, signed)
    if signed and coding.bits < 2:
        raise XbcError("converters.input_bits = 1 cannot represent negative inputs: set it to 2 or more")
    reach = np.maximum(-np.asarray(low, np.float32), np.asarray(high, np.float32))
    tiny = np.finfo(np.float32).tiny
    scale = np.maximum(reach / np.float32(coding.high), tiny).astype(np.float32)
    return InputScale(coding, scale, np.zeros_like(scale, dtype=np.int32))


def finite(values: Array, layer: str) -> Array:
    """``values``, refused when one is NaN or infinite."""
    # one reduction: a sum over finite float32 values in float64 cannot overflow
    if not np.isfinite(np.sum(values, dtype=np.float64)):
        at = np.argwhere(~np.isfinite(values))[0]
        raise XbcError(
            f"layer {layer!r}: its input is {values[tuple(at)]} at index {at.tolist()}, which no DAC has "
            f"a code for: check the input data (and that the model itself does not overflow)"
        )
    return values


def check_converters(converters: Converters) -> Converters:
    """The settings, refused when they contradict each other."""
    if converters.dac_bits > converters.input_bits:
        raise XbcError(
            f"converters.dac_bits = {converters.dac_bits} is above input_bits = {converters.input_bits}: "
            f"a DAC cannot apply more bits than an input has; lower dac_bits or raise input_bits"
        )
    return converters
