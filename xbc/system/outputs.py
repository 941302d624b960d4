"""Files that commands write: refused before the work starts when something else would be lost."""

from __future__ import annotations

import os
from pathlib import Path

from ir.errors import XbcError

KINDS = {
    "an ONNX": (b"\x08",),
    "an .npz": (b"PK",),
    "an HTML": (b"<!doctype html", b"<!DOCTYPE html"),
    "a Parquet": (b"PAR1",),
    "an IR": (b"xir ", b"module"),
    "a TOML": (b"name", b"rows", b"#"),
}
"""How files of a kind begin (an ONNX file with its first field, ir_version)."""


def check_file(output: Path, kind: str | None, *inputs: Path | None) -> Path:
    """``output`` when a file of ``kind`` (see ``KINDS``; None: any) may be written there.

    Raises: XbcError when it is a folder or has none, is one of ``inputs``, or exists and is of another kind.
    """
    parent = output.absolute().parent
    if not parent.is_dir():
        raise XbcError(f"cannot write {output}: the folder {parent} does not exist")
    if output.is_dir():
        raise XbcError(f"cannot write {output}: it is a folder; name a file in it")
    if not output.exists():
        return output
    for given in inputs:
        if given is not None and given.exists() and os.path.samefile(output, given):
            raise XbcError(f"cannot write {output}: the command reads it; give another name with -o")
    if kind is not None and output.stat().st_size:
        with output.open("rb") as file:
            start = file.read(16)
        if not start.startswith(KINDS[kind]):
            raise XbcError(
                f"cannot write {output}: a file that is not {kind} file is there; give another name with -o"
            )
    return output
