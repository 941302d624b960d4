"""Every number and every column of a program is counted again: digests that fit do not hide a change."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ir.errors import XbcError
from tests.xbc.cases import Case
from tests.xbc.chip.test_verify import reseal, tamper
from xbc.backend.tables import SCHEMAS
from xbc.cli.main import cli
from xbc.driver.verify import verify_program

MODELS = Path(__file__).parents[3] / "models"
NOT_CHECKED = ("provenance.facts.",)
"""What the compiler notes of its own search: only a compilation can tell."""


@pytest.fixture
def folder(case: Callable[[str], Case], tmp_path: Path) -> Path:
    shutil.copytree(case("pairs").folder, tmp_path / "p.xbc")
    return tmp_path / "p.xbc"


def numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from numbers(inner, (*path, key))
    elif type(value) in (int, float):
        yield path


def faults(folder: Path) -> list[str]:
    try:
        return [str(problem) for problem in verify_program(folder).problems]
    except XbcError as error:
        return [str(error)]


def test_every_number_of_the_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    manifest = json.loads(text)
    places = [p for p in numbers(manifest) if p[0] not in ("files", "format_version")]
    assert ("counts", "writes", "natural") in places
    assert ("counts", "reads", "natural", "energy_pj") in places
    assert "provenance.facts.deal-sections" in verify_program(folder).facts["unchecked"]
    unseen = []
    for path in places:
        changed = json.loads(text)
        table = changed
        for key in path[:-1]:
            table = table[key]
        table[path[-1]] = table[path[-1]] * 10 or 10
        (folder / "manifest.json").write_text(json.dumps(changed))
        reseal(folder)
        if not faults(folder):
            unseen.append(".".join(map(str, path)))
    assert [name for name in unseen if not name.startswith(NOT_CHECKED)] == []
    assert unseen, "the exception is not needed any more"


def changed(value: Any) -> Any:
    if isinstance(value, list):
        return [changed(value[0]), *value[1:]] if value else [1]
    if isinstance(value, bool):
        return not value
    if value is None:
        return 1
    return value + "x" if isinstance(value, str) else value + 1


@pytest.mark.parametrize(("table", "column"), [(t, c) for t, schema in SCHEMAS.items() for c in schema.names])
def test_every_column_of_the_tables(folder: Path, table: str, column: str) -> None:
    rows = pq.read_table(folder / f"{table}.parquet").to_pydict()[column]
    lists = column in ("signs", "wanted", "flip")
    at = len(rows) // 2

    def change(data: dict[str, list[Any]]) -> None:
        data[column][at] = [1] if lists and data[column][at] is None else changed(data[column][at])

    tamper(folder, table, change)
    assert faults(folder)


@pytest.mark.parametrize("crossbar", ["5", "1000000", "-1"])
def test_a_crossbar_that_the_chip_does_not_have(folder: Path, crossbar: str) -> None:
    """A text IR that would make a kernel write outside its arrays is refused by whoever reads it."""
    path = folder / "program.xir"
    body = path.read_text().partition("\n")[2]
    body, count = re.subn(r"(crossbar = int32 \[\d+\] \{)(\d+)", rf"\g<1>{crossbar}", body, count=1)
    assert count
    path.write_text("xir 1\n" + body)
    reseal(folder)
    words = f"is on crossbar {crossbar}, the target has 5"
    assert any(words in text for text in faults(folder))
    model, out = MODELS / "digits_lstm.onnx", folder.parent / "out"
    for command in (
        ["inspect", folder], ["inspect", folder, "--layer", "lstm.LSTM"], ["opt", folder, "-q"],
        ["report", folder, "-q", "-o", out.with_suffix(".html")], ["update", folder, model, "-q", "-o", out],
    ):  # fmt: skip
        run = CliRunner().invoke(cli, [str(word) for word in command])
        assert isinstance(run.exception, XbcError), command
        assert words in str(run.exception)
        assert not out.exists()
