"""Export formats of an emitted program: one file per format, each with its writer and a reader of what it
wrote.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from ir.errors import XbcError

if TYPE_CHECKING:
    from collections.abc import Callable

    from xbc.backend.program import Program

    Progress = Callable[[str, int, int], None]

__all__ = ["FORMATS", "INFERENCES", "Options", "export_program"]

FORMATS: Final = {
    "csv": ("xbc.export.csv_tables", "loads and writes as two CSV tables"),
    "jsonl": ("xbc.export.jsonl", "one JSON line per load with its writes, and its JSON Schema"),
    "memh": ("xbc.export.memh", "Verilog $readmemh images and writes per crossbar, with a test bench"),
    "npy": ("xbc.export.npy", "one .npy of levels per crossbar: the array after each of its loads"),
    "neurosim": ("xbc.export.neurosim", "weight and weightOld CSV pairs per layer"),
    "aihwkit": ("xbc.export.aihwkit", "target conductance and window of every write in siemens"),
    "pimcomp": (
        "xbc.export.pimcomp",
        "JSON instruction list per core with a write operation, and its JSON Schema",
    ),
    "binary": ("xbc.export.binary", "compact bit stream, with a C header and a C reader"),
}
"""Format name -> (module with NAME, VERSION and ``write``, what it is)."""

INFERENCES: Final = ("first", "steady")
"""The inference from blank cells, and every one after it."""


def silent(what: str, done: int, total: int) -> None:
    """Progress sink that shows nothing."""


@dataclass(frozen=True)
class Options:
    """What a format's writer is asked for.

    Fields:
        loads: only that many loads from the start (None: all).
        inferences: which inferences the formats that hold states write (tables hold both by their phases).
        progress: called with (what, done, total).
    """

    loads: int
    inferences: tuple[str, ...] = INFERENCES
    progress: Progress = silent


class Writer(Protocol):
    """A format module."""

    NAME: str
    VERSION: int

    @staticmethod
    def write(program: Program, folder: Path, options: Options) -> dict[str, Any]:
        """Writes the files and returns what ``export.json`` says about them beyond the common head."""


def export_program(
    program: str | Path | Program,
    format_name: str,
    output: str | Path,
    *,
    loads: int | None = None,
    inferences: tuple[str, ...] = INFERENCES,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Exports a program to the directory ``output``, whole or not at all.

    Returns: the content of its ``export.json``.
    Raises: XbcError for an unknown format, a damaged program, a destination that cannot be written.
    """
    from xbc.backend.program import Program
    from xbc.backend.stream import count_of
    from xbc.backend.structure import check_tables
    from xbc.export.package import describe, export_directory, seal_export

    if format_name not in FORMATS:
        raise XbcError(f"unknown format {format_name!r}; known: {', '.join(FORMATS)}")
    writer = cast(Writer, importlib.import_module(FORMATS[format_name][0]))
    opened = program if isinstance(program, Program) else Program.open(program)
    check_tables(opened)
    count = count_of(opened, loads)
    with export_directory(Path(output)) as folder:
        more = writer.write(opened, folder, Options(count, inferences, progress))
        return seal_export(folder, {**describe(opened, writer.NAME, writer.VERSION, count), **more})
