"""The worked example and the loader of docs/program-format.md, held against what is emitted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ir.text import parse_module
from tests.xbc.backend.programs import small_program
from xbc.backend import emit_program
from xbc.backend.tables import SCHEMAS
from xbc.chip import Chip, verify_program

PAGE = Path(__file__).parents[3] / "docs" / "program-format.md"

EXAMPLE = """xir 1
module "tiny" {
  target "chip" { rows = 2, columns = 3 }
  layer "fc" {
    origin "Gemm_0" {
      op_type = "Gemm", operand = 1, tensor = "fc.weight", dtype = "float32"
      layout { shape = [2, 3], split = [2, 3], perm = [0, 1], outer = 1 }
    }
    programmed {
      codes = int16 [2, 3] {1 -2 3, 4 5 -6}
      scale = float32 [1] {0.25}
      zero_point = int32 [1] {0}
      limits = int32 [1, 2] {-7 7}
      bits = 3
      given = false
      encoding = "driver"
      stored_bits = 3
      offset = int32 [1] {0}
      bits_per_cell = 1
      outputs = int32 [4, 1] {1 0 1 0}
      inputs = int32 [4, 2] {2 1, 2 1, 0 -1, 0 -1}
      rank = int32 [4] {0 0 1 1}
      polarity = int8 [4] {0 0 0 0}
      crossbar = int32 [4] {0 0 0 0}
      step = int64 [4] {0 1 2 3}
      stored = uint8 [4, 2, 1] {6 5, 3 3, 4 0, 1 0}
    }
  }
}
"""


def tables(text: str) -> list[list[dict[str, str]]]:
    """Markdown tables of a page, rows as dicts."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        found.append([dict(zip(rows[0], row, strict=True)) for row in rows[2:]])
    return found


@pytest.fixture
def example(tmp_path: Path) -> Path:
    emit_program(parse_module(EXAMPLE, {}), b"", tmp_path / "p", provenance={})
    assert verify_program(tmp_path / "p").ok
    return tmp_path / "p"


def test_every_column_is_described() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for table, schema in SCHEMAS.items():
        (section,) = re.findall(rf"^## {table}\.parquet\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)
        described = {
            name: row["type"] for row in tables(section)[0] for name in re.findall(r"`(\w+)`", row["column"])
        }
        kinds = {field.name: str(field.type).replace("float", "float32") for field in schema}
        assert {
            n: re.sub(r"list<element: (\w+)>", r"list of \1", kind) for n, kind in kinds.items()
        } == described


def test_the_example_is_what_is_emitted(example: Path) -> None:
    _, _, example_text = PAGE.read_text(encoding="utf-8").partition("\n## A program of four loads\n")
    sections, loads, writes = tables(example_text.partition("\n## ")[0])
    assert [{k: int(v) for k, v in row.items()} for row in writes] == [
        {k: v for k, v in row.items() if k != "verify"}
        for row in pq.read_table(example / "writes.parquet").to_pylist()
    ]
    emitted = pq.read_table(example / "loads.parquet").to_pylist()
    assert [{k: int(v, 0) for k, v in row.items()} for row in loads] == [
        {k: row[k] for k in loads[0]} for row in emitted
    ]
    levels = Chip(1, 2, 3, 1).levels
    for page, row, load in zip(
        sections, pq.read_table(example / "sections.parquet").to_pylist(), emitted, strict=True
    ):
        for name in ("outputs", "inputs", "signs", "stored", "wanted"):
            assert [int(x) for x in re.findall(r"-?\d+", page[name])] == (row[name] or [])
        start = load["write_start"]
        for write in pq.read_table(example / "writes.parquet").to_pylist()[start:][: load["write_count"]]:
            if write["phase"] != 2:
                levels[0, write["row"], write["column"]] = write["after"]
        shown = " / ".join("".join(map(str, line)) for line in levels[0].tolist())
        assert page["levels after the load"] == shown


@pytest.mark.parametrize("which", ["example", "small"])
def test_the_loader_of_the_page_loads(example: Path, tmp_path: Path, which: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    if which == "small":
        emit_program(small_program(), b"", tmp_path / "small", provenance={})
    folder, shape = (example, (1, 2, 3)) if which == "example" else (tmp_path / "small", (2, 4, 5))
    levels, chip = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)

    def write_cell(crossbar: int, row: int, column: int, level: int, verify: bool) -> None:
        assert chip[crossbar, row, column] != level
        chip[crossbar, row, column] = level

    ends = []
    for first in (True, False, False):
        done = list(names["load"](folder, levels, write_cell, first))
        assert len(done) == pq.read_metadata(folder / "loads.parquet").num_rows
        ends.append(chip.tolist())
    assert ends[0] == ends[1] == ends[2]
