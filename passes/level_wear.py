"""level-wear: the worst cell lives longer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ir.module import Module
from ir.stages import Placed, Programmed
from passes.base import Context, Outcome, Pass, check
from passes.counting import UNTOUCHED, load_runs, walk_loads
from passes.manager import finish
from passes.solvers.levelling import MOST_EPOCHS, Plan, Program, choose, live, still


@dataclass(frozen=True)
class LevelWear(Pass):
    """Plans rotations of crossbars, rows and columns between epochs of inferences.

    The rotations do not change the program: they are a plan in the manifest (facts), which the loader adds to every
    address. It counts the writes of each change of epoch. Crossbars with faulty cells do not rotate; rows that are
    wired to their inputs (fixed routing) do not either.

    Options:
        epochs: rotations in the plan, 0: chosen for the longest life.
        crossbars, rows, columns: what may rotate.
    """

    name: ClassVar[str] = "level-wear"
    requires = Placed
    ensures = Programmed

    epochs: int = 0
    crossbars: bool = True
    rows: bool = True
    columns: bool = True

    def __post_init__(self) -> None:
        check(
            0 <= self.epochs <= MOST_EPOCHS, f"level-wear: epochs = {self.epochs} is outside 0..{MOST_EPOCHS}"
        )

        self.only_if(self.crossbars or self.rows or self.columns, "where something may rotate", "epochs")

    def run(self, module: Module, context: Context) -> Outcome:
        """The plan goes to the facts."""
        module = finish(module)
        target = module.target
        fixed = target.faulty.crossbars()
        axes = (self.crossbars, self.rows and target.routing != "fixed", self.columns)
        program = logical_program(module)
        plan = choose(program, target.endurance, fixed, axes, self.epochs)
        table = lifetimes(program, plan, target.endurance)
        if not self.epochs and (table["lifetime_levelled"] or 0) < (table["lifetime_still"] or 0):
            plan = still()
            table = lifetimes(program, plan, target.endurance)
        return Outcome(module, {**table, "plan": plan.to_dict()})


def lifetimes(program: Program, plan: Plan, endurance: float) -> dict[str, float | None]:
    """Inferences until the worst cell is worn out: without levelling, with the plan, with perfect levelling.

    Perfect levelling spreads the program's own writes evenly over all cells of the chip.  None: for ever.
    """
    before, after = live(program, still(), endurance), live(program, plan, endurance)
    total = int(program.wear.sum())
    perfect = endurance * program.wear.size / total if total else None
    alive = [None if life.inferences == float("inf") else life.inferences for life in (before, after)]
    share = [life / perfect if perfect and life is not None else None for life in alive]
    return {
        "lifetime_still": alive[0],
        "lifetime_levelled": alive[1],
        "lifetime_perfect": perfect,
        "share_still": share[0],
        "share_of_perfect": share[1],
        "moving_writes_share": after.moving / int(after.wear.sum()) if after.moving else 0.0,
    }


def logical_program(module: Module) -> Program:
    """Wear, state and use of the cells of a programmed module."""
    target = module.target
    shape = (target.crossbars, target.rows, target.columns)
    blank = target.faulty.stamp(np.zeros(shape, np.uint8))
    state, first = blank.copy(), np.full(shape, UNTOUCHED, np.uint8)
    wear, totals = np.zeros(shape, np.uint32), np.zeros(3, np.int64)
    bodies = [layer.at(Programmed) for layer in module.layers]
    for index, order in load_runs([(layer, layer.at(Placed)) for layer in module.layers]):
        body = bodies[index]
        walk_loads(
            order, body.crossbar, body.stored, body.inputs, body.outputs, body.cells.columns,
            body.bits_per_cell,
            state, first, wear, totals,
        )  # fmt: skip
    touched = first != UNTOUCHED
    common = wear.astype(np.int64)
    return Program(
        wear=common + (touched & (first != state)),
        first=common + (touched & (first != blank)),
        state=state,
        touched=touched,
        blank=blank,
    )
