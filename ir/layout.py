"""How a layer's ``[outputs, inputs]`` matrix lies inside the tensor of its ONNX node."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ir.arrays import Array


@dataclass(frozen=True)
class Layout:
    """``tensor.reshape(split).transpose(perm).reshape(outputs, inputs)`` is the matrix.

    Fields:
        shape: shape of the tensor.
        split: shape after splitting axes (product equals that of ``shape``).
        perm: axis order; the leading ``outer`` axes make the outputs, the rest the inputs.
        outer: how many permuted axes are outputs.
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    perm: tuple[int, ...]
    outer: int

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        dims = [self.split[p] for p in self.perm]
        return math.prod(dims[: self.outer]), math.prod(dims[self.outer :])

    def to_matrix(self, tensor: Array) -> Array:
        """Tensor ``[shape]`` to matrix ``[outputs, inputs]``."""
        if tensor.shape != self.shape:
            raise ValueError(f"tensor has shape {tensor.shape}, the layout expects {self.shape}")
        axes = tensor.reshape(self.split).transpose(self.perm)
        return np.ascontiguousarray(axes.reshape(self.matrix_shape))

    def to_tensor(self, matrix: Array) -> Array:
        """Inverse of ``to_matrix``."""
        dims = [self.split[p] for p in self.perm]
        inverse = np.argsort(self.perm)
        return np.ascontiguousarray(matrix.reshape(dims).transpose(inverse).reshape(self.shape))
