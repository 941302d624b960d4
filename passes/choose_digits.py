"""choose-digits: what every column of a layer's weights counts for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ir.arrays import Array
from ir.cells import DIGITS, CellFormat
from ir.errors import XbcError
from ir.module import Layer, Module
from ir.stages import Sliced
from ir.target import Target
from passes.base import Context, Outcome, Pass, check
from passes.inputs import Moments
from passes.penalty import FORBIDDEN, grades, state_values
from passes.sections import group_width
from passes.solvers.trellis import hold_run
from passes.solvers.viterbi import MAX_BITS, PACKED

LOADS = 6
"""Loads of a layer's first block of inputs that a list is judged on."""
SMALLEST, LARGEST = 0.4, 1.1
"""Range of a list over the largest code, between which lists are tried."""
STEPS = (1, 2, 3, 4, 5, 6, 7, 8)
"""Smallest digits that are tried."""


@dataclass(frozen=True)
class ChooseDigits(Pass):
    """Gives the columns of every layer the weights that make its writes cheapest at the penalty.

    The adders behind the columns multiply by what the target's ``adders`` allow.  A list of more digits than the range
    needs spells most numbers in several ways; trellis takes the one that is near to what the cells hold.  Lists are
    ``step * (1, B, B**2, ...)`` with some of the upper digits a second time with a minus, B the levels of a cell; each
    is judged by what trellis would pay for some loads of the layer in writes and errors, and the encoding that the
    layer has is kept where none is better.  Targets with fixed adders keep their encoding.

    The words of a list stand for numbers near the codes, rarely for all of them: it belongs before trellis.

    Options:
        lambda: as in trellis.
        columns: cells per weight; 0: as many as the encoding takes.  Other numbers must stand before form-sections.
        digits: this list for all layers, most significant cell first, separated by blanks; empty: choose.
    """

    name: ClassVar[str] = "choose-digits"
    requires = Sliced
    ensures = Sliced

    lambda_: float = 0.1
    columns: int = 0
    digits: str = ""

    def __post_init__(self) -> None:
        check(self.lambda_ > 0, f"choose-digits: lambda = {self.lambda_} must be positive")
        check(0 <= self.columns <= 12, f"choose-digits: columns = {self.columns} is outside 0..12")
        self._listed()

    def _listed(self) -> tuple[int, ...]:
        try:
            return tuple(int(word) for word in self.digits.split())
        except ValueError:
            raise XbcError(
                f"choose-digits: digits = {self.digits!r} must be integers separated by blanks, as in '8 4 2 1 -8'"
            ) from None

    def weighs(self) -> bool:
        """Unless the list is given."""
        return not self.digits

    def run(self, module: Module, context: Context) -> Outcome:
        """Chooses for every layer; the lists are facts."""
        target = module.target
        if target.adders == "fixed":
            if self.digits:
                raise XbcError(
                    f"choose-digits: target {target.name!r} has fixed adders, its columns count for what the encoding "
                    f"says; --set adders=any where they can multiply"
                )
            return Outcome(module)
        graded = grades(module, context)

        def choose(layer: Layer) -> Layer:
            moments = None if context.moments is None else context.moments.get(layer.name)
            return self._choose(layer, target, moments, graded[layer.name].mean)

        layers = []
        with ThreadPoolExecutor(max(1, context.threads)) as pool:
            for done, layer in enumerate(pool.map(choose, module.layers)):
                context.progress("choose-digits", done + 1, len(module.layers))
                layers.append(layer)
        return Outcome(
            module.with_layers(layers),
            {
                "digits": {
                    x.name: list(x.at(Sliced).digits or x.at(Sliced).cells.cell_weights.tolist())
                    for x in layers
                }
            },
        )

    def _choose(self, layer: Layer, target: Target, moments: Moments | None, grade: float) -> Layer:
        body = layer.at(Sliced)
        columns = self.columns or body.cells.columns
        if columns != body.cells.columns and type(body) is not Sliced:
            raise XbcError(
                f"choose-digits: layer {layer.name!r} is cut for {body.cells.columns} columns per weight; put a pass "
                f"with columns={columns} before form-sections"
            )
        listed = self._listed()
        if listed:
            if not self.columns and len(listed) != body.cells.columns and type(body) is not Sliced:
                raise XbcError(
                    f"choose-digits: layer {layer.name!r} has {body.cells.columns} columns per weight"
                )
            return layer.with_body(with_digits(body, listed))
        if columns * body.bits_per_cell > MAX_BITS or body.encoding in ("driver", "split"):
            return layer
        sample = _Sample(layer, target, moments, self.lambda_ * grade)
        own = body.cells.columns == columns and body.cells.word_bits <= MAX_BITS
        tried: list[Sliced] = [body] if own else []
        tried += [with_digits(body, x) for x in lists(columns, body.bits_per_cell, sample.reach, target)]
        if not tried:
            return layer
        best = min(range(len(tried)), key=lambda k: (sample.price(tried[k]), k))
        return layer.with_body(tried[best])


def with_digits(body: Sliced, digits: tuple[int, ...]) -> Sliced:
    """The body, at its stage, with other column weights."""
    return body.lower(
        type(body), encoding=DIGITS, stored_bits=len(digits) * body.bits_per_cell, digits=digits,
        offset=np.zeros(1, np.int32),
    )  # fmt: skip


def lists(columns: int, bits_per_cell: int, reach: int, target: Target) -> Iterator[tuple[int, ...]]:
    """Lists of digits for codes of magnitude up to ``reach``, those the target's adders have."""
    base, top = 1 << bits_per_cell, (1 << bits_per_cell) - 1
    for positive in range(-(-5 * columns // 8), -(-3 * columns // 4) + 1):
        powers = [base**k for k in range(positive - 1, -1, -1)]
        pattern = [*powers, *(-power for power in powers[: columns - positive])]
        for step in STEPS:
            digits = tuple(step * power for power in pattern)
            low = min(-sum(d for d in digits if d < 0), sum(d for d in digits if d > 0)) * top
            if SMALLEST * reach <= low <= LARGEST * reach and all(target.adds(d) for d in digits):
                yield digits


class _Sample:
    """Some loads of a layer's first block.

    Fields:
        reach: largest magnitude of a code.
    """

    def __init__(self, layer: Layer, target: Target, moments: Moments | None, weight: float) -> None:
        """``weight``: penalty times the layer's grade."""
        self.body = layer.at(Sliced)
        codes = self.body.codes
        self.reach = int(np.abs(codes).max(initial=0))
        per_group = codes.shape[0] // layer.origin.groups
        width = group_width(layer, target)
        loads = min(LOADS, -(-per_group // width))
        chosen = np.linspace(0, per_group - 1, min(per_group, loads * width)).round().astype(np.int64)
        n = min(target.rows, codes.shape[1])
        self.wanted = codes[chosen, :n].astype(np.float32)
        self.outputs = np.full(loads * width, -1, np.int64)
        self.outputs[: len(chosen)] = np.arange(len(chosen))
        self.outputs = self.outputs.reshape(loads, width)
        self.inverse, mean = np.eye(n), 1.0
        if moments is not None:
            part = moments.factor[0, :n, :n].astype(np.float64)
            self.inverse, mean = part.T @ part, float(moments.power.mean(dtype=np.float64)) or 1.0
        self.feedback = moments is not None
        self.weight = weight / mean

    def price(self, body: Sliced) -> float:
        """Writes of the sampled loads, plus what their errors count in writes."""
        cells, offset = body.cells, int(body.offset[0])
        values = state_values(cells)
        low, high = int(body.limits[:, 0].max()) + offset, int(body.limits[:, 1].min()) + offset
        values = np.where((values < low) | (values > high), np.float32(FORBIDDEN), values)
        loads, width = self.outputs.shape
        outputs, n = len(self.wanted), self.wanted.shape[1]
        inputs = np.broadcast_to(np.arange(n), (loads, n)).copy()
        words = np.zeros((loads, n, width), cells.dtype)
        held = np.zeros((outputs, n), np.float32)
        state = np.full((n, width), -1, np.int64)
        hold_run(
            self.outputs, inputs, self.wanted + np.float32(offset), self.inverse, self.feedback,
            np.full(outputs, self.weight * PACKED, np.float32), values, cells.word_bits, cells.bits_per_cell, PACKED,
            PACKED, state, words, held,
        )  # fmt: skip
        return _writes(cells, words, self.outputs) + self.weight * self._error(held - np.float32(offset))

    def _error(self, held: Array) -> float:
        errors = (self.wanted - held).astype(np.float64)
        return float((np.linalg.solve(self.inverse, errors.T) * errors.T).sum())


def _writes(cells: CellFormat, words: Array, outputs: Array) -> int:
    """Cells that change from load to load."""
    levels = cells.levels(words)
    both = ((outputs[1:] >= 0) & (outputs[:-1] >= 0))[:, None, :, None]
    return int(((levels[1:] != levels[:-1]) & both).sum())
