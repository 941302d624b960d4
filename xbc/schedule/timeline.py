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
    layer: Any, crossbar: Any, fetch_ns: Any, write_ns: Any, read_ns: Any, products: Any, before: Any, before_at: Any,
    overlap: bool, free: Any, buffer: Any, channel: Any, times: Any, cause: Any,
) -> None:  # fmt: skip
    """One batch.

    ``free``, ``buffer`` ``[crossbars]`` (when a crossbar, its fetch buffer is free) and ``channel [1]`` are updated;
    ``times [loads, 6]`` takes start and end of the fetch, the write and the read; ``cause [loads, 3]`` the
    load that each of them waited for (-1: none): of the fetch the one whose fetch came before, or -2 - i when load i
    held the buffer; of the write the one that was read before, or the load itself when it waited for its fetch; of
    the read one of another layer, or the load itself when it waited for its write."""
    layers = products.shape[0]
    done, done_by = np.zeros(layers), np.full(layers, -1, np.int64)
    last = np.full(free.shape[0], -1, np.int64)
    for i in range(layer.shape[0]):
        c, a = crossbar[i], layer[i]
        fetched = free[c]
        if fetch_ns[i] > 0:
            ready = buffer[c] if overlap else free[c]
            times[i, 0] = max(channel[0], ready)
            cause[i, 0] = i - 1 if channel[0] >= ready else -2 - last[c]
            fetched = times[i, 0] + fetch_ns[i]
            channel[0] = fetched
        else:
            times[i, 0] = channel[0]
            cause[i, 0] = i - 1
        times[i, 1] = times[i, 0] + fetch_ns[i]
        start = max(free[c], fetched)
        cause[i, 1] = i if fetched > free[c] else last[c]
        written = start + write_ns[i]
        ready, by = 0.0, -1
        for p in range(before_at[a], before_at[a + 1]):
            if done[before[p]] > ready:
                ready, by = done[before[p]], done_by[before[p]]
        times[i, 2], times[i, 3] = start, written
        times[i, 4] = max(written, ready)
        times[i, 5] = times[i, 4] + read_ns[i] * products[a]
        cause[i, 2] = by if ready > written else i
        free[c], buffer[c], last[c] = times[i, 5], start, i
        if times[i, 5] > done[a]:
            done[a], done_by[a] = times[i, 5], i


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
        energy_pj: of one inference, writes and fetches shared by the batch.
        write_pj, read_pj, map_pj, program_pj: parts of ``energy_pj``.
        crossbars: of the chip; ``used`` of them have loads.
        times: ``[loads, 4]`` ns: write start, write end, read start, read end of the isolated batch.
        fetch_times: ``[loads, 2]`` ns: fetch start, fetch end of the isolated batch.
    """

    batch: int
    latency_ns: float
    first_ns: float
    period_ns: float
    lockstep_ns: float
    write_ns: float
    read_ns: float
    fetch_ns: float
    critical_write_ns: float
    critical_read_ns: float
    critical_fetch_ns: float
    critical_layers: Array
    energy_pj: float
    write_pj: float
    read_pj: float
    map_pj: float
    program_pj: float
    crossbars: int
    used: int
    times: Array
    fetch_times: Array

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
            "critical_path": {
                "write_ns": self.critical_write_ns,
                "read_ns": self.critical_read_ns,
                "fetch_ns": self.critical_fetch_ns,
            },
            "utilisation": self.utilisation(),
            "energy_pj": self.energy_pj,
            "write_pj": self.write_pj,
            "read_pj": self.read_pj,
            "map_pj": self.map_pj,
            "program_pj": self.program_pj,
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

    fetch_ns = costs.fetch_ns

    def run(state: tuple[Array, Array, Array], write_ns: Array) -> tuple[Array, Array]:
        times, cause = np.zeros((n, 6)), np.full((n, 3), -1, np.int64)
        _run(
            costs.layer, costs.crossbar, fetch_ns, write_ns, costs.read_ns, products, before, before_at,
            costs.memory.overlap, *state, times, cause,
        )  # fmt: skip
        return times, cause

    def idle() -> tuple[Array, Array, Array]:
        return np.zeros(crossbars), np.zeros(crossbars), np.zeros(1)

    first, _ = run(idle(), costs.first_ns)
    times, cause = run(idle(), costs.write_ns)
    ends = []
    state = idle()
    for _ in range(_WARM):
        run(state, costs.write_ns)
        ends.append(float(state[0].max(initial=0.0)))
    half = _WARM // 2
    period = (ends[-1] - ends[half - 1]) / (_WARM - half)
    reads = costs.read_ns * products[costs.layer]
    write_pj = float(costs.write_pj.sum()) / batch
    read_pj = float((costs.read_pj * costs.products[costs.layer]).sum())
    maps, fetches = (part / batch for part in costs.fetch_pj)
    critical, critical_layers = _critical(costs, times, cause)
    return Schedule(
        batch=batch,
        latency_ns=float(times[:, 5].max(initial=0.0)),
        first_ns=float(first[:, 5].max(initial=0.0)),
        period_ns=period,
        lockstep_ns=lockstep_ns(costs, batch),
        write_ns=float(costs.write_ns.sum()),
        read_ns=float(reads.sum()),
        fetch_ns=float(fetch_ns.sum()),
        critical_write_ns=critical[1],
        critical_read_ns=critical[2],
        critical_fetch_ns=critical[0],
        critical_layers=critical_layers,
        energy_pj=write_pj + read_pj + maps + fetches,
        write_pj=write_pj,
        read_pj=read_pj,
        map_pj=maps,
        program_pj=fetches,
        crossbars=crossbars,
        used=len(np.unique(costs.crossbar)),
        times=times[:, 2:],
        fetch_times=times[:, :2],
    )


def lockstep_ns(costs: Costs, batch: int) -> float:
    """Time of a batch when the steps follow one another: fetched load by load, written together, read together."""
    reads = costs.read_ns * costs.products[costs.layer] * batch
    return float(costs.fetch_ns.sum()) + by_step(costs.step, costs.write_ns) + by_step(costs.step, reads)


def by_step(step: Array, duration: Array) -> float:
    """Sum over the steps of the longest duration in each; both ``[loads]``."""
    if not len(step):
        return 0.0
    order = np.argsort(step, kind="stable")
    starts = np.flatnonzero(np.diff(step[order], prepend=step[order[0]] - 1))
    return float(np.maximum.reduceat(duration[order], starts).sum())


def _critical(costs: Costs, times: Array, cause: Array) -> tuple[Array, Array]:
    """(``[3]`` fetching, writing, reading, ``[layers]`` ns) of the chain that ends last, walked back from its end."""
    spent, layers = np.zeros(3), np.zeros(len(costs.products))
    at, what = (int(np.argmax(times[:, 5])), 2) if len(times) else (-1, 2)
    while at >= 0:
        own = float(times[at, 2 * what + 1] - times[at, 2 * what])
        spent[what] += own
        layers[costs.layer[at]] += own
        by = int(cause[at, what])
        if what == 2:
            what = 1 if by == at else 2
        elif what == 1:
            what = 0 if by == at else 2
        elif by <= -2:  # the buffer was held until the load before it began to be written, or had been read
            at, what = -2 - by, 1 if costs.memory.overlap else 2
            if what == 1:  # the write had only begun: go on with what it waited for
                by = int(cause[at, 1])
                what = 0 if by == at else 2
            else:
                by = at
        at = by
    return spent, layers


def batch_curve(costs: Costs, crossbars: int, batches: Sequence[int] = BATCHES) -> list[dict[str, Any]]:
    """``Schedule.facts`` for several batch sizes."""
    return [schedule(costs, crossbars, batch).facts() for batch in batches]
