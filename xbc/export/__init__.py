"""Export formats of an emitted program: one file per format, each with its writer and a reader of what it
wrote.

Installed packages add formats through entry points of the group ``xbc.exports``: name of the format -> module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from ir.errors import XbcError
from ir.progress import Progress, silent
from ir.registry import Registry

if TYPE_CHECKING:
    from xbc.backend.program import Program


__all__ = ["FORMATS", "INFERENCES", "Options", "Writer", "export_program", "load_format"]

FORMATS: Final = Registry(
    "xbc.exports",
    "format",
    {
        "csv": "xbc.export.csv_tables",
        "jsonl": "xbc.export.jsonl",
        "memh": "xbc.export.memh",
        "npy": "xbc.export.npy",
        "neurosim": "xbc.export.neurosim",
        "aihwkit": "xbc.export.aihwkit",
        "pimcomp": "xbc.export.pimcomp",
        "binary": "xbc.export.binary",
    },
)
"""Format name -> its module, see ``Writer``."""

INFERENCES: Final = ("first", "steady")
"""The inference from blank cells, and every one after it."""


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
    """A format module.

    Fields:
        NAME: of the format.
        VERSION: of what it writes; raised when readers have to change.
        SUMMARY: what it is, for the list of formats.
    """

    NAME: str
    VERSION: int
    SUMMARY: str

    @staticmethod
    def write(program: Program, folder: Path, options: Options) -> dict[str, Any]:
        """Writes the files and returns what ``export.json`` says about them beyond the common head."""


def load_format(name: str) -> Writer:
    """The module of a format.

    Raises: XbcError for an unknown name, a name that two packages bring, a package that cannot be imported or whose
        module is no format.
    """
    entry = FORMATS.find(name)
    found = entry.load("format")
    for key, kind in (("NAME", str), ("VERSION", int), ("SUMMARY", str)):
        if not isinstance(getattr(found, key, None), kind):
            raise entry.fault("format", f"is no format: {entry.value} has no {key} of type {kind.__name__}")
    writer = cast(Writer, found)
    if name != writer.NAME or not callable(getattr(found, "write", None)):
        raise entry.fault("format", f"is no format of that name: see NAME and write() of {entry.value}")
    return writer


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

    writer = load_format(format_name)
    if unknown := [name for name in inferences if name not in INFERENCES]:
        raise XbcError(f"unknown inference {unknown[0]!r}; known: {', '.join(INFERENCES)}")
    opened = program if isinstance(program, Program) else Program.open(program)
    check_tables(opened)
    count = count_of(opened, loads)
    with export_directory(Path(output)) as folder:
        more = writer.write(opened, folder, Options(count, inferences, progress))
        return seal_export(folder, {**describe(opened, writer.NAME, writer.VERSION, count), **more})
