"""The integer engine: what a layer's crossbars and converters make of integer inputs.

A column whose sums the ADC converts exactly, whatever the inputs, is an exact integer dot product; all such
columns of all sections collapse into one matrix, multiplied by BLAS in a float type wide enough to be exact.
The remaining columns are simulated read by read (``engine_kernels.convert_columns``).
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Layer
from ir.stages import Programmed
from ir.target import Converters, Target
from xbc.simulate import engine_kernels as kernels
from xbc.simulate.converters import Adc, Coding, Phase, adc_for, check_converters, phases
from xbc.simulate.gated import one_output_reads

EXACT_FLOAT32 = 2**24
EXACT_FLOAT64 = 2**53
TILE_CELLS = 1600
"""Column sums a compiled loop holds at once: reads x vectors, few enough for the caches."""


class Multiplier(Protocol):
    """What the network simulator needs of a layer, whatever the fidelity."""

    @property
    def effective(self) -> Array:
        """``[outputs, inputs]`` int32 codes that the cells stand for."""

    def product(self, codes: Array, coding: Coding) -> Array:
        """``[groups, inputs, vectors]`` integer codes to ``[outputs, vectors]`` float64 products."""


@dataclass
class AdcCounts:
    """Conversions made (those of collapsed columns included) and how many of them were clipped."""

    conversions: int = 0
    clipped: int = 0


@dataclass(frozen=True, eq=False)
class Plan:
    """How products of one coding are computed.

    Fields:
        factor: ``[sections, G, columns, 2]`` int32, what an ADC code of a simulated column counts;
            0 for collapsed and empty columns.
        exact: float matrix ``[groups, outputs per group, inputs]`` of everything that is linear in the
            inputs, None when that is nothing.
        cuts: input ranges whose partial products are exact in ``exact``'s type.
        largest: largest sum of a simulated column.
    """

    reads: tuple[Phase, ...]
    offset: int
    adcs: tuple[Adc, ...]
    factor: Array | None
    exact: Array | None
    cuts: tuple[tuple[int, int], ...]
    largest: int
    conversions_per_vector: int


class IntegerEngine:
    """Exact arithmetic of one programmed layer.

    Args:
        layer: at stage Programmed.
        target: gives the ADC's full scale (rows, levels).
        converters: the target's, or a replacement; None: no ADC, column sums are summed as they are.
        calibrated: for a calibrated ``adc_range``: largest sum of each converter class.
        threads: of the compiled loops (BLAS has its own).
    Fields:
        body: the section table; where rows have outputs of their own, a section for each read (``reads``).
    """

    def __init__(
        self, layer: Layer, target: Target, converters: Converters | None = None, *, adc: bool = True,
        calibrated: tuple[int, ...] | None = None, threads: int = 1,
    ) -> None:  # fmt: skip
        """See the class."""
        self.name = layer.name
        whole = layer.at(Programmed)
        self.reads = one_output_reads(whole)
        self.body = whole if self.reads is None else self.reads.body
        self.groups = layer.origin.groups
        self.target = target
        self.converters = check_converters(converters or target.converters)
        self.adc = adc
        self.calibrated = calibrated
        self.threads = threads
        self.counts = AdcCounts()
        self._plans: dict[Coding, Plan] = {}
        self._levels: Array | None = None
        self._signs: Array | None = None
        self._effective: Array | None = None

    @property
    def classes(self) -> Array:
        """``[columns]`` int32: converter class of each digit (digits that share an ADC share its range)."""
        columns = self.body.cells.columns
        if self.converters.adc_range != "calibrated":
            return np.zeros(columns, np.int32)
        return np.asarray(np.arange(columns, dtype=np.int32) // self.converters.columns_per_adc)

    @property
    def signs(self) -> Array:
        """``[sections, rows]`` int8 driver signs, ``[0, 0]`` for encodings without them."""
        if self._signs is None:
            driver = self.body.encoding == "driver"
            self._signs = self.body.row_signs() if driver else np.zeros((0, 0), np.int8)
        return self._signs

    @property
    def effective(self) -> Array:
        """``[outputs, inputs]`` int32 codes that the cells stand for."""
        if self._effective is None:
            self._effective = self.body.effective_codes()
        return self._effective

    @property
    def weight_sums(self) -> Array:
        """``[outputs]`` int64 sum of each output's codes: what one unit of input offset adds."""
        return np.asarray(self.effective.sum(axis=1, dtype=np.int64))

    def column_levels(self) -> Array:
        """``[sections, G, columns, 2]`` int32: sum of the driven rows' levels, per row sign."""
        if self._levels is None:
            body = self.body
            out = np.zeros((body.sections, body.group_width, body.cells.columns, 2), np.int32)
            kernels.column_levels(
                body.stored, body.inputs, self.signs, body.cells.columns, body.bits_per_cell, out
            )
            out[body.outputs < 0] = 0
            self._levels = out
        return self._levels

    def factors(self) -> Array:
        """``[sections, G, columns, 2]`` int32: what one unit of each column's sum counts in its output."""
        body = self.body
        weights = body.cells.cell_weights
        factor = np.empty((body.sections, body.group_width, len(weights), 2), np.int32)
        factor[..., 0] = weights
        factor[..., 1] = -weights if body.encoding == "driver" else 0
        if body.encoding == "split":
            factor *= body.polarity[:, None, None, None]
        if body.flip is not None:
            factor[body.cells.levels(body.flip) > 0] *= -1
        factor[body.outputs < 0] = 0
        return factor

    def set_ranges(self, calibrated: tuple[int, ...]) -> None:
        """Fixes the calibrated ADC ranges."""
        self.calibrated = calibrated
        self._plans.clear()

    def plan(self, coding: Coding) -> Plan:
        """The (kept) plan for inputs of this coding."""
        if coding not in self._plans:
            self._plans[coding] = self._make_plan(coding)
        return self._plans[coding]

    def _make_plan(self, coding: Coding) -> Plan:
        reads, offset = phases(coding, self.converters)
        dac_top = max(read.top for read in reads)
        levels = self.column_levels()
        present = levels > 0
        conversions = int(np.count_nonzero(present)) * len(reads)
        classes = self.classes
        adcs: tuple[Adc, ...] = ()
        simulated = np.zeros_like(present)
        if self.adc:
            ranges: tuple[int | None, ...] = self.calibrated or (None,) * (int(classes.max(initial=0)) + 1)
            adcs = tuple(adc_for(self.target, dac_top, r, self.converters) for r in ranges)
            limit = np.array([adc.exact_up_to for adc in adcs], np.int64)[classes]
            simulated = levels.astype(np.int64) * dac_top > limit[:, None]
        factor, largest = None, 0
        linear = self.effective
        if simulated.any():
            factor = np.where(simulated, self.factors(), np.int32(0))
            largest = int(levels[simulated].max()) * dac_top
            rest = linear.astype(np.int64)
            kernels.subtract_columns(
                rest, self.body.stored, self.body.inputs, self.signs, self.body.outputs, factor,
                self.body.bits_per_cell,
            )  # fmt: skip
            linear = rest
        exact, cuts = self._exact_matrix(linear, coding.magnitude)
        return Plan(reads, offset, adcs, factor, exact, cuts, largest, conversions)

    def _exact_matrix(
        self, linear: Array, magnitude: int
    ) -> tuple[Array | None, tuple[tuple[int, int], ...]]:
        if not linear.any():
            return None, ()
        outputs, inputs = linear.shape
        absolute = np.abs(linear.astype(np.int64))
        for parts in (1, 2, 4):
            edges = np.linspace(0, inputs, min(parts, inputs) + 1).astype(int)
            cuts = tuple((int(a), int(b)) for a, b in itertools.pairwise(edges))
            largest = max(int(absolute[:, a:b].sum(axis=1).max()) for a, b in cuts)
            if largest * magnitude < EXACT_FLOAT32:
                dtype: type[np.floating] = np.float32
                break
        else:
            dtype, cuts = np.float64, ((0, inputs),)
            if int(absolute.sum(axis=1).max()) * magnitude >= EXACT_FLOAT64:
                raise XbcError(
                    f"layer {self.name!r}: products exceed 53 bits: lower the weight or input bits"
                )
        return linear.astype(dtype).reshape(self.groups, outputs // self.groups, inputs), cuts

    def product(self, codes: Array, coding: Coding) -> Array:
        """Products of integer inputs with the layer's weights, through its crossbars.

        Args:
            codes: ``[groups, inputs, vectors]``, integers within ``coding``.
        Returns: ``[outputs, vectors]`` float64; with converters that are exact, integers.
        Raises: XbcError when the shape does not fit the layer or a code is outside the coding.
        """
        self.check(codes, coding)
        plan = self.plan(coding)
        vectors = codes.shape[2]
        outputs = self.body.shape[0]
        out = self._collapsed(plan, codes).reshape(outputs, vectors)
        if self.adc:
            self.counts.conversions += plan.conversions_per_vector * vectors
        if plan.factor is not None:
            out = self._converted(plan, codes, out)
        return out

    def check(self, codes: Array, coding: Coding) -> None:
        """Refuses inputs of a wrong shape or outside their coding."""
        inputs = self.body.shape[1]
        if codes.ndim != 3 or codes.shape[:2] != (self.groups, inputs):
            raise XbcError(
                f"layer {self.name!r} takes {self.groups} x {inputs} inputs per product, "
                f"not {list(codes.shape[:-1])}"
            )
        if codes.size and not (coding.low <= int(codes.min()) and int(codes.max()) <= coding.high):
            kind = "signed" if coding.signed else "unsigned"
            raise XbcError(
                f"layer {self.name!r}: input codes span {codes.min()}..{codes.max()}, outside the "
                f"{coding.low}..{coding.high} of {coding.bits}-bit {kind} inputs"
            )

    def _collapsed(self, plan: Plan, codes: Array) -> Array:
        """``[groups, outputs per group, vectors]`` float64."""
        if plan.exact is None:
            return np.zeros((self.groups, self.body.shape[0] // self.groups, codes.shape[2]))
        x = codes.astype(plan.exact.dtype)
        total: Array | None = None
        for a, b in plan.cuts:
            part = (plan.exact[:, :, a:b] @ x[:, a:b]).astype(np.float64)
            total = part if total is None else np.add(total, part, out=total)
        assert total is not None
        return total

    def _converted(self, plan: Plan, codes: Array, out: Array) -> Array:
        """Adds the simulated columns to ``out`` (the offset's share of them is digital, hence exact)."""
        assert plan.factor is not None
        body, reads = self.body, plan.reads
        sum_type = next(t for t in (np.uint8, np.uint16, np.uint32) if plan.largest <= np.iinfo(t).max)
        transfers = [adc.transfer(plan.largest) for adc in plan.adcs]
        transfer = np.array(transfers, np.int64)
        wide = any(plan.largest * m + a >= 2**31 or top >= 2**31 for m, a, _, top in transfers)
        gain = int(np.abs(plan.factor).sum(axis=2).max()) * int(transfer[:, 3].max())
        part_type = np.int32 if gain < 2**31 and not wide else np.int64
        shifts = np.array([read.shift for read in reads], np.int32)
        masks = np.array([read.top for read in reads], np.int32)
        weights = np.array([read.weight for read in reads], np.int64)
        clip_above = np.array([adc.range_top for adc in plan.adcs], np.int64)
        may_clip = plan.largest > int(clip_above.min())
        clip_above = np.minimum(clip_above, np.iinfo(sum_type).max).astype(sum_type)
        flat = codes.reshape(-1, codes.shape[2])
        vectors_in_all = flat.shape[1]
        tiles = max(-(-vectors_in_all * len(reads) // TILE_CELLS), min(self.threads, vectors_in_all // 8), 1)
        tile = -(-vectors_in_all // tiles)
        outputs, inputs = body.shape

        def run(start: int) -> int:
            block = np.ascontiguousarray(flat[:, start : start + tile], dtype=np.int32) + np.int32(
                plan.offset
            )
            vectors = block.shape[1]
            x = np.empty((block.shape[0], len(reads) * vectors), sum_type)
            kernels.split_reads(block, shifts, masks, x)
            result = np.zeros((len(plan.adcs), outputs, vectors), np.int64)
            clipped = np.zeros(len(plan.adcs), np.int64)
            kernels.convert_columns(
                x, vectors, body.stored, body.inputs, self.signs, body.outputs, plan.factor,
                body.bits_per_cell, body.bits_per_cell == 1, outputs // self.groups, inputs, self.classes,
                transfer, wide, clip_above, may_clip, weights, np.empty(x.shape[1], sum_type),
                np.empty(body.rows, sum_type),
                np.empty((len(plan.adcs), x.shape[1]), part_type), result, clipped,
            )  # fmt: skip
            view = out[:, start : start + tile]  # each tile its own vectors
            for adc, codes_out in zip(plan.adcs, result, strict=True):
                view += codes_out * adc.step
            return int(clipped.sum())

        starts = range(0, flat.shape[1], tile)
        if self.threads > 1 and len(starts) > 1:
            with ThreadPoolExecutor(self.threads) as pool:
                self.counts.clipped += sum(pool.map(run, starts))
        else:
            self.counts.clipped += sum(run(start) for start in starts)
        if plan.offset:
            out -= (plan.offset * self._simulated_sums(plan))[:, None]
        return out

    def _simulated_sums(self, plan: Plan) -> Array:
        """``[outputs]`` what one unit of every input adds through the simulated columns."""
        linear = self.weight_sums.astype(np.float64)
        if plan.exact is not None:
            linear = linear - plan.exact.sum(axis=2, dtype=np.float64).reshape(-1)
        return linear

    def calibrate(self, codes: Array, coding: Coding, seed: int = 0, limit: int = 256) -> Array:
        """``[classes, largest + 1]`` int64: how often each column sum occurs on at most ``limit`` vectors."""
        self.check(codes, coding)
        reads, offset = phases(coding, self.converters)
        levels = self.column_levels()
        largest = int(levels.max(initial=0)) * max(read.top for read in reads)
        sum_type = next(t for t in (np.uint8, np.uint16, np.uint32) if largest <= np.iinfo(t).max)
        flat = codes.reshape(-1, codes.shape[2])
        if flat.shape[1] > limit:
            flat = flat[:, np.sort(np.random.default_rng(seed).choice(flat.shape[1], limit, replace=False))]
        block = np.ascontiguousarray(flat, dtype=np.int32) + np.int32(offset)
        x = np.empty((block.shape[0], len(reads) * block.shape[1]), sum_type)
        kernels.split_reads(
            block, np.array([r.shift for r in reads], np.int32), np.array([r.top for r in reads], np.int32), x
        )
        body = self.body
        histogram = np.zeros((int(self.classes.max(initial=0)) + 1, largest + 1), np.int64)
        kernels.count_sums(
            x, body.stored, body.inputs, self.signs, body.outputs, body.bits_per_cell,
            body.bits_per_cell == 1, body.shape[0] // self.groups, body.shape[1], self.classes,
            body.cells.columns,
            np.empty(x.shape[1], sum_type), np.empty(body.rows, sum_type), histogram,
        )  # fmt: skip
        return histogram
