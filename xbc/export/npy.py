"""Format ``npy``: per inference and crossbar ``[loads, rows, columns]`` levels after each load, and the
loads' ids.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.npy import open_mapped
from xbc.backend.program import Program
from xbc.backend.stream import start_levels, stream_images
from xbc.export.package import CrossbarFiles, by_crossbar, open_export

if TYPE_CHECKING:
    from xbc.export import Options

NAME: Final = "npy"
VERSION: Final = 1
SUMMARY: Final = "one .npy of levels per crossbar: the array after each of its loads"


def write(program: Program, folder: Path, options: Options) -> dict[str, Any]:
    """Writes ``<inference>/start.npy``, ``<inference>/crossbar_<n>.npy`` and ``loads_<n>.npy``."""
    target = program.target
    crossbar = program.loads["crossbar"][: options.loads]
    for bar, loads in by_crossbar(crossbar):
        np.save(folder / f"loads_{bar:06d}.npy", loads.astype(np.int32))
    for inference in options.inferences:
        there = folder / inference
        there.mkdir()
        levels = start_levels(program, inference)
        np.save(there / "start.npy", levels)
        files = CrossbarFiles(there)
        for bar, loads in by_crossbar(crossbar):
            files.add(f"crossbar_{bar:06d}.npy", _header((len(loads), target.rows, target.columns)))
        for chunk, images in stream_images(program, inference, options.loads, levels):
            for bar, which in by_crossbar(chunk.crossbar):
                files.add(f"crossbar_{bar:06d}.npy", images[which].tobytes())
            options.progress(f"npy, {inference} inference", chunk.stop, options.loads)
        files.flush()
    return {"inferences": list(options.inferences)}


def _header(shape: tuple[int, ...]) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return head.getvalue()


def read(folder: Path) -> Iterator[tuple[str, int, Array, Array]]:
    """(inference, crossbar, load ids ``[n]``, levels ``[n, rows, columns]``) of an export.

    Raises: XbcError for a damaged export or arrays of the wrong type or shape.
    """
    description, target = open_export(folder, NAME, VERSION)
    for inference in description["inferences"]:
        for path in sorted((folder / inference).glob("crossbar_*.npy")):
            ids = _load(folder / path.name.replace("crossbar", "loads"), np.int32, None)
            levels = _load(path, np.uint8, (len(ids), target.rows, target.columns))
            yield inference, int(path.stem.removeprefix("crossbar_")), ids, levels


def _load(path: Path, dtype: Any, shape: tuple[int, ...] | None) -> Array:
    try:
        array = open_mapped(path)
    except (OSError, ValueError) as error:
        raise XbcError(f"{path} cannot be read: {error}") from None
    if array.dtype != dtype or (shape is not None and array.shape != shape):
        raise XbcError(f"{path} holds {array.dtype} {array.shape}, wanted {np.dtype(dtype)} {shape or ''}")
    return np.asarray(array)
