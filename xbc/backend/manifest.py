"""manifest.json: what a program is, and digests of every file of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ir.errors import XbcError
from xbc.backend.shape import check_shape
from xbc.backend.tables import FORMAT, MANIFEST, VERSION

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?")
_MAX_BYTES: Final = 1 << 26
_SELF: Final = "self_sha256"
_CURE: Final = "give the directory that xbc compile wrote"


def render(manifest: Mapping[str, Any]) -> bytes:
    """The one text of a manifest: sorted keys, two spaces, newline at the end, ASCII."""
    return (json.dumps(manifest, sort_keys=True, indent=2, allow_nan=False) + "\n").encode()


def self_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the manifest with an empty ``self_sha256``: sorted keys, no spaces, ASCII."""
    text = json.dumps({**manifest, _SELF: ""}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_in(folder: Path) -> Iterator[str]:
    """Names (with ``/``) of everything below ``folder`` that is not a directory, sorted."""
    found = []
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        found += [(Path(root) / name).relative_to(folder).as_posix() for name in files + links]
    return iter(sorted(found))


def seal(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Adds the digests of all files in ``folder``, writes ``manifest.json`` there and returns it."""
    files = {}
    for name in files_in(folder):
        if not _NAME.fullmatch(name):
            raise ValueError(f"file name {name!r} cannot stand in a manifest")
        files[name] = {"bytes": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
    manifest = {**manifest, "format": FORMAT, "format_version": VERSION, "files": files}
    manifest[_SELF] = self_digest(manifest)
    (folder / MANIFEST).write_bytes(render(manifest))
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a program, checked against its own digest.

    Raises: XbcError when ``folder`` is no program, the manifest is damaged, names files outside the folder,
        or is of a newer format.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise XbcError(f"{folder} is not a directory; {_CURE}")
    try:
        info = path.lstat()
    except OSError:
        raise XbcError(f"{folder} holds no {MANIFEST}, so it is no program; {_CURE}") from None
    if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_BYTES:
        raise XbcError(f"{path} is no manifest (not a regular file of at most {_MAX_BYTES} bytes)")
    raw = path.read_bytes()
    try:
        manifest = json.loads(raw)
    except (ValueError, RecursionError):
        raise _damaged(path, "is not valid JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise XbcError(f"{path} does not describe an xbc program, or is damaged; {_CURE}")
    version = manifest.get("format_version")
    try:
        whole = manifest.get(_SELF) == self_digest(manifest) and raw == render(manifest)
    except (ValueError, RecursionError):
        whole = False
    if type(version) is int and version > VERSION:
        hint = "" if whole else " (or the manifest is damaged: its own digest does not fit)"
        raise XbcError(f"{path} has format version {version}, this xbc reads {VERSION}: use newer xbc{hint}")
    if not whole:
        raise _damaged(path, "does not fit its own digest")
    if version != VERSION:
        raise XbcError(f"{path} has format version {version!r}, this xbc reads {VERSION}: compile again")
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise XbcError(f"{path} lists no files: compile the model again")
    for name, entry in files.items():
        if not _NAME.fullmatch(name) or name == MANIFEST:
            raise XbcError(
                f"{path} lists the file name {name!r}, which no program has: do not use this program"
            )
        kinds = [type(entry.get(key)) for key in ("bytes", "sha256")] if isinstance(entry, dict) else []
        if kinds != [int, str]:
            raise XbcError(f"{path} does not give bytes and sha256 of {name!r}: compile the model again")
    check_shape(path, manifest)
    return manifest


def _damaged(path: Path, what: str) -> XbcError:
    return XbcError(f"{path} is damaged (it {what}): copy the program again or compile the model again")


def file_faults(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """File name -> what is wrong with it: missing, wrong size, wrong digest, not in the manifest."""
    faults = {}
    for name, entry in files.items():
        path = folder / name
        try:
            info = path.lstat()
        except OSError:
            faults[name] = "is missing"
            continue
        if (folder / name).parent.is_symlink() or not stat.S_ISREG(info.st_mode):
            faults[name] = "is not a regular file"
        elif info.st_size != entry["bytes"]:
            faults[name] = f"has {info.st_size} bytes instead of {entry['bytes']}"
        elif file_digest(path) != entry["sha256"]:
            faults[name] = "is damaged (its content does not fit its SHA-256)"
    for name in files_in(folder):
        if name not in files and name != MANIFEST:
            faults[name] = "does not belong to the program (the manifest does not list it)"
    return faults
