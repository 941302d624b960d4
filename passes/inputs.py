"""What a pass may be handed from outside: how much the loss feels a weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ir.arrays import F32, Array


@dataclass(frozen=True)
class Sensitivities:
    """What ``sens.npz`` holds.

    Fields:
        layers: layer name -> float32 ``[outputs, inputs]``, never negative.
        loss: which loss.
        model_sha256: of the ONNX file they belong to.
        samples: how many samples they average.
        method: how they were found.
        noise: programming error of the weights they were found at.
    """

    layers: dict[str, F32]
    loss: str = "cross-entropy"
    model_sha256: str = ""
    samples: int = 0
    method: str = "gradient"
    noise: float = 0.0


@dataclass(frozen=True)
class Grade:
    """How much a squared code error of a layer's weights matters, relative to 1 for the network's average.

    The value of weight (o, i) is ``outputs[o] * inputs[i]``: the outer product of the two marginals is what a
    sum over a few samples estimates well.
    """

    outputs: Array
    inputs: Array

    @property
    def mean(self) -> float:
        """Average over the layer's weights."""
        return float(self.outputs.mean(dtype=np.float64) * self.inputs.mean(dtype=np.float64))


def uniform(factor: float = 1.0) -> Grade:
    """The same for every weight of a layer."""
    return Grade(np.full(1, factor, np.float32), np.ones(1, np.float32))
