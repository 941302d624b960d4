"""A device array that is trained on: levels, programming error, write-verify trials, counts per device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ir.arrays import Array
from ir.cells import CellFormat
from ir.errors import XbcError
from ir.target import Device


@dataclass(frozen=True)
class Programming:
    """How a device is written.

    Fields:
        sigma_levels: standard deviation of the conductance after one pulse around its level, in levels.
        tolerance_levels: a verify read accepts a device that is at most this far from its level.
        trials: pulses that a device gets at most in one write; 1 writes without verifying.
    """

    sigma_levels: float = 0.0
    tolerance_levels: float = 0.5
    trials: int = 2

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.sigma_levels < np.inf:
            raise XbcError(f"sigma_levels = {self.sigma_levels} must be 0 or more")
        if self.trials < 1:
            raise XbcError(f"trials = {self.trials} must be 1 or more")

    @classmethod
    def of_target(cls, device: Device, bits_per_cell: int, trials: int = 2) -> Programming:
        """With the target's programming error, which is relative to the window between the end levels."""
        return cls(sigma_levels=device.sigma_programmed * ((1 << bits_per_cell) - 1), trials=trials)


class DeviceArray:
    """The devices of one ``[outputs, inputs]`` weight matrix.

    Attributes:
        codes: ``[outputs, inputs]`` int32, what a read of the devices (rounded to levels) says.
        writes: ``[outputs, inputs, columns]`` int32, writes of each device (verify trials not counted).
        pulses: total pulses, trials included.
        failed: writes that were still out of tolerance after the last trial.
    """

    def __init__(
        self, codes: Array, cells: CellFormat, programming: Programming, rng: np.random.Generator
    ) -> None:
        """Programs ``codes [outputs, inputs]`` into blank devices (not counted as training writes)."""
        self.cells = cells
        self.programming = programming
        self._rng = rng
        self.low, self.high = cells.code_range()
        self._weights = cells.cell_weights.astype(np.float32)
        shape = (*codes.shape, cells.columns)
        self._conductance: Array = np.zeros(shape, np.float32)
        self.writes: Array = np.zeros(shape, np.int32)
        self.pulses = 0
        self.failed = 0
        self.codes: Array = np.zeros(codes.shape, np.int32)
        self._write(np.ones(shape, bool), cells.levels(cells.encode(codes)))
        self.writes[:] = 0
        self.pulses = self.failed = 0

    @property
    def top(self) -> int:
        """Highest level of a device."""
        return (1 << self.cells.bits_per_cell) - 1

    def conductance_codes(self) -> Array:
        """``[outputs, inputs]`` float32: the codes that the conductances really stand for."""
        return np.asarray(self._conductance @ self._weights)

    def levels(self) -> Array:
        """``[outputs, inputs, columns]`` uint8: the level that a read gives for each device."""
        return np.clip(np.rint(self._conductance), 0, self.top).astype(np.uint8)

    def program(self, codes: Array, mask: Array | None = None) -> int:
        """Writes the devices whose level has to change, or all devices of the weights in ``mask``.

        Args:
            codes: ``[outputs, inputs]`` wanted codes.
            mask: ``[outputs, inputs]`` bool: write every device of these weights, changed or not.
        Returns: number of devices written.
        """
        wanted = self.cells.levels(self.cells.encode(codes))
        where = wanted != self.levels()
        if mask is not None:
            where |= mask[..., None]
        return self._write(where, wanted)

    def _write(self, where: Array, wanted: Array) -> int:
        at = np.nonzero(where)
        goal = wanted[at].astype(np.float32)
        value = np.empty_like(goal)
        pending = np.arange(len(goal))
        for _ in range(self.programming.trials):
            self.pulses += len(pending)
            error = self._rng.standard_normal(len(pending), dtype=np.float32) * self.programming.sigma_levels
            value[pending] = np.maximum(goal[pending] + error, 0)
            pending = pending[np.abs(value[pending] - goal[pending]) > self.programming.tolerance_levels]
            if not len(pending):
                break
        self.failed += len(pending)
        self._conductance[at] = value
        self.writes[at] += 1
        touched = np.unique(at[0] * self.codes.shape[1] + at[1])
        read = np.clip(np.rint(self._conductance.reshape(-1, self.cells.columns)[touched]), 0, self.top)
        self.codes.reshape(-1)[touched] = self.cells.decode(self.cells.words(read))
        return len(goal)
