"""``Einsum``: listed, and its derivatives where it multiplies two activations."""

from __future__ import annotations

from typing import Final

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from xbc.operators.definition import Operator
from xbc.operators.step import Result, Step


def _einsum(step: Step) -> Result:
    equation = str(step.attribute("equation")).replace(" ", "")
    if "..." in equation or "->" not in equation or len(step.inputs) != 2:
        raise XbcError(
            f"sensitivity: node {step.node.name!r}: Einsum {equation!r} is not supported "
            f"(two operands, an explicit result, no dots): export the model with MatMul"
        )
    left, right = equation.split("->")[0].split(",")
    result = equation.split("->")[1]
    a, b, s = step.value(0), step.value(1), step.s
    return [
        _contract(result, s, right, step.raised(b), left, a.shape) if step.wanted[0] else None,
        _contract(result, s, left, step.raised(a), right, b.shape) if step.wanted[1] else None,
    ]


def _contract(
    result: str, s: Array, other: str, squares: Array, wanted: str, shape: tuple[int, ...]
) -> Array:
    kept = "".join(i for i in wanted if i in result or i in other)
    out = np.einsum(f"{result},{other}->{kept}", s, squares, optimize=True)
    missing = [i for i, letter in enumerate(wanted) if letter not in kept]
    return np.asarray(np.broadcast_to(np.expand_dims(out, missing), shape))


OPERATORS: Final = (
    Operator("Einsum", refused="Einsum with a static operand: write it as MatMul", rule=_einsum),
)
