"""Where the elements of a sliding window lie, for derivatives of convolutions and pooling."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from ir.arrays import Array
from xbc.operators.step import Step


class Offsets:
    """Geometry of a sliding window: which input elements meet each kernel offset.

    Fields:
        pads: begin and end padding of each spatial axis.
    """

    def __init__(self, step: Step, kernel: tuple[int, ...]) -> None:
        """From the node's attributes, its input 0 ``[batch, channels, *space]`` and its output 0."""
        self.space = step.value(0).shape[2:]
        self.out = step.outputs[0].shape[2:]
        rank = len(self.space)
        self.kernel = kernel
        self.strides = list(step.attribute("strides") or [1] * rank)
        self.dilations = list(step.attribute("dilations") or [1] * rank)
        given = list(step.attribute("pads") or [0] * (2 * rank))
        auto = step.attribute("auto_pad", "NOTSET")
        self.pads: list[tuple[int, int]] = []
        for i in range(rank):
            reach = (self.out[i] - 1) * self.strides[i] + (kernel[i] - 1) * self.dilations[i] + 1
            if auto in ("SAME_UPPER", "SAME_LOWER"):
                total = max(0, reach - self.space[i])
                begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
            else:
                begin = 0 if auto == "VALID" else given[i]
            self.pads.append((begin, max(0, reach - begin - self.space[i])))

    def padded(self, x: Array, fill: float = 0.0) -> Array:
        """``x`` with its padding."""
        if not any(begin or end for begin, end in self.pads):
            return x
        return np.pad(x, [(0, 0), (0, 0), *self.pads], constant_values=fill)

    def padded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of ``padded``."""
        space = (n + b + e for n, (b, e) in zip(self.space, self.pads, strict=True))
        return (*shape[:2], *space)

    def cropped(self, x: Array) -> Array:
        """Inverse of ``padded``."""
        space = (slice(b, b + n) for n, (b, _) in zip(self.space, self.pads, strict=True))
        return x[(slice(None), slice(None), *space)]

    def offsets(self) -> Iterator[tuple[slice, ...]]:
        """Where each kernel offset lies in the padded input, for all output positions; row-major."""
        for at in product(*(range(k) for k in self.kernel)):
            where = (
                slice(i * d, i * d + (n - 1) * s + 1, s)
                for i, d, n, s in zip(at, self.dilations, self.out, self.strides, strict=True)
            )
            yield (slice(None), slice(None), *where)
