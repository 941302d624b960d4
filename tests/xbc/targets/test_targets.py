"""Shipped chips, user files, overrides: valid ones load, wrong ones name the key."""

import tomllib
from pathlib import Path

import pytest

from ir.errors import XbcError
from ir.target import Target
from xbc.targets import DEFAULT_TARGET, list_targets, load_target, parse_settings, target_text


def test_default_is_first_and_the_papers_array() -> None:
    assert list_targets()[0] == DEFAULT_TARGET
    chip = load_target(DEFAULT_TARGET)
    assert (chip.rows, chip.columns, chip.bits_per_cell, chip.outputs_per_section) == (128, 8, 1, 1)
    assert (chip.encoding, chip.routing, chip.crossbars, chip.endurance) == ("driver", "gather", 1, 1e6)


@pytest.mark.parametrize("name", list_targets())
def test_shipped_target(name: str) -> None:
    chip = load_target(name)
    assert chip.name == name
    assert Target.from_dict(chip.to_dict()) == chip
    digits = -(-8 // chip.bits_per_cell) * (2 if chip.encoding == "differential" else 1)
    assert chip.outputs_per_section * digits == chip.columns, "8-bit weights fill the columns"


@pytest.mark.parametrize("name", list_targets())
def test_every_constant_states_its_source(name: str) -> None:
    """Costs and devices: a comment on the line that says where the number is from."""
    table = ""
    for line in target_text(name).splitlines():
        if line.startswith("["):
            table = line
        elif "=" in line and not line.startswith("#") and table in ("[write]", "[read]", "[device]"):
            key, _, rest = line.partition("=")
            _, hash_, source = rest.partition("#")
            same_as_above = key.strip() == "trials_unverified"
            assert (hash_ and source.strip()) or same_as_above, f"{name}: {key.strip()} has no source"


def test_user_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text("rows = 4\ncolumns = 8\n[write]\nset_pj = 2\n")
    chip = load_target(path)
    assert (chip.name, chip.rows, chip.write.set_pj) == ("tiny", 4, 2.0)
    assert load_target(str(path), {"crossbars": 3}).crossbars == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns = 8", "key rows is missing"),
        ("rows = 4\ncolumns = 8\ncolor = 1", "unknown key color"),
        ("rows = 4\ncolumns = 8\n[write]\nset = 1", "unknown key write.set"),
        ("rows = 4\ncolumns = 8\nwrite = 3", "write must be a table"),
        ("rows = '4'\ncolumns = 8", "rows = '4' must be an int"),
        ("rows = true\ncolumns = 8", "rows = True must be an int"),
        ("rows = 0\ncolumns = 8", "rows = 0 is outside"),
        ("rows = 4\ncolumns = 8\nrouting = 'wild'", "routing = 'wild' is unknown"),
        ("rows = 4\ncolumns = 8\nendurance = -1.0", "endurance = -1.0 must be positive"),
        ("rows = 4\ncolumns = 8\nfaulty = [[0, 9, 0, 0]]", "faulty entry [0, 9, 0, 0]"),
        ("rows = 4\ncolumns = 8\n[device]\ng_max_siemens = 1e-9", "device.g_max_siemens"),
        ("rows = = 4", "is not valid TOML"),
    ],
)  # fmt: skip
def test_bad_file_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(XbcError) as error:
        load_target(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value).strip()


def test_not_a_description(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(XbcError, match="not valid TOML"):
        load_target(binary)
    with pytest.raises(XbcError, match="cannot read target file"):
        load_target(tmp_path / "absent.toml")
    with pytest.raises(XbcError, match="is a folder, but no compiled program"):
        load_target(f"{tmp_path}/")


def test_unknown_name_suggests() -> None:
    with pytest.raises(XbcError, match="did you mean 'gather-128'"):
        load_target("gather128")


def test_settings_are_typed() -> None:
    assert parse_settings(["crossbars=64", "write.set_pj = 2.5", "routing=block", 'encoding="offset"']) == {
        "crossbars": 64,
        "write.set_pj": 2.5,
        "routing": "block",
        "encoding": "offset",
    }
    assert parse_settings(["faulty=[[0,0,0,1]]"]) == {"faulty": [[0, 0, 0, 1]]}


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["crossbars"], "not of the form key=value"),
        (["=3"], "not of the form key=value"),
        (["crossbars="], "not of the form key=value"),
        (["rows=1", "rows=2"], "gives the key 'rows' twice"),
    ],
)
def test_bad_settings(items: list[str], message: str) -> None:
    with pytest.raises(XbcError, match=message):
        parse_settings(items)


def test_override_names_the_key() -> None:
    for settings, message in [
        ({"crossbar": 3}, "no key 'crossbar'"),
        ({"write": 3}, "no key 'write'"),
        ({"crossbars": "many"}, "crossbars = 'many' must be an int"),
        ({"crossbars": 1.5}, "crossbars = 1.5 must be an int"),
    ]:
        with pytest.raises(XbcError) as error:
            load_target("gather-128", settings)  # type: ignore[arg-type]
        assert message in str(error.value)


def test_shipped_text_is_a_start_for_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(target_text("rram-64").replace('name = "rram-64"', 'name = "mine"'))
    mine = load_target(path).to_dict()
    theirs = tomllib.loads(target_text("rram-64"))
    assert mine["name"] == "mine"
    assert mine["write"] == theirs["write"]
