"""One execution of a mapped ONNX node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from ir.arrays import Array
from ir.errors import XbcError
from xbc.simulate.layer import LayerSimulator


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
    layers: Mapping[int, LayerSimulator]

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


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attribute name -> Python value."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
