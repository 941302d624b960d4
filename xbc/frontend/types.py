"""Element types by name, as layers keep them."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """The numpy type behind ``Origin.dtype`` (``bfloat16``, ``int4``... are those of ml_dtypes)."""
    kind = getattr(TensorProto, name.upper() if name != "float64" else "DOUBLE", None)
    if name == "float32":
        kind = TensorProto.FLOAT
    if kind is None:
        return np.dtype(name)
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind))


def is_integer(dtype: str) -> bool:
    """Whether an origin's tensor holds integers (QLinear and Integer operators) rather than floats."""
    return dtype.startswith(("int", "uint"))


def integer_range(dtype: np.dtype[np.generic]) -> tuple[int, int]:
    """Smallest and largest number of an integer type, those of ml_dtypes included."""
    name = dtype.name
    bits = int(name.removeprefix("u").removeprefix("int"))
    return (0, 2**bits - 1) if name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
