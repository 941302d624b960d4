"""Second moments of what the layers of a network multiply, from samples that run through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from scipy.linalg.blas import ssyrk

from ir.arrays import F32, Array
from ir.module import Layer, Module
from ir.progress import Progress
from passes.inputs import Moments
from passes.manager import finish
from passes.place import contiguous
from passes.sections import natural_sections
from xbc.operators.call import Columns
from xbc.simulate.layer import GOLDEN, LayerSimulator
from xbc.simulate.memory import Batch
from xbc.simulate.network import CrossbarSession

VECTORS = 256
"""Vectors of one sample that a layer's moments take, spread over its positions (at least one line of them)."""


@dataclass(eq=False)
class _Observer(LayerSimulator):
    """A layer with its exact weights that adds up the outer products of its inputs.

    Fields:
        sums: ``[groups, inputs, inputs]`` float32, upper triangles.
        seen, samples: vectors in the sums, samples that gave them.
        vectors: products that the samples need.
    """

    sums: F32 | None = None
    seen: int = 0
    samples: int = 0
    vectors: int = 0

    def real(self, values: Array, columns: Columns) -> Array:
        """Products of real inputs with the exact weights."""
        values = np.asarray(values, np.float32)
        for sample in range(len(values)):
            self._add(values[sample : sample + 1], 0, columns)
        return self._ideal(values, columns)

    def integer(self, values: Array, zero_point: int, columns: Columns) -> Array:
        """Products of integer inputs with the exact weights."""
        for sample in range(len(values)):
            self._add(values[sample : sample + 1], zero_point, columns)
        return super().integer(values, zero_point, columns)

    def _add(self, value: Array, zero_point: int, columns: Columns) -> None:
        """Some lines of one sample, evenly spaced, from a start that wanders with the samples."""
        if not columns.vectors:
            return
        wanted = max(1, min(columns.lines, VECTORS // columns.width))
        step = columns.lines // wanted
        start = int((0.5 + GOLDEN * self.samples) % 1 * step)
        x = columns.arrange(value, np.array(zero_point), slice(start, None, step)).astype(np.float32)
        x -= np.float32(zero_point)
        if self.sums is None:
            self.sums = np.zeros((x.shape[0], x.shape[1], x.shape[1]), np.float32)
        for group, matrix in enumerate(x):
            # of the transposed (Fortran) view, whose lower triangle is the upper one here
            ssyrk(1.0, matrix, beta=1.0, c=self.sums[group].T, trans=0, lower=1, overwrite_c=1)
        self.seen += x.shape[2]
        self.samples += 1
        self.vectors += columns.vectors

    def moments(self) -> Moments | None:
        """What has been seen, per sample, None without any; frees the sums."""
        if self.sums is None:
            return None
        sums, self.sums = self.sums, None
        sums *= np.float32(self.vectors / (self.seen * self.samples))
        return Moments.of(sums)


class _MomentSession(CrossbarSession):
    """All layers ideal, observed."""

    def _simulator(self, layer: Layer, host: onnx.ModelProto, node: onnx.NodeProto) -> LayerSimulator:
        codes = layer.body.codes.astype(np.int32)  # type: ignore[attr-defined]
        return _Observer(layer, None, codes, self.converters, None)


@dataclass(frozen=True)
class Found:
    """Moments by layer name, and sentences on layers that have none."""

    moments: dict[str, Moments] = field(repr=False)
    notes: tuple[str, ...] = ()


def input_moments(
    host: onnx.ModelProto, module: Module, inputs: Mapping[str, Array], *, threads: int = 2, batch: Batch = 8,
    progress: Progress | None = None,
) -> Found:  # fmt: skip
    """Second moments of every layer's inputs.

    Args:
        host: host graph of the import.
        module: its layers, at stage Sliced or later.
        inputs: input name -> samples.
    Memory: the moments (4 bytes per pair of inputs of a layer), the intermediate values of one batch.
    Raises: XbcError when the network does not run on the samples.
    """
    layers = [layer.with_body(natural_sections(layer, module.target)) for layer in module.layers]
    session = _MomentSession(
        host, finish(contiguous(module.with_layers(layers))), threads=threads, name="the observed model"
    )
    for _ in session.stream(
        inputs, batch=batch,
        progress=None if progress is None else lambda _, done, total: progress("second moments", done, total),
    ):  # fmt: skip
        pass
    out = {}
    for done, (name, simulator) in enumerate(session.layers.items()):
        assert isinstance(simulator, _Observer)
        if progress is not None:
            progress("factors of second moments", done, len(session.layers))
        found = simulator.moments()
        if found is not None:
            out[name] = found
    return Found(out, session.notes)
