"""A limit on memory: how many samples run at once, how large the pieces are, when to give up; and spooled outputs."""

from __future__ import annotations

import contextlib
import mmap
import resource
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError

SMALLEST_CHUNK = 2**20
SPOOL_BYTES = 64 * 2**20
"""Outputs of a set beyond this many bytes wait in an unnamed temporary file."""


def _status(key: str) -> int | None:
    """A line of Linux's /proc/self/status in bytes."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return None


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = _status("VmHWM:")  # getrusage would count what the parent process held before it started this one
    if peak is not None:
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def resident_bytes() -> int:
    """Resident memory of this process now (its peak where the system does not tell)."""
    now = _status("VmRSS:")
    return peak_rss_bytes() if now is None else now


def in_words(size: float) -> str:
    """``1.5 GB``."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


@dataclass(frozen=True)
class Budget:
    """The resident memory that this process may take, its program and libraries included.

    What cannot be made smaller (the replayed program, one sample's values) is checked as soon as it is there:
    the simulation ends with a sentence instead of going on above the limit.
    """

    limit: int

    def check(self, doing: str) -> None:
        """Raises XbcError when the peak so far is above the limit."""
        peak = peak_rss_bytes()
        if peak > self.limit:
            raise XbcError(
                f"{doing} took {in_words(peak)} of memory, more than --memory {in_words(self.limit)}: raise it "
                f"to {in_words(1.25 * peak)} or more"
            )

    def chunk(self, most: int) -> int:
        """Bytes of the matrices that are built at once: computing with one takes two to seven times as much."""
        return max(SMALLEST_CHUNK, min(most, (self.limit - resident_bytes()) // 8))

    def pace(self) -> Pace:
        """For one pass over a set (or several that go through it side by side)."""
        return Pace(self)


@dataclass(eq=False)
class Pace:
    """How many samples run at once: one first, then twice as many while the measured growth leaves room.

    What the first samples took includes what is made only once, so the estimate errs on the safe side.
    """

    budget: Budget
    base: int = field(default_factory=lambda: resident_bytes())
    sizes: dict[int, int] = field(default_factory=dict)

    def samples(self, start: int, most: int) -> int:
        """Samples of the run that begins at sample ``start``; the same for every caller with this ``start``."""
        if start not in self.sizes:
            size = next(reversed(self.sizes.values()), 0)
            wanted = min(max(1, 2 * size), most)
            if size and wanted > size:
                used = peak_rss_bytes() - self.base
                if self.base + used * wanted // size > self.budget.limit:
                    wanted = size
            self.sizes[start] = wanted
        return self.sizes[start]


Batch = int | Budget | Pace | None
"""Samples per run: a number, as many as fit a limit, or (None) by the size of the inputs."""


def release(array: Array) -> None:
    """Gives the pages of a file behind an array back; they are read again when needed."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


class Store:
    """Outputs of a set, appended batch by batch: in memory, or in temporary files once they are large."""

    def __init__(self, name: str, limit: int = SPOOL_BYTES) -> None:
        """``name``: of what makes the outputs, for messages."""
        self.name, self.limit = name, limit
        self._parts: dict[str, list[Array]] = {}
        self._files: dict[str, IO[bytes]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._types: dict[str, np.dtype[np.generic]] = {}
        self._held = 0

    def add(self, outputs: Mapping[str, Array]) -> None:
        """Appends along the first axis.  Raises XbcError when a shape changes."""
        for name, array in outputs.items():
            shape = self._shapes.setdefault(name, (0, *array.shape[1:]))
            if array.shape[1:] != shape[1:]:
                raise XbcError(
                    f"outputs of {self.name} change their shape from sample to sample: give one sample at a time"
                )
            self._shapes[name] = (shape[0] + len(array), *shape[1:])
            self._types.setdefault(name, array.dtype)
            if name in self._files:
                self._files[name].write(np.ascontiguousarray(array).data)
            else:
                self._parts.setdefault(name, []).append(array)
                self._held += array.nbytes
        if self._held > self.limit:
            self._spill()

    def _spill(self) -> None:
        for name, parts in self._parts.items():
            file = self._files.setdefault(name, tempfile.TemporaryFile())  # noqa: SIM115 (lives as long as the array)
            for part in parts:
                file.write(np.ascontiguousarray(part).data)
        self._parts, self._held = {}, 0

    def arrays(self) -> dict[str, Array]:
        """Name -> all entries; nothing can be added any more."""
        out: dict[str, Array] = {}
        for name, shape in self._shapes.items():
            if name not in self._files:
                out[name] = np.concatenate(self._parts[name])
                continue
            with self._files[name] as file:
                file.flush()
                empty = 0 in shape  # which cannot be mapped
                out[name] = (
                    np.empty(shape, self._types[name])
                    if empty
                    else np.memmap(file, self._types[name], "r", shape=shape)
                )
        return out


def parse_size(text: str) -> int:
    """``800MB``, ``1.5 GB``, ``2GiB`` in bytes.  Raises ValueError for anything else."""
    units = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
    text = text.strip().lower()
    for unit in sorted(units, key=len, reverse=True):
        if text.endswith(unit):
            size = float(text.removesuffix(unit)) * units[unit]
            if not (0 < size < 2**62):
                break
            return int(size)
    raise ValueError(text)
