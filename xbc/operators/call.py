"""One execution of a node whose products run on crossbars, as a simulation sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import onnx

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Layer


@dataclass(frozen=True)
class Columns:
    """How the inputs of a batch become the columns that a crossbar multiplies.

    Fields:
        arrange: (``[samples, ...]`` values, ``[]`` or ``[samples]`` what stands for zero in them, which lines)
            to ``[groups, inputs, samples * lines * width]``, sample by sample.
        lines: parts that a sample can be cut into.
        width: vectors per line.
    """

    arrange: Callable[[Array, Array, slice], Array]
    lines: int
    width: int

    @property
    def vectors(self) -> int:
        """Products per sample."""
        return self.lines * self.width


class CrossbarLayer(Protocol):
    """A layer that multiplies.

    Fields:
        layer: what it is.
        effective: ``[outputs, inputs]`` codes that the cells stand for.
    """

    @property
    def layer(self) -> Layer: ...  # noqa: D102

    @property
    def effective(self) -> Array: ...  # noqa: D102

    def real(self, values: Array, columns: Columns) -> Array:
        """``[outputs, samples, vectors]`` float32 products of real inputs ``[samples, ...]``."""

    def integer(self, values: Array, zero_point: int, columns: Columns) -> Array:
        """``[outputs, samples, vectors]`` float64 products of integer inputs less their zero point."""


@dataclass(frozen=True)
class Call:
    """A node, its operands and its layers.

    Fields:
        attrs: attribute name -> value.
        inputs: values of the operands; None for absent ones and for weights on crossbars.
        layers: operand index -> layer.
    """

    node: onnx.NodeProto
    attrs: Mapping[str, Any]
    inputs: Sequence[Array | None]
    layers: Mapping[int, CrossbarLayer]

    def given(self, index: int) -> Array | None:
        """The operand, None when absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def need(self, index: int) -> Array:
        """The operand, which the operator requires."""
        value = self.given(index)
        if value is None:
            raise self.bad(f"lacks its input {index}")
        return value

    def scalar(self, index: int, default: float = 0) -> float:
        """A one-element operand."""
        value = self.given(index)
        return default if value is None else float(value.reshape(-1)[0])

    def bad(self, problem: str) -> XbcError:
        """An error that names the node."""
        return XbcError(f"node {self.node.name!r} ({self.node.op_type}) {problem}")
