"""Arrays of a set and the inputs of a model that they are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError


@dataclass(frozen=True)
class Port:
    """An input or output of a model: its name, numpy type name and dims (None where free)."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        """For messages: ``'input' float32 [free, 3, 224, 224]``."""
        dims = ", ".join("free" if d is None else str(d) for d in self.shape)
        return f"{self.name!r} {self.dtype} [{dims}]"


@dataclass(frozen=True)
class Feed:
    """How a set's array is dealt to runs.

    Fields:
        array: the samples.
        kind: ``batch`` (the first axis is the model's batch), ``sample`` (the first axis counts samples, each
            a whole input) or ``shared`` (the same for every run).
    """

    port: Port
    array: Array
    kind: str

    def part(self, start: int, stop: int, padded: int) -> Array:
        """Input for samples ``start..stop``, repeated at its end up to ``padded`` samples."""
        if self.kind == "shared":
            piece = self.array
        elif self.kind == "sample":
            piece = self.array[start]
        else:
            piece = self.array[start:stop]
            if padded > stop - start:
                piece = np.concatenate([piece, np.repeat(piece[-1:], padded - (stop - start), axis=0)])
        return np.asarray(piece, dtype=self.port.dtype, order="C")


def feed_of(port: Port, array: Array) -> Feed:
    """How the array is dealt.  Raises XbcError when it does not suit."""
    if array.dtype.hasobject or not np.can_cast(array.dtype, port.dtype, "same_kind"):
        raise XbcError(f"array {port.name!r} is {array.dtype}, the model's input is {port}: convert it first")
    if array.ndim == len(port.shape) + 1 and _fits(array.shape[1:], port.shape):
        return Feed(port, array, "sample")
    if array.ndim == len(port.shape) >= 1 and _fits(array.shape[1:], port.shape[1:]):
        return Feed(port, array, "batch")
    if array.ndim == 0 and not port.shape:
        return Feed(port, array, "shared")
    raise XbcError(f"array {port.name!r} has shape {list(array.shape)}, which does not suit the input {port}")


def whole_inputs(feeds: Sequence[Feed]) -> str:
    """What to do for a model whose batch is not the first axis of an input (a recurrent state has layers there)."""
    for feed in feeds:
        shape = feed.port.shape
        if feed.kind == "batch" and shape[0] is not None and None in shape:
            return (
                f"; the first axis of {feed.port} is not the samples', so give every input whole, with one more "
                f"axis in front that counts the samples"
            )
    return ""


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return all(w is None or s == w for s, w in zip(shape, wanted, strict=True))
