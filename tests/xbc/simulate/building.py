"""Random programmed layers, and a crossbar written down cell by cell as the oracle of the engine."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

import numpy as np

from ir.cells import DIGITS
from ir.layout import Layout
from ir.module import Layer, Module, Origin
from ir.stages import UNUSED, Programmed, Quantized, Sectioned, Sliced
from ir.target import Target
from passes.encode_signs import encode
from passes.flat_sections import flat_sections
from passes.place import contiguous
from passes.sections import Cut, group_width, natural_sections, output_blocks, sections_from_order

Array = Any


def quantized_layer(codes: Array, *, bits: int, groups: int = 1, name: str = "layer") -> Layer:
    outputs, inputs = codes.shape
    limit = 1 << bits
    body = Quantized(
        codes=codes.astype(np.int32), scale=np.ones(1, np.float32), zero_point=np.zeros(1, np.int32),
        limits=np.array([[-limit, limit]], np.int32), bits=bits, given=False,
    )  # fmt: skip
    layout = Layout((inputs, outputs), (inputs, outputs), (1, 0), 1)
    return Layer(name, Origin(name, "MatMul", 1, f"{name}.w", "float32", layout, groups=groups), body)


def programmed_layer(
    codes: Array, target: Target, encoding: str, *, bits: int, groups: int = 1, seed: int = 0,
    shuffle: bool = False, disturb: float = 0.0, flip: bool = False, gated: bool = False,
) -> Layer:  # fmt: skip
    """A layer whose inputs may be gathered in any order, some words changed, some columns complemented.

    ``gated``: the weights of the whole layer share sections.
    """
    rng = np.random.default_rng(seed)
    layer = quantized_layer(codes, bits=bits, groups=groups)
    if encoding == DIGITS:
        fields = digit_fields(bits, target.bits_per_cell, rng)
        layer = layer.with_body(layer.at(Quantized).lower(Sliced, **fields))
    else:
        layer = layer.with_body(encode(layer, encoding).lower(Sliced, bits_per_cell=target.bits_per_cell))
    body: Sectioned = natural_sections(layer, target)
    if gated:
        cut: Cut = "stratified" if seed % 2 else "rank"
        body = flat_sections(layer, target, "magnitude" if shuffle else "none", cut)
    elif shuffle:  # every block of outputs takes its inputs in an order of its own, rows change places too
        blocks = output_blocks(codes.shape[0], groups, group_width(layer, target))
        order = np.stack([rng.permutation(codes.shape[1]) for _ in blocks]).astype(np.int32)
        cut = "stratified" if seed % 2 else "rank"
        body = sections_from_order(layer.at(Sliced), blocks, order, target, cut)
        inputs = np.stack([rng.permutation(row) for row in body.inputs])
        body = body.lower(Sectioned, inputs=inputs)
    module = contiguous(Module("m", target, (layer.with_body(body),)))
    placed = module.layers[0].body
    assert isinstance(placed, Sectioned)
    stored = placed.wanted_words().copy()
    empty = np.broadcast_to(placed.inputs[:, :, None] == UNUSED, stored.shape) | np.broadcast_to(
        placed.outputs[:, None, :] == UNUSED, stored.shape
    )
    if disturb:
        change = rng.random(stored.shape) < disturb
        noise = placed.cells.words(
            rng.integers(0, 1 << target.bits_per_cell, (*stored.shape, placed.cells.columns)).astype(np.uint8)
        )
        stored = np.where(change, noise, stored)
    flips = None
    if flip:
        full = np.uint8((1 << target.bits_per_cell) - 1)
        digits = (rng.random((*placed.outputs.shape, placed.cells.columns)) < 0.5).astype(np.uint8) * full
        flips = placed.cells.words(digits)
        stored = stored ^ flips[:, None, :]
    stored[empty] = 0
    return layer.with_body(placed.lower(Programmed, stored=stored.astype(placed.cells.dtype), flip=flips))


def digit_fields(bits: int, bits_per_cell: int, rng: np.random.Generator) -> dict[str, Any]:
    """Fields of a body with random column weights, as many columns as ``bits`` bits take (at most 4)."""
    count = min(4, -(-bits // bits_per_cell))
    digits = rng.integers(1, 50, count) * rng.choice([-1, 1], count)
    return {
        "encoding": DIGITS, "stored_bits": count * bits_per_cell, "offset": np.zeros(1, np.int32),
        "digits": tuple(digits.tolist()), "bits_per_cell": bits_per_cell,
    }  # fmt: skip


def code_limits(encoding: str, bits: int) -> tuple[int, int]:
    """Codes that fit ``bits`` bits under an encoding."""
    if encoding in ("driver", "split", "differential"):
        return -(2**bits) + 1, 2**bits - 1
    if encoding == "unipolar":
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def read_crossbars(
    layer: Layer, codes: Array, *, input_bits: int, signed: bool, dac_bits: int, adc_bits: int | None,
    full_scale: int = 0, offset_inputs: bool = False, floor_rounding: bool = False,
) -> Array:  # fmt: skip
    """Every column of every section, read by read, in Python's numbers: ``[outputs, vectors]`` Fractions.

    ``full_scale = 0`` means a clipped ADC (one code per unit).  Written from the definitions in the docs,
    not from the engine: no matrix is formed, no read skipped.
    """
    body = layer.body
    assert isinstance(body, Programmed)
    cells, top_level = body.cells, (1 << body.bits_per_cell) - 1
    outputs = body.shape[0]
    per_group = outputs // layer.origin.groups
    shift_in = 1 << (input_bits - 1) if signed and offset_inputs else 0
    magnitude_bits = input_bits - 1 if signed and not offset_inputs else input_bits
    reads = [(s, min(dac_bits, magnitude_bits - s), 1 << s) for s in range(0, magnitude_bits, dac_bits)]
    if signed and not offset_inputs:
        reads.append((input_bits - 1, 1, -(1 << (input_bits - 1))))
    adc_top = (1 << adc_bits) - 1 if adc_bits else 0
    step = max(Fraction(1), Fraction(full_scale, adc_top)) if adc_bits else Fraction(1)

    def convert(total: int) -> Fraction:
        if not adc_bits:
            return Fraction(total)
        code = floor(Fraction(total) / step + (0 if floor_rounding else Fraction(1, 2)))
        return min(code, adc_top) * step

    result = np.zeros((outputs, codes.shape[2]), object)
    levels = cells.levels(body.stored)
    flips = cells.levels(body.flip) if body.flip is not None else None
    signs = body.row_signs()
    for s in range(body.sections):
        driven = [r for r in range(body.rows) if body.inputs[s, r] != UNUSED]
        reads_of = [(g, int(o), driven) for g, o in enumerate(body.outputs[s]) if o != UNUSED]
        if body.row_outputs is not None:  # the rows of one output at a time
            present = sorted({int(body.row_outputs[s, r]) for r in driven})
            reads_of = [(0, o, [r for r in driven if body.row_outputs[s, r] == o]) for o in present]
        for g, output, rows in reads_of:
            x = codes[output // per_group][body.inputs[s, rows]].astype(object)
            sides = [(+1, [k for k in range(len(rows)) if signs[s, rows[k]] > 0]),
                     (-1, [k for k in range(len(rows)) if signs[s, rows[k]] < 0])]  # fmt: skip
            for sign, members in sides:
                if body.encoding == "split":
                    sign *= int(body.polarity[s])
                for d in range(cells.columns):
                    column = [int(levels[s, rows[k], g, d]) for k in members]
                    weight = sign * int(cells.cell_weights[d])
                    for t in range(codes.shape[2]):
                        flipped = flips is not None and flips[s, g, d]
                        for shift, width, value in reads:
                            mask = (1 << width) - 1
                            applied = [((int(x[k, t]) + shift_in) >> shift) & mask for k in members]
                            total = sum(level * a for level, a in zip(column, applied, strict=True))
                            seen = convert(total)
                            if flipped:
                                seen = top_level * sum(applied) - seen
                            result[output, t] += weight * value * seen
            if body.encoding == "offset":
                offset = int(body.offset[output if len(body.offset) > 1 else 0])
                result[output] -= offset * (x.sum(axis=0) + shift_in * len(rows))
    if shift_in:
        result -= (shift_in * body.effective_codes().sum(axis=1, dtype=np.int64).astype(object))[:, None]
    return result
