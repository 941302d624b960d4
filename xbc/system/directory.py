"""A directory that appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ir.errors import XbcError
from xbc.system.interrupts import Held, place

try:
    import fcntl
except ImportError:  # no advisory locks on this system: leftovers stay until someone removes them
    fcntl = None  # type: ignore[assignment]

SEALED: Final = {"manifest.json": b'"xbc-program"', "export.json": b'"xbc-export"'}
"""Files that list every other one of their folder, and the kind that they say."""
_MARK_BYTES: Final = 1 << 26
_CURES: Final = {
    errno.ENOSPC: "free some space or choose another destination",
    errno.EDQUOT: "free some space or choose another destination",
    errno.EACCES: "choose a destination that you may write to",
    errno.EPERM: "choose a destination that you may write to",
    errno.EROFS: "choose a destination that you may write to",
    errno.ENOENT: "create the folder first",
    errno.ENOTDIR: "choose a destination inside a folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextlib.contextmanager
def whole_directory(destination: Path, replaceable: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary directory beside ``destination`` that takes its place when the block ends well.

    Until then the destination is what it was; on any exception (Ctrl-C included) the temporary directory
    is removed.  Leftovers of killed runs are removed, and a destination that a run was killed in the middle
    of swapping is put back.

    Args:
        destination: a path that does not exist, or a directory for which ``replaceable(destination)`` does
            not raise.
    Raises: XbcError with a cure when the files cannot be written.
    """
    destination = Path(os.path.realpath(destination))
    parent = destination.parent
    check_outside(parent)
    work: Path | None = None
    lock: int | None = None
    try:
        _clean(destination)
        if destination.is_symlink() or destination.exists():
            replaceable(destination)
        try:
            with Held():
                work = Path(tempfile.mkdtemp(prefix=_prefix(destination, "partial"), dir=parent))
                lock = lock_folder(work)
                work.chmod(0o777 & ~umask())
            yield work
            _sync(work)
            with Held():
                _swap(work, destination)
        finally:
            if work is not None and work.exists():
                remove_folder(work)
            if lock is not None:
                os.close(lock)
    except OSError as error:
        raise cannot_write(destination, error) from error


def check_outside(folder: Path) -> None:
    """Raises XbcError when ``folder`` lies in a program or an export, which a further file would break."""
    for inside in (folder, *folder.parents):
        for name, mark in SEALED.items():
            with contextlib.suppress(OSError), (inside / name).open("rb") as stream:
                if mark in stream.read(_MARK_BYTES):
                    raise XbcError(
                        f"cannot write into {inside}: it is a program or an export, which a further file would break; "
                        f"choose another destination"
                    )


def cannot_write(destination: Path, error: OSError) -> XbcError:
    """The sentence about an output that the operating system refuses, with its cure."""
    cure = _CURES.get(error.errno or 0, "check the destination and try again")
    reason = os.strerror(error.errno) if error.errno else error  # pyarrow wraps it in words of its own
    return XbcError(f"cannot write {destination}: {reason}; {cure}")


def _prefix(destination: Path, kind: str) -> str:
    return f".{destination.name[:200]}.{kind}-"


def _swap(work: Path, destination: Path) -> None:
    """Renames ``work`` to ``destination``; what stood there is removed only afterwards."""
    if not destination.exists():
        work.rename(destination)
        place(destination)
        _sync_one(destination.parent)
        return
    previous = Path(tempfile.mkdtemp(prefix=_prefix(destination, "previous"), dir=destination.parent))
    lock = lock_folder(previous)
    try:
        destination.rename(previous / destination.name)
        try:
            work.rename(destination)
        except BaseException:
            (previous / destination.name).rename(destination)
            raise
        place(destination)
        _sync_one(destination.parent)
    finally:
        if destination.exists():
            remove_folder(previous)
        if lock is not None:
            os.close(lock)


def remove_folder(folder: Path) -> None:
    """Removes a folder; an interruption meanwhile is passed on when that is done."""
    with Held():
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _clean(destination: Path) -> None:
    """Removes what killed runs left behind (nobody holds its lock any more)."""
    if fcntl is None:
        return
    for kind in ("previous", "partial"):
        for old in sorted(destination.parent.glob(_glob_escape(_prefix(destination, kind)) + "*")):
            lock = lock_folder(old)
            if lock is None:
                continue
            try:
                kept = old / destination.name
                if kind == "previous" and kept.exists() and not destination.exists():
                    kept.rename(destination)
                shutil.rmtree(old, ignore_errors=True)
            finally:
                os.close(lock)


def _glob_escape(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def lock_folder(path: Path) -> int | None:
    """File descriptor holding the only lock of a directory, None when somebody else has it."""
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def umask() -> int:
    """The mode bits that new files do not get."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        for name in files:
            _sync_one(Path(root) / name)
        _sync_one(Path(root))


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # some file systems cannot sync a directory
            raise
    finally:
        os.close(descriptor)
