"""What all export directories share: they appear whole, say what they are, and are checked before they are
read.
"""

from __future__ import annotations

import importlib.metadata
import json
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

from ir.arrays import Array
from ir.errors import XbcError
from ir.target import Target
from xbc.backend.manifest import file_digest, files_in
from xbc.backend.program import Program
from xbc.system.directory import whole_directory

DESCRIPTION: Final = "export.json"
KIND: Final = "xbc-export"
_MAX_BYTES: Final = 1 << 28


def describe(program: Program, name: str, version: int, loads: int) -> dict[str, Any]:
    """The head of ``export.json``: what was exported, of which program, for which chip."""
    return {
        "kind": KIND,
        "format": name,
        "format_version": version,
        "tool": {"name": "xbc", "version": importlib.metadata.version("xbc")},
        "program_sha256": program.manifest["self_sha256"],
        "model": program.manifest["model"]["name"],
        "loads": loads,
        "loads_of_program": program.total("loads"),
        "target": program.target.to_dict(),
    }


@contextmanager
def export_directory(output: Path) -> Iterator[Path]:
    """A new export directory that appears when the block ends well; an older export there is replaced.

    Raises: XbcError when something else is there or it cannot be written.
    """
    parent = output.absolute().parent
    if not parent.is_dir():
        raise XbcError(f"cannot write {output}: the folder {parent} does not exist")
    with whole_directory(output, _check_replaceable) as folder:
        yield folder


def _check_replaceable(there: Path) -> None:
    if there.is_dir() and (not any(there.iterdir()) or (there / DESCRIPTION).is_file()):
        return
    raise XbcError(f"{there} exists and is no export of xbc: choose another destination with -o")


def seal_export(folder: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """Writes ``export.json`` with the size and SHA-256 of every other file and returns it."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
        for name in files_in(folder)
    }
    whole = {**description, "files": files}
    (folder / DESCRIPTION).write_text(json.dumps(whole, indent=2, sort_keys=True, allow_nan=False) + "\n")
    return whole


def open_export(folder: Path, name: str, version: int) -> tuple[dict[str, Any], Target]:
    """Description and target of an export, every file checked.

    Raises: XbcError for another format, a newer version, a damaged, missing or foreign file.
    """
    path = folder / DESCRIPTION
    try:
        info = path.lstat()
    except OSError:
        raise XbcError(f"{folder} holds no {DESCRIPTION}: give a directory that xbc emit wrote") from None
    if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_BYTES:
        raise XbcError(f"{path} is no export description (not a regular file of at most {_MAX_BYTES} bytes)")
    try:
        description = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise XbcError(f"{path} is damaged (not valid JSON): export the program again") from None
    if not isinstance(description, dict) or description.get("kind") != KIND:
        raise XbcError(f"{path} does not describe an export of xbc")
    if description.get("format") != name:
        raise XbcError(f"{folder} is an export of format {description.get('format')!r}, wanted {name!r}")
    found = description.get("format_version")
    if type(found) is not int or found != version:
        hint = "use newer xbc" if type(found) is int and found > version else "export the program again"
        raise XbcError(f"{folder} has version {found!r} of format {name}, this xbc reads {version}: {hint}")
    files, target = description.get("files"), description.get("target")
    if (
        not isinstance(files, dict)
        or not isinstance(target, dict)
        or type(description.get("loads")) is not int
    ):
        raise XbcError(f"{path} is damaged (files, target or loads missing): export the program again")
    present = {there for there in files_in(folder) if there != DESCRIPTION}
    for there in sorted(present - files.keys()):
        raise XbcError(f"{folder / there} does not belong to the export ({DESCRIPTION} does not list it)")
    for file, entry in files.items():
        if file not in present:
            raise XbcError(f"{path} lists {file!r}, which is not in the export: export the program again")
        there = folder / file
        if there.is_symlink() or there.parent.is_symlink():
            raise XbcError(f"{there} is a link: export the program again")
        if not isinstance(entry, dict) or file_digest(there) != entry.get("sha256"):
            raise XbcError(f"{there} is damaged (it does not fit its SHA-256): export the program again")
    return description, Target.from_dict(target)


def shipped(name: str) -> str:
    """Text of a file that is shipped with the exports (schema, test bench, C reader)."""
    return (resources.files("xbc.export") / "files" / name).read_text(encoding="utf-8")


class CrossbarFiles:
    """One file per crossbar and kind, appended to in load order with bounded memory and few open files."""

    LIMIT: Final = 1 << 25

    def __init__(self, folder: Path) -> None:
        """Files go to ``folder``, which exists."""
        self._folder = folder
        self._held: dict[str, list[bytes]] = {}
        self._bytes = 0

    def add(self, name: str, content: bytes) -> None:
        """Appends to file ``name``."""
        self._held.setdefault(name, []).append(content)
        self._bytes += len(content)
        if self._bytes > self.LIMIT:
            self.flush()

    def flush(self) -> None:
        """Writes what is held."""
        for name, parts in self._held.items():
            with (self._folder / name).open("ab") as stream:
                stream.writelines(parts)
        self._held, self._bytes = {}, 0


def by_crossbar(crossbar: Array) -> Iterator[tuple[int, Array]]:
    """(crossbar, indices of its loads in order) for every crossbar that appears."""
    import numpy as np

    order = np.argsort(crossbar, kind="stable")
    cuts = np.flatnonzero(np.diff(crossbar[order])) + 1
    for run in np.split(order, cuts):
        if len(run):
            yield int(crossbar[run[0]]), run
