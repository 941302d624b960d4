"""The device array: levels, errors, trials and counts (needs no torch)."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir.cells import CellFormat
from ir.errors import XbcError
from ir.target import Device
from xbc.training.devices import DeviceArray, Programming

FORMATS = [CellFormat("differential", 2, 2), CellFormat("differential", 4, 2), CellFormat("unipolar", 3, 1)]


@given(st.sampled_from(FORMATS), st.integers(0, 2**32 - 1))
def test_ideal_devices_hold_what_was_written_and_count_changed_cells(cells: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = cells.code_range()
    first, second = rng.integers(low, high + 1, (2, 3, 5))
    array = DeviceArray(first, cells, Programming(), rng)
    assert (array.codes == first).all()
    assert not array.writes.any()
    written = array.program(second)
    assert (array.codes == second).all()
    np.testing.assert_array_equal(array.conductance_codes(), second)
    changed = cells.levels(cells.encode(first)) != cells.levels(cells.encode(second))
    np.testing.assert_array_equal(array.writes, changed)
    assert written == array.pulses == changed.sum()
    assert array.program(second) == 0
    assert array.program(second, np.ones((3, 5), bool)) == changed.size


def test_a_second_trial_helps_and_is_counted() -> None:
    cells = CellFormat("unipolar", 2, 2)
    codes = np.ones((200, 200), np.int32)
    found = {}
    for trials in (1, 2, 8):
        programming = Programming(sigma_levels=0.4, trials=trials)
        array = DeviceArray(np.zeros_like(codes), cells, programming, np.random.default_rng(0))
        array.program(codes)
        written = array.writes.sum()  # some stood at 1 by error already
        found[trials] = (array.pulses / written, array.failed / written, (array.codes != codes).mean())
    outside = 0.2113  # P(|N(0, 0.4)| > 0.5)
    assert found[1][1] == pytest.approx(outside, abs=0.01)
    assert found[2][1] == pytest.approx(outside**2, abs=0.01)
    assert found[2][0] == pytest.approx(1 + outside, abs=0.05)
    assert found[8][2] < 1e-3
    assert found[1][2] > found[2][2] > found[8][2]


def test_error_of_a_target_counts_levels() -> None:
    programming = Programming.of_target(Device(sigma_programmed=0.1), 2)
    assert programming.sigma_levels == pytest.approx(0.3)


def test_nonsense_is_refused() -> None:
    with pytest.raises(XbcError, match="sigma_levels"):
        Programming(sigma_levels=-1)
    with pytest.raises(XbcError, match="trials"):
        Programming(trials=0)
