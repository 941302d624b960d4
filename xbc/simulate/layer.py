"""One crossbar layer in a running network: quantises inputs, multiplies, scales back, keeps statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Layer
from ir.stages import Quantized
from ir.target import CALIBRATED, Converters
from xbc.operators.call import Columns
from xbc.simulate.converters import Coding, InputScale, finite, fit_inputs
from xbc.simulate.engine import AdcCounts, Multiplier

CHUNK_BYTES = 96 * 2**20
"""Size of the float matrix of inputs and outputs that is built at once, unless memory is short."""
GOLDEN = 0.6180339887498949
"""Fractional parts of its multiples spread evenly over 0..1."""
COUNTED_VECTORS = 64
"""Vectors of each calibration sample whose column sums are counted, unless a line holds more."""


Counter = Callable[[Array, Coding], None]
"""Takes ``[groups, inputs, vectors]`` input codes."""


@dataclass
class Signal:
    """Power of a layer's ideal outputs and of their error, summed over what was measured."""

    signal: float = 0.0
    noise: float = 0.0

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio in dB; infinite without error, NaN without measurement."""
        if self.noise == 0:
            return float("inf") if self.signal else float("nan")
        return 10 * float(np.log10(self.signal / self.noise)) if self.signal else float("-inf")

    def add(self, ideal: Array, got: Array) -> None:
        """Counts outputs of any shape."""
        for a, b in zip(ideal, got, strict=True):
            self.signal += float(np.sum(np.square(a, dtype=np.float64)))
            self.noise += float(np.sum(np.square(b.astype(np.float64) - a)))


@dataclass
class Extremes:
    """Smallest and largest input a layer has seen in calibration."""

    low: float = 0.0
    high: float = 0.0
    samples: int = 0

    def add(self, values: Array) -> None:
        """Counts a batch."""
        self.low = min(self.low, float(values.min(initial=0)))
        self.high = max(self.high, float(values.max(initial=0)))
        self.samples += len(values)


@dataclass(eq=False)
class LayerSimulator:
    """A layer and what multiplies for it.

    Fields:
        layer: at stage Programmed.
        multiplier: the engine; None: products of float inputs with the effective weights (an ideal layer).
        effective: ``[outputs, inputs]`` int32 codes the cells stand for.
        converters: input bits and ranges.
        given: the model's own grid of the layer's input (behind a DequantizeLinear), if it has one.
        extremes: what calibration saw.
        calibrating: multiply ideally and record the inputs' extremes.
        count_sums: multiply ideally and hand some of the input codes over.
        counted: samples of which codes were handed over.
        chunk_bytes: size of the float matrix of inputs and outputs that is built at once.
        measure: compare with float products of the effective weights.
    """

    layer: Layer
    multiplier: Multiplier | None
    effective: Array
    converters: Converters
    given: InputScale | None = None
    extremes: Extremes = field(default_factory=Extremes)
    calibrating: bool = False
    count_sums: Counter | None = None
    counted: int = 0
    chunk_bytes: int = CHUNK_BYTES
    measure: bool = False
    signal: Signal = field(default_factory=Signal)
    counts: AdcCounts = field(default_factory=AdcCounts)
    _weights: Array | None = None

    @property
    def scale(self) -> Array:
        """``[outputs]`` float64 weight scales."""
        body = self.layer.at(Quantized)
        return np.broadcast_to(body.scale.astype(np.float64), (body.shape[0],))

    @property
    def weights(self) -> Array:
        """``[groups, outputs / groups, inputs]`` float32 effective weights of the ideal fidelity."""
        if self._weights is None:
            outputs, inputs = self.effective.shape
            scaled = self.effective.astype(np.float32) * self.scale[:, None].astype(np.float32)
            groups = self.layer.origin.groups
            self._weights = scaled.reshape(groups, outputs // groups, inputs)
        return self._weights

    def codings(self, values: Array) -> list[tuple[Array | None, InputScale]]:
        """(samples or None for all, grid) parts that cover a batch.

        Raises: XbcError without calibration when the range is to come from it.
        """
        if self.given is not None:
            return [(None, self.given)]
        if self.converters.input_range in CALIBRATED:
            if not self.extremes.samples:
                raise XbcError(
                    f"layer {self.layer.name!r}: input_range = {self.converters.input_range!r} needs calibration "
                    f"inputs: give --calibration SET.npz, or set converters.input_range = dynamic"
                )
            return [
                (None, fit_inputs(np.array(self.extremes.low), np.array(self.extremes.high), self.converters))
            ]
        flat = values.reshape(len(values), -1)
        low, high = flat.min(axis=1, initial=0), flat.max(axis=1, initial=0)
        negative = low < 0
        if not negative.any() or negative.all():
            return [(None, fit_inputs(low, high, self.converters))]
        parts = [np.flatnonzero(negative), np.flatnonzero(~negative)]  # each sample as if it came alone
        return [(part, fit_inputs(low[part], high[part], self.converters)) for part in parts]

    def real(self, values: Array, columns: Columns) -> Array:
        """Products of real inputs.

        Args:
            values: ``[samples, ...]`` float.
        Returns: ``[outputs, samples, vectors]`` float32.
        Raises: XbcError when an input is NaN or infinite.
        """
        values = finite(np.asarray(values, np.float32), self.layer.name)
        if self.calibrating:
            self.extremes.add(values)
        if self.count_sums is not None:
            self._count_real(values, columns)
        if self.multiplier is None or self.calibrating or self.count_sums is not None:
            return self._ideal(values, columns)
        out = np.empty((self.effective.shape[0], len(values), columns.vectors), np.float32)
        for part, grid in self.codings(values):
            chosen = values if part is None else values[part]
            for piece, lines in self._pieces(len(chosen), columns):
                narrow = grid.part(piece)
                codes = narrow.codes(chosen[piece])
                for line, place in lines:
                    products = self._integer(codes, narrow.zero_point, grid.coding, columns, line)
                    products *= self.scale[:, None, None]
                    products *= np.reshape(narrow.scale.astype(np.float64), (1, -1, 1))
                    out[:, piece if part is None else part[piece], place] = products
        if self.measure:
            self.signal.add(self._ideal(values, columns), out)
        return out

    def integer(self, values: Array, zero_point: int, columns: Columns) -> Array:
        """Products of inputs that are integers already.

        Args:
            values: ``[samples, ...]`` of an integer type, which also sets the coding.
            zero_point: subtracted from them (its share of the product is digital).
        Returns: ``[outputs, samples, vectors]`` float64; integers when the converters are exact.
        """
        info = np.iinfo(values.dtype)
        coding = Coding(info.bits, info.min < 0)
        zero = np.array(zero_point)
        out = np.empty((self.effective.shape[0], len(values), columns.vectors))
        if self.count_sums is not None:
            for sample in range(len(values)):
                self._count(values[sample : sample + 1], zero, coding, columns)
        weights = self._grouped(self.effective.astype(np.float64)) if self.measure else None
        for piece, lines in self._pieces(len(values), columns):
            for line, place in lines:
                out[:, piece, place] = self._integer(values[piece], zero, coding, columns, line)
                if weights is not None:
                    exact = weights @ (
                        columns.arrange(values[piece], zero, line).astype(np.float64) - zero_point
                    )
                    got = out[:, piece, place]
                    self.signal.add(exact.reshape(got.shape), got)
        return out

    def _count_real(self, values: Array, columns: Columns) -> None:
        """Samples in their order, so that what is counted does not depend on how they are batched."""
        for sample in range(len(values)):
            alone = values[sample : sample + 1]
            ((_, grid),) = self.codings(alone)
            self._count(grid.codes(alone), grid.zero_point, grid.coding, columns)

    def _count(self, codes: Array, zero: Array, coding: Coding, columns: Columns) -> None:
        """Hands some lines of one sample over: evenly spaced, from a start that wanders with the samples."""
        assert self.count_sums is not None
        if not columns.vectors:
            return
        wanted = max(1, min(columns.lines, COUNTED_VECTORS // columns.width))
        step = columns.lines // wanted
        start = int((0.5 + GOLDEN * self.counted) % 1 * step)
        self.counted += 1
        self.count_sums(columns.arrange(codes, zero, slice(start, None, step)), coding)

    def _integer(self, codes: Array, zero: Array, coding: Coding, columns: Columns, lines: slice) -> Array:
        """``[outputs, samples, vectors of the lines]`` float64."""
        x = columns.arrange(codes, zero, lines)
        if self.multiplier is None or self.calibrating or self.count_sums is not None:
            products = self._grouped(self.effective.astype(np.float64)) @ x.astype(np.float64)
        else:
            products = self.multiplier.product(x, coding)
        products = products.reshape(self.effective.shape[0], len(codes), -1)
        if zero.any():
            sums = self.effective.sum(axis=1, dtype=np.int64).astype(np.float64)
            products -= sums[:, None, None] * np.reshape(zero, (1, -1, 1))
        return np.asarray(products)

    def _ideal(self, values: Array, columns: Columns) -> Array:
        out = np.empty((self.effective.shape[0], len(values), columns.vectors), np.float32)
        for piece, lines in self._pieces(len(values), columns):
            for line, place in lines:
                products = self.weights @ columns.arrange(values[piece], np.array(0), line)
                out[:, piece, place] = products.reshape(len(out), piece.stop - piece.start, -1)
        return out

    def _grouped(self, matrix: Array) -> Array:
        groups = self.layer.origin.groups
        return matrix.reshape(groups, matrix.shape[0] // groups, matrix.shape[1])

    def _pieces(self, samples: int, columns: Columns) -> Iterator[tuple[slice, list[tuple[slice, slice]]]]:
        """(samples, [(lines, their vectors)]) whose columns and products fit ``chunk_bytes``.

        A sample that is too large comes alone, cut into lines; one line is always taken.
        """
        per_vector = self.effective.shape[1] * self.layer.origin.groups + self.effective.shape[0]
        per_line = max(1, 4 * columns.width * per_vector)
        fitting = max(1, self.chunk_bytes // per_line)
        step = max(1, fitting // max(1, columns.lines))
        cut = min(fitting, columns.lines) or 1
        lines = [
            (slice(a, min(a + cut, columns.lines)), slice(a * columns.width, (a + cut) * columns.width))
            for a in range(0, columns.lines, cut)
        ]
        for start in range(0, samples, step):
            yield slice(start, min(start + step, samples)), lines
