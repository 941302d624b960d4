"""Activations inside recurrent and fused operators, as onnxruntime computes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ir.arrays import Array

Activation = Callable[[Array, Sequence[float]], Array]


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _exponential(x: Array, alpha: float) -> Array:
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


ACTIVATIONS: Mapping[str, Activation] = {
    "affine": lambda x, p: p[0] * x + p[1],
    "clip": lambda x, p: np.clip(x, p[0], p[1]),
    "elu": lambda x, p: _exponential(x, p[0]),
    "hardsigmoid": lambda x, p: np.clip(p[0] * x + p[1], 0, 1),
    "leakyrelu": lambda x, p: np.where(x < 0, p[0] * x, x),
    "parametricsoftplus": lambda x, p: p[0] * _softplus(p[1] * x),
    "relu": lambda x, p: np.maximum(x, 0),
    "scaledtanh": lambda x, p: p[0] * np.tanh(p[1] * x),
    "selu": lambda x, p: p[-1] * _exponential(x, p[0]),
    "sigmoid": lambda x, p: 1 / (1 + np.exp(-np.clip(x, -80, 80))),
    "softplus": lambda x, p: _softplus(x),
    "softsign": lambda x, p: x / (1 + np.abs(x)),
    "tanh": lambda x, p: np.tanh(x),
    "thresholdedrelu": lambda x, p: np.where(x > p[0], x, 0),
}
"""Name in lower case -> function of (values, parameters)."""

RECURRENT: Mapping[str, tuple[float | None, float | None]] = {
    "affine": (0.0, 0.0), "elu": (1.0, None), "hardsigmoid": (0.2, 0.5), "leakyrelu": (0.01, None),
    "relu": (None, None), "scaledtanh": (0.0, 0.0), "sigmoid": (None, None), "softplus": (None, None),
    "softsign": (None, None), "tanh": (None, None), "thresholdedrelu": (0.0, None),
}  # fmt: skip
"""Those of recurrent operators, with onnxruntime's default alpha and beta; None: takes none."""


def recurrent_activations(
    names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]
) -> list[Callable[[Array], Array]]:
    """The functions of a recurrent node; alphas and betas go, in order, to those that take one."""
    alpha, beta = iter(alphas), iter(betas)

    def bound(name: str) -> Callable[[Array], Array]:
        function = ACTIVATIONS[name]
        first, second = RECURRENT[name]
        parameters = [
            next(source, default)
            for source, default in ((alpha, first), (beta, second))
            if default is not None
        ]
        return lambda x: function(x, parameters)

    return [bound(name.lower()) for name in names]
