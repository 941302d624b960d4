"""Two graphs side by side in onnxruntime."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx

from ir.arrays import Array
from ir.errors import XbcError
from xbc.frontend import Imported, host_with_weights, module_tensors
from xbc.sensitivity.diagonal import data_port
from xbc.simulate.host import open_session

BATCH = 32
TOLERANCE: Final = {"float32": 1e-3, "float64": 1e-3}
"""Largest difference over the largest output that rounding explains, by the type of the weights."""
COARSE: Final = 3e-2
"""The same where weights have 16 bits."""


def largest_difference(imported: Imported, changed: onnx.ModelProto, x: Array) -> float:
    """Largest difference of the outputs over the largest output magnitude of the original, over ``x``."""
    original = open_session(host_with_weights(imported.host, module_tensors(imported.module)))
    other = open_session(changed)
    port = data_port(imported)
    size = port.shape[0] or BATCH
    worst = peak = 0.0
    for start in range(0, len(x), size):
        feed = {port.name: x[start : start + size].astype(port.dtype)}
        for a, b in zip(original.run(None, feed), other.run(None, feed), strict=True):
            if not np.array_equal(np.isfinite(a), np.isfinite(b)):
                return float("inf")
            a, b = np.where(np.isfinite(a), a, 0), np.where(np.isfinite(b), b, 0)
            worst = max(worst, float(np.abs(a - b).max(initial=0)))
            peak = max(peak, float(np.abs(a).max(initial=0)))
    return worst / peak if peak else worst


def check_same_function(imported: Imported, changed: onnx.ModelProto, x: Array) -> float:
    """The largest difference of ``largest_difference``.

    Raises: XbcError when it is more than float rounding.
    """
    found = largest_difference(imported, changed, x)
    allowed = min((TOLERANCE.get(x.origin.dtype, COARSE) for x in imported.module.layers), default=COARSE)
    if not found <= allowed:
        raise XbcError(
            f"rescale: onnxruntime finds that the transformed model computes something else: on {len(x)} samples "
            f"its outputs differ by up to {found:.2g} of their peak, rounding explains {allowed:g}; nothing is written"
        )
    return found


def tensor_peaks(imported: Imported, names: list[str], x: Array) -> dict[str, float]:
    """Largest magnitude of each named tensor of the host graph over ``x``."""
    model = host_with_weights(imported.host, module_tensors(imported.module))
    port = data_port(imported)
    computed = [name for name in names if name != port.name]
    present = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in computed if n not in present)
    session = open_session(model)
    size = port.shape[0] or BATCH
    peaks = dict.fromkeys(names, 0.0)
    for start in range(0, len(x), size):
        part = x[start : start + size].astype(port.dtype)
        for name, value in zip(
            computed, session.run(computed, {port.name: part}) if computed else [], strict=True
        ):
            peaks[name] = max(peaks[name], float(np.abs(value).max(initial=0)))
        if port.name in peaks:
            peaks[port.name] = max(peaks[port.name], float(np.abs(part).max(initial=0)))
    return peaks
