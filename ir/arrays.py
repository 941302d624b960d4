"""Array helpers shared by the IR classes: immutability, digests, word types."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]


def frozen(array: Array) -> Array:
    """The array, contiguous, in native byte order, read-only (a copy only when the layout has to change)."""
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


def digest(array: Array) -> str:
    """SHA-256 over dtype, shape and little-endian content, as ``sha256:<16 hex digits>``.

    Sixteen digits name an array inside one module; files are protected by whole digests in the manifest.
    """
    array = np.ascontiguousarray(array)
    head = f"{array.dtype.str}{array.shape}".encode()
    h = hashlib.sha256(head)
    if array.size:  # a view without a copy: a mapped array is hashed page by page
        h.update(array.reshape(-1).view(np.uint8).data)
    return "sha256:" + h.hexdigest()[:16]


def word_dtype(bits: int) -> np.dtype[Any]:
    """Smallest unsigned type that holds ``bits`` bits (1..32)."""
    for dtype in (np.uint8, np.uint16, np.uint32):
        if bits <= np.iinfo(dtype).bits:
            return np.dtype(dtype)
    raise ValueError(f"a word of {bits} bits does not fit 32 bits")
