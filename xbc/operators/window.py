"""Convolution windows: from images to the columns that crossbars multiply, and from products to images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ir.arrays import Array
from ir.errors import XbcError


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution over any number of spatial axes.

    Fields:
        before, after: padding per axis.
        out: output size per axis.
        spatial: input size per axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    spatial: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def vectors(self) -> int:
        """Matrix-vector products per sample."""
        return int(np.prod(self.out, dtype=np.int64))

    def columns(self, x: Array, groups: int, pad: Array, lines: slice = slice(None)) -> Array:
        """``[N, C, *spatial]`` to ``[groups, C / groups * kernel, N * vectors]``.

        Args:
            pad: the value that stands for zero: one for all samples or ``[N]``.
            lines: which positions along the first output axis.
        """
        n, c = x.shape[:2]
        axes = len(self.kernel)
        if any(self.before) or any(self.after):
            shape = [s + b + a for s, b, a in zip(self.spatial, self.before, self.after, strict=True)]
            padded = np.empty((n, c, *shape), x.dtype)
            padded[...] = np.reshape(pad, (-1,) + (1,) * (axes + 1)) if np.ndim(pad) else pad
            inner = tuple(slice(b, b + s) for b, s in zip(self.before, self.spatial, strict=True))
            padded[:, :, *inner] = x
            x = padded
        steps = x.strides[2:]
        chosen = range(self.out[0])[lines]
        first, *others = (step * s for step, s in zip(steps, self.strides, strict=True))
        view = as_strided(
            x[:, :, chosen.start * self.strides[0] :],
            (c, *self.kernel, n, len(chosen), *self.out[1:]),
            (
                x.strides[1],
                *(step * d for step, d in zip(steps, self.dilations, strict=True)),
                x.strides[0],
                first * chosen.step,
                *others,
            ),
            writeable=False,
        )
        vectors = n * len(chosen) * (self.vectors // self.out[0])
        return view.reshape(groups, c // groups * int(np.prod(self.kernel)), vectors)

    def images(self, products: Array, channels: int, n: int) -> Array:
        """Transposed convolution: ``[channels * kernel, n * prod(spatial)]`` to ``[n, channels, *out]``."""
        parts = products.reshape(channels, *self.kernel, n, *self.spatial)
        full = [
            (s - 1) * stride + (k - 1) * d + 1
            for s, stride, k, d in zip(self.spatial, self.strides, self.kernel, self.dilations, strict=True)
        ]
        size = [max(f, b + o) for f, b, o in zip(full, self.before, self.out, strict=True)]
        out = np.zeros((channels, n, *size), products.dtype)
        for tap in itertools.product(*(range(k) for k in self.kernel)):
            where = tuple(
                slice(t * d, t * d + (s - 1) * stride + 1, stride)
                for t, d, s, stride in zip(tap, self.dilations, self.spatial, self.strides, strict=True)
            )
            place: Any = (slice(None), slice(None), *where)
            weight: Any = (slice(None), *tap)
            out[place] += parts[weight]
        crop = tuple(slice(b, b + o) for b, o in zip(self.before, self.out, strict=True))
        return np.moveaxis(out[:, :, *crop], 1, 0)


def window(
    attrs: Mapping[str, Any], kernel: tuple[int, ...], spatial: tuple[int, ...], transposed: bool, layer: str
) -> Window:
    """The window of a (transposed) convolution node, by ONNX's rules for its attributes.

    Raises: XbcError when the input is smaller than the kernel.
    """
    axes = len(kernel)
    if len(spatial) != axes:
        raise XbcError(f"layer {layer!r} takes images of {axes} axes, its input has {len(spatial)}")
    strides = tuple(attrs.get("strides") or (1,) * axes)
    dilations = tuple(attrs.get("dilations") or (1,) * axes)
    pads = tuple(attrs.get("pads") or (0,) * 2 * axes)
    auto = attrs.get("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if transposed:
        return _transposed(attrs, kernel, spatial, strides, dilations, pads, auto, span)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        out = [-(-s // stride) for s, stride in zip(spatial, strides, strict=True)]
        total = [
            max(0, (o - 1) * stride + k - s)
            for o, stride, k, s in zip(out, strides, span, spatial, strict=True)
        ]
        small = [t // 2 for t in total]
        large = [t - t // 2 for t in total]
        before, after = (small, large) if auto == "SAME_UPPER" else (large, small)
    else:
        before = [0] * axes if auto == "VALID" else list(pads[:axes])
        after = [0] * axes if auto == "VALID" else list(pads[axes:])
        out = [
            (s + b + a - k) // stride + 1
            for s, b, a, k, stride in zip(spatial, before, after, span, strides, strict=True)
        ]
    if min(out, default=1) < 1:
        raise XbcError(
            f"layer {layer!r}: an input of {list(spatial)} is smaller than its kernel {list(kernel)}"
        )
    return Window(kernel, strides, dilations, tuple(before), tuple(after), spatial, tuple(out))


def _transposed(
    attrs: Mapping[str, Any], kernel: tuple[int, ...], spatial: tuple[int, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], pads: tuple[int, ...], auto: str, span: list[int],
) -> Window:  # fmt: skip
    axes = len(kernel)
    extra = tuple(attrs.get("output_padding") or (0,) * axes)
    natural = [
        (s - 1) * stride + k + e for s, stride, k, e in zip(spatial, strides, span, extra, strict=True)
    ]
    wanted = attrs.get("output_shape")
    if wanted or auto in ("SAME_UPPER", "SAME_LOWER"):
        out = list(wanted)[-axes:] if wanted else [s * t for s, t in zip(spatial, strides, strict=True)]
        total = [max(0, n - o) for n, o in zip(natural, out, strict=True)]
        half = [t // 2 for t in total]
        rest = [t - t // 2 for t in total]
        before, after = (half, rest) if auto == "SAME_UPPER" else (rest, half)
    else:
        before = [0] * axes if auto == "VALID" else list(pads[:axes])
        after = [0] * axes if auto == "VALID" else list(pads[axes:])
        out = [n - b - a for n, b, a in zip(natural, before, after, strict=True)]
    return Window(kernel, strides, dilations, tuple(before), tuple(after), spatial, tuple(out))
