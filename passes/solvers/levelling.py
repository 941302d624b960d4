"""Wear levelling by rotation, and the lifetime that comes of it, without replaying a single inference.

Every inference of a program wears the chip alike, so what counts is where its cells stand.  An epoch is a
run of inferences under one rotation: logical crossbar, row and column ``(c, r, k)`` stand at ``((c + a) mod
crossbars, (r + b) mod rows, (k + d) mod columns)``.  The program's tables stay as they are: the loader adds
the three numbers to every address, the row map and the digital adder behind the columns rotate with them.
When the epoch changes, the loader writes what the next inference expects to find at the new places; these
writes are counted too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import scipy.fft
from numba import njit

from ir.arrays import Array

MOST_EPOCHS: Final = 4096
_EPOCHS: Final = 1024
_CELLS_LOOKED_AT: Final = 1e9
_GREED: Final = 0.2
"""How much more a cell weighs that is ahead by the mean wear of one epoch (multiplicative weights)."""
_WRITES_PER_MOVE: Final = 10
_MOST_CYCLES: Final = 1 << 40


@dataclass(frozen=True)
class Plan:
    """Epochs that follow each other, again from the first after the last.

    Fields:
        inferences: of one epoch.
        shifts: ``[epochs, 3]`` int64, by how many crossbars, rows and columns the program stands displaced.
        fixed: crossbars that never move (they have faulty cells).
    """

    inferences: int
    shifts: Array
    fixed: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the inverse of ``from_dict``."""
        return {
            "inferences_per_epoch": self.inferences,
            "epochs": self.shifts.tolist(),
            "fixed_crossbars": list(self.fixed),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        """The plan of a manifest.  Raises ValueError, TypeError or KeyError when it is none."""
        try:
            shifts = np.array(data["epochs"], np.int64)
        except OverflowError as error:
            raise ValueError("no plan") from error
        inferences = data["inferences_per_epoch"]
        if (
            shifts.ndim != 2
            or shifts.shape[1] != 3
            or not len(shifts)
            or type(inferences) is not int
            or not 1 <= inferences <= _MOST_CYCLES
        ):
            raise ValueError("no plan")
        return cls(inferences, shifts, tuple(int(c) for c in data["fixed_crossbars"]))


def still(inferences: int = 1) -> Plan:
    """The plan that never moves anything."""
    return Plan(inferences, np.zeros((1, 3), np.int64))


def placed(logical: Array, shift: Array, fixed: tuple[int, ...] = ()) -> Array:
    """``[crossbars, rows, columns]`` of physical cells from those of the program."""
    moving = np.setdiff1d(np.arange(len(logical)), fixed)
    out = logical.copy()
    out[moving] = np.roll(logical[moving], tuple(int(s) for s in shift), axis=(0, 1, 2))
    return out


@dataclass(frozen=True)
class Program:
    """What levelling has to know of a program; arrays ``[crossbars, rows, columns]``.

    Fields:
        wear: writes of a steady inference.
        first: writes of the first one, from blank cells.
        state: levels between two inferences.
        touched: cells that the program uses.
        blank: levels of the chip as delivered.
    """

    wear: Array
    first: Array
    state: Array
    touched: Array
    blank: Array


@dataclass(frozen=True)
class Life:
    """How long a chip lives.

    Fields:
        inferences: until the next one would bring a cell beyond its endurance (infinite without writes).
        wear: ``[crossbars, rows, columns]`` writes per cell by then (in all epochs of one cycle when
            infinite).
        moving: writes that changes of epoch cost, of all writes.
    """

    inferences: float
    wear: Array
    moving: int


@njit(cache=True, nogil=True)
def _moved_to(logical: Any, place: Any, shift: Any, out: Any) -> None:
    """``placed`` into ``out``; ``place``: crossbars that move, in order, and ``shift`` where they go."""
    rows, columns = logical.shape[1:]
    n, by = place.shape[0], shift[2] % columns
    for i in range(n):
        c, to = place[i], place[(i + shift[0]) % n]
        for r in range(rows):
            row = (r + shift[1]) % rows
            out[to, row, by:] = logical[c, r, : columns - by]
            out[to, row, :by] = logical[c, r, columns - by :]


@njit(cache=True, nogil=True)
def _change(levels: Any, expected: Any, touched: Any, wear: Any, moved: Any) -> int:
    """Writes what the cells have to hold; ``moved`` marks them.  Returns the wear of the worst of them."""
    worst = 0
    for i in range(levels.size):
        moved[i] = touched[i] and levels[i] != expected[i]
        if moved[i]:
            levels[i] = expected[i]
            wear[i] += 1
            worst = max(worst, wear[i])
    return worst


@njit(cache=True, nogil=True)
def _most(wear: Any, rate: Any, endurance: float, limit: int) -> int:
    """How often ``rate`` can be added, at most ``limit`` times, before a cell is beyond ``endurance``."""
    for i in range(wear.size):
        if rate[i] > 0 and wear[i] + float(limit) * rate[i] > endurance:
            limit = int((endurance - wear[i]) // rate[i])
    return limit


def live(program: Program, plan: Plan, endurance: float) -> Life:
    """Runs a plan until a cell has had ``endurance`` writes: whole cycles at once, then epochs, then
    inferences.
    """
    count = len(plan.shifts)
    shape = program.wear.shape
    place = np.setdiff1d(np.arange(shape[0]), plan.fixed)
    logical = {name: getattr(program, name) for name in ("wear", "state", "touched")}
    there = {name: array.copy() for name, array in logical.items()}

    def turn(epoch: int) -> None:
        for name, array in logical.items():
            _moved_to(array, place, plan.shifts[epoch % count], there[name])

    turn(0)
    wear = np.zeros(shape, np.int64)
    first = placed(program.first, plan.shifts[0], plan.fixed)
    if first.max(initial=0) > endurance:
        return Life(0, wear, 0)
    wear += first
    levels = np.where(there["touched"], there["state"], program.blank)
    flat: Any = [array.reshape(-1) for array in (levels, there["state"], there["touched"], wear)]
    last = np.zeros(shape, np.bool_)  # cells moved for the epoch that begins
    done, moving, left, epoch, worst = 1, 0, plan.inferences - 1, 0, 0
    start: tuple[Array, int] | None = None
    while True:
        step = int(_most(flat[3], there["wear"].reshape(-1), endurance, left))
        if left and (step <= 0 or worst > endurance):  # not one inference of it: they stay where they were
            return Life(float(done), wear - last, moving - int(last.sum()))
        wear += there["wear"] * step
        done += step
        if step < left:
            return Life(float(done), wear, moving)
        epoch += 1
        if epoch == count and not program.wear.any():
            return Life(float("inf"), wear, moving)
        if count > 1:
            turn(epoch)
            worst = int(_change(flat[0], flat[1], flat[2], flat[3], last.reshape(-1)))
            moving += int(last.sum())
        left = plan.inferences
        if epoch == count:
            start = wear.copy(), moving
        elif epoch == 2 * count and start is not None:  # from here every cycle costs the same
            cycle, cycle_moving = wear - start[0], moving - start[1]
            whole = max(0, int(_most(flat[3], cycle.reshape(-1), endurance, _MOST_CYCLES)))
            wear += cycle * whole
            moving += cycle_moving * whole
            done += whole * count * plan.inferences


def choose(
    program: Program,
    endurance: float,
    fixed: tuple[int, ...] = (),
    axes: tuple[bool, bool, bool] = (True, True, True),
    epochs: int = 0,
) -> Plan:
    """A plan of ``epochs`` rotations (0: as many as can be looked at).

    Each epoch takes, of all rotations, the one under which the new wear falls least on the cells that are most worn.
    A cell weighs exp(wear so far), which is the multiplicative-weights rule for the least maximum (Arora, Hazan and
    Kale, Theory of Computing 8, 2012); the weighted sums of all rotations are one correlation, found by Fourier
    transform.

    Args:
        fixed: crossbars that must not move.
        axes: whether crossbars, rows and columns may rotate.
    """
    total, cells = int(program.wear.sum()), program.wear.size
    moving = np.setdiff1d(np.arange(len(program.wear)), fixed)
    if not total or not len(moving) or not any(axes):
        return still()
    perfect = endurance * cells / total
    count = epochs or min(_EPOCHS, max(64, int(_CELLS_LOOKED_AT / cells)))
    rare = -(-_WRITES_PER_MOVE * cells // total)  # so that the moves themselves stay cheap
    inferences = max(1, int(perfect / (2 * count)), rare)
    return Plan(inferences, _shifts(program.wear[moving], axes, count), fixed)


def _shifts(wear: Array, axes: tuple[bool, bool, bool], count: int) -> Array:
    """``[count, 3]`` rotations, each the best after those before it."""
    pattern = wear / wear.mean()
    spectrum = np.conj(scipy.fft.rfftn(pattern.astype(np.float32)))
    so_far = np.zeros(pattern.shape)
    allowed = tuple(slice(None) if axis else slice(0, 1) for axis in axes)
    shifts = np.zeros((count, 3), np.int64)
    for i in range(count):
        if i:
            weight = np.exp(_GREED * (so_far - so_far.max())).astype(np.float32)
            weight -= weight.mean()  # the same for every rotation, and exact numbers are small
            match = scipy.fft.irfftn(scipy.fft.rfftn(weight) * spectrum, s=pattern.shape)[allowed]
            shifts[i] = np.unravel_index(int(np.argmin(match)), match.shape)
        so_far += np.roll(pattern, tuple(int(s) for s in shifts[i]), axis=(0, 1, 2))
    return shifts
