"""The typed stages a layer's body passes through.

Each stage adds fields to the one before it, so a pass that needs sections accepts placed sections too::

    Float -> Quantized -> Encoded -> Sliced -> Sectioned -> Placed -> Programmed

Every array is read-only.  A section is a row of arrays, never an object; row ``s`` of every section array
speaks of the same section, and the rows stand in the order in which the layer's sections are loaded.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from ir.arrays import Array, frozen
from ir.cells import CellFormat

UNUSED = -1
"""Marks a row without a weight (don't care) in ``inputs`` and an empty column group in ``outputs``."""

B = TypeVar("B", bound="Body")


@dataclass(frozen=True, eq=False, kw_only=True)
class Body:
    """Base of the stages.  Equality is content equality of all fields."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                object.__setattr__(self, field.name, frozen(value))

    @classmethod
    def stage(cls) -> str:
        """Name of the stage."""
        return cls.__name__.lower()

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs); inputs are those of one group."""
        raise NotImplementedError

    def lower(self, to: type[B], **fields: Any) -> B:
        """The next stage: this body's fields that ``to`` has too, and the new ones."""
        names = {f.name for f in dataclasses.fields(to)}
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name in names}
        return to(**{**kept, **fields})

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        for field in dataclasses.fields(self):
            a, b = getattr(self, field.name), getattr(other, field.name)
            if isinstance(a, np.ndarray):
                if a.dtype != b.dtype or not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
                    return False
            elif a != b:
                return False
        return True

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False, kw_only=True)
class Float(Body):
    """``values`` float32 ``[outputs, inputs]``: the weights as the model has them."""

    values: Array

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        return int(self.values.shape[0]), int(self.values.shape[1])


@dataclass(frozen=True, eq=False, kw_only=True)
class Quantized(Body):
    """Integer codes; the weight is ``code * scale``.

    Fields:
        codes: ``[outputs, inputs]`` int16 or int32.
        scale: ``[1]`` or ``[outputs]`` float32.
        zero_point: ``[1]`` or ``[outputs]`` int32; the model's own (its stored integer is
            ``code + zero_point``), 0 for codes that xbc made.
        bits: bits asked for (or of the model's integer type).
        limits: ``[1, 2]`` or ``[outputs, 2]`` int32, smallest and largest code that the host can take
            back (the range of the model's integer type); partial reprogramming stays inside.
        given: the codes are the model's own and must be kept exactly.
    """

    codes: Array
    scale: Array
    zero_point: Array
    limits: Array
    bits: int
    given: bool

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        return int(self.codes.shape[0]), int(self.codes.shape[1])


@dataclass(frozen=True, eq=False, kw_only=True)
class Encoded(Quantized):
    """Where the sign lives.

    Fields:
        encoding: see ``ir.cells.ENCODINGS``.
        stored_bits: bits a stored number needs under this encoding.
        offset: ``[1]`` or ``[outputs]`` int32 added before storing (offset encoding), else zeros.
        digits: None or (digits encoding) what one level of each of a weight's columns counts for.
    """

    encoding: str
    stored_bits: int
    offset: Array
    digits: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Sliced(Encoded):
    """Digits: ``bits_per_cell`` fixes the cells a weight occupies."""

    bits_per_cell: int

    @cached_property
    def cells(self) -> CellFormat:
        """How one weight stands in cells."""
        return CellFormat(self.encoding, self.stored_bits, self.bits_per_cell, self.digits or ())


@dataclass(frozen=True, eq=False, kw_only=True)
class Sectioned(Sliced):
    """The section table, in load order.

    Fields:
        outputs: ``[sections, G]`` int32, output of each column group, ``UNUSED`` where empty.
        inputs: ``[sections, rows]`` int32, input of each row inside the outputs' group, ``UNUSED``
            where the row is don't care.  All outputs of a section share it.
        rank: ``[sections]`` int32, which cut of its output(s) a section is (0 = first).
        polarity: ``[sections]`` int8; +1/-1: split sections hold the weights of that sign; 0 otherwise.
        row_outputs: None, or (scope=layer: row gating, one column group) ``[sections, rows]`` int32 output of
            each row, ``UNUSED`` where the row is don't care.  A section is then read once for each of its
            outputs, with that output's rows driven; ``outputs`` names the lowest of them.
    """

    outputs: Array
    inputs: Array
    rank: Array
    polarity: Array
    row_outputs: Array | None = None

    @property
    def sections(self) -> int:
        """Sections of the layer."""
        return int(self.outputs.shape[0])

    @property
    def rows(self) -> int:
        """Rows of a section."""
        return int(self.inputs.shape[1])

    @property
    def group_width(self) -> int:
        """Column groups (outputs) per section."""
        return int(self.outputs.shape[1])

    def driven(self, part: slice = slice(None)) -> Array:
        """``[sections, rows]`` bool: rows that hold weights."""
        return np.asarray(self.inputs[part] >= 0)

    def weight_outputs(self, part: slice = slice(None)) -> Array:
        """``[sections, 1, G]`` or, row by row, ``[sections, rows, 1]``: output of the weights, ``UNUSED``: none."""
        if self.row_outputs is None:
            return np.asarray(self.outputs[part][:, None, :])
        return np.asarray(self.row_outputs[part][:, :, None])

    def read_phases(self, part: slice = slice(None)) -> Array:
        """``[sections]`` int64: reads that one product takes per slice of the input: 1, or one per output."""
        if self.row_outputs is None:
            return np.ones(self.outputs[part].shape[0], np.int64)
        ordered = np.sort(self.row_outputs[part], axis=1)
        fresh = np.diff(ordered, axis=1, prepend=UNUSED) != 0
        return np.asarray((fresh & (ordered >= 0)).sum(axis=1))

    def section_codes(self, part: slice = slice(None)) -> Array:
        """``[sections, rows, G]`` signed codes wanted in the cells; 0 in don't-care rows, empty groups and,
        for split sections, where the weight has the other sign."""
        outputs, inputs = self.outputs[part], self.inputs[part]
        codes = self.codes[np.maximum(self.weight_outputs(part), 0), np.maximum(inputs, 0)[:, :, None]]
        codes[np.broadcast_to(inputs[:, :, None] < 0, codes.shape)] = 0
        if self.group_width > 1:
            codes[np.broadcast_to(outputs[:, None, :] < 0, codes.shape)] = 0
        if self.encoding == "split":
            positive = self.polarity[part][:, None, None] > 0
            codes[np.where(positive, codes < 0, codes > 0)] = 0
        return np.asarray(codes)

    def section_offset(self, part: slice = slice(None)) -> Array:
        """``[sections, 1, G]`` (row by row: ``[sections, rows, 1]``) int32 offset of the weights."""
        if self.offset.shape[0] == 1:
            shape = (self.outputs[part].shape[0], 1, self.group_width)
            return np.broadcast_to(self.offset.reshape(1, 1, 1), shape)
        return np.asarray(self.offset[np.maximum(self.weight_outputs(part), 0)])

    def wanted_words(self, part: slice = slice(None)) -> Array:
        """``[sections, rows, G]`` words that represent the codes exactly; 0 in don't-care rows."""
        words = self.cells.encode(self.section_codes(part), self.section_offset(part))
        if self.encoding == "offset":
            words[np.broadcast_to(self.inputs[part][:, :, None] < 0, words.shape)] = 0
            words[np.broadcast_to(self.outputs[part][:, None, :] < 0, words.shape)] = 0
        return np.asarray(words)

    def row_signs(self, part: slice = slice(None)) -> Array:
        """``[sections, rows]`` int8: the sign the row driver applies (driver encoding), else +1.

        A code of 0 has no sign of its own.  It takes + or - by the parity of input xor output, so that the
        magnitudes that partial reprogramming leaves in such rows cancel instead of adding up to a bias.
        """
        inputs = self.inputs[part]
        if self.encoding != "driver":
            return np.ones(inputs.shape, np.int8)
        codes = self.section_codes(part)[:, :, 0]
        odd = ((inputs ^ self.weight_outputs(part)[:, :, 0]) & 1).astype(np.bool_) & (inputs >= 0)
        return np.where((codes < 0) | (odd & (codes == 0)), np.int8(-1), np.int8(1))


@dataclass(frozen=True, eq=False, kw_only=True)
class Placed(Sectioned):
    """When and where each section is loaded.

    Fields:
        crossbar: ``[sections]`` int32.
        step: ``[sections]`` int64, global time of the load within one inference; (step, crossbar) is
            unique over the module, and a layer's steps come after those of the layers it depends on.
    """

    crossbar: Array
    step: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class Programmed(Placed):
    """What will really stand in the cells after each load.

    Fields:
        stored: ``[sections, rows, G]`` words (unsigned) in the cells of driven rows, the same in every
            inference; 0 in don't-care rows (which keep whatever they held).
        flip: None or ``[sections, G]`` words: columns whose digit is all ones here hold the complement of
            their level; the digital side corrects with the sum of the section's inputs.
        verify: None (every write is verified) or ``[sections, rows, G]`` words whose non-zero digits mark
            the cells that get write-verify.
    """

    stored: Array
    flip: Array | None = None
    verify: Array | None = None

    def stored_codes(self, part: slice = slice(None)) -> Array:
        """``[sections, rows, G]`` int32 signed codes of the stored words; 0 where nothing is placed."""
        words = self.stored[part] if self.flip is None else self.stored[part] ^ self.flip[part][:, None, :]
        codes = self.cells.decode(words, self.section_offset(part))
        if self.encoding == "driver":
            codes *= self.row_signs(part)[:, :, None]
        elif self.encoding == "split":
            codes *= self.polarity[part][:, None, None]
        codes[np.broadcast_to(self.inputs[part][:, :, None] < 0, codes.shape)] = 0
        codes[np.broadcast_to(self.outputs[part][:, None, :] < 0, codes.shape)] = 0
        return np.asarray(codes)

    def effective_codes(self) -> Array:
        """``[outputs, inputs]`` int32 codes the crossbars compute with, summed over a weight's sections."""
        effective = np.zeros(self.shape[0] * self.shape[1], np.int32)
        chunk = max(1, 2**22 // max(1, self.rows * self.group_width))
        for start in range(0, self.sections, chunk):
            part = slice(start, start + chunk)
            codes = self.stored_codes(part)
            outputs = np.maximum(self.weight_outputs(part), 0).astype(np.int64)
            at = outputs * self.shape[1] + np.maximum(self.inputs[part], 0)[:, :, None]
            np.add.at(effective, at.reshape(-1), codes.reshape(-1))  # one axis: several times as fast as two
        return effective.reshape(self.shape)


def lowest_outputs(row_outputs: Array) -> Array:
    """``[sections, 1]`` int32: what ``outputs`` is for sections with an output for each row."""
    top = np.iinfo(np.int32).max
    lowest = np.where(row_outputs >= 0, row_outputs, top).min(axis=1, initial=top)
    return np.where(lowest < top, lowest, UNUSED).astype(np.int32)[:, None]


STAGES: tuple[type[Body], ...] = (Float, Quantized, Encoded, Sliced, Sectioned, Placed, Programmed)
STAGE_BY_NAME = {cls.stage(): cls for cls in STAGES}
