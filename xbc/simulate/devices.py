"""The cells of a chip as devices: what conductance each one really has when a section is read.

One *trial* is one chip: its stuck cells, its programming errors, its drift.  The program's loads run in order
on it, so a cell that a load does not write keeps the conductance (and the error) it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Module
from ir.stages import Programmed
from ir.target import Device, Target
from passes.counting import load_runs
from xbc.simulate import device_kernels as kernels
from xbc.simulate.line_resistance import fast_transfer

LAWS = {"normal": 0, "lognormal": 1}
CHUNK_VALUES = 2**23


@dataclass(frozen=True)
class Levels:
    """Between conductances and level units, in which column sums are counted.

    Fields:
        low, window: conductance of the lowest level; of the highest minus that (siemens).
        top: highest level.
        reference: conductance that the reference column subtracts from every cell.
    """

    low: float
    window: float
    top: int
    reference: float

    @classmethod
    def of(cls, target: Target) -> Levels:
        """The levels of a target's cells."""
        device = target.device
        return cls(
            device.g_min_siemens,
            device.g_max_siemens - device.g_min_siemens,
            (1 << target.bits_per_cell) - 1,
            device.g_min_siemens if device.reference_column else 0.0,
        )

    @property
    def step(self) -> float:
        """Conductance between neighbouring levels."""
        return self.window / self.top

    def units(self, conductance: Array) -> Array:
        """What a cell adds to a column sum per unit of input, float32: its level when nothing is wrong."""
        return np.asarray(((conductance - self.reference) / self.step).astype(np.float32))


def is_ideal(device: Device) -> bool:
    """Whether the description names no imperfection."""
    static = (device.sigma_programmed, device.sigma_verified, device.read_noise, device.line_ohm)
    stuck = (device.stuck_low, device.stuck_high)
    drifts = device.retention_s > 1 and (device.drift_exponent > 0 or device.drift_spread > 0)
    return not any(static) and not any(stuck) and not drifts and device.reference_column


class ChipTrial:
    """One chip with its own imperfections, programmed with a module.

    Args:
        module: all layers Programmed.
        seed, trial: fix every draw; results depend on nothing else (no thread count, no order of use).
    """

    def __init__(self, module: Module, seed: int, trial: int) -> None:
        """See the class."""
        self.module = module
        self.target = module.target
        self.levels = Levels.of(module.target)
        self.seed = int(np.random.SeedSequence([seed, trial]).generate_state(1, np.uint64)[0])

    def conductances(self) -> Iterator[tuple[str, Array]]:
        """(layer name, ``[sections, rows, G, columns]`` float32 siemens at read time), when complete.

        Wire resistance is included: each value is what the cell effectively contributes.
        """
        t, device = self.target, self.target.device
        shape = (t.crossbars, t.rows, t.columns)
        level, fixed = t.faulty.stamp(np.zeros(shape, np.uint8)), t.faulty.mask(shape)
        conductance = np.empty(shape, np.float64)
        errors = (
            LAWS[device.error_law], self.levels.low, self.levels.window, device.sigma_programmed,
            device.sigma_verified, device.error_low_level, device.verify_window, device.set_error,
            device.reset_error,
        )  # fmt: skip
        kernels.start_chip(
            np.uint64(self.seed),
            self.levels.top,
            *errors,
            device.stuck_low,
            device.stuck_high,
            level,
            fixed,
            conductance,
        )
        log_time = math.log(device.retention_s) if device.retention_s > 1 else 0.0
        layers = [(layer, layer.at(Programmed)) for layer in self.module.layers]
        pieces: dict[int, Array] = {}
        missing = {i: body.sections for i, (_, body) in enumerate(layers)}
        loads = 0
        for index, order in load_runs(list(layers)):
            layer, body = layers[index]
            cells = body.cells
            if cells.columns * body.group_width > t.columns or body.rows > t.rows:
                raise XbcError(f"layer {layer.name!r} does not fit the crossbars of target {t.name!r}")
            if index not in pieces:
                pieces[index] = np.zeros(
                    (body.sections, body.rows, body.group_width, cells.columns), np.float32
                )
            verify = np.zeros((0, 0, 0), body.stored.dtype) if body.verify is None else body.verify
            kernels.program_sections(
                np.uint64(self.seed), order, loads, body.crossbar, body.stored, body.inputs, body.outputs,
                verify,
                cells.columns, cells.bits_per_cell, *errors, device.drift_exponent, device.drift_spread,
                log_time,
                level, fixed, conductance, pieces[index],
            )  # fmt: skip
            loads += len(order)
            missing[index] -= len(order)
            if missing[index] == 0:
                values = pieces.pop(index)
                if device.line_ohm:
                    _add_wires(values, body, self.target)
                yield layer.name, values


def _add_wires(values: Array, body: Programmed, target: Target) -> None:
    """Replaces conductances by what reaches the column ends (``fast_transfer``), section by section.

    Cells outside a section (don't-care rows, unused columns) are taken to stand at the lowest level.
    """
    low = target.device.g_min_siemens
    used = body.group_width * values.shape[3]
    chunk = max(1, CHUNK_VALUES // (target.rows * target.columns))
    for start in range(0, body.sections, chunk):
        part = slice(start, min(start + chunk, body.sections))
        whole = np.full((part.stop - part.start, target.rows, target.columns), low)
        driven = body.driven(part)[:, :, None] & (body.outputs[part] >= 0)[:, None, :]
        cells = np.where(driven[..., None], values[part], low).reshape(len(whole), body.rows, used)
        whole[:, : body.rows, :used] = cells
        reached = fast_transfer(whole, target.device.line_ohm)[:, : body.rows, :used]
        values[part] = np.where(driven[..., None], reached.reshape(values[part].shape), 0)
