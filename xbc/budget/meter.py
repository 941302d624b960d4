"""How long a command works on what, apart from what it waits for: model runs are not compile time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Meter:
    """Sums wall and processor seconds by kind of work; the kinds must not overlap in time.

    Fields:
        wall, processor: seconds by kind (processor seconds are those of all threads).
        times: how often by kind.
    """

    wall: dict[str, float] = field(default_factory=dict)
    processor: dict[str, float] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    _started: tuple[float, float] = field(default_factory=lambda: (time.perf_counter(), time.process_time()))

    @contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        """Counts the block as work of ``kind``."""
        wall, processor = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall[kind] = self.wall.get(kind, 0.0) + time.perf_counter() - wall
            self.processor[kind] = self.processor.get(kind, 0.0) + time.process_time() - processor
            self.times[kind] = self.times.get(kind, 0) + 1

    def facts(self) -> dict[str, Any]:
        """Rows ``kind -> times, seconds, cpu_seconds``; ``compiling`` is what no kind has measured."""
        wall, processor = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        rows: dict[str, Any] = {
            "compiling": _row(1, wall - sum(self.wall.values()), processor - sum(self.processor.values()))
        }
        for kind, times in self.times.items():
            rows[kind] = _row(times, self.wall[kind], self.processor[kind])
        return rows


def _row(times: int, wall: float, processor: float) -> dict[str, Any]:
    return {"times": times, "seconds": round(wall, 3), "cpu_seconds": round(processor, 3)}
