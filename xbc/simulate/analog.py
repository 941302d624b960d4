"""Device fidelity of one layer: column sums of real conductances, read noise, then the same converters.

With an ADC every read of every column is computed.  Without one the layer is linear in its inputs, so cell
values fold into one effective weight each, and read noise is drawn once per output: a sum of independent
normal variables is normal with the summed variance, so the distribution is the same.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ir.arrays import Array
from ir.module import Layer
from ir.target import Converters, Target
from xbc.simulate import device_kernels as kernels
from xbc.simulate.converters import Adc, Coding, Phase, adc_for, phases
from xbc.simulate.devices import Levels
from xbc.simulate.engine import IntegerEngine
from xbc.simulate.engine_kernels import subtract_columns

TILE_READS = 2048
TIE = 1e-4
"""ADC thresholds lie this much of a code low: sums of perfect cells, which hit thresholds exactly, then
convert like the integers they stand for in spite of float32."""


class AnalogEngine:
    """Products of a layer whose cells have the given conductances.

    Args:
        layer: at stage Programmed.
        conductance: ``[sections, rows, G, columns]`` siemens at read time.
        calibrated: ADC ranges, as the integer engine takes them.
        seed: of read noise.
    Fields:
        counts: ADC conversions and how many clipped at the top.
    """

    def __init__(
        self, layer: Layer, target: Target, conductance: Array, *, converters: Converters | None = None,
        adc: bool = True, calibrated: tuple[int, ...] | None = None, seed: int = 0, threads: int = 1,
    ) -> None:  # fmt: skip
        """See the class."""
        self.digital = IntegerEngine(
            layer, target, converters, adc=adc, calibrated=calibrated, threads=threads
        )
        self.body = self.digital.body
        self.target = target
        self.levels = Levels.of(target)
        self.noise = target.device.read_noise
        self.seed, self.calls = seed, 0
        self.threads = threads
        self.counts = self.digital.counts
        self.factors = self.digital.factors()
        self._plans: dict[Coding, tuple[tuple[Phase, ...], int, Array, tuple[Adc, ...]]] = {}
        self._rest: Array | None = None
        if self.digital.reads is not None:
            conductance = self.digital.reads.of_cells(conductance)
        values = self.levels.units(conductance)
        values[~self.body.driven()] = 0
        noise = (conductance * (self.noise / self.levels.step)).astype(np.float32) if self.noise else None
        if noise is not None:
            noise[~self.body.driven()] = 0
        self.values: Array | None = None
        self.weights: Array | None = None
        self.variances: Array | None = None
        if adc:
            self.values, self.noises = values, noise
        else:
            folded = self._fold(values) + self.rest
            self.error_sums = (folded - self.effective).sum(axis=1)
            self.weights = folded.astype(np.float32)
            if noise is not None:
                self.variances = self._fold(noise, square=True).astype(np.float32)

    @property
    def effective(self) -> Array:
        """``[outputs, inputs]`` int32 codes that the cells should stand for."""
        return self.digital.effective

    @property
    def rest(self) -> Array:
        """``[outputs, inputs]`` int64: the part of the product that is digital (offsets, complements)."""
        if self._rest is None:
            rest = self.effective.astype(np.int64)
            body = self.body
            subtract_columns(
                rest,
                body.stored,
                body.inputs,
                self.digital.signs,
                body.outputs,
                self.factors,
                body.bits_per_cell,
            )
            self._rest = rest
        return self._rest

    def _fold(self, values: Array, square: bool = False) -> Array:
        """``[outputs, inputs]`` float64: cell values times what their columns count (squares of it)."""
        body = self.body
        out = np.zeros(body.shape)
        signs = self.digital.signs
        chunk = max(1, 2**22 // max(1, values[0].size))
        for start in range(0, body.sections, chunk):
            part = slice(start, start + chunk)
            factor = self.factors[part].astype(np.float64)
            if len(signs):
                side = (signs[part] < 0).astype(np.int64)
                factor = np.take_along_axis(factor[:, None], side[:, :, None, None, None], axis=4)[
                    ..., 0
                ]  # [sections, rows, G, columns]
            else:
                factor = factor[:, None, :, :, 0]
            cells = values[part].astype(np.float64) * factor
            summed = np.square(cells).sum(axis=3) if square else cells.sum(axis=3)
            outputs = np.maximum(body.outputs[part], 0)[:, None, :]
            inputs = np.maximum(body.inputs[part], 0)[:, :, None]
            np.add.at(
                out, (np.broadcast_to(outputs, summed.shape), np.broadcast_to(inputs, summed.shape)), summed
            )
        return out

    def product(self, codes: Array, coding: Coding) -> Array:
        """As ``IntegerEngine.product``; draws new read noise at every call."""
        self.digital.check(codes, coding)
        self.calls += 1
        if self.weights is not None:
            return self._linear(codes, coding)
        return self._read(codes, coding)

    def _grouped(self, matrix: Array) -> Array:
        groups = self.digital.groups
        return matrix.reshape(groups, matrix.shape[0] // groups, matrix.shape[1])

    def _linear(self, codes: Array, coding: Coding) -> Array:
        assert self.weights is not None
        outputs, vectors = self.body.shape[0], codes.shape[2]
        reads, offset = phases(coding, self.digital.converters)
        x = codes.astype(np.float32)
        y = (self._grouped(self.weights) @ x).reshape(outputs, vectors).astype(np.float64)
        if offset:  # applied to the cells, taken off again with the codes they should hold
            y += offset * self.error_sums[:, None]
        if self.variances is not None:
            shifted = codes.astype(np.int64) + offset
            power = np.zeros(x.shape, np.float32)
            for read in reads:
                digit = ((shifted >> read.shift) & read.top).astype(np.float32)
                power += np.float32(float(read.weight) ** 2) * np.square(digit)
            variance = (self._grouped(self.variances) @ power).reshape(outputs, vectors)
            rng = np.random.default_rng([self.seed, self.calls])
            y += np.sqrt(variance) * rng.standard_normal(y.shape)
        return np.asarray(y)

    def _plan(self, coding: Coding) -> tuple[tuple[Phase, ...], int, Array, tuple[Adc, ...]]:
        if coding not in self._plans:
            converters = self.digital.converters
            reads, offset = phases(coding, converters)
            top = max(read.top for read in reads)
            classes = self.digital.classes
            ranges: tuple[int | None, ...] = self.digital.calibrated or (None,) * (
                int(classes.max(initial=0)) + 1
            )
            adcs = tuple(adc_for(self.target, top, r, converters) for r in ranges)
            self._plans[coding] = (reads, offset, classes, adcs)
        return self._plans[coding]

    def _read(self, codes: Array, coding: Coding) -> Array:
        assert self.values is not None
        reads, offset, classes, adcs = self._plan(coding)
        body = self.body
        outputs, inputs = body.shape
        flat = codes.reshape(-1, codes.shape[2])
        tile = max(1, (TILE_READS if body.group_width > 1 else TILE_READS // 4) // len(reads))
        weights = np.array([read.weight for read in reads], np.int64)
        scale = np.array([1.0 / adc.step for adc in adcs])
        top = np.array([float(adc.top) for adc in adcs])
        half = TIE + (0.0 if self.digital.converters.adc_rounding == "floor" else 0.5)
        per_group = outputs // self.digital.groups

        y = (self._grouped(self.rest.astype(np.float64)) @ codes.astype(np.float64)).reshape(outputs, -1)

        def run(start: int) -> int:
            block = flat[:, start : start + tile].astype(np.int64) + offset
            vectors = block.shape[1]
            x = np.concatenate([(block >> r.shift) & r.top for r in reads], axis=1).astype(np.float32)
            out = np.zeros((len(adcs), outputs, vectors))
            clipped = np.zeros(len(adcs), np.int64)
            rng = np.random.default_rng([self.seed, self.calls, start])
            for s in range(body.sections):
                self._section(s, x, per_group, inputs, rng, classes, scale, half, top, weights, out, clipped)
            view = y[:, start : start + tile]  # each tile its own vectors
            for adc, part in zip(adcs, out, strict=True):
                view += part * adc.step
            return int(clipped.sum())

        starts = range(0, flat.shape[1], tile)
        with ThreadPoolExecutor(self.threads) as pool:
            self.counts.clipped += sum(pool.map(run, starts))
        if offset:
            y -= (offset * (self.effective - self.rest).sum(axis=1))[:, None]
        self.counts.conversions += int(np.count_nonzero(self.factors)) * len(reads) * flat.shape[1]
        return np.asarray(y)

    def _section(
        self, s: int, x: Array, per_group: int, inputs: int, rng: np.random.Generator, classes: Array,
        scale: Array, half: float, top: Array, weights: Array, out: Array, clipped: Array,
    ) -> None:  # fmt: skip
        """Reads one section for all vectors of a tile."""
        assert self.values is not None
        body = self.body
        rows = np.flatnonzero(body.inputs[s] >= 0)
        groups = np.flatnonzero(body.outputs[s] >= 0)
        if not len(rows) or not len(groups):
            return
        base = int(body.outputs[s, groups[0]]) // per_group * inputs
        driven = x[base + body.inputs[s, rows]]
        sides: list[tuple[int, Any]] = [(0, slice(None))]
        if len(self.digital.signs):
            sign = self.digital.signs[s, rows]
            sides = [(0, sign > 0), (1, sign < 0)]
        vectors = x.shape[1] // len(weights)
        result = np.zeros((len(top), len(groups), vectors))
        for side, chosen in sides:
            cells = self.values[s][rows][chosen][:, groups].reshape(-1, len(groups) * len(classes))
            if not len(cells):
                continue
            picked = driven[chosen]
            sums = cells.T @ picked
            if self.noises is not None:
                noise = self.noises[s][rows][chosen][:, groups].reshape(cells.shape)
                spread = np.sqrt(np.square(noise).T @ np.square(picked))
                sums += spread * rng.standard_normal(sums.shape, dtype=np.float32)
            kernels.convert_analog(
                sums.reshape(len(groups), len(classes), -1), self.factors[s][groups, :, side], classes,
                scale, half,
                top, weights, vectors, result, clipped,
            )  # fmt: skip
        out[:, body.outputs[s, groups]] += result
