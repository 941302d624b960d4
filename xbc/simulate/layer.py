"""One crossbar layer in a running network: quantises inputs, multiplies, scales back, keeps statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Layer
from ir.stages import Quantized
from ir.target import Converters
from xbc.simulate.converters import Coding, InputScale, finite, fit_inputs
from xbc.simulate.engine import AdcCounts, Multiplier

Arrange = Callable[[Array, Array], Array]
"""(``[samples, ...]`` values, ``[]`` or ``[samples]`` what stands for zero in them) to
``[groups, inputs, samples * vectors]``, sample by sample."""

CHUNK_BYTES = 96 * 2**20
"""Size of the float matrix of inputs that is built at once."""


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
        self.signal += float(np.sum(np.square(ideal, dtype=np.float64)))
        self.noise += float(np.sum(np.square(got.astype(np.float64) - ideal)))


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
        count_sums: multiply ideally and hand the input codes over.
        measure: compare with float products of the effective weights.
    """

    layer: Layer
    multiplier: Multiplier | None
    effective: Array
    converters: Converters
    given: InputScale | None = None
    extremes: Extremes = field(default_factory=Extremes)
    calibrating: bool = False
    count_sums: Callable[[Array, Coding], None] | None = None
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
        if self.converters.input_range == "calibrated":
            if not self.extremes.samples:
                raise XbcError(
                    f"layer {self.layer.name!r}: input_range = 'calibrated' needs calibration inputs: give "
                    f"--calibration SET.npz, or set converters.input_range = dynamic"
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

    def real(self, values: Array, arrange: Arrange, vectors: int) -> Array:
        """Products of real inputs.

        Args:
            values: ``[samples, ...]`` float.
            arrange: gives the columns of a batch of values or of codes.
            vectors: products per sample.
        Returns: ``[outputs, samples, vectors]`` float32.
        Raises: XbcError when an input is NaN or infinite.
        """
        values = finite(np.asarray(values, np.float32), self.layer.name)
        if self.calibrating:
            self.extremes.add(values)
        if self.count_sums is not None:
            for part, grid in self.codings(values):
                few = (values if part is None else values[part])[: max(1, self._chunk(vectors) // 4)]
                narrow = grid.part(slice(0, len(few)))
                self.count_sums(arrange(narrow.codes(few), narrow.zero_point), grid.coding)
        if self.multiplier is None or self.calibrating or self.count_sums is not None:
            return self._ideal(values, arrange, vectors)
        out = np.empty((self.effective.shape[0], len(values), vectors), np.float32)
        for part, grid in self.codings(values):
            chosen = values if part is None else values[part]
            step = self._chunk(vectors)
            for start in range(0, len(chosen), step):
                piece = slice(start, min(start + step, len(chosen)))
                narrow = grid.part(piece)
                codes = narrow.codes(chosen[piece])
                products = self._integer(codes, narrow.zero_point, grid.coding, arrange, vectors)
                products *= self.scale[:, None, None]
                products *= np.reshape(narrow.scale.astype(np.float64), (1, -1, 1))
                out[:, piece if part is None else part[piece], :] = products
        if self.measure:
            self.signal.add(self._ideal(values, arrange, vectors), out)
        return out

    def integer(self, values: Array, zero_point: int, arrange: Arrange, vectors: int) -> Array:
        """Products of inputs that are integers already.

        Args:
            values: ``[samples, ...]`` of an integer type, which also sets the coding.
            zero_point: subtracted from them (its share of the product is digital).
        Returns: ``[outputs, samples, vectors]`` float64; integers when the converters are exact.
        """
        info = np.iinfo(values.dtype)
        coding = Coding(info.bits, info.min < 0)
        zero = np.array(zero_point)
        out = np.empty((self.effective.shape[0], len(values), vectors))
        step = self._chunk(vectors)
        for start in range(0, len(values), step):
            piece = slice(start, min(start + step, len(values)))
            out[:, piece] = self._integer(values[piece], zero, coding, arrange, vectors)
        if self.measure:
            columns = arrange(values, zero).astype(np.float64) - zero_point
            exact = self._grouped(self.effective.astype(np.float64)) @ columns
            self.signal.add(exact.reshape(out.shape), out)
        return out

    def _integer(self, codes: Array, zero: Array, coding: Coding, arrange: Arrange, vectors: int) -> Array:
        columns = arrange(codes, zero)
        if self.count_sums is not None:
            self.count_sums(columns, coding)
        if self.multiplier is None or self.calibrating or self.count_sums is not None:
            products = self._grouped(self.effective.astype(np.float64)) @ columns.astype(np.float64)
        else:
            products = self.multiplier.product(columns, coding)
        products = products.reshape(self.effective.shape[0], len(codes), vectors)
        if zero.any():
            sums = self.effective.sum(axis=1, dtype=np.int64).astype(np.float64)
            products -= sums[:, None, None] * np.reshape(zero, (1, -1, 1))
        return np.asarray(products)

    def _ideal(self, values: Array, arrange: Arrange, vectors: int) -> Array:
        out = np.empty((self.effective.shape[0], len(values), vectors), np.float32)
        step = self._chunk(vectors)
        for start in range(0, len(values), step):
            piece = slice(start, min(start + step, len(values)))
            out[:, piece] = (self.weights @ arrange(values[piece], np.array(0))).reshape(
                len(out), -1, vectors
            )
        return out

    def _grouped(self, matrix: Array) -> Array:
        groups = self.layer.origin.groups
        return matrix.reshape(groups, matrix.shape[0] // groups, matrix.shape[1])

    def _chunk(self, vectors: int) -> int:
        """Samples whose columns fit ``CHUNK_BYTES``."""
        per_sample = (
            4 * vectors * (self.effective.shape[1] * self.layer.origin.groups + self.effective.shape[0])
        )
        return max(1, CHUNK_BYTES // max(1, int(per_sample)))
