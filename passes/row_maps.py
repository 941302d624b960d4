"""The row maps of a layer as codes: what may be exchanged, how many bits tell it, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ir.arrays import Array
from ir.stages import Placed, Programmed
from passes.solvers.maps import decode_maps, encode_maps, order_inputs

MOST_WORDS = 1 << 12
"""Different words of a layer up to which its maps are coded: a decoder keeps an input for each of them and output."""


def codable(body: Placed) -> bool:
    """Whether rows of equal words may exchange inputs: one weight per row, the same write-verify for all."""
    return (
        body.group_width == 1
        and body.row_outputs is None
        and (not isinstance(body, Programmed) or body.verify is None)
    )


@dataclass(frozen=True)
class MapCoder:
    """What encoder and decoder of a layer both know.

    Fields:
        order: ``[sections]`` those that are coded, in load order.
        owner: ``[sections]`` what rows exchange inputs within: an output, or its weights of one sign.
        words: ``[sections, rows]`` int64 index of a row's word among those of the layer.
        distinct: how many words there are.
        inputs: of the layer.
    """

    order: Array
    owner: Array
    words: Array
    distinct: int
    inputs: int

    @classmethod
    def of(cls, body: Placed, order: Array) -> MapCoder:
        """For the sections ``order`` of a layer whose maps are codable."""
        if isinstance(body, Programmed):
            stored = body.stored if body.flip is None else body.stored ^ body.flip[:, None, :]
        else:
            stored = body.wanted_words()
        _, words = np.unique(stored[:, :, 0], return_inverse=True)
        key = body.outputs[:, 0].astype(np.int64) * 2 + (body.polarity < 0)
        _, owner = np.unique(key, return_inverse=True)
        words = words.reshape(stored.shape[:2]).astype(np.int64)
        return cls(
            order.astype(np.int64),
            owner.astype(np.int64),
            words,
            int(words.max(initial=0)) + 1,
            body.shape[1],
        )

    @property
    def owners(self) -> int:
        """Number of owners."""
        return int(self.owner.max(initial=-1)) + 1

    @property
    def width(self) -> int:
        """Bits that name an input."""
        return max(1, (self.inputs - 1).bit_length())

    def ordered(self, inputs: Array) -> Array:
        """``[sections, rows]`` maps in the form that takes the fewest bits."""
        out = np.array(inputs)
        held = np.empty((self.owners, self.inputs), np.int32)
        order_inputs(self.order, self.owner, self.words, out, held, np.zeros(self.distinct, np.int64))
        return out

    def _state(self) -> tuple[Array, Array, Array, Array, Array]:
        """told, left, last, seen, total before the first section."""
        return (
            np.zeros((self.owners, self.inputs), np.bool_),
            np.full(self.owners, self.inputs, np.int64),
            np.full((self.owners, self.distinct), -1, np.int32),
            np.ones(self.distinct, np.int64),
            np.full(self.distinct, min(self.distinct, self.inputs), np.int64),
        )

    def sizes(self, inputs: Array) -> Array | None:
        """``[sections]`` int64 bits of every map, 0 for those left out; None when the maps are not ordered."""
        sizes = np.zeros(len(self.owner), np.int64)
        none = np.zeros(0, np.uint8)
        bits = encode_maps(
            self.order, self.owner, self.words, inputs, self.width, *self._state(), sizes, none
        )
        return None if bits < 0 else sizes

    def encode(self, inputs: Array) -> Array:
        """The maps as bytes.  Raises: ValueError when they are not ordered."""
        sizes = self.sizes(inputs)
        if sizes is None:
            raise ValueError("row maps must be ordered before they are coded")
        out = np.zeros(-(-int(sizes.sum()) // 8), np.uint8)
        encode_maps(self.order, self.owner, self.words, inputs, self.width, *self._state(), sizes, out)
        return out

    def decode(self, raw: Array, driven: Array) -> Array:
        """``[sections, rows]`` int32 maps from bytes.  Raises: ValueError when they are damaged."""
        inputs = np.full(driven.shape, -1, np.int32)
        if (
            decode_maps(self.order, self.owner, self.words, driven, self.width, *self._state(), raw, inputs)
            < 0
        ):
            raise ValueError("these are no row maps of this layer")
        return inputs
