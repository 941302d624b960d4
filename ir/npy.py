"""Arrays in numpy's .npy form, in files nobody vouches for."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy

from ir.arrays import Array


def read_header(handle: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type that an array claims; ``handle`` stands behind them then.

    Raises: ValueError for what is no header, and what reading raises.
    """
    try:
        version = npy.read_magic(handle)
        read = npy.read_array_header_1_0 if version[0] == 1 else npy.read_array_header_2_0
        shape, fortran, dtype = read(handle)
    except (OSError, EOFError, zipfile.BadZipFile):
        raise
    except Exception:  # numpy hands on whatever Python's tokenizer and parser and its own types raise
        raise ValueError("the header of an array cannot be read") from None
    if any(type(dim) is not int or dim < 0 for dim in shape):
        raise ValueError(f"an array claims the shape {list(shape)}")
    return shape, fortran, dtype


def mapped(handle: IO[bytes]) -> Array:
    """The array whose form begins where ``handle`` stands, without reading it.  Raises ValueError."""
    shape, fortran, dtype = read_header(handle)
    if dtype.hasobject:
        raise ValueError("an array holds Python objects")
    if not math.prod(shape):
        return np.empty(shape, dtype)
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.memmap(handle, dtype, "r", handle.tell(), shape, order)


def open_mapped(path: Path) -> Array:
    """The array of a .npy file, without reading it.  Raises ValueError or OSError."""
    with path.open("rb") as handle:
        return mapped(handle)
