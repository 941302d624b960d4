"""Real exports follow the JSON Schemas that are shipped with them, and the schemas refuse what is none."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.xbc.cases import CHIPS, Case
from xbc.export import FORMATS, export_program, jsonl, pimcomp
from xbc.export.package import DESCRIPTION, shipped

Cases = Callable[[str], Case]
chips = pytest.mark.parametrize("chip", CHIPS)


def validator(text: str) -> Draft202012Validator:
    schema = json.loads(text)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def refused(
    schema: Draft202012Validator, value: Any, changes: list[tuple[str, Callable[[Any], object]]]
) -> None:
    """Every change makes a good value a bad one."""
    assert schema.is_valid(value)
    for what, change in changes:
        bad = copy.deepcopy(value)
        change(bad)
        assert not schema.is_valid(bad), what


@chips
def test_every_line_of_jsonl(chip: str, case: Cases, tmp_path: Path) -> None:
    export_program(case(chip).program, "jsonl", tmp_path / "out")
    schema = validator((tmp_path / "out" / jsonl.SCHEMA).read_text())
    lines = [json.loads(line) for line in (tmp_path / "out" / "loads.jsonl").read_text().splitlines()]
    for line in lines:
        schema.validate(line)
    written = next(line for line in lines if line["writes"])
    refused(
        schema,
        written,
        [
            ("a missing key", lambda line: line.pop("crossbar")),
            ("a foreign key", lambda line: line.update(more=1)),
            ("a negative load", lambda line: line.update(load=-1)),
            ("previous below -1", lambda line: line.update(previous=-2)),
            ("a CRC of more than 32 bits", lambda line: line.update(post_crc_first=1 << 32)),
            ("text for a number", lambda line: line.update(step="1")),
            ("a write of five numbers", lambda line: line["writes"][0].pop()),
            ("a write of seven numbers", lambda line: line["writes"][0].append(0)),
            ("a phase that does not exist", lambda line: line["writes"][0].__setitem__(4, 3)),
            ("a level beyond four bits", lambda line: line["writes"][0].__setitem__(3, 16)),
        ],
    )


@pytest.mark.parametrize("chip", [chip for chip in CHIPS if chip != "gated"])
def test_instruction_lists(chip: str, case: Cases, tmp_path: Path) -> None:
    export_program(case(chip).program, "pimcomp", tmp_path / "out")
    schema = validator((tmp_path / "out" / pimcomp.SCHEMA).read_text())
    content = json.loads((tmp_path / "out" / pimcomp.FILE).read_text())
    schema.validate(content)
    name = next(iter(content["core_list"]))
    small = {**content, "core_list": {name: content["core_list"][name][:3]}}
    write, mvm, add = (lambda c, i=i: c["core_list"][name][i] for i in range(3))
    refused(
        schema,
        small,
        [
            ("a newer version", lambda c: c.update(format_version=2)),
            ("a foreign key", lambda c: c.update(more=1)),
            ("no cores", lambda c: c.pop("core_list")),
            ("a core of another name", lambda c: c["core_list"].update(x=[])),
            ("an unknown operation", lambda c: write(c).update(op="erase")),
            ("a write without cells", lambda c: write(c).pop("cells")),
            ("a cell of three numbers", lambda c: write(c).update(cells=[[0, 0, 1]])),
            ("a product without its layer", lambda c: mvm(c).pop("node")),
            ("a product that waits for no layer list", lambda c: mvm(c).pop("wait_nodes")),
            ("an input below -1", lambda c: mvm(c)["inputs"].__setitem__(0, -2)),
            ("a sum without outputs", lambda c: add(c).pop("outputs")),
            ("a product with a foreign key", lambda c: mvm(c).update(more=1)),
            ("a wait for a negative id", lambda c: add(c).update(wait=[-1])),
            ("a crossbar without columns", lambda c: c["config"].update(xbar_size=[4])),
            ("a layer without a name", lambda c: c["nodes"][0].pop("name")),
        ],
    )


@pytest.mark.parametrize("name", FORMATS)
def test_descriptions(name: str, case: Cases, tmp_path: Path) -> None:
    schema = validator(shipped("export.schema.json"))
    export_program(case("pairs").program, name, tmp_path / "out")
    description = json.loads((tmp_path / "out" / DESCRIPTION).read_text())
    schema.validate(description)
    refused(
        schema,
        description,
        [
            ("another kind", lambda d: d.update(kind="x")),
            ("an unknown format", lambda d: d.update(format="xml")),
            ("version zero", lambda d: d.update(format_version=0)),
            ("no digest of the program", lambda d: d.pop("program_sha256")),
            ("a short digest", lambda d: next(iter(d["files"].values())).update(sha256="ab")),
            (
                "a file that leaves the folder",
                lambda d: d["files"].update({"../x": {"bytes": 0, "sha256": "0" * 64}}),
            ),
            ("an absolute file", lambda d: d["files"].update({"/x": {"bytes": 0, "sha256": "0" * 64}})),
            ("loads as text", lambda d: d.update(loads="7")),
            ("no target", lambda d: d.pop("target")),
        ],
    )
