"""A package of someone else: installed, found, used end to end, and harmless when it is broken."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ir.errors import XbcError
from ir.stages import Quantized
from passes.table import PASSES, load_pass
from xbc.backend import Program
from xbc.driver.compile import compile_model
from xbc.export import FORMATS, export_program, load_format
from xbc.targets import TARGETS, load_target

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "digits_cnn.onnx"
SNAPPED = "quantize,snap-codes,encode-signs,slice-bits,form-sections,sort-sections,order-sections"


def package(folder: Path, name: str, entries: str, files: dict[str, str]) -> None:
    """An installed package by hand: what pip leaves behind of one."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)
    for file, text in files.items():
        (folder / file).write_text(text)


def said(*arguments: object, code: int = 0) -> str:
    """What a command prints."""
    from xbc.cli.main import cli

    done = CliRunner().invoke(cli, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert done.exit_code == code, done.output
    return done.output


def test_found_where_it_is_installed(example: Path) -> None:
    assert PASSES["snap-codes"].origin == "xbc-example 0.1.0"
    assert FORMATS["wear-map"].origin == "xbc-example 0.1.0"
    assert TARGETS["tiny-32"].origin == "xbc-example 0.1.0"
    assert PASSES["quantize"].origin == "xbc"
    assert next(iter(PASSES)) == "quantize", "built-in ones come first"


def test_not_found_where_it_is_not() -> None:
    assert "snap-codes" not in PASSES
    with pytest.raises(XbcError, match="unknown pass 'snap-codes'"):
        load_pass("snap-codes")


# --8<-- [start:end-to-end]
def test_end_to_end(example: Path, tmp_path: Path) -> None:
    done = compile_model(MODEL, tmp_path / "out.xbc", target="tiny-32", pipeline=SNAPPED)
    exact = compile_model(
        MODEL, tmp_path / "exact.xbc", target="tiny-32", pipeline=SNAPPED.replace("snap-codes,", "")
    )
    assert done.summary["writes"]["emitted"] < exact.summary["writes"]["emitted"]
    for layer, before in zip(done.module.layers, exact.module.layers, strict=True):
        codes, wanted = (each.at(Quantized).codes.astype(int) for each in (layer, before))
        assert not (codes & 1).any(), "bits=1 is what the chip says"
        assert np.abs(codes - wanted).max() == 1

    from xbc.chip import verify_program

    assert verify_program(done.directory).ok

    description = export_program(done.directory, "wear-map", tmp_path / "map")
    assert description["format"] == "wear-map"
    counts = importlib.import_module("xbc_example.wear_map").read(tmp_path / "map")
    totals = Program.open(done.directory).manifest["totals"]
    assert {name: int(array.sum()) for name, array in counts.items()} == {
        name: totals[name]["writes"] for name in ("first", "steady")
    }
    assert int(counts["steady"].max()) == done.summary["wear"]["max"]


# --8<-- [end:end-to-end]


def test_an_option_beats_the_chip(example: Path, tmp_path: Path) -> None:
    text = SNAPPED.replace("snap-codes", "snap-codes{bits=3}")
    done = compile_model(MODEL, tmp_path / "out.xbc", target="tiny-32", pipeline=text)
    assert all(not (layer.at(Quantized).codes & 7).any() for layer in done.module.layers)
    with pytest.raises(XbcError, match="snap-codes: say bits"):
        compile_model(MODEL, tmp_path / "none.xbc", target="gather-128", pipeline=SNAPPED)


def test_a_chip_s_extra_table_is_checked(example: Path, tmp_path: Path) -> None:
    assert load_target("tiny-32").extras() == {"snap-codes": {"bits": 1}}
    assert load_target("tiny-32", {"extra.snap-codes.bits": 2}).extras()["snap-codes"]["bits"] == 2
    chip = tmp_path / "chip.toml"
    for table, wanted in [
        (
            "[extra.snap-codes]\nbit = 1",
            "unknown key extra.snap-codes.bit; did you mean extra.snap-codes.bits?",
        ),
        ("[extra.snap-codes]\nbits = 'one'", "extra.snap-codes.bits = 'one' must be an int"),
        ("[extra.snap-codes]\nbits = 9", "extra.snap-codes.bits = 9 is outside 0..8"),
        ("[extra.snap-code]\nbits = 1", "which nothing installed here brings; did you mean 'snap-codes'?"),
        ("[extra.quantize]\nbits = 1", "the pass 'quantize' reads no table [extra.quantize]"),
        ("extra = 3", "extra must hold tables"),
        ("[extra.snap-codes]\nbits = 2020-01-01", "extra holds a value that is no number"),
    ]:
        chip.write_text(f"{table if table.startswith('extra =') else ''}\nrows = 4\ncolumns = 8\n"
                        f"{'' if table.startswith('extra =') else table}\n")  # fmt: skip
        with pytest.raises(XbcError) as error:
            load_target(chip)
        assert wanted in str(error.value)
    with pytest.raises(XbcError, match="bist"):
        load_target("tiny-32", {"extra.snap-codes.bist": 2})


def test_extra_tables_travel_with_the_program(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = compile_model(MODEL, tmp_path / "out.xbc", target="tiny-32", pipeline=SNAPPED)
    monkeypatch.undo()  # another machine, without the package
    assert "snap-codes" not in PASSES
    opened = Program.open(done.directory)
    assert opened.target.extras() == {"snap-codes": {"bits": 1}}
    assert opened.module().target == opened.target


def test_commands_say_where_each_is_from(example: Path) -> None:
    rows = {line.split()[0]: line.split()[-2:] for line in said("passes").splitlines() if line[:1].isalpha()}
    assert rows["snap-codes"] == ["xbc-example", "0.1.0"]
    assert rows["quantize"][-1] == "xbc"
    assert "From the installed package xbc-example 0.1.0." in said("passes", "snap-codes")
    (row,) = [line for line in said("targets").splitlines() if line.startswith("tiny-32")]
    assert row.rstrip().endswith("xbc-example 0.1.0")
    assert "too noisy to be worth a write" in said("targets", "tiny-32")
    assert "(from xbc-example 0.1.0)" in " ".join(said("emit", "--help").split())


BROKEN = """
[xbc.passes]
broken = broken_plugin:Pass
empty = empty_plugin:Nothing
hollow = empty_plugin:Hollow
[xbc.exports]
broken-format = broken_plugin
hollow-format = empty_plugin
[xbc.targets]
broken-chip = broken_plugin
no-chip = empty_plugin
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    files = {
        "broken_plugin.py": "import no_such_library\n",
        "empty_plugin.py": "class Hollow:\n    pass\n",
    }
    package(folder, "broken-things", BROKEN, files)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    ("ask", "name", "reason"),
    [
        (load_pass, "broken", "cannot be imported (ModuleNotFoundError: No module named 'no_such_library')"),
        (load_pass, "empty", "cannot be imported (AttributeError"),
        (load_pass, "hollow", "is no pass"),
        (load_format, "broken-format", "cannot be imported"),
        (load_format, "hollow-format", "has no NAME"),
        (load_target, "broken-chip", "cannot be imported"),
        (load_target, "no-chip", "has no readable file no-chip.toml"),
    ],
)
def test_a_broken_package_names_itself(broken: None, ask: Any, name: str, reason: str) -> None:
    with pytest.raises(XbcError) as error:
        ask(name)
    text = str(error.value)
    assert "broken-things 1.0" in text
    assert reason in text
    assert "\n" not in text
    assert len(text) <= 300


def test_a_broken_package_breaks_nothing_else(broken: None, tmp_path: Path) -> None:
    assert "broken-things 1.0" in said("passes")
    assert "broken-things 1.0" in said("targets")
    assert "broken-things 1.0" in " ".join(said("emit", "--help").split())
    listed = {entry["name"]: entry for entry in json.loads(said("passes", "--json"))["passes"]}
    assert "no_such_library" in listed["broken"]["error"]
    assert "error" not in listed["quantize"]
    assert compile_model(MODEL, tmp_path / "out.xbc", level=0).summary["loads"]


def test_two_of_one_name_are_refused_with_both_origins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    package(folder, "first", "[xbc.passes]\nmine = a:A\nquantize = a:B\n[xbc.targets]\ngather-128 = a\n", {})
    package(folder, "second", "[xbc.passes]\nmine = b:A\n[xbc.exports]\ncsv = b\n", {})
    monkeypatch.syspath_prepend(folder)
    for ask, name, one, other in [
        (load_pass, "mine", "first 1.0", "second 1.0"),
        (load_pass, "quantize", "xbc (passes.quantize:Quantize)", "first 1.0 (a:B)"),
        (load_format, "csv", "xbc (xbc.export.csv_tables)", "second 1.0 (b)"),
        (load_target, "gather-128", "xbc (", "first 1.0 (a)"),
    ]:
        with pytest.raises(XbcError) as error:
            ask(name)  # type: ignore[operator]
        assert one in str(error.value)
        assert other in str(error.value)
    assert load_pass("sort-sections").name == "sort-sections"
