"""The timeline of a program on its chip.

A crossbar does its loads in order: it is written, waits for the inputs of the layer, reads all products of
the batch, and is written again.  Crossbars work independently of each other, so the sections of later
layers are written while earlier layers are read (double buffering where a layer leaves crossbars free).  A
layer's products wait for all products of the layers that feed it.  Digital work on the host and the
transport between crossbars take no time here: the target gives no constants for them.

``lockstep_ns`` is the plain loader: the loads of a step are written together, then read together, and the
next step begins when all have finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import njit

from ir.arrays import Array
from xbc.schedule.costs import Costs

BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)
_WARM: Final = 6
"""Batches run to find the period; the mean of the last half counts."""


@njit(cache=True, nogil=True)
def _run(
    layer: Any, crossbar: Any, write_ns: Any, read_ns: Any, products: Any, before: Any, before_at: Any,
    free: Any,
    free_by: Any, times: Any, cause: Any,
) -> None:  # fmt: skip
    """One batch.  ``free [crossbars]`` is updated; ``times [loads, 4]`` takes write start, write end, read
    start, read end; ``cause [loads, 2]`` the load that the write and the read waited for (-1: none)."""
    layers = products.shape[0]
    done, done_by = np.zeros(layers), np.full(layers, -1, np.int64)
    for i in range(layer.shape[0]):
        c, a = crossbar[i], layer[i]
        start = free[c]
        written = start + write_ns[i]
        ready, by = 0.0, -1
        for p in range(before_at[a], before_at[a + 1]):
            if done[before[p]] > ready:
                ready, by = done[before[p]], done_by[before[p]]
        times[i, 0], times[i, 1] = start, written
        times[i, 2] = max(written, ready)
        times[i, 3] = times[i, 2] + read_ns[i] * products[a]
        cause[i, 0] = free_by[c]
        cause[i, 1] = by if ready > written else i
        free[c], free_by[c] = times[i, 3], i
        if times[i, 3] > done[a]:
            done[a], done_by[a] = times[i, 3], i


@dataclass(frozen=True)
class Schedule:
    """What a batch of inferences takes on a chip that has been programmed before (steady state).

    Fields:
        batch: inferences that share every load.
        latency_ns: of one batch that finds the chip idle.
        first_ns: of the first batch, from blank cells.
        period_ns: between the ends of batches that follow each other without a pause.
        lockstep_ns: of one batch without any overlap.
        write_ns, read_ns: how long all crossbars together write and read in a batch.
        critical_write_ns, critical_read_ns: the longest chain of a batch, split (their sum is
        ``latency_ns``).
        critical_layers: ``[layers]`` ns of that chain spent in each layer.
        energy_pj: of one inference, writes shared by the batch.
        write_pj, read_pj: parts of ``energy_pj``.
        crossbars: of the chip; ``used`` of them have loads.
        times: ``[loads, 4]`` ns: write start, write end, read start, read end of the isolated batch.
    """

    batch: int
    latency_ns: float
    first_ns: float
    period_ns: float
    lockstep_ns: float
    write_ns: float
    read_ns: float
    critical_write_ns: float
    critical_read_ns: float
    critical_layers: Array
    energy_pj: float
    write_pj: float
    read_pj: float
    crossbars: int
    used: int
    times: Array

    @property
    def throughput_per_s(self) -> float:
        """Inferences per second in steady state."""
        return self.batch / self.period_ns * 1e9 if self.period_ns else float("inf")

    def utilisation(self) -> dict[str, float]:
        """Share of the chip's crossbar time that is spent writing, reading and idle, in steady state."""
        total = self.period_ns * self.crossbars
        write, read = (self.write_ns / total, self.read_ns / total) if total else (0.0, 0.0)
        return {"write": write, "read": read, "idle": max(0.0, 1 - write - read)}

    def facts(self) -> dict[str, Any]:
        """Plain values for JSON, without the timeline itself."""
        return {
            "batch": self.batch,
            "latency_ns": self.latency_ns,
            "first_ns": self.first_ns,
            "period_ns": self.period_ns,
            "lockstep_ns": self.lockstep_ns,
            "throughput_per_s": self.throughput_per_s,
            "critical_path": {"write_ns": self.critical_write_ns, "read_ns": self.critical_read_ns},
            "utilisation": self.utilisation(),
            "energy_pj": self.energy_pj,
            "write_pj": self.write_pj,
            "read_pj": self.read_pj,
            "crossbars_used": self.used,
        }


def schedule(costs: Costs, crossbars: int, batch: int = 1) -> Schedule:
    """The timeline of batches of ``batch`` inferences on a chip of ``crossbars`` crossbars."""
    before = np.array([p for layer in costs.predecessors for p in layer], np.int64)
    before_at = np.concatenate([[0], np.cumsum([len(layer) for layer in costs.predecessors])]).astype(
        np.int64
    )
    products = costs.products * batch
    n = len(costs.layer)

    def run(free: Array, write_ns: Array) -> tuple[Array, Array]:
        times, cause = np.zeros((n, 4)), np.full((n, 2), -1, np.int64)
        by = np.full(crossbars, -1, np.int64)
        _run(
            costs.layer,
            costs.crossbar,
            write_ns,
            costs.read_ns,
            products,
            before,
            before_at,
            free,
            by,
            times,
            cause,
        )
        return times, cause

    first, _ = run(np.zeros(crossbars), costs.first_ns)
    times, cause = run(np.zeros(crossbars), costs.write_ns)
    ends = []
    free = np.zeros(crossbars)
    for _ in range(_WARM):
        run(free, costs.write_ns)
        ends.append(float(free.max(initial=0.0)))
    half = _WARM // 2
    period = (ends[-1] - ends[half - 1]) / (_WARM - half)
    reads = costs.read_ns * products[costs.layer]
    write_pj = float(costs.write_pj.sum()) / batch
    read_pj = float((costs.read_pj * costs.products[costs.layer]).sum())
    critical = _critical(costs, times, cause)
    return Schedule(
        batch=batch,
        latency_ns=float(times[:, 3].max(initial=0.0)),
        first_ns=float(first[:, 3].max(initial=0.0)),
        period_ns=period,
        lockstep_ns=lockstep_ns(costs, batch),
        write_ns=float(costs.write_ns.sum()),
        read_ns=float(reads.sum()),
        critical_write_ns=critical[0],
        critical_read_ns=critical[1],
        critical_layers=critical[2],
        energy_pj=write_pj + read_pj,
        write_pj=write_pj,
        read_pj=read_pj,
        crossbars=crossbars,
        used=len(np.unique(costs.crossbar)),
        times=times,
    )


def lockstep_ns(costs: Costs, batch: int) -> float:
    """Time of a batch when the steps follow one another: written together, read together."""
    if not len(costs.step):
        return 0.0
    order = np.argsort(costs.step, kind="stable")
    starts = np.flatnonzero(np.diff(costs.step[order], prepend=costs.step[order[0]] - 1))
    reads = costs.read_ns * costs.products[costs.layer] * batch
    return float(sum(np.maximum.reduceat(x[order], starts).sum() for x in (costs.write_ns, reads)))


def _critical(costs: Costs, times: Array, cause: Array) -> tuple[float, float, Array]:
    """(writing, reading, by layer) of the chain that ends last, walked back from its end."""
    write = read = 0.0
    layers = np.zeros(len(costs.products))
    at = int(np.argmax(times[:, 3])) if len(times) else -1
    while at >= 0:
        spent = float(times[at, 3] - times[at, 2])
        read += spent
        if int(cause[at, 1]) != at:  # it waited for another layer, not for its own write
            layers[costs.layer[at]] += spent
            at = int(cause[at, 1])
            continue
        own = float(times[at, 1] - times[at, 0])
        write += own
        layers[costs.layer[at]] += spent + own
        at = int(cause[at, 0])
    return write, read, layers


def batch_curve(costs: Costs, crossbars: int, batches: Sequence[int] = BATCHES) -> list[dict[str, Any]]:
    """``Schedule.facts`` for several batch sizes."""
    return [schedule(costs, crossbars, batch).facts() for batch in batches]
