"""The verifier: one invalid module per message, and random damage to valid ones."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ir import (
    INVARIANTS,
    Body,
    Float,
    Layer,
    Layout,
    Module,
    Origin,
    Placed,
    Programmed,
    Sectioned,
    Target,
    VerifyError,
    XbcError,
    check_module,
    invariants,
    parse_module,
    verify_module,
)
from ir.faulty import FaultyCells
from tests.ir.tiny import modules, programmed

INVALID = sorted((Path(__file__).parent / "invalid").glob("*.xir"))
TARGET = Target("t", rows=4, columns=128, bits_per_cell=4, crossbars=3, adders="any", row_gating=True)


def alone(body: Body, groups: int = 1, target: Target = TARGET) -> Module:
    layout = Layout(body.shape, body.shape, (0, 1), 1)
    origin = Origin("node", "MatMul", 1, "w", "float32", layout, groups=groups)
    return Module("m", target, (Layer("a", origin, body),))


@pytest.mark.parametrize("file", INVALID, ids=lambda f: f.stem)
def test_every_violation_is_found_and_named(file: Path) -> None:
    """The comment in the first line is the one problem that the verifier must find."""
    text = file.read_text(encoding="utf-8")
    expected = text.split("\n", 1)[0].removeprefix("# ")
    module = parse_module(text)
    assert [str(problem) for problem in verify_module(module)] == [expected]
    with pytest.raises(VerifyError) as caught:
        check_module(module)
    assert str(caught.value) == f"module 'm' is not valid: {expected}"


def test_every_invariant_has_an_invalid_module() -> None:
    codes = {
        file.read_text(encoding="utf-8").split("\n", 1)[0].rpartition("[")[2].rstrip("]") for file in INVALID
    }
    assert codes == set(INVARIANTS)


def test_the_documented_table_is_the_list_of_invariants() -> None:
    page = Path(__file__).parents[2] / "docs" / "ir.md"
    rows = re.findall(
        r"^\| `([a-z-]+)` \| (.*) \|$", page.read_text(encoding="utf-8").split("## Invariants")[1], re.M
    )
    assert dict(rows) == INVARIANTS


@given(modules())
def test_valid_modules_pass(module: Module) -> None:
    assert verify_module(module) == []


def test_all_problems_are_reported_and_counted() -> None:
    body = Float(values=np.full((2, 2), np.nan, np.float32))
    module = alone(body)
    bad = dataclasses.replace(module, layers=module.layers * 2)
    assert [p.code for p in verify_module(bad)] == [
        "layer-name",
        "tensor-twice",
        "value-finite",
        "value-finite",
    ]
    with pytest.raises(XbcError, match=r"2 layers are named 'a' \[layer-name\] \(and 3 more problems\)"):
        check_module(bad)


@given(programmed(exact=True), st.data())
def test_a_changed_row_map_is_found(drawn: tuple[Programmed, int], data: st.DataObject) -> None:
    """Wherever one input index changes, a weight is missing, or placed twice, or out of range."""
    body, groups = drawn
    assume(body.encoding != "split")
    s, r = data.draw(st.integers(0, body.sections - 1)), data.draw(st.integers(0, body.rows - 1))
    other = data.draw(st.integers(-2, body.shape[1]).filter(lambda v: v != body.inputs[s, r]))
    inputs = body.inputs.copy()
    inputs[s, r] = other
    assert verify_module(alone(body.lower(Sectioned, inputs=inputs), groups)) != []


@given(programmed(exact=True), st.data())
def test_a_lost_or_doubled_section_is_found(drawn: tuple[Programmed, int], data: st.DataObject) -> None:
    body, groups = drawn
    keep = np.ones(body.sections, int)
    s = data.draw(st.integers(0, body.sections - 1))
    keep[s] = data.draw(st.sampled_from([0, 2]))
    # a section of split zeros, or of weights of the other sign only, may be left out
    assume(keep[s] == 2 or body.encoding != "split" or np.any(body.section_codes(slice(s, s + 1))))
    assume((body.inputs[s] >= 0).any())
    fields = {
        name: np.repeat(getattr(body, name), keep, axis=0)
        for name in ("outputs", "inputs", "rank", "polarity")
    }
    assert verify_module(alone(body.lower(Sectioned, **fields), groups)) != []


@given(programmed(), st.data())
def test_stored_limits_against_the_sums(drawn: tuple[Programmed, int], data: st.DataObject) -> None:
    """Limits around the wanted codes: violated exactly when an effective code is beyond them."""
    body, groups = drawn
    low, high = int(body.codes.min()), int(body.codes.max())
    limits = np.array([[low - data.draw(st.integers(0, 9)), high + data.draw(st.integers(0, 9))]], np.int32)
    effective = body.effective_codes()
    beyond = bool((effective < limits[0, 0]).any() or (effective > limits[0, 1]).any())
    problems = verify_module(alone(body.lower(Programmed, limits=limits), groups))
    assert [p.code for p in problems] == ["stored-limits"] * beyond


@given(programmed(exact=True), st.data())
def test_faulty_cells_against_a_search(drawn: tuple[Programmed, int], data: st.DataObject) -> None:
    body, groups = drawn
    cell = st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 20), st.just(0))
    faulty = data.draw(st.lists(cell, max_size=4))
    columns = body.cells.columns
    hit = False
    for crossbar, row, column, level in faulty:
        group, digit = divmod(column, columns)
        for s in np.flatnonzero(body.crossbar == crossbar):
            if (
                row < body.rows
                and group < body.group_width
                and body.inputs[s, row] >= 0
                and body.outputs[s, group] >= 0
            ):
                hit |= bool(body.cells.levels(body.stored[s, row, group])[digit] != level)
    problems = verify_module(alone(body, groups, dataclasses.replace(TARGET, faulty=FaultyCells(faulty))))
    assert [p.code for p in problems] == ["faulty-cell"] * hit


def test_portions_do_not_change_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The offending index is counted from the start of the table, whatever portion it lies in."""
    whole = {file.stem: verify_module(parse_module(file.read_text(encoding="utf-8"))) for file in INVALID}
    monkeypatch.setattr(invariants.chunks, "__defaults__", (1,))
    monkeypatch.setattr("ir.verify_cells._PAIRS", 1)
    for file in INVALID:
        assert verify_module(parse_module(file.read_text(encoding="utf-8"))) == whole[file.stem]


def test_layers_without_sections_or_rows() -> None:
    """Empty tables are wrong, not a crash."""
    file = Path(__file__).parent / "invalid" / "load-order.xir"
    placed = parse_module(file.read_text(encoding="utf-8")).layers[0].at(Placed)
    none = {
        name: getattr(placed, name)[:0]
        for name in ("outputs", "inputs", "rank", "polarity", "crossbar", "step")
    }
    assert [p.code for p in verify_module(alone(placed.lower(Placed, **none)))] == ["weight-missing"]
    rowless = placed.lower(Sectioned, inputs=placed.inputs[:, :0])
    assert [p.code for p in verify_module(alone(rowless))] == ["weight-missing"]
    for routing in ("block", "fixed"):
        target = dataclasses.replace(TARGET, routing=routing)
        assert [p.code for p in verify_module(alone(rowless, 1, target))] == ["weight-missing"]
    widthless = placed.lower(
        Sectioned,
        outputs=placed.outputs[:, :0],
        encoding="offset",
        offset=np.full(1, 7, np.int32),
        stored_bits=4,
    )
    assert [p.code for p in verify_module(alone(widthless))] == ["weight-missing"]
