"""A directory that appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ir.errors import XbcError

try:
    import fcntl
except ImportError:  # no advisory locks on this system: leftovers stay until someone removes them
    fcntl = None  # type: ignore[assignment]

_CURES = {
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
    try:
        _clean(destination)
        if destination.is_symlink() or destination.exists():
            replaceable(destination)
        work = Path(tempfile.mkdtemp(prefix=_prefix(destination, "partial"), dir=parent))
        lock = _lock(work)
        try:
            work.chmod(0o777 & ~_umask())
            yield work
            _sync(work)
            _swap(work, destination)
        except BaseException:
            _remove(work)
            raise
        finally:
            if lock is not None:
                os.close(lock)
    except OSError as error:
        cure = _CURES.get(error.errno or 0, "check the destination and try again")
        reason = os.strerror(error.errno) if error.errno else error  # pyarrow wraps it in words of its own
        raise XbcError(f"cannot write {destination}: {reason}; {cure}") from error


def _prefix(destination: Path, kind: str) -> str:
    return f".{destination.name[:200]}.{kind}-"


def _swap(work: Path, destination: Path) -> None:
    """Renames ``work`` to ``destination``; what stood there is removed only afterwards."""
    if not destination.exists():
        work.rename(destination)
        _sync_one(destination.parent)
        return
    previous = Path(tempfile.mkdtemp(prefix=_prefix(destination, "previous"), dir=destination.parent))
    lock = _lock(previous)
    try:
        destination.rename(previous / destination.name)
        try:
            work.rename(destination)
        except BaseException:
            (previous / destination.name).rename(destination)
            raise
        _sync_one(destination.parent)
    finally:
        if destination.exists():
            _remove(previous)
        if lock is not None:
            os.close(lock)


def _remove(folder: Path) -> None:
    """Removes a folder; Ctrl-C meanwhile is passed on when that is done."""
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
            lock = _lock(old)
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


def _lock(path: Path) -> int | None:
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


def _umask() -> int:
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
