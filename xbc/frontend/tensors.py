"""Tensors of an untrusted file: no size is believed before it was checked, no path leaves the folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from ir.arrays import Array
from ir.errors import XbcError
from xbc.frontend.budget import half_of_memory

_FOUR_BIT = {getattr(TensorProto, n) for n in ("INT4", "UINT4", "FLOAT4E2M1") if hasattr(TensorProto, n)}
_TWO_BIT = {getattr(TensorProto, n) for n in ("INT2", "UINT2") if hasattr(TensorProto, n)}


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes of the tensor's raw form, from its type and dims alone."""
    elements = element_count(tensor.dims)
    if tensor.data_type in _FOUR_BIT:
        return -(-elements // 2)
    if tensor.data_type in _TWO_BIT:
        return -(-elements // 4)
    return elements * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def element_count(dims: object) -> int:
    """Product as an unbounded integer (a file may claim any dims)."""
    count = 1
    for dim in dims:  # type: ignore[attr-defined]
        count *= int(dim)
    return count


def dense_bytes(sparse: onnx.SparseTensorProto) -> int:
    """Bytes of a sparse tensor written out, from its type and dims alone (0 for a type that is refused later)."""
    if sparse.values.data_type not in helper.get_all_tensor_dtypes() or any(d < 0 for d in sparse.dims):
        return 0
    return element_count(sparse.dims) * helper.tensor_dtype_to_np_dtype(sparse.values.data_type).itemsize


def check_allocation(dims: object, data_type: int, where: str) -> None:
    """Refuse a tensor that a few bytes of the file would blow up beyond this machine's memory.

    Raises: XbcError that begins with ``where``.
    """
    size = element_count(dims) * helper.tensor_dtype_to_np_dtype(data_type).itemsize
    limit = half_of_memory()
    if size > limit:
        raise XbcError(
            f"{where} would take {size} bytes, more than half of this machine's memory ({limit}): "
            f"the model is damaged or needs a larger machine"
        )


def check_tensor(tensor: TensorProto, folder: Path, where: str) -> None:
    """Compare what a tensor claims with the bytes it has, inside the file or beside it.

    Raises: XbcError that begins with ``where``.
    """
    if any(dim < 0 for dim in tensor.dims):
        raise XbcError(f"{where} has a negative dimension {list(tensor.dims)}: the file is damaged")
    if tensor.data_type == TensorProto.STRING:
        return
    if tensor.data_type not in helper.get_all_tensor_dtypes() or tensor.data_type == TensorProto.UNDEFINED:
        raise XbcError(
            f"{where} has the unknown element type {tensor.data_type}: the file is damaged or too new"
        )
    if tensor.data_location == TensorProto.EXTERNAL:
        _external(tensor, folder, where)
        return
    if tensor.HasField("raw_data"):
        held, wanted, unit = len(tensor.raw_data), tensor_bytes(tensor), "bytes"
    else:
        held, wanted, unit = _typed_entries(tensor), element_count(tensor.dims), "elements"
        if tensor.data_type in _FOUR_BIT | _TWO_BIT:
            wanted = tensor_bytes(tensor)
        elif tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            wanted *= 2
    if held != wanted:
        raise XbcError(
            f"{where} of shape {list(tensor.dims)} needs {wanted} {unit}, the file holds {held}: damaged"
        )


def _typed_entries(tensor: TensorProto) -> int:
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
    return max(len(getattr(tensor, field)) for field in fields)


@dataclass(frozen=True)
class _External:
    path: Path
    offset: int
    length: int


def _external(tensor: TensorProto, folder: Path, where: str) -> _External:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    plain = location.replace("\\", "/")
    if not location or plain.startswith("/") or re.match(r"[A-Za-z]:", plain) or ".." in plain.split("/"):
        raise XbcError(
            f"{where} has its data at {location!r}, which leaves the model's folder: move the data beside the model"
        )
    path = folder / plain
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise XbcError(f"{where} has its data in {location!r}, which is missing beside the model") from None
    if not real.is_relative_to(folder.resolve()):
        raise XbcError(
            f"{where} has its data at {location!r}, a link that leaves the model's folder: move the data there"
        )
    if not real.is_file():
        raise XbcError(f"{where} has its data at {location!r}, which is no regular file")
    wanted = tensor_bytes(tensor)
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or wanted)
    except ValueError:
        raise XbcError(f"{where} has external data with an offset or length that is no number") from None
    size = real.stat().st_size
    if length != wanted:
        raise XbcError(
            f"{where} of shape {list(tensor.dims)} needs {wanted} bytes, its external data says {length}"
        )
    if offset < 0 or offset + length > size:
        raise XbcError(
            f"{where} needs bytes {offset}..{offset + length} of {location!r}, which has {size}: "
            f"it is truncated or of another model"
        )
    return _External(real, offset, length)


def load_tensor(tensor: TensorProto, folder: Path) -> Array:
    """The tensor's content (after ``check_tensor``), external data included.  Read-only when not copied."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    where = _external(tensor, folder, f"tensor {tensor.name!r}")
    with where.path.open("rb") as handle:
        handle.seek(where.offset)
        data = handle.read(where.length)
    whole = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=data)
    return np.asarray(onnx.numpy_helper.to_array(whole))


def embed_external(tensor: TensorProto, folder: Path) -> None:
    """Turn an external tensor into one that holds its data."""
    if tensor.data_location == TensorProto.EXTERNAL:
        where = _external(tensor, folder, f"tensor {tensor.name!r}")
        with where.path.open("rb") as handle:
            handle.seek(where.offset)
            tensor.raw_data = handle.read(where.length)
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT
