"""Format ``neurosim``: per layer a pair of matrices, what stands in the arrays and what stood there before.

The files are those that DNN+NeuroSim V2 (on-chip training) takes as new and old weights to cost an update:
comma separated, values in -1..1 with -1 the lowest and 1 the highest level.  A layer's loads stand below
each other, ``rows`` lines each, so that NeuroSim's partition into sub-arrays of ``rows x columns`` gives
back the crossbars; set its weight precision to the bits of one cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from xbc.backend.program import Program
from xbc.backend.stream import start_levels, stream_images
from xbc.export.package import CrossbarFiles, open_export

if TYPE_CHECKING:
    from xbc.export import Options

NAME: Final = "neurosim"
VERSION: Final = 1
SUMMARY: Final = "weight and weightOld CSV pairs per layer"


def write(program: Program, folder: Path, options: Options) -> dict[str, Any]:
    """Writes ``weight<layer>.csv``, ``weightOld<layer>.csv`` of a steady inference and ``NetWork.csv``."""
    target = program.target
    top = 2**target.bits_per_cell - 1
    words = np.array([f"{2 * level / top - 1:.5g}," for level in range(top + 1)], dtype="S9")
    layer_of = _layer_of(program, options.loads)
    files = CrossbarFiles(folder)
    levels = start_levels(program, "steady")
    now = levels.copy()
    for chunk, images in stream_images(program, "steady", options.loads, levels):
        for i in range(len(chunk)):
            c, layer = int(chunk.crossbar[i]), int(layer_of[chunk.start + i])
            files.add(f"weightOld{layer:04d}.csv", _lines(now[c], words))
            files.add(f"weight{layer:04d}.csv", _lines(images[i], words))
            now[c] = images[i]
        options.progress("neurosim", chunk.stop, options.loads)
    files.flush()
    sections = np.bincount(layer_of, minlength=len(program.layers))
    lines = [f"1,1,{int(n) * target.rows},1,1,{target.columns},0,1" for n in sections if n]
    (folder / "NetWork.csv").write_text("\n".join(lines) + "\n")
    names = {f"{i:04d}": layer.name for i, layer in enumerate(program.layers) if sections[i]}
    return {"inferences": ["steady"], "layers": names}


def _layer_of(program: Program, loads: int) -> Array:
    out = np.zeros(loads, np.int32)
    at = 0
    for block in program.sections(0, loads):
        out[at : at + len(block["layer"])] = block["layer"]
        at += len(block["layer"])
    return out


def _lines(levels: Array, words: Array) -> bytes:
    text: bytes = b"\n".join(row.tobytes().replace(b"\0", b"").rstrip(b",") for row in words[levels])
    return text + b"\n"


def read(folder: Path) -> Iterator[tuple[int, Array, Array]]:
    """(layer, old levels, new levels ``[loads of the layer, rows, columns]``) of an export.

    Raises: XbcError for a damaged export.
    """
    description, target = open_export(folder, NAME, VERSION)
    top = 2**target.bits_per_cell - 1
    for key in sorted(description["layers"]):
        pair = []
        for kind in ("weightOld", "weight"):
            path = folder / f"{kind}{key}.csv"
            try:
                values = np.loadtxt(path, delimiter=",", ndmin=2)
            except (OSError, ValueError) as error:
                raise XbcError(f"{path} cannot be read: {error}") from None
            if values.shape[1] != target.columns or values.shape[0] % target.rows:
                raise XbcError(
                    f"{path} holds a matrix of {values.shape}, wanted n * {target.rows} x {target.columns}"
                )
            levels = np.rint((values + 1) / 2 * top).astype(np.uint8)
            pair.append(levels.reshape(-1, target.rows, target.columns))
        yield int(key), pair[0], pair[1]
