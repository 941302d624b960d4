"""Invariants of a layer's matrix: arrays, layout, values, codes, cells."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ir.arrays import Array
from ir.cells import CellFormat
from ir.errors import XbcError
from ir.invariants import Findings, first_hit
from ir.module import Layer
from ir.stages import Body, Encoded, Float, Programmed, Quantized, Sectioned, Sliced
from ir.target import Target

# Type and shape of every array: axes are lengths by name, "1|outputs" means either.
_ARRAYS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "values": (("float32",), ("outputs", "inputs")),
    "codes": (("int16", "int32"), ("outputs", "inputs")),
    "scale": (("float32",), ("1|outputs",)),
    "zero_point": (("int32",), ("1|outputs",)),
    "limits": (("int32",), ("1|outputs", "2")),
    "offset": (("int32",), ("1|outputs",)),
    "outputs": (("int32",), ("sections", "G")),
    "inputs": (("int32",), ("sections", "rows")),
    "rank": (("int32",), ("sections",)),
    "polarity": (("int8",), ("sections",)),
    "row_outputs": (("int32",), ("sections", "rows")),
    "crossbar": (("int32",), ("sections",)),
    "step": (("int64",), ("sections",)),
    "stored": (("word",), ("sections", "rows", "G")),
    "flip": (("word",), ("sections", "G")),
    "verify": (("word",), ("sections", "rows", "G")),
}


def check_arrays(body: Body, found: Findings) -> None:
    """Types and shapes; nothing else may be asked of a body that fails here."""
    present = {name: value for name in _ARRAYS if isinstance(value := getattr(body, name, None), np.ndarray)}
    for name, array in present.items():
        types, axes = _ARRAYS[name]
        if types == ("word",):
            assert isinstance(body, Programmed)
            types = (body.cells.dtype.name,)
        if array.dtype.name not in types or array.ndim != len(axes):
            found.add(
                "array-type",
                f"{name} is {array.dtype.name} with {_axes(array.ndim)}, expected {' or '.join(types)} "
                f"with {_axes(len(axes))}",
            )
    if found:
        return
    lengths = dict(zip(("outputs", "inputs"), body.shape, strict=True))
    if isinstance(body, Sectioned):
        lengths.update(sections=body.sections, rows=body.rows, G=body.group_width)
    for name, array in present.items():
        allowed = [{_length(axis, lengths) for axis in axes.split("|")} for axes in _ARRAYS[name][1]]
        if any(n not in lengths_ for n, lengths_ in zip(array.shape, allowed, strict=True)):
            wanted = ", ".join(" or ".join(map(str, sorted(a))) for a in allowed)
            found.add("array-shape", f"{name} has shape {list(array.shape)}, expected [{wanted}]")


def _axes(n: int) -> str:
    return f"{n} {'axis' if n == 1 else 'axes'}"


def _length(axis: str, lengths: Mapping[str, int]) -> int:
    return int(axis) if axis.isdecimal() else lengths[axis]


def check_origin(layer: Layer, found: Findings) -> None:
    """Emptiness, groups and layout."""
    outputs, inputs = layer.body.shape
    if not outputs or not inputs:
        found.add("layer-empty", f"the matrix is {outputs} x {inputs}")
    groups = layer.origin.groups
    if groups < 1 or outputs % groups:
        found.add("groups", f"groups = {groups} does not divide {outputs} outputs")
    layout = layer.origin.layout
    if min(layout.shape + layout.split, default=1) < 0 or math.prod(layout.shape) != math.prod(layout.split):
        found.add("layout", f"splitting {list(layout.shape)} into {list(layout.split)} changes its size")
    elif sorted(layout.perm) != list(range(len(layout.split))):
        found.add("layout", f"perm {list(layout.perm)} is no order of {len(layout.split)} axes")
    elif not 0 <= layout.outer <= len(layout.perm):
        found.add("layout", f"outer = {layout.outer} is outside 0..{len(layout.perm)}")
    elif layout.matrix_shape != layer.body.shape:
        rows, columns = layout.matrix_shape
        found.add("layout", f"the layout yields {rows} x {columns}, the matrix is {outputs} x {inputs}")


def check_cell_format(body: Encoded, found: Findings) -> CellFormat | None:
    """The layer's cell format (one bit per cell before slicing), or None with a problem."""
    try:
        bits_per_cell = body.stored_bits // len(body.digits) if body.digits else 1
        bits_per_cell = body.bits_per_cell if isinstance(body, Sliced) else bits_per_cell
        return CellFormat(body.encoding, body.stored_bits, bits_per_cell, body.digits or ())
    except XbcError as error:
        found.add("cell-format", str(error))
        return None


def check_float(body: Float, found: Findings) -> None:
    """Finite values."""
    values = body.values
    # NaN and infinity survive min and max: no temporary array for the common case
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        hit = first_hit(len(values), values.shape[1], lambda part: ~np.isfinite(values[part]))
        assert hit is not None
        found.add("value-finite", f"weight {list(hit.index)} is {values[hit.index]}{hit.more}")


def check_codes(body: Quantized, found: Findings) -> None:
    """Scales, limits, and codes within them."""
    if not 1 <= body.bits <= 32:
        found.add("bits", f"bits = {body.bits} is outside 1..32")
    bad = np.flatnonzero(~(np.isfinite(body.scale) & (body.scale > 0)))
    if bad.size:
        found.add("scale-value", f"scale[{bad[0]}] = {body.scale[bad[0]]} must be finite and positive")
    low, high = body.limits[:, 0], body.limits[:, 1]
    bad = np.flatnonzero(low > high)
    if bad.size:
        found.add(
            "limits-order", f"limits[{bad[0]}] = {body.limits[bad[0]].tolist()} has the lower one above"
        )
        return
    _check_range(body.codes, low, high, "code-limits", "the limits of its output", found)


def _check_range(codes: Array, low: Array, high: Array, code: str, of: str, found: Findings) -> None:
    """``low <= codes <= high``, bounds ``[1]`` or ``[outputs]``."""
    if not codes.size or (np.all(codes.min(axis=1) >= low) and np.all(codes.max(axis=1) <= high)):
        return
    lower, upper = (np.broadcast_to(bound, codes.shape[:1])[:, None] for bound in (low, high))
    hit = first_hit(
        len(codes), codes.shape[1], lambda part: (codes[part] < lower[part]) | (codes[part] > upper[part])
    )
    assert hit is not None
    output = hit.index[0]
    found.add(
        code,
        f"weight {list(hit.index)} has code {codes[hit.index]}, "
        f"outside {lower[output, 0]}..{upper[output, 0]}, {of}{hit.more}",
    )


def check_encoded(body: Encoded, cells: CellFormat, found: Findings) -> None:
    """Offsets, and codes within what the encoding can store."""
    bad = np.flatnonzero(body.offset)
    if body.encoding != "offset" and bad.size:
        found.add(
            "offset-unused", f"offset[{bad[0]}] = {body.offset[bad[0]]} with encoding {body.encoding!r}"
        )
        return
    if cells.digits:  # a code beyond them is held at the nearest number that they spell
        return
    low, high = cells.code_range()
    offset = body.offset.astype(np.int64)
    of = f"the range of {body.encoding} with {body.stored_bits} bits"
    if body.encoding == "offset":
        of += " after its offset"
    _check_range(body.codes, low - offset, high - offset, "code-range", of, found)


def check_sliced(body: Sliced, target: Target, found: Findings) -> None:
    """Digits fit the target's cells, one weight its columns."""
    if body.bits_per_cell > target.bits_per_cell:
        found.add(
            "bits-per-cell",
            f"bits_per_cell = {body.bits_per_cell}, the target's cells hold {target.bits_per_cell}",
        )
    refused = [digit for digit in body.cells.digits if not target.adds(digit)]
    if refused:
        found.add("digits", f"digit {refused[0]}: the target's adders are {target.adders!r}")
    width = body.group_width if isinstance(body, Sectioned) else 1
    if body.cells.columns * width > target.columns:
        found.add(
            "columns",
            f"{width} x {body.cells.columns} cells of a row do not fit the target's {target.columns} columns",
        )
