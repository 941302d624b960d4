"""The information bound: its parts by hand, and no program below it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from ir.stages import Programmed
from passes.counting import count_module
from passes.manager import finish
from tests.passes.small import compiled, module, random_codes, target
from tests.xbc.cases import CHIPS, Case
from xbc.schedule.bound import bound_facts, entropy, flip_share, map_freedom, rate

FIXED = "encode-signs,slice-bits,form-sections,deal-sections"


def test_flips_by_hand() -> None:
    assert flip_share(1.0, 2) == pytest.approx(0.5)
    assert flip_share(2.0, 4) == pytest.approx(0.75)
    assert flip_share(0.0, 2) == flip_share(-1.0, 2) == 0
    x = flip_share(0.5, 2)
    assert -x * math.log2(x) - (1 - x) * math.log2(1 - x) == pytest.approx(0.5)


def test_rate_is_entropy_without_error_and_falls_with_it() -> None:
    values = np.random.default_rng(0).integers(-8, 8, 4096)
    assert rate(values, 0.0) == entropy(values)
    found = [rate(values, error) for error in (0.05, 0.3, 1.0, 5.0, 40.0)]
    assert found == sorted(found, reverse=True)
    assert found[-1] == 0
    coin = np.arange(1000) % 2  # Hamming distance: R = 1 - h(D)
    assert rate(coin, 0.1) == pytest.approx(1 - entropy(np.arange(1000) < 100), abs=0.03)


def test_random_codes_meet_the_bound_on_fixed_rows() -> None:
    """Uniform words say all that cells can hold: half of the cells have to change, and do."""
    codes = np.random.default_rng(1).integers(0, 256, (64, 64)).astype(np.int32)
    chip = target(rows=64, encoding="unipolar", routing="fixed")
    done = finish(compiled(FIXED, module([codes], chip)))
    writes = count_module(done).steady.total
    facts = bound_facts(done, writes)
    assert 1.0 <= facts["times_above_bound"] < 1.25
    bound = facts["information_bound"]
    assert sum(bound["layers"].values()) == bound["writes"]


def test_free_rows_tell_more_than_small_codes_hold() -> None:
    codes = random_codes(np.random.default_rng(2), (8, 256), 4)
    done = finish(compiled(FIXED, module([codes], target(rows=128))))
    body = done.layers[0].at(Programmed)
    assert map_freedom(body, "gather") / codes.size > entropy(np.abs(codes))
    assert bound_facts(done, 100)["times_above_bound"] is None


@pytest.mark.parametrize("chip", CHIPS)
def test_no_program_is_below_it(chip: str, case: Callable[[str], Case]) -> None:
    program = case(chip).program
    facts = bound_facts(program.module(), program.total("steady.writes"))["information_bound"]
    assert program.total("steady.writes") >= facts["writes"]
    assert program.manifest["counts"]["information_bound"] == facts
    assert len(facts["layers"]) == len(program.layers)
