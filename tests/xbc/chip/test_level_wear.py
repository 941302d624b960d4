"""Rotations keep the program valid, wear is accounted exactly, the goal is met."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ir.errors import XbcError
from passes.base import Context
from passes.level_wear import LevelWear, lifetimes, logical_program
from passes.manager import finish, run_pipeline
from passes.pipeline import LEVELS, parse_pipeline
from passes.solvers.levelling import Plan, Program, choose, live, placed, still
from tests.xbc.cases import MODELS, Case
from xbc.chip.wear import plan_of, program_wear, wear_table
from xbc.driver.compile import compile_model
from xbc.frontend import import_model
from xbc.targets import load_target

Cases = Callable[[str], Case]


def brute_force(one: Case, plan: Plan, inferences: int) -> np.ndarray:
    """Wear after some inferences, write by write, under the plan; every write finds the level it expects."""
    target = one.program.target
    moving = [c for c in range(target.crossbars) if c not in plan.fixed]
    wear_of = program_wear(one.program)
    levels, wear = wear_of.blank.copy(), np.zeros(wear_of.blank.shape, np.int64)

    def where(c: int, r: int, k: int, shift: np.ndarray) -> tuple[int, int, int]:
        if c in plan.fixed:
            return c, r, k
        return (
            moving[(moving.index(c) + int(shift[0])) % len(moving)],
            (r + int(shift[1])) % target.rows,
            (k + int(shift[2])) % target.columns,
        )

    for inference in range(inferences):
        epoch, inside = divmod(inference, plan.inferences)
        shift = plan.shifts[epoch % len(plan.shifts)]
        if inference and not inside:
            for c, r, k in np.argwhere(wear_of.touched).tolist():
                cell = where(c, r, k, shift)
                if levels[cell] != wear_of.state[c, r, k]:
                    levels[cell] = wear_of.state[c, r, k]
                    wear[cell] += 1
        skip = 1 if inference else 2
        for load in one.loads:
            for w in one.writes[load["write_start"] : load["write_start"] + load["write_count"]]:
                if w["phase"] == skip:
                    continue
                cell = where(load["crossbar"], w["row"], w["column"], shift)
                assert levels[cell] == w["before"]
                levels[cell] = w["after"]
                wear[cell] += 1
    return wear


@pytest.mark.parametrize("chip", ["pairs", "offset"])
def test_accounting_equals_writing_one_by_one(chip: str, case: Cases) -> None:
    one = case(chip)
    program = program_wear(one.program)
    draw = np.random.default_rng(0)
    shape = program.wear.shape
    plan = Plan(2, np.stack([draw.integers(0, n, 3) for n in shape], axis=1), (1,))
    plan.shifts[0] = 0
    endurance = 3.5 * int(program.wear.max())
    life = live(program, plan, endurance)
    inferences = int(life.inferences)
    assert inferences >= 3
    np.testing.assert_array_equal(life.wear, brute_force(one, plan, inferences))
    assert life.wear.max() <= endurance
    assert brute_force(one, plan, inferences + 1).max() > endurance


def test_whole_cycles_at_once_give_what_single_steps_give() -> None:
    draw = np.random.default_rng(1)
    for _ in range(30):
        shape = tuple(int(n) for n in draw.integers(1, 5, 3))
        state = draw.integers(0, 2, shape).astype(np.uint8)
        wear = draw.integers(0, 9, shape)
        program = Program(wear, wear + 1, state, np.ones(shape, np.bool_), np.zeros(shape, np.uint8))
        count = int(draw.integers(1, 4))
        plan = Plan(int(draw.integers(1, 4)), np.stack([draw.integers(0, n, count) for n in shape], axis=1))
        endurance = float(draw.integers(50, 400))
        if not wear.any():
            continue
        found = live(program, plan, endurance)
        total, levels, done = np.zeros(shape, np.int64), program.blank.copy(), 0
        while True:
            shift = plan.shifts[done // plan.inferences % count]
            more = placed(program.first if done == 0 else wear, shift)
            here = placed(state, shift)
            if done and done % plan.inferences == 0:
                more = more + (levels != here)
            if (total + more).max() > endurance:
                break
            total, levels, done = total + more, here, done + 1
        assert found.inferences == done
        np.testing.assert_array_equal(found.wear, total)


@pytest.mark.parametrize("settings", [{}, {"crossbars": 16}], ids=["one", "sixteen"])
def test_levelling_reaches_eighty_percent_of_perfect(settings: dict[str, int]) -> None:
    module = import_model(MODELS / "digits_cnn.onnx", load_target("gather-128", settings)).module
    program = logical_program(finish(run_pipeline(module, parse_pipeline(LEVELS[1]), Context()).module))
    low_columns, high_columns = program.wear[..., 4:].sum(), program.wear[..., :2].sum()
    assert low_columns > 3 * high_columns  # sorting concentrates the writes in low-order columns
    found = lifetimes(program, choose(program, 1e6), 1e6)
    assert found["share_of_perfect"] is not None
    assert found["share_still"] is not None
    assert found["share_of_perfect"] >= 0.8
    assert found["share_of_perfect"] > 2 * found["share_still"]


def test_resident_programs_live_for_ever() -> None:
    shape = (2, 3, 4)
    nothing = np.zeros(shape, np.int64)
    program = Program(nothing, nothing + 1, nothing.astype(np.uint8), nothing == 0, nothing.astype(np.uint8))
    assert choose(program, 10.0).shifts.tolist() == [[0, 0, 0]]
    assert live(program, still(), 10.0).inferences == float("inf")
    assert live(program, still(), 0.5).inferences == 0
    assert lifetimes(program, still(), 10.0)["lifetime_still"] is None


def test_the_plan_is_in_the_manifest(tmp_path: Path) -> None:
    text = LEVELS[1] + ",level-wear{epochs=16}"
    settings = {"crossbars": 2, "endurance": 1e4}
    compile_model(MODELS / "digits_lstm.onnx", tmp_path / "p.xbc", settings=settings, pipeline=text)
    program = Case(tmp_path / "p.xbc").program
    plan = plan_of(program)
    assert plan is not None
    assert len(plan.shifts) == 16
    facts = program.manifest["provenance"]["facts"]["level-wear"]
    row = next(r for r in wear_table(program, program_wear(program), plan) if r["endurance"] == 1e4)
    for key in ("lifetime_still", "lifetime_levelled", "lifetime_perfect", "share_of_perfect"):
        assert row[key] == pytest.approx(facts[key])
    program.manifest["provenance"]["facts"]["level-wear"]["plan"]["epochs"] = [[0]]
    with pytest.raises(XbcError, match="damaged"):
        plan_of(program)
    program.manifest["provenance"]["facts"]["level-wear"]["plan"] = {**plan.to_dict(), "fixed_crossbars": [9]}
    with pytest.raises(XbcError, match="another chip"):
        plan_of(program)


def test_options_are_checked() -> None:
    with pytest.raises(XbcError, match="epochs = 5000"):
        LevelWear(epochs=5000)
