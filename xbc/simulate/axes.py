"""Where the samples of a batch lie in every value of a graph, operator by operator.

A value either does not depend on the inputs, or holds the samples along one axis (each entry made from its own
sample alone), or is ``Lost``.  Shapes come from runs with two numbers of samples, so no rule guesses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from ir.arrays import Array

MS = "com.microsoft"


@dataclass(frozen=True)
class Along:
    """Samples along an axis whose length is ``outer * samples * inner``, in that order."""

    axis: int
    outer: int = 1
    inner: int = 1


@dataclass(frozen=True)
class Fixed:
    """The same whatever the samples are.

    Fields:
        shared: made from all samples of a run (a scale of DynamicQuantizeLinear): its own for a single sample.
        counts: depends on the number of samples.
    """

    shared: bool = False
    counts: bool = False


@dataclass(frozen=True)
class Lost:
    """Depends on several samples, or nobody can tell (``known`` is False); ``why`` names the node."""

    why: str
    known: bool = True


State = Along | Fixed | Lost


class MixedError(Exception):
    """A rule finds that an operator combines samples."""


class UntoldError(Exception):
    """A rule cannot tell."""


Shape = tuple[int, ...]


@dataclass(frozen=True)
class Site:
    """A node with what is known around it.

    Fields:
        samples: numbers of samples of the runs; dims, made: per run, shapes of inputs and outputs.
        states: of the inputs; None: absent.
        values: of inputs that are small and known.
        opset: of the node's domain.
    """

    node: onnx.NodeProto
    samples: Sequence[int]
    states: Sequence[State | None]
    dims: Sequence[Sequence[Shape]]
    made: Sequence[Sequence[Shape]]
    values: Sequence[Array | None]
    opset: int

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return default

    def rank(self, index: int) -> int:
        """Of an input."""
        return len(self.dims[0][index])

    def out_rank(self, index: int = 0) -> int:
        """Of an output."""
        return len(self.made[0][index])

    def along(self) -> dict[int, Along]:
        """Inputs that hold samples."""
        return {i: s for i, s in enumerate(self.states) if isinstance(s, Along)}

    def value(self, index: int) -> list[int] | None:
        """A small integer operand, None when absent."""
        if index >= len(self.states) or self.states[index] is None:
            return None
        value = self.values[index]
        if value is None:
            raise UntoldError
        return [int(v) for v in value.reshape(-1)]

    def only(self, *indices: int) -> None:
        """Raises UntoldError when another input holds samples, MixedError when one counts them."""
        for i, state in enumerate(self.states):
            if isinstance(state, Fixed) and state.counts:
                raise MixedError
            if i not in indices and isinstance(state, Along):
                raise UntoldError
