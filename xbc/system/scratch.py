"""Folders for temporary files, and what killed runs left of them."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ir.errors import XbcError
from xbc.system.directory import lock_folder, remove_folder
from xbc.system.interrupts import Held

PREFIX: Final = "xbc-"
YOUNG_S: Final = 60.0
"""A folder this young may not be locked yet."""
_NAME: Final = re.compile(r"xbc-[a-z0-9_]{8}")


@contextlib.contextmanager
def scratch_folder() -> Iterator[str]:
    """A temporary folder, removed at the end of the block whatever ends it.

    Folders of runs that were killed (nobody holds their lock any more) are removed on the way.

    Raises: XbcError when none can be made.
    """
    folder: Path | None = None
    lock: int | None = None
    try:
        try:
            with Held():
                folder = Path(tempfile.mkdtemp(prefix=PREFIX))
                lock = lock_folder(folder)
        except OSError as error:
            text = f"no folder for temporary files can be made ({error.strerror}): set TMPDIR"
            raise XbcError(text) from None
        _clean(folder)
        yield str(folder)
    finally:
        if folder is not None:
            remove_folder(folder)
        if lock is not None:
            os.close(lock)


def _clean(mine: Path) -> None:
    for old in sorted(mine.parent.glob(f"{PREFIX}*")):
        if old == mine or not _NAME.fullmatch(old.name) or old.is_symlink():
            continue
        with contextlib.suppress(OSError):  # of another user, or gone meanwhile
            if time.time() - old.stat().st_mtime < YOUNG_S or (lock := lock_folder(old)) is None:
                continue
            try:
                remove_folder(old)
            finally:
                os.close(lock)
