"""What a pass may be handed from outside: how much the loss feels a weight, what a layer's inputs are like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri

from ir.arrays import F32, Array
from ir.errors import XbcError

DAMPING = 0.01
"""Share of the mean power of a layer's inputs that is added to the power of each: samples do not tell everything."""


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


@dataclass(frozen=True)
class Moments:
    """Second moment of the inputs of a layer, ``H = sum of x x^T`` per sample, as error feedback needs it.

    Fields:
        factor: ``[groups, inputs, inputs]`` float32 upper ``U`` with ``U.T @ U`` the inverse of H plus ``DAMPING``
            times the mean of its diagonal.
        power: ``[groups, inputs]`` float32 diagonal of H.
    """

    factor: F32
    power: F32

    @classmethod
    def of(cls, sums: Array) -> Moments:
        """From H ``[groups, inputs, inputs]``, of which the upper triangles are read."""
        groups, inputs = sums.shape[:2]
        factor = np.zeros((groups, inputs, inputs), np.float32)
        power = np.diagonal(sums, axis1=1, axis2=2).astype(np.float32)
        for group in range(groups):
            # a group that has seen nothing counts every input alike
            mean = float(power[group].mean(dtype=np.float64)) or 1.0
            whole = np.triu(sums[group]).astype(np.float64)
            whole[np.diag_indices(inputs)] += DAMPING * mean
            inverse, info = dpotri(dpotrf(whole, lower=0, overwrite_a=1)[0], lower=0, overwrite_c=1)
            if info:
                raise XbcError(
                    "the second moment of a layer's inputs is not positive: the samples hold no numbers"
                )
            factor[group] = np.triu(dpotrf(inverse, lower=0, overwrite_a=1)[0])
        return cls(factor, power)
