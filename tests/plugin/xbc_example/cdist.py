"""``CDist`` of onnxruntime: distances to fixed points, as scikit-learn exports nearest neighbours and k-means.

``|x - w|**2 = |x|**2 + |w|**2 - 2 x.w``: the products ``x.w`` are the crossbar's, the rest is digital.
"""

from __future__ import annotations

import numpy as np

from ir.arrays import Array
from ir.stages import Quantized
from xbc.operators.call import Call
from xbc.operators.definition import MICROSOFT, Attributes, Found, Operator, Refusal, Shapes
from xbc.operators.products import matrix, matrix_products
from xbc.operators.step import Result, Step

POINTS = 1
"""Operand with the fixed points ``[outputs, inputs]``."""


def weights(attrs: Attributes, shapes: Shapes) -> Found:
    """The fixed points are a matrix, one output per point."""
    points = shapes[POINTS]
    if points is None:
        return [Refusal(0, "CDist from fixed points: give them as the second input")] if shapes[0] else []
    if shapes[0] is not None:
        return [Refusal(POINTS, "both sets of points are static: a constant")]
    return [matrix(POINTS, points, right=True, transposed=True)]


def simulate(call: Call) -> list[Array]:
    """Distances from the sums of the crossbar and the norms of what its cells hold."""
    x, layer = call.need(0).astype(np.float32), call.layers[POINTS]
    scale = layer.layer.at(Quantized).scale.reshape(-1, 1)
    held = np.square(layer.effective * scale).sum(axis=1)
    products = matrix_products(call, x, layer, True, None)
    squared = np.maximum(np.square(x).sum(axis=-1, keepdims=True) + held - 2 * products, 0)
    return [(np.sqrt(squared) if euclidean(call.attrs) else squared).astype(np.float32)]


def backward(step: Step) -> Result:
    """``d|x - w|**2 = 2 (x - w)``, and half of it over the distance for the Euclidean one; nothing at distance 0."""
    x, w, s = step.value(0), step.value(POINTS), step.s
    if euclidean({"metric": step.attribute("metric", b"")}):
        distance = step.outputs[0]
        s = s * step.raised(np.divide(0.5, distance, out=np.zeros_like(distance), where=distance > 0))
    return [_through(step, x, w, s), _through(step, w, x, s.T)]


def _through(step: Step, here: Array, there: Array, s: Array) -> Array:
    """Sum over ``there`` of the slope ``2 (here - there)``, squared for curvature, times ``s``."""
    total = s.sum(axis=1, keepdims=True)
    if step.power == 1:
        return 2 * (here * total - s @ there)
    return 4 * (np.square(here) * total - 2 * here * (s @ there) + s @ np.square(there))


def euclidean(attrs: Attributes) -> bool:
    """Whether the distance is the root; onnxruntime's default is the square."""
    return attrs.get("metric", b"") in ("euclidean", b"euclidean")


OPERATOR = Operator("CDist", MICROSOFT, weights=weights, simulate=simulate, rule=backward)
