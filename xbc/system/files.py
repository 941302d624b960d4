"""A file that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ir.errors import XbcError
from xbc.system.directory import cannot_write, check_outside, umask
from xbc.system.interrupts import Held, place


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty file beside ``path`` that takes its place when the block ends well, and is removed when not.

    Raises: XbcError with a cure when it cannot be written.
    """
    path = Path(os.path.realpath(path))
    partial: Path | None = None
    if not path.parent.is_dir():
        raise XbcError(f"cannot write {path}: the folder {path.parent} does not exist")
    check_outside(path.parent)
    try:
        with Held():
            handle, name = tempfile.mkstemp(prefix=f".{path.name[:200]}.", suffix=".partial", dir=path.parent)
            partial = Path(name)
            os.close(handle)
            partial.chmod(0o666 & ~umask())
        yield partial
        with Held():
            partial.replace(path)
            place(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if partial is not None:
            with Held():
                partial.unlink(missing_ok=True)
