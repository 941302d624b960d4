"""A damaged, foreign or hostile program is named as such, file by file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir.errors import XbcError
from tests.xbc.backend.programs import small_program
from tests.xbc.backend.test_emit import content
from xbc.backend import Program, emit_program
from xbc.backend.manifest import render, self_digest
from xbc.chip import verify_program


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "p.xbc"
    emit_program(small_program(), b"host graph", folder, provenance={"pipeline": "x"})
    return folder


@pytest.fixture
def program(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "p.xbc"))


def named(folder: Path) -> Iterator[str]:
    """What verify and open say, one text per finding."""
    try:
        report = verify_program(folder)
    except XbcError as error:
        yield str(error)
        return
    assert report.found == len(report.problems) > 0
    with pytest.raises(XbcError) as caught:
        Program.open(folder)
    assert report.problems[0].file in str(caught.value)
    yield from map(str, report.problems)


@given(st.data())
def test_a_flipped_bit_anywhere_is_found_and_its_file_named(sound: Path, data: st.DataObject) -> None:
    files = content(sound)
    name = data.draw(st.sampled_from(sorted(files)))
    at = data.draw(st.integers(0, len(files[name]) - 1))
    damaged = bytearray(files[name])
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    (sound / name).write_bytes(damaged)
    try:
        (text,) = named(sound)
    finally:
        (sound / name).write_bytes(files[name])
    assert name in text
    assert verify_program(sound).ok


def test_every_byte_of_the_manifest_counts(sound: Path) -> None:
    raw = (sound / "manifest.json").read_bytes()
    try:
        for at in range(0, len(raw), 11):
            damaged = bytearray(raw)
            damaged[at] ^= 1 << (at % 8)
            (sound / "manifest.json").write_bytes(damaged)
            with pytest.raises(XbcError, match=r"manifest\.json"):
                Program.open(sound)
    finally:
        (sound / "manifest.json").write_bytes(raw)


def test_missing_truncated_and_foreign_files(program: Path) -> None:
    (program / "loads.parquet").unlink()
    (program / "host.onnx").write_bytes(b"host")
    (program / "extra.bin").write_bytes(b"")
    assert sorted(named(program)) == [
        "extra.bin: does not belong to the program (the manifest does not list it)",
        "host.onnx: has 4 bytes instead of 10",
        "loads.parquet: is missing",
    ]


def test_a_link_instead_of_a_file(program: Path, tmp_path: Path) -> None:
    (program / "host.onnx").rename(tmp_path / "elsewhere")
    (program / "host.onnx").symlink_to(tmp_path / "elsewhere")
    assert list(named(program)) == ["host.onnx: is not a regular file"]


def test_a_linked_folder_of_arrays(program: Path, tmp_path: Path) -> None:
    (program / "program.arrays").rename(tmp_path / "elsewhere")
    (program / "program.arrays").symlink_to(tmp_path / "elsewhere")
    assert all("program.arrays" in text for text in named(program))


def edit(program: Path, change: Callable[[dict[str, Any]], None], honest: bool = True) -> None:
    manifest = json.loads((program / "manifest.json").read_text())
    change(manifest)
    if honest:
        manifest["self_sha256"] = self_digest(manifest)
    (program / "manifest.json").write_bytes(render(manifest))


HOSTILE = ("../x", "/etc/passwd", "a/../b", "a//b", "./a", "a\\b", "manifest.json", "", "a/b/c", ".x")


def list_file(name: str, manifest: dict[str, Any]) -> None:
    manifest["files"][name] = {"bytes": 0, "sha256": ""}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(format_version=3), "format version 3, this xbc reads 2: use newer xbc$"),
        (lambda m: m.update(format_version=0), "format version 0, this xbc reads 2: compile again"),
        (lambda m: m.update(format_version="1"), "format version '1'"),
        (lambda m: m.update(format="other"), "does not describe an xbc program"),
        (lambda m: m.update(files=[]), "lists no files"),
        (lambda m: m["files"].update({"a": {"bytes": "1", "sha256": ""}}), "bytes and sha256 of 'a'"),
        (lambda m: m["files"].pop("host.onnx"), "does not list host.onnx"),
        (lambda m: m.update(target=None), "does not give target as a table"),
        (lambda m: m["target"].update(rows=0), "rows = 0 is outside"),
        (lambda m: m.update(totals=None), "does not give totals as a table"),
        *((partial(list_file, name), "which no program has") for name in HOSTILE),
    ],
)  # fmt: skip
def test_manifests_that_are_refused(
    program: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    edit(program, change)
    with pytest.raises(XbcError, match=words):
        Program.open(program)


def test_a_newer_version_with_another_digest_says_both(program: Path) -> None:
    edit(program, lambda m: m.update(format_version=3), honest=False)
    with pytest.raises(XbcError, match=r"use newer xbc.*or the manifest is damaged"):
        Program.open(program)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[1]", b"\xff\xfe", b"null", b"[" * 100_000, b'{"format": "xbc-program"}', b"9" * 5000],
)
def test_what_is_no_manifest(program: Path, raw: bytes) -> None:
    (program / "manifest.json").write_bytes(raw)
    with pytest.raises(XbcError, match=r"manifest\.json"):
        Program.open(program)


def test_what_is_no_program(tmp_path: Path) -> None:
    with pytest.raises(XbcError, match="not a directory"):
        Program.open(tmp_path / "nothing")
    with pytest.raises(XbcError, match=r"holds no manifest\.json"):
        Program.open(tmp_path)
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(XbcError, match="no manifest"):
        Program.open(tmp_path)


def test_a_reformatted_manifest_is_damaged(program: Path) -> None:
    text = (program / "manifest.json").read_text()
    (program / "manifest.json").write_text(json.dumps(json.loads(text)))
    with pytest.raises(XbcError, match="does not fit its own digest"):
        Program.open(program)
