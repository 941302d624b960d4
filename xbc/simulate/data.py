"""Evaluation sets and inputs from ``.npz`` files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from ir.arrays import Array
from ir.errors import XbcError
from xbc.simulate.host import Port

LABELS = "labels"


@dataclass(frozen=True)
class DataSet:
    """Samples for a model.

    Fields:
        inputs: model input name -> array.
        labels: integer class per sample (or per position of a sample), None when the file has none.
    """

    inputs: dict[str, Array]
    labels: Array | None = None


def load_data(path: str | os.PathLike[str], ports: Sequence[Port]) -> DataSet:
    """Read a set.

    Args:
        path: ``.npz`` whose arrays are named after the model's inputs (a single array may have any name) and,
            optionally, ``labels``; or one ``.npy`` array.
        ports: the model's inputs.
    Raises: XbcError for a file that is missing, damaged or holds Python objects, for arrays that the inputs
        lack or for labels that are not integers.
    """
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
                    f"{file} holds no array for the model's input {port}; it holds {there}: "
                    f"name the arrays after the inputs"
                )
        inputs = {name: arrays[name] for name in names}
    return DataSet(inputs, None if labels is None else _labels(labels, file))


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
                return {file.stem: np.load(file, allow_pickle=False)}
        with zipfile.ZipFile(file) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            total = sum(m.file_size for m in members)
            limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
            if total > limit:
                raise XbcError(f"{file} unfolds to {total} bytes, more than half of this machine's memory")
            for member in members:
                with archive.open(member) as handle:
                    _check(handle, member.file_size, f"{file}: array {member.filename[:-4]!r}")
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError, OSError, NotImplementedError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise XbcError(f"{file} is not a readable .npz file: {reason}") from None
    if not arrays:
        raise XbcError(f"{file} holds no arrays")
    return arrays


def _check(handle: object, size: int, where: str) -> None:
    """Compare an array's header with the bytes behind it before anything is allocated."""
    version = npy.read_magic(handle)  # type: ignore[arg-type]
    if version[0] == 1:
        shape, _, dtype = npy.read_array_header_1_0(handle)  # type: ignore[arg-type]
    else:
        shape, _, dtype = npy.read_array_header_2_0(handle)  # type: ignore[arg-type]
    if dtype.hasobject:
        raise XbcError(f"{where} holds Python objects, which are not read: save plain numeric arrays")
    count = dtype.itemsize
    for dim in shape:
        count *= dim
    if count > size:
        raise XbcError(f"{where} claims {count} bytes, {size} are there: the file is damaged")
