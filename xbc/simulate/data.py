"""Evaluation sets and inputs from ``.npz`` files."""

from __future__ import annotations

import io
import math
import os
import shutil
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from ir.arrays import Array
from ir.errors import XbcError
from ir.npy import mapped, read_header
from xbc.frontend.budget import half_of_memory
from xbc.simulate.feeds import Port
from xbc.system.files import whole_file

LABELS = "labels"
IN_MEMORY = 2**20
"""Larger arrays stay in their file; the samples of a run are read when it begins."""


@dataclass(frozen=True)
class DataSet:
    """Samples for a model.

    Fields:
        inputs: model input name -> array.
        labels: integer class per sample (or per position of a sample), None when the file has none.
        cut: some of the file's first axis was left out (``--limit``).
    """

    inputs: dict[str, Array]
    labels: Array | None = None
    cut: bool = False


Samples = str | os.PathLike[str] | Mapping[str, Any]
"""A ``.npz`` file, or arrays by name: those of the model's inputs and, optionally, ``labels``."""


def load_data(path: Samples, ports: Sequence[Port]) -> DataSet:
    """Read a set.

    Args:
        path: arrays by name, or ``.npz`` whose arrays are named after the model's inputs (a single array may have any
            name) and, optionally, ``labels``; or one ``.npy`` array.
        ports: the model's inputs.
    Raises: XbcError for a file that is missing, damaged or holds Python objects, for arrays that the inputs
        lack, that hold nan, or for labels that are not integers.
    """
    if isinstance(path, Mapping):
        file = Path("the given set")
        arrays = {str(name): np.asarray(array) for name, array in path.items()}
        for name, array in arrays.items():
            if array.dtype.hasobject:
                raise XbcError(f"{file}: array {name!r} holds Python objects, not numbers")
    else:
        file = Path(path)
        arrays = _read(file)
    names = [port.name for port in ports]
    labels = arrays.pop(LABELS, None) if LABELS not in names else None
    if len(names) == 1 and len(arrays) == 1:
        inputs = {names[0]: next(iter(arrays.values()))}
    else:
        for port in ports:
            if port.name not in arrays:
                there = ", ".join(repr(name) for name in arrays) or "none"
                raise XbcError(
                    f"{file} holds no array for the model's input {port}; it holds {_middle(there)}: "
                    f"name the arrays after the inputs"
                )
        inputs = {name: arrays[name] for name in names}
    for port in ports:
        array = inputs[port.name]
        if array.dtype.kind not in "fiub" and array.dtype.name != port.dtype and port.dtype != "str":
            raise XbcError(
                f"{file}: array {port.name!r} holds {array.dtype}; the model's input {port} takes numbers"
            )
        if not array.ndim and port.shape:
            raise XbcError(f"{file}: array {port.name!r} is a single number; the model's input is {port}")
        _refuse_nan(port.name, array, file)
    return DataSet(inputs, None if labels is None else _labels(labels, file))


def _refuse_nan(name: str, array: Array, file: Path) -> None:
    """A network answers nan with anything; infinities are left alone, attention masks hold them."""
    if array.dtype.kind != "f" or not array.size:
        return
    rows = array if array.ndim else array[None]
    step = max(1, IN_MEMORY // max(1, rows[0].size))
    for start in range(0, len(rows), step):
        missing = np.isnan(rows[start : start + step])
        if missing.any():
            at = np.argwhere(missing)[0]
            index = [start + int(at[0]), *map(int, at[1:])] if array.ndim else []
            raise XbcError(f"{file}: array {name!r} holds nan at index {index}: check how the set was made")


def _labels(labels: Array, file: Path) -> Array:
    if labels.dtype.kind not in "iu":
        raise XbcError(f"{file}: the labels are {labels.dtype}, they must be integers (class indices)")
    if labels.ndim == 0 or labels.size == 0:
        raise XbcError(f"{file}: the labels hold no samples")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return labels.astype(np.int64)


def _read(file: Path) -> dict[str, Array]:
    if not file.is_file():
        raise XbcError(f"{file} {'is a folder' if file.is_dir() else 'does not exist'}: give an .npz file")
    try:
        with file.open("rb") as handle:
            if handle.read(6) == b"\x93NUMPY":
                handle.seek(0)
                _check(handle, file.stat().st_size, f"{file}")
                handle.seek(0)
                return {file.stem: mapped(handle)}
        with zipfile.ZipFile(file) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            total = sum(m.file_size for m in members if m.compress_type != zipfile.ZIP_STORED)
            if total > half_of_memory():
                raise XbcError(f"{file} unfolds to {total} bytes, more than half of this machine's memory")
            for member in members:
                with archive.open(member) as content:
                    _check(content, member.file_size, f"{file}: array {member.filename[:-4]!r}")
            arrays = {member.filename[:-4]: _member(archive, member, file) for member in members}
    except _UNREADABLE as error:
        reason = _middle(" ".join(str(error).split())) or type(error).__name__
        raise XbcError(f"{file} is not a readable .npz file: {reason}") from None
    if not arrays:
        raise XbcError(f"{file} holds no arrays")
    return arrays


_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, tokenize.TokenError, ValueError, TypeError, SyntaxError, EOFError, KeyError,
    OSError, NotImplementedError, RecursionError, OverflowError,
)  # fmt: skip
"""What zipfile and numpy raise for a file that is none of theirs."""


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path) -> Array:
    """An array of the archive: in place where it is stored as it is, from a temporary file where it is packed.

    Either way it is read once as a whole, which checks it against its checksum.
    """
    with archive.open(member) as content:
        if member.file_size <= IN_MEMORY:
            return np.asarray(npy.read_array(io.BytesIO(content.read()), allow_pickle=False))
        if member.compress_type != zipfile.ZIP_STORED:
            with tempfile.TemporaryFile() as unpacked:
                shutil.copyfileobj(content, unpacked, 2**20)
                unpacked.seek(0)
                return mapped(unpacked)
        while content.read(2**20):
            pass
    with file.open("rb") as handle:
        handle.seek(member.header_offset)
        header = handle.read(30)  # PKWARE APPNOTE 4.3.7: lengths of name and extra field at 26 and 28
        handle.seek(member.header_offset + 30 + sum(struct.unpack("<HH", header[26:30])))
        return mapped(handle)


def _check(handle: IO[bytes], size: int, where: str) -> None:
    """Compare an array's header with the bytes behind it before anything is allocated."""
    shape, _, dtype = read_header(handle)
    if dtype.hasobject:
        raise XbcError(f"{where} holds Python objects, which are not read: save plain numeric arrays")
    count = dtype.itemsize * math.prod(shape)
    if count > size:
        raise XbcError(f"{where} claims {count} bytes, {size} are there: the file is damaged")


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Writes the arrays as an .npz file that appears whole or not at all."""
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            entry = zipfile.ZipInfo(f"{key}.npy")  # without a time: the same arrays give the same bytes
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def _middle(text: str, most: int = 80) -> str:
    """The text with its middle left out where it is long."""
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"
