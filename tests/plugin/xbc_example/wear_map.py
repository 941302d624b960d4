"""Format ``wear-map``: how often each cell is written per inference, as a picture of every crossbar."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from xbc.backend.program import Program
from xbc.backend.stream import skipped_phase, stream_loads
from xbc.export.package import open_export

if TYPE_CHECKING:
    from xbc.export import Options

NAME = "wear-map"
VERSION = 1
SUMMARY = "writes of every cell per inference, one .npy [crossbars, rows, columns] per kind of inference"


def write(program: Program, folder: Path, options: Options) -> dict[str, Any]:
    """Writes ``<inference>.npy`` uint32; the loads are read in chunks, whatever the size of the program."""
    shape = (program.target.crossbars, program.target.rows, program.target.columns)
    for inference in options.inferences:
        writes = np.zeros(shape, np.uint32)
        for chunk in stream_loads(program, stop=options.loads):
            crossbar = chunk.crossbar[chunk.owner()]
            done = chunk.phase != skipped_phase(inference)
            np.add.at(writes, (crossbar[done], chunk.row[done], chunk.column[done]), 1)
            options.progress(f"{NAME}, {inference} inference", chunk.stop, options.loads)
        np.save(folder / f"{inference}.npy", writes)
    return {"inferences": list(options.inferences)}


def read(folder: Path) -> dict[str, Array]:
    """Inference -> ``[crossbars, rows, columns]`` uint32.  Raises XbcError for a damaged export."""
    description, target = open_export(folder, NAME, VERSION)
    found = {}
    for inference in description["inferences"]:
        array = np.load(folder / f"{inference}.npy", allow_pickle=False)
        if array.dtype != np.uint32 or array.shape != (target.crossbars, target.rows, target.columns):
            raise XbcError(f"{folder / inference}.npy holds {array.dtype} {array.shape}: export again")
        found[inference] = array
    return found
