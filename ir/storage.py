"""Modules as files: ``<stem>.xir`` (the text) and beside it ``<stem>.arrays/`` (one .npy per large array).

Array files are named after the digest of their content, so a file can be neither mistaken nor shared wrongly,
and no name in the text can leave the folder.  The text is renamed into place last: until then an older module
of that name stays whole, from then on the new one is.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import math
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ir.arrays import Array, digest
from ir.errors import XbcError
from ir.module import Module
from ir.parser import FORMAT, Reference, parse_module
from ir.text import INLINE_LIMIT, print_with_arrays
from ir.verify import check_module

MAX_TEXT_BYTES = 2**28
MAP_BYTES = 2**20
"""Smaller arrays are read, not mapped."""
MAX_MAPPED = 256
"""A mapped array holds a file descriptor, of which a process has about 1000."""
_ARRAY_FILE = re.compile(r"[0-9a-f]{16}\.npy")
_LEFTOVER = re.compile(r"\.[0-9a-f]{16}\.npy\.\w+\.tmp")


def arrays_folder(path: str | os.PathLike[str]) -> Path:
    """The folder that holds the arrays of the module at ``path``."""
    path = Path(path)
    return path.with_name(path.stem + ".arrays")


def save_module(module: Module, path: str | os.PathLike[str], inline_limit: int = INLINE_LIMIT) -> None:
    """Writes the module to ``path`` (``.xir``) and its arrays beside it, whole or not at all.

    The same module gives the same bytes.  Array files of an earlier module at ``path`` are removed.

    Raises: XbcError when the name is not ``*.xir`` or a file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".xir" or not path.stem:
        raise XbcError(f"{path}: a module file must be named <name>.xir")
    text, arrays = print_with_arrays(module, inline_limit)
    header, _, body = text.partition("\n")
    body_bytes = body.encode()
    head = f"{header} sha256:{hashlib.sha256(body_bytes).hexdigest()}\n".encode()
    folder = arrays_folder(path)
    made: list[Path] = []
    try:
        if arrays and not folder.exists():
            folder.mkdir()
            made.append(folder)
        for key, array in arrays.items():
            file = folder / _file_name(key)
            if not file.exists():
                made.append(file)
            _write(file, _npy_header(array.dtype, array.shape), array.data)
        _write(path, head, body_bytes)
    except BaseException as error:
        _remove(made)
        if isinstance(error, OSError):
            raise XbcError(f"{path}: cannot be written ({error.strerror or error})") from error
        raise
    _remove(_unused(folder, {_file_name(key) for key in arrays}))
    _remove(list(path.parent.glob(f".{glob.escape(path.name)}.*.tmp")))


def load_module(path: str | os.PathLike[str], mmap: bool = True, check: bool = True) -> Module:
    """Reads a module back.

    Args:
        path: of the ``.xir`` file.
        mmap: map large array files instead of reading them (they must stay while the module is in use).
        check: compare the content of every array with its digest (reads it once) and the module with its
            invariants, so that whoever walks it indexes without looking again.
    Raises: XbcError when a file is missing, damaged, no module, or written by a newer version; VerifyError.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            raise XbcError(f"{path}: is no module: the text of one has at most {MAX_TEXT_BYTES} bytes")
        text = content.decode()
    except UnicodeDecodeError as error:
        raise XbcError(
            f"{path}: is no module, or is damaged: byte {error.start} is not UTF-8 text"
        ) from error
    except OSError as error:
        raise XbcError(f"{path}: cannot be read ({error.strerror or error})") from error
    folder = arrays_folder(path)
    cache: dict[Reference, Array] = {}
    left_to_map = MAX_MAPPED

    def find(reference: Reference) -> Array:
        nonlocal left_to_map
        if reference not in cache:
            large = math.prod(reference.shape) * reference.dtype.itemsize >= MAP_BYTES
            mapped = mmap and large and left_to_map > 0
            left_to_map -= mapped
            cache[reference] = _read_array(folder, reference, mapped, check)
        return cache[reference]

    try:
        module = parse_module(text, find)
    except XbcError as error:
        raise type(error)(f"{path}: {error}") from error
    if check:
        check_module(module, f"{path}: ")
    return module


def _read_array(folder: Path, reference: Reference, mmap: bool, check: bool) -> Array:
    file = folder / _file_name(reference.digest)
    shown = f"{folder.name}/{file.name}"
    header = _npy_header(reference.dtype, reference.shape)
    count = math.prod(reference.shape)
    expected = len(header) + count * reference.dtype.itemsize
    try:
        if file.resolve() != folder.resolve() / file.name or folder.is_symlink():
            raise XbcError(f"{shown} is a link out of its folder: copy the file itself there")
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != expected:
                raise XbcError(f"{shown} is damaged: it has {size} bytes, {expected} are expected")
            if stream.read(len(header)) != header:
                wanted = f"{reference.dtype.name} {list(reference.shape)}"
                raise XbcError(f"{shown} is damaged: its header is not that of {wanted}")
            if mmap:
                array: Array = np.memmap(stream, reference.dtype, "r", len(header), reference.shape)
            else:
                array = np.fromfile(stream, reference.dtype, count).reshape(reference.shape)
    except FileNotFoundError as error:
        raise XbcError(f"{shown} is missing: copy the folder {folder.name} along with the module") from error
    except OSError as error:
        raise XbcError(f"{shown} cannot be read ({error.strerror or error})") from error
    if check and digest(array) != reference.digest:
        raise XbcError(f"{shown} is damaged: its content does not have the digest {reference.digest}")
    return array


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The bytes before the data in a file of ``np.save``.  Readers compare them and interpret nothing."""
    stream = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, description)
    return stream.getvalue()


def _file_name(key: str) -> str:
    return key.removeprefix("sha256:") + ".npy"


def _write(file: Path, head: bytes, content: bytes | memoryview) -> None:
    """Writes under a temporary name in the same folder, then renames."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(head)
            stream.write(content)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _unused(folder: Path, used: set[str]) -> Iterator[Path]:
    """Array files of earlier saves, leftovers of interrupted ones, the folder itself when nothing uses it."""
    if not folder.is_dir():
        return
    for file in sorted(folder.iterdir()):
        if (_ARRAY_FILE.fullmatch(file.name) and file.name not in used) or _LEFTOVER.fullmatch(file.name):
            yield file
    if not used:
        yield folder


def _remove(paths: list[Path] | Iterator[Path]) -> None:
    """Removes files, and folders that are empty; what cannot be removed stays."""
    for path in sorted(paths, key=lambda p: -len(p.parts)):
        with contextlib.suppress(OSError):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()


__all__ = ["FORMAT", "arrays_folder", "load_module", "save_module"]
