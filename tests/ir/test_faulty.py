"""Fault maps: one order, one level a cell, the same as list, text, array and IR text."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir import Module, Target, XbcError, parse_module
from ir.faulty import MOST_LISTED, FaultyCells
from ir.text import print_with_arrays

CELLS = st.dictionaries(
    st.tuples(st.integers(0, 3), st.integers(0, 8), st.integers(0, 8)), st.integers(0, 3), max_size=9
)
CHIP = Target("t", 256, 256, 2, 1024)


@given(CELLS, st.randoms())
def test_order_does_not_matter(cells: dict[tuple[int, int, int], int], random: Any) -> None:
    listed = [(*cell, level) for cell, level in cells.items()]
    found = FaultyCells(listed)
    random.shuffle(listed)
    assert found == FaultyCells(listed * 2)
    assert hash(found) == hash(FaultyCells(listed))
    assert list(found) == sorted(listed)
    assert FaultyCells.from_plain(found.to_plain()) == found
    assert FaultyCells.from_plain(" ".join(str(x) for cell in listed for x in cell)) == found
    mask, levels = found.mask((4, 9, 9)), found.stamp(np.full((4, 9, 9), 9, np.uint8))
    assert {tuple(cell) for cell in np.argwhere(mask).tolist()} == set(cells)
    assert all(levels[cell] == level for cell, level in cells.items())


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ([[0, 0, 0]], r"entry \[0, 0, 0\] is no \[crossbar"),
        ([[0, 0, 0, 1], [0, 0, 0]], r"is no \[crossbar"),
        ([[0, 0, 0, 1], [0, 0, 0, 2]], r"cell \[0, 0, 0\] is stuck at two levels, 1 and 2"),
        ("0 0 0", "not of four numbers"),
        ("0 0 0 x", "a text of whole numbers"),
        ("0 0 0 99999999999999999999999", "below 2\\*\\*31"),
        (3, "list of integer lists"),
        ([[0, 0, 0, 4]], r"entry \[0, 0, 0, 4\]"),
        ([[0, -5, 0, 1]], r"entry \[0, -1, 0, 1\]"),
        ([[0, 10**30, 0, 1]], r"entry \[0, 2147483647, 0, 1\]"),
    ],
)
def test_what_is_no_map(plain: Any, message: str) -> None:
    with pytest.raises(XbcError, match=message):
        Target.from_dict({**CHIP.to_dict(), "faulty": plain})


def test_a_large_map_is_text_in_json_and_an_array_in_the_ir() -> None:
    count = 200_000
    where = np.random.default_rng(0).choice(1024 * 256 * 256, count, replace=False)
    cells = np.stack([*np.unravel_index(where, (1024, 256, 256)), where % 4], axis=1)
    started = time.process_time()
    target = dataclasses.replace(CHIP, faulty=FaultyCells(cells))
    assert len(target.faulty) == count > MOST_LISTED
    assert isinstance(target.to_dict()["faulty"], str)
    assert Target.from_dict(target.to_dict()) == target
    text, arrays = print_with_arrays(Module("m", target, ()))
    assert f"faulty = int32 [{count}, 4] @sha256:" in text
    assert parse_module(text, arrays).target == target
    assert time.process_time() - started < 20  # 0.7 s when written; a loop over cells in Python would be slow


def test_bad_arrays_in_text() -> None:
    text = print_with_arrays(Module("m", CHIP, ()))[0]
    for listed in ("int32 [1, 3] {0 0 0}", "float32 [1, 4] {0 0 0 0}", "[[0 0 0 9]]"):
        with pytest.raises(XbcError, match="faulty"):
            parse_module(text.replace("rows = 256", f"rows = 256, faulty = {listed}"))
