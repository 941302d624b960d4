"""fixed-codebook: the cells keep the same levels for good, the weights choose their rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Layer, Module
from ir.stages import UNUSED, Body, Float, Placed, Quantized, Sectioned, Sliced
from passes.base import Context, Outcome, Pass, check
from passes.encode_signs import EncodeSigns
from passes.order_inputs import OrderInputs
from passes.place import contiguous_crossbars, place
from passes.slice_bits import SliceBits
from passes.solvers.codebook import add_targets, fit_outputs

MOST_SAMPLED = 4096
"""Outputs that the levels are fitted on, spread evenly over the layers by their weights."""


@dataclass(frozen=True)
class FixedCodebook(Pass):
    """Fills every crossbar once with a fixed set of levels, one per row, that no inference rewrites.

    A section of 128 rows with one weight each may take its inputs in any order, so a weight can look for a row that
    already holds the level it needs: row r of every section holds the r-th level of the crossbar's codebook, and
    weight = sign * level * scale of the output.  Of an output of n weights in k sections each level takes at most k:
    which weight takes which level is solved exactly (one dynamic programme per output), scale and levels are fitted
    to least squared error relative to the power of each output.  Nothing is written in steady state on any number
    of crossbars; all that changes from load to load is the row map.

    The codes are new ones, also where the model brings codes along, so this is not lossless: judge it with xbc
    evaluate.  It needs a target with driver encoding and gather routing, and operators whose weights are floats.

    Options:
        books: codebooks on the chip, at most one per crossbar; every output takes the one that fits it best.
        spare: least share of a section's rows that stay empty, for more sections: levels that suit no weight are
            left out.  An output that fills its sections to the last row has to use every level, and most of the
            error is there (DeiT-Tiny: 7 to 14 % of the weights, 2 % where a quarter of the rows stays empty).
        rounds: of fitting levels and assignment in turn.
    """

    name: ClassVar[str] = "fixed-codebook"
    requires = Float
    ensures = Placed

    books: int = 1
    spare: float = 0.0
    rounds: int = 8

    def __post_init__(self) -> None:
        check(1 <= self.books <= 64, f"fixed-codebook: books = {self.books} is outside 1..64")
        check(0 <= self.spare <= 0.9, f"fixed-codebook: spare = {self.spare} is outside 0..0.9")
        check(1 <= self.rounds <= 100, f"fixed-codebook: rounds = {self.rounds} is outside 1..100")

    def accepts(self, body: Body) -> bool:
        """Float layers, and those whose codes the model brings along (they get new ones)."""
        return isinstance(body, Float) or (type(body) is Quantized and body.given)

    def run(self, module: Module, context: Context) -> Outcome:
        """Chooses codes, sections, rows and crossbars of every layer."""
        target = module.target
        if (target.encoding, target.routing, target.outputs_per_section) != ("driver", "gather", 1):
            raise XbcError(
                f"fixed-codebook: weights cannot choose rows on target {target.name!r} ({target.encoding}, "
                f"{target.routing} routing, {target.outputs_per_section} outputs per section); it needs driver "
                f"encoding, gather routing and one output per section"
            )
        check(
            self.books <= target.crossbars,
            f"fixed-codebook: books = {self.books}, but the chip has {target.crossbars} crossbar(s), each keeps one",
        )
        weights = [_values(layer) for layer in module.layers]
        top = (1 << (target.columns * target.bits_per_cell)) - 1
        least = max(1, int(target.rows * (1 - self.spare)))
        copies = [-(-w.shape[1] // least) for w in weights]
        with ThreadPoolExecutor(max(1, context.threads)) as pool:
            books = _fit(weights, copies, target.rows, min(top, 255), self, context, pool)
            found = []
            for i, (w, k) in enumerate(zip(weights, copies, strict=True)):
                context.progress(self.name, i, len(weights))
                found.append(_choose(w, k, books, pool))
        quantised = [
            layer.with_body(_codes(w, one, books, min(top, 255)))
            for layer, w, one in zip(module.layers, weights, found, strict=True)
        ]
        sliced = (
            SliceBits().run(EncodeSigns().run(module.with_layers(quantised), context).module, context).module
        )
        layers, owners = [], []
        for layer, one, k in zip(sliced.layers, found, copies, strict=True):
            body, book = _sections(layer.at(Sliced), one, k, target.rows)
            layers.append(layer.with_body(body))
            owners.append(book)
        placed = place(sliced.with_layers(layers), _deal(owners, len(books), target.crossbars))
        placed = OrderInputs().run(placed, context).module
        error = sum(float(one.error.sum()) for one in found)
        power = sum(float((w.astype(np.float64) ** 2).sum()) for w in weights)
        facts = {
            "levels": [book.astype(int).tolist() for book in books],
            "sections_of_book": np.bincount(np.concatenate(owners), minlength=len(books)).tolist(),
            "relative_rms_error": float(np.sqrt(error / power)) if power else 0.0,
            "layers": {
                layer.name: float(
                    np.sqrt(one.error.sum() / max(float((w.astype(np.float64) ** 2).sum()), 1e-300))
                )
                for layer, w, one in zip(module.layers, weights, found, strict=True)
            },
        }
        return Outcome(placed, facts)


@dataclass(frozen=True)
class _Choice:
    """Of one layer.

    Fields:
        order: ``[outputs, n]`` inputs by magnitude, descending.
        level: ``[outputs, n]`` index of the level that each of them takes.
        book, scale, error: ``[outputs]``.
    """

    order: Array
    level: Array
    book: Array
    scale: Array
    error: Array


def _values(layer: Layer) -> Array:
    """``[outputs, inputs]`` float32 weights as the model computes with them."""
    if not layer.origin.dtype.startswith(("float", "bfloat")):
        raise XbcError(
            f"fixed-codebook: layer {layer.name!r} takes {layer.origin.dtype} weights of one scale, a codebook needs a "
            f"scale per output: start from the float or the QDQ model"
        )
    body = layer.body
    if isinstance(body, Float):
        return body.values
    assert isinstance(body, Quantized)
    return np.asarray(body.codes.astype(np.float32) * body.scale[:, None])


def _sorted(weights: Array) -> tuple[Array, Array]:
    """(inputs by magnitude, magnitudes), each ``[outputs, n]``, descending."""
    magnitude = np.abs(weights)
    order = np.argsort(-magnitude, axis=1, kind="stable").astype(np.int32)
    return order, np.take_along_axis(magnitude, order, axis=1).astype(np.float64)


def _fit(
    weights: list[Array], copies: list[int], rows: int, top: int, options: FixedCodebook, context: Context,
    pool: ThreadPoolExecutor,
) -> list[Array]:  # fmt: skip
    """The codebooks, ``[rows]`` float64 of whole levels 0..top, descending: Lloyd's iteration over sampled outputs."""
    total = sum(w.size for w in weights)
    samples = []
    for w, k in zip(weights, copies, strict=True):
        count = min(len(w), max(1, round(MOST_SAMPLED * w.size / max(total, 1))))
        values = _sorted(w[np.linspace(0, len(w) - 1, count).round().astype(int)])[1]
        power = (values**2).sum(axis=1)
        samples.append((values[power > 0], k, power[power > 0]))
    samples = [one for one in samples if len(one[0])]
    rank = (np.arange(rows) + 0.5) / rows
    shapes, sharp = [], []
    for values, _, power in samples:
        n = values.shape[1]
        at = np.clip((rank * n).astype(int), 0, n - 1)
        rms = np.sqrt(power / n)
        shapes.append(values[:, at] / rms[:, None])
        sharp.append(values.mean(axis=1) / rms)
    if not shapes:
        return [np.linspace(top, 0, rows).round()]
    shape, order = np.concatenate(shapes), np.argsort(np.concatenate(sharp), kind="stable")
    books = [
        _whole(shape[part].mean(axis=0), top) for part in np.array_split(order, options.books) if len(part)
    ]
    for turn in range(options.rounds):
        context.progress("fitting levels", turn, options.rounds)
        above, below = np.zeros((len(books), rows)), np.zeros((len(books), rows))
        tried = list(pool.map(lambda one: _best(one[0], one[1], books), samples))
        for (values, _, power), (book, level, scale, _) in zip(samples, tried, strict=True):
            for b in np.unique(book):
                mine = book == b
                add_targets(values[mine], level[mine], scale[mine], 1 / power[mine], above[b], below[b])
        for b in range(len(books)):
            fresh = np.where(below[b] > 0, above[b] / np.maximum(below[b], 1e-300), books[b])
            books[b] = _whole(fresh, top)
    return books


def _whole(levels: Array, top: int) -> Array:
    """Descending whole levels, the largest one ``top``."""
    ordered = -np.sort(-levels)
    return np.asarray(np.rint(ordered * (top / max(float(ordered[0]), 1e-300))))


def _best(values: Array, copies: int, books: list[Array]) -> tuple[Array, Array, Array, Array]:
    """(book, level index, scale, squared error) of least error for every row of ``values``."""
    m, n = values.shape
    book, best_level = np.zeros(m, np.int64), np.zeros((m, n), np.int16)
    best_scale, best_error = np.zeros(m), np.full(m, np.inf)
    rms = np.sqrt((values**2).mean(axis=1))
    for b, levels in enumerate(books):
        scale = rms / max(float(np.sqrt((levels**2).mean())), 1e-300)
        level, error = np.zeros((m, n), np.int16), np.zeros(m)
        fit_outputs(values, levels, copies, scale, level, error)
        better = error < best_error
        book[better], best_level[better] = b, level[better]
        best_scale[better], best_error[better] = scale[better], error[better]
    return book, best_level, best_scale, best_error


def _choose(weights: Array, copies: int, books: list[Array], pool: ThreadPoolExecutor) -> _Choice:
    """Book, level and scale for every output of a layer."""
    chunk = max(1, 2**20 // max(1, weights.shape[1]))

    def one(start: int) -> _Choice:
        order, values = _sorted(weights[start : start + chunk])
        book, level, scale, error = _best(values, copies, books)
        return _Choice(order, level, book, scale, error)

    parts = list(pool.map(one, range(0, len(weights), chunk)))
    names = ("order", "level", "book", "scale", "error")
    return _Choice(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _codes(weights: Array, choice: _Choice, books: list[Array], top: int) -> Quantized:
    """The layer's new codes: sign times level, a scale per output."""
    levels = np.stack(books)[choice.book[:, None], choice.level].astype(np.int16)
    codes = np.zeros(weights.shape, np.int16)
    np.put_along_axis(codes, choice.order.astype(np.int64), levels, axis=1)
    codes[weights < 0] *= -1
    scale = choice.scale.astype(np.float32)
    scale[scale <= 0] = 1.0
    return Quantized(
        codes=codes,
        scale=scale,
        zero_point=np.zeros(1, np.int32),
        limits=np.array([[-top, top]], np.int32),
        bits=top.bit_length(),
        given=False,
    )


def _sections(body: Sliced, choice: _Choice, copies: int, rows: int) -> tuple[Sectioned, Array]:
    """The section table, output by output, and the codebook of each section; a level's weights stand in its row."""
    outputs, n = choice.order.shape
    level = np.empty((outputs, n), np.int64)
    np.put_along_axis(level, choice.order.astype(np.int64), choice.level.astype(np.int64), axis=1)
    inputs = np.full((outputs * copies, rows), UNUSED, np.int32)
    chunk = max(1, 2**22 // n)
    for start in range(0, outputs, chunk):
        part = level[start : start + chunk]
        order = np.argsort(part, axis=1, kind="stable")  # by level, inputs ascending
        ordered = np.take_along_axis(part, order, axis=1)
        first = np.zeros(part.shape, np.bool_)
        first[:, 0] = True
        first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        at = np.broadcast_to(np.arange(n), part.shape)
        nth = at - np.maximum.accumulate(np.where(first, at, 0), axis=1)
        output = np.arange(start, start + len(part))[:, None]
        inputs[output * copies + nth, ordered] = order
    used = (inputs >= 0).any(axis=1)
    output = np.repeat(np.arange(outputs, dtype=np.int32), copies)
    rank = np.tile(np.arange(copies, dtype=np.int32), outputs)
    sections = body.lower(
        Sectioned,
        outputs=output[used][:, None],
        inputs=inputs[used],
        rank=rank[used],
        polarity=np.zeros(int(used.sum()), np.int8),
        row_outputs=None,
    )
    return sections, choice.book[output[used]]


def _deal(owners: list[Array], books: int, crossbars: int) -> list[Array]:
    """Crossbar of every section: each codebook has a share of the chip after the number of its sections."""
    total = np.bincount(np.concatenate(owners), minlength=books)
    share = np.maximum(1, np.floor(total / max(int(total.sum()), 1) * crossbars).astype(int))
    while share.sum() > crossbars:
        share[int(np.argmax(share))] -= 1
    while share.sum() < crossbars:
        share[int(np.argmax(total / share))] += 1
    starts = np.concatenate([[0], np.cumsum(share)])
    out: list[Array] = []
    for owner in owners:
        bars = np.zeros(len(owner), np.int32)
        for b in range(books):
            mine = owner == b
            bars[mine] = starts[b] + contiguous_crossbars(int(mine.sum()), int(share[b]))
        out.append(bars)
    return out
