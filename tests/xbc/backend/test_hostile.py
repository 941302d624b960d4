"""Programs whose digests fit but whose content is none: one sentence, wherever they are opened."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ir.errors import XbcError
from tests.xbc.cases import Case
from xbc.backend import Program
from xbc.backend.manifest import render, seal, self_digest
from xbc.chip.wear import plan_of, program_wear
from xbc.export import export_program
from xbc.recovery.resume import locate
from xbc.report.facts import gather
from xbc.schedule import program_costs

Cases = Callable[[str], Case]
MISSING = object()


@pytest.fixture
def bad(case: Cases, tmp_path: Path) -> Path:
    return Path(shutil.copytree(case("pairs").folder, tmp_path / "bad.xbc"))


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("tool", None, "does not give tool as a table"),
        ("tool.version", 3, "does not give tool.version as a text"),
        ("model.name", "\ud800", "does not give model.name as a text"),
        ("model.sha256", MISSING, "does not give model.sha256 as a text"),
        ("target", [], "does not give target as a table"),
        ("target.crossbars", -1, "crossbars"),
        ("target.write.parallel_cells", 1 << 40, "write.parallel_cells"),
        ("totals.loads", True, "does not give totals.loads as a count"),
        ("totals.steady.writes", 1 << 80, "does not give totals.steady.writes as a count"),
        ("totals.first", "x", "does not give totals.first as a table"),
        ("counts", "x", "does not give counts as a table"),
        ("counts.writes.natural", MISSING, "does not give counts.writes.natural as a count"),
        ("counts.reduction", "2x", "does not give counts.reduction as a number or null"),
        ("provenance.facts", [], "does not give provenance.facts as a table"),
        ("unmapped", [{"node": "n"}], "does not give unmapped[0].op_type as a text"),
        ("unmapped", {}, "does not give unmapped as a list"),
    ],
)
def test_a_manifest_of_another_shape(key: str, value: Any, sentence: str, bad: Path) -> None:
    manifest = json.loads((bad / "manifest.json").read_text())
    at = manifest
    *path, last = key.split(".")
    for part in path:
        at = at[part]
    if value is MISSING:
        del at[last]
    else:
        at[last] = value
    manifest["self_sha256"] = self_digest(manifest)
    (bad / "manifest.json").write_bytes(render(manifest))
    with pytest.raises(XbcError) as error:
        Program.open(bad)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "plan", [1, {}, {"epochs": [[0, 0, 10**30]]}, {"inferences_per_epoch": 10**30}, {"epochs": [[0, 0]]}]
)
def test_a_plan_that_is_none(plan: Any, bad: Path) -> None:
    good = {"inferences_per_epoch": 2, "epochs": [[0, 0, 0]], "fixed_crossbars": []}
    manifest = json.loads((bad / "manifest.json").read_text())
    entry = {**good, **plan} if plan and isinstance(plan, dict) else plan
    manifest["provenance"]["facts"] = {"level-wear": {"plan": entry}}
    manifest["self_sha256"] = self_digest(manifest)
    (bad / "manifest.json").write_bytes(render(manifest))
    with pytest.raises(XbcError, match="plan of wear levelling is damaged"):
        plan_of(Program.open(bad))


def blank(program: Program) -> np.ndarray:
    target = program.target
    return np.zeros((target.crossbars, target.rows, target.columns), np.uint8)


READERS: dict[str, Callable[[Path, Path], object]] = {
    "emit": lambda bad, out: export_program(bad, "memh", out),
    "wear": lambda bad, out: program_wear(Program.open(bad)),
    "costs": lambda bad, out: program_costs(Program.open(bad)),
    "locate": lambda bad, out: locate(Program.open(bad), blank(Program.open(bad)), "first"),
    "report": lambda bad, out: gather(bad, tradeoff=False),
}


@pytest.mark.parametrize(
    ("table", "column", "change"),
    [
        ("loads", "crossbar", lambda v: 2**31 - 1),
        ("loads", "crossbar", lambda v: -1),
        ("loads", "section", lambda v: v + 1),
        ("loads", "previous", lambda v: 10**6),
        ("loads", "write_count", lambda v: v + 1),
        ("writes", "row", lambda v: 10**6),
        ("writes", "column", lambda v: 64),
        ("writes", "after", lambda v: 200),
        ("writes", "phase", lambda v: 3),
        ("sections", "layer", lambda v: 10**6),
        ("sections", "inputs", lambda v: [10**6, *v[1:]]),
        ("sections", "inputs", lambda v: [0] * 1000),
        ("layers", "columns_per_weight", lambda v: 31),
    ],
)
def test_tables_that_leave_the_chip(
    table: str, column: str, change: Callable[[Any], Any], bad: Path, tmp_path: Path
) -> None:
    manifest = json.loads((bad / "manifest.json").read_text())
    path = bad / f"{table}.parquet"
    content = pq.read_table(path)
    place = content.schema.get_field_index(column)
    field, values = content.schema.field(column), content.column(column).to_pylist()
    values[len(values) // 2] = change(values[len(values) // 2])
    pq.write_table(content.set_column(place, field, pa.array(values, field.type)), path)
    (bad / "manifest.json").unlink()
    seal(bad, {k: v for k, v in copy.deepcopy(manifest).items() if k not in ("files", "self_sha256")})
    for name, use in READERS.items():
        if name in ("wear", "locate", "report") or (table, column) != ("writes", "phase"):
            with pytest.raises(XbcError) as error:
                use(bad, tmp_path / "out")
            assert "\n" not in str(error.value), name
    assert not (tmp_path / "out").exists()
