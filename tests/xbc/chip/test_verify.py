"""One broken program per promise: the digests fit, the replay finds what was changed and where."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ir.errors import XbcError
from ir.module import Module
from ir.stages import Programmed
from tests.xbc.backend.programs import small_program
from tests.xbc.cases import Case
from xbc.backend import Program, emit_program
from xbc.backend.encodings import cell_weights
from xbc.backend.manifest import seal
from xbc.backend.tables import SCHEMAS, open_table, table_of
from xbc.chip import Problem, Report, effective_codes, verify_program

Columns = dict[str, list[Any]]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    emit_program(small_program(), b"host", tmp_path / "p.xbc", provenance={}, counts=COUNTS)
    return tmp_path / "p.xbc"


COUNTS = {"weights": 78, "sections": 26, "unmapped": [], "energy_pj": 1.5}


def columns(folder: Path, table: str) -> Columns:
    return dict(pq.read_table(folder / f"{table}.parquet").to_pydict())


def reseal(folder: Path, **manifest: Any) -> None:
    old = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    seal(folder, {**old, **manifest})


def tamper(folder: Path, table: str, change: Callable[[Columns], None], **manifest: Any) -> Columns:
    """Changes a table and makes all digests fit again."""
    data = columns(folder, table)
    change(data)
    with open_table(folder / f"{table}.parquet", table) as writer:
        writer.write_table(table_of(table, data))
    reseal(folder, **manifest)
    return data


def problems(folder: Path) -> list[Problem]:
    report = verify_program(folder)
    assert not report.ok
    assert report.found >= len(report.problems) > 0
    return list(report.problems)


def put(name: str, at: int, value: Any) -> Callable[[Columns], None]:
    def change(data: Columns) -> None:
        old = data[name][at]
        data[name][at] = value(old) if callable(value) else value
        assert data[name][at] != old

    return change


def test_the_program_is_sound(program: Path) -> None:
    assert verify_program(program).ok


@pytest.mark.parametrize("at", [0, 40, -1])
def test_a_changed_level_is_named_with_its_cell(program: Path, at: int) -> None:
    data = tamper(program, "writes", put("after", at, lambda level: 1 - level))
    load = data["load"][at]
    cell = (load, columns(program, "loads")["crossbar"][load], data["row"][at], data["column"][at])
    found = problems(program)
    assert {(p.load, p.crossbar, p.row, p.column) for p in found if p.file == "writes.parquet"} >= {cell}
    assert any(p.file == "sections.parquet" and (p.load, p.crossbar, p.row, p.column) == cell for p in found)
    start = f"writes.parquet, load {load}, crossbar {cell[1]}, row {cell[2]}, column {cell[3]}: "
    assert any(str(p).startswith(start) for p in found)


def phase(wanted: int, new: int) -> Callable[[Columns], None]:
    def change(data: Columns) -> None:
        data["phase"][data["phase"].index(wanted)] = new

    return change


def swap(a: int, b: int) -> Callable[[Columns], None]:
    def change(data: Columns) -> None:
        for values in data.values():
            values[a], values[b] = values[b], values[a]

    return change


def drop(data: Columns) -> None:
    for values in data.values():
        values.pop()


def stray(data: Columns) -> None:
    """Moves a write of every inference to a column that no section uses, for later inferences only."""
    at = next(i for i, p in enumerate(data["phase"]) if p == 0 and data["before"][i] == 0)
    data["column"][at], data["phase"][at] = 4, 2


def unverified(data: Columns) -> None:
    data["verify"] = [load != 3 and mark for load, mark in zip(data["load"], data["verify"], strict=True)]


def in_list(name: str, at: int, entry: int, value: Any) -> Callable[[Columns], None]:
    return put(name, at, lambda old: [value(x) if i == entry else x for i, x in enumerate(old)])


def wanted(bit: int) -> Callable[[Columns], None]:
    def change(data: Columns) -> None:
        data["wanted"][7] = [word ^ bit for word in data["stored"][7]]

    return change


def twice(data: Columns) -> None:
    data["inputs"][0] = [data["inputs"][0][1]] * 2 + data["inputs"][0][2:]


W, S, LOADS, LAYERS = "writes", "sections", "loads", "layers"
CHANGES: list[tuple[str, Callable[[Columns], None], str]] = [
    (
        W,
        put("before", 5, lambda x: 1 - x),
        "writes.parquet, load 0.*level before is given as 1, in the first infer",
    ),
    (
        W,
        put("before", 60, lambda x: 1 - x),
        "writes.parquet, load .*level before is given as .*in later inferences",
    ),
    (W, put("before", 5, lambda x: 1 - x), "writes.parquet, load 0.*writes level 1 where 1 stands already"),
    (W, put("after", 5, 2), r"writes.parquet, load 0, .*its levels \(highest 1\)"),
    (W, put("before", 5, 2), r"writes.parquet, load 0, .*its levels \(highest 1\)"),
    (W, put("row", 5, 4), "writes.parquet, load 0, crossbar 0, row 4, .*do not exist on this chip"),
    (W, put("row", 5, -1), "writes.parquet, load 0, .*do not exist on this chip"),
    (W, put("column", 5, 5), "writes.parquet, load 0, .*column 5: .*do not exist on this chip"),
    (W, put("column", 5, -1), "writes.parquet, load 0, .*do not exist on this chip"),
    (W, put("phase", 5, 3), "writes.parquet, load 0, .*do not exist on this chip"),
    (
        W,
        put("column", 5, 4),
        "writes.parquet, load 0, .*column 4: writes a cell that the section does not use",
    ),
    (W, put("load", 5, 20), "row 5 names load 20"),
    (W, put("load", 5, -1), "row 5 names load -1"),
    (W, swap(0, 1), "writes.parquet, load 0, .*must ascend by row, column and phase"),
    (W, phase(0, 1), "sections.parquet, load .*after the load in later inferences the cell holds"),
    (W, phase(0, 2), "sections.parquet, load .*after the load in the first inference the cell holds"),
    (
        W,
        stray,
        "writes.parquet, crossbar ., row ., column 4: the cell holds 0 when a later .* and 1 at its end",
    ),
    (W, drop, "writes.parquet: cannot be read .it holds .* rows, the manifest says"),
    (W, unverified, "loads.parquet, load 3, .*write_verify is given as 1, the replay has 0"),
    (
        S,
        in_list("stored", 7, 0, lambda x: x ^ 4),
        "sections.parquet, load 7, .*column 1: the section promises",
    ),
    (
        S,
        in_list("stored", 7, 0, lambda x: x + 16),
        "section 7 has a word in stored that is wider than its cells",
    ),
    (S, twice, "weight of output . and input . has been placed before"),
    (S, twice, "the weight of output . and input . is in no section"),
    (
        S,
        in_list("inputs", 7, 0, lambda x: 9),
        "section 7 names one of its inputs that the layer does not have",
    ),
    (S, in_list("inputs", 7, 0, lambda x: -2), "section 7 names one of its inputs"),
    (S, in_list("outputs", 7, 0, lambda x: 6), "section 7 names one of its outputs"),
    (S, in_list("signs", 7, 0, lambda x: 0), "section 7 has a sign that is not 1 or -1"),
    (S, in_list("signs", 7, 0, lambda x: -x), "section 7 has another signs than in program.xir"),
    (S, put("signs", 7, None), "section 7 has row signs that do not suit its encoding"),
    (S, put("signs", 7, [1]), "section 7 has row signs that do not suit its encoding"),
    (
        S,
        wanted(2),
        "loads.parquet, load 7, .*(stuck|unchanged) is given as|section 7 has another wanted than",
    ),
    (S, put("wanted", 7, [1]), "section 7 has a list wanted of the wrong length"),
    (S, put("stored", 7, [1]), "section 7 has a list stored of the wrong length"),
    (S, put("stored", 7, None), "section 7 has a list stored of the wrong length"),
    (S, put("inputs", 7, None), "section 7 does not have 1 to 4 rows"),
    (S, put("inputs", 7, [0] * 5), "section 7 does not have 1 to 4 rows"),
    (S, put("flip", 7, [16]), "section 7 has a word in flip that is wider"),
    (S, put("flip", 7, [1]), "section 7 has another flip than in program.xir|load 7, .*(stuck|unchanged)"),
    (S, put("polarity", 7, 1), "section 7 has a polarity that its encoding does not have"),
    (S, put("rank", 7, -1), "section 7 has a negative rank"),
    (S, put("rank", 7, 9), "section 7 has another rank than in program.xir"),
    (S, put("layer", 7, 2), "section 7 belongs to a layer that does not exist"),
    (S, put("layer", 0, 1), "layer 'first' has 18 sections, 17 are loaded|names one of its inputs"),
    (S, put("index", 7, 8), "section 7 has index 8 in its layer instead of 7"),
    (S, put("section", 7, 8), "section 7 has another number"),
    (S, in_list("scale", 7, 0, lambda x: x * 2), "section 7 has another scale than its layer"),
    (S, in_list("offset", 7, 0, lambda x: 1), "section 7 has another offset than its layer"),
    (LOADS, put("load", 3, 4), "load 3: is numbered 4"),
    (LOADS, put("section", 3, 4), "load 3: loads section 4"),
    (LOADS, put("crossbar", 3, 2), "load 3: uses crossbar 2, which the target does not have"),
    (LOADS, put("crossbar", 3, -1), "load 3: uses crossbar -1"),
    (LOADS, put("crossbar", 3, 0), "load 3: step 1, crossbar 0 does not come after"),
    (LOADS, put("step", 3, 9), "load 4: step 2, crossbar 0 does not come after"),
    (LOADS, put("step", 0, -1), "load 0: has step -1"),
    (LOADS, put("previous", 3, 2), "load 3: names 2 as the load before it"),
    *(
        (LOADS, put(name, 3, lambda x: x + 1), f"loads.parquet, load 3, crossbar 1: {name} is given as")
        for name in ("set", "reset", "unchanged", "stuck", "dont_care", "faulty", "set_first", "reset_first")
    ),
    (LOADS, put("set", 3, -1), "load 3: has -1 as its count of set"),
    (
        LOADS,
        put("post_crc_first", 3, lambda x: x ^ 1),
        "loads.parquet, load 3, crossbar 1: post_crc_first is given",
    ),
    (
        LOADS,
        put("post_crc_steady", 3, lambda x: x ^ 1),
        "loads.parquet, load 3, crossbar 1: post_crc_steady is given",
    ),
    (LOADS, put("write_verify", 3, False), "loads.parquet, load 3, crossbar 1: write_verify is given as 0"),
    (LOADS, put("write_start", 3, lambda x: x + 1), "load 3: says that its writes start at row"),
    (LOADS, put("write_count", 3, 41), "load 3: has 41 rows of writes"),
    (LOADS, put("write_count", 25, lambda x: x + 1), "rows of writes, the manifest says otherwise"),
    (LAYERS, put("layer", 1, 2), "layer 1 .'second'. has number 2"),
    (LAYERS, put("name", 1, "first"), "two layers have the same name"),
    (LAYERS, put("sections", 1, 7), "the layers have 25 sections, the manifest 26"),
    (LAYERS, put("encoding", 0, "magic"), "no such cells: 'magic'"),
    (LAYERS, put("bits", 0, 99), "no such cells: 'driver', 99 bits"),
    (LAYERS, put("encoding", 0, "offset"), "has row signs that do not suit its encoding"),
    (LAYERS, put("bits", 0, 3), "has cell weights .8, 4, 2, 1.; driver has .4, 2, 1."),
    (LAYERS, put("columns_per_weight", 0, 3), "has cell weights"),
    (LAYERS, put("bits_per_cell", 0, 2), "has cell weights"),
    (LAYERS, put("outputs", 0, 0), "has a size below 1"),
    (LAYERS, put("outputs", 0, 10**6), "more than its 18 sections hold"),
    (LAYERS, put("outputs_per_section", 0, 2), "more than one output per section"),
    (LAYERS, put("scope", 0, "column"), "has scope 'column'"),
    (LAYERS, put("scope", 0, "layer"), "which needs one output per section, row gating and gather routing"),
    (LAYERS, put("scale", 0, [1.0, 2.0]), "has 2 entries in scale, not 1 or 6"),
    (LAYERS, put("scale", 0, [float("nan")]), "has a scale that is not finite"),
    (LAYERS, put("predecessors", 1, [1]), "has predecessors .1.; they must come before it"),
    (LAYERS, put("predecessors", 1, []), "layer 'second' has another predecessors than in program.xir"),
    (LAYERS, put("tensor", 1, "x"), "layer 'second' has another tensor than in program.xir"),
    (LAYERS, put("perm", 1, [0, 0]), "a layout whose axes are no permutation"),
    (LAYERS, put("shape", 1, [1, 1]), "a layout that makes no 4 x 6 matrix"),
    (LAYERS, put("scale", 1, None), "layers.parquet: cannot be read .column scale has no value in row 1"),
]


@pytest.mark.parametrize(
    ("table", "change", "words"), CHANGES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CHANGES)]
)
def test_changed_tables(program: Path, table: str, change: Callable[[Columns], None], words: str) -> None:
    tamper(program, table, change)
    texts = [str(p) for p in problems(program)]
    assert any(re.search(words, text) for text in texts), texts
    if not any("program.xir" in text for text in texts):  # a replay alone does not look there
        with pytest.raises(XbcError, match="compile the model again"):
            effective_codes(Program.open(program))


@pytest.mark.parametrize(
    ("column", "change", "words"),
    [
        (
            "outputs",
            lambda x: [-1, *x[1:]],
            "has a row with an output and no input, or with an input and no output",
        ),
        ("outputs", lambda x: x[:1], "has a list outputs of the wrong length"),
        ("outputs", lambda x: [x[0] + 1, *x[1:]], "weight of output .* has been placed before"),
        ("offset", lambda x: [1, *x[1:]], "has another offset than its layer"),
    ],
)
def test_changed_outputs_of_rows(
    column: str, change: Callable[[Any], Any], words: str, case: Callable[[str], Case], tmp_path: Path
) -> None:
    folder = tmp_path / "p.xbc"
    shutil.copytree(case("gated").folder, folder)
    tamper(folder, "sections", put(column, 3, change))
    texts = [str(p) for p in problems(folder)]
    assert any(re.search(words, text) for text in texts), texts


def test_totals_and_counts_of_the_manifest(program: Path) -> None:
    manifest = json.loads((program / "manifest.json").read_text())
    manifest["totals"]["steady"]["set"] += 1
    writes = {"full": manifest["totals"]["full"], "natural": 1, "scheduled": 1, "emitted": 1}
    manifest["counts"] = {**COUNTS, "weights": 79, "wear": {"max": -1}, "writes": writes}
    reseal(program, totals=manifest["totals"], counts=manifest["counts"])
    texts = [str(p) for p in problems(program)]
    assert [text.split(" is given")[0] for text in texts] == [
        "manifest.json: totals.steady.set",
        "manifest.json: counts.weights",
        "manifest.json: counts.writes.emitted",
        "manifest.json: counts.wear.max",
    ]


def test_a_write_to_a_faulty_cell(program: Path) -> None:
    target = json.loads((program / "manifest.json").read_text())["target"]
    writes = columns(program, "writes")
    cell = [0, writes["row"][0], writes["column"][0]]
    reseal(program, target={**target, "faulty": [[*cell, 0]]})
    assert any("writes level 1 to a faulty cell that holds 0 for ever" in str(p) for p in problems(program))


def test_a_target_that_is_too_small(program: Path) -> None:
    target = json.loads((program / "manifest.json").read_text())["target"]
    for change, words in (({"columns": 3}, "needs 4 columns"), ({"crossbars": 1}, "uses crossbar 1")):
        reseal(program, target={**target, **change})
        assert words in str(problems(program)[0])


def test_layers_in_the_wrong_order(tmp_path: Path) -> None:
    module = small_program()
    first, second = module.layers
    late = dataclasses.replace(first.at(Programmed), step=first.at(Programmed).step + 100)
    module = dataclasses.replace(module, layers=(first.with_body(late), second))
    emit_program(module, b"", tmp_path / "p", provenance={})
    (problem,) = problems(tmp_path / "p")
    assert str(problem) == (
        "loads.parquet, load 0, crossbar 0: layer 'second' starts in step 18, but needs layer "
        "'first', which ends in step 108"
    )


def test_tables_of_another_module(program: Path, tmp_path: Path) -> None:
    module = small_program()
    body = module.layers[0].at(Programmed)
    codes = body.codes.copy()
    codes[2, 3] *= -1
    other: Module = module.with_layers(
        (module.layers[0].with_body(dataclasses.replace(body, codes=codes)), module.layers[1])
    )
    assert np.count_nonzero(codes != body.codes) == 1
    emit_program(other, b"host", tmp_path / "other", provenance={}, counts=COUNTS)
    for old in (program / "program.arrays").iterdir():
        old.unlink()
    for new in (tmp_path / "other" / "program.arrays").iterdir():
        new.rename(program / "program.arrays" / new.name)
    (tmp_path / "other" / "program.xir").rename(program / "program.xir")
    reseal(program)
    (problem,) = problems(program)
    words = r"sections.parquet, load \d+: section \d+ has another signs than in program.xir"
    assert re.fullmatch(words, str(problem))


@pytest.mark.parametrize("table", list(SCHEMAS))
def test_tables_that_are_none(program: Path, table: str) -> None:
    (program / f"{table}.parquet").write_bytes(b"PAR1 no table PAR1")
    reseal(program)
    assert f"{table}.parquet: cannot be read" in str(problems(program)[0])
    other = next(name for name in SCHEMAS if name != table)
    (program / f"{table}.parquet").write_bytes((program / f"{other}.parquet").read_bytes())
    reseal(program)
    assert "its columns are not those of the format" in str(problems(program)[0])


def test_totals_that_are_no_counts(program: Path) -> None:
    totals = json.loads((program / "manifest.json").read_text())["totals"]
    wrong: Any
    for wrong in (None, -1, 1.5, True, {}):
        reseal(program, totals={**totals, "write_rows": wrong})
        with pytest.raises(XbcError, match=r"does not give totals\.write_rows as a count"):
            verify_program(program)


def test_a_chip_too_large_to_simulate(program: Path) -> None:
    target = json.loads((program / "manifest.json").read_text())["target"]
    reseal(program, target={**target, "rows": 65535, "columns": 65535, "crossbars": 2**24})
    with pytest.raises(XbcError, match="too large for the virtual chip"):
        verify_program(program)


def test_many_problems_are_counted_and_the_first_kept(program: Path) -> None:
    def change(data: Columns) -> None:
        data["column"] = [4] * len(data["column"])

    tamper(program, "writes", change)
    report: Report = verify_program(program)
    assert len(report.problems) == 200
    assert report.found > 300


@pytest.mark.parametrize(
    ("encoding", "bits", "bits_per_cell", "weights"),
    [
        ("driver", 4, 1, [8, 4, 2, 1]),
        ("split", 3, 2, [4, 1]),
        ("differential", 2, 1, [2, 1, -2, -1]),
        ("offset", 4, 2, [4, 1]),
        ("twos-complement", 4, 1, [-8, 4, 2, 1]),
        ("twos-complement", 4, 2, [-8, 4, 1]),
        ("unipolar", 5, 4, [16, 1]),
    ],
)
def test_cell_weights(encoding: str, bits: int, bits_per_cell: int, weights: list[int]) -> None:
    assert cell_weights(encoding, bits, bits_per_cell) == weights
