"""Compiled kernels that are not in the cache yet: says that they are built, and how long that takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event

from xbc.cli import console


class Builds(event.Listener):
    """Adds up the seconds in which numba compiles; one kernel that builds another counts once.

    Fields:
        seconds: wall time so far, 0 where every kernel came from the cache.
    """

    def __init__(self, quiet: bool) -> None:
        self.seconds = 0.0
        self._quiet = quiet or not sys.stderr.isatty()
        self._depth = 0
        self._started = 0.0

    def on_start(self, event: Any) -> None:
        """A kernel begins."""
        if self._depth == 0:
            self._started = time.perf_counter()
            if not self.seconds:
                console.note("building kernels (once per installation)", self._quiet)
        self._depth += 1

    def on_end(self, event: Any) -> None:
        """A kernel is done, or has failed."""
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.perf_counter() - self._started


@contextmanager
def kernel_builds(quiet: bool) -> Iterator[Builds]:
    """Listens while the block runs; the note is for people at a terminal, as progress bars are."""
    with event.install_listener("numba:compile", Builds(quiet)) as builds:
        yield builds
