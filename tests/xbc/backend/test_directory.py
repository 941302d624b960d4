"""The program directory appears whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ir.errors import XbcError
from tests.xbc.backend.programs import small_program
from tests.xbc.backend.test_emit import content, emit
from xbc.backend import Program, emit_program


@pytest.fixture
def old(tmp_path: Path) -> dict[str, bytes]:
    """Content of an earlier program that stands where the next one goes."""
    emit_program(small_program(), b"old host", tmp_path / "p.xbc", provenance={})
    return content(tmp_path / "p.xbc")


def untouched(folder: Path, old: dict[str, bytes]) -> None:
    assert content(folder / "p.xbc") == old
    assert [p.name for p in folder.iterdir()] == ["p.xbc"]


def test_an_earlier_program_is_replaced(tmp_path: Path, old: dict[str, bytes]) -> None:
    emit(small_program(), tmp_path)
    new = content(tmp_path / "p.xbc")
    assert new["host.onnx"] == b"host graph"
    assert [p.name for p in tmp_path.iterdir()] == ["p.xbc"]
    Program.open(tmp_path / "p.xbc")


@pytest.mark.parametrize("where", ["_save_module", "_write_tables", "seal", "layer_rows"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interruption_keeps_the_old_program(
    tmp_path: Path, old: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(f"xbc.backend.emit.{where}", fail)
    expected = XbcError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        emit(small_program(), tmp_path)
    if isinstance(error, OSError):
        assert "No space left on device; free some space" in str(caught.value)
    untouched(tmp_path, old)
    shutil.rmtree(tmp_path / "p.xbc")
    with pytest.raises(expected):
        emit(small_program(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_the_tables_are_written(tmp_path: Path, old: dict[str, bytes]) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        emit(small_program(), tmp_path, progress=interrupt)
    untouched(tmp_path, old)


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="this system has no /dev/full to stand for a full disk"
)
def test_a_full_disk_is_named(tmp_path: Path, old: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    from xbc.backend import rows, tables

    monkeypatch.setattr(rows, "open_table", lambda path, table: tables.open_table(Path("/dev/full"), table))
    with pytest.raises(XbcError, match="free some space"):
        emit(small_program(), tmp_path)
    untouched(tmp_path, old)


def test_no_room_for_the_module_is_named_like_any_other(
    tmp_path: Path, old: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ir.storage._write", full)
    with pytest.raises(
        XbcError, match=r"cannot write .*p.xbc: No space left on device; free some space"
    ) as caught:
        emit(small_program(), tmp_path)
    assert "partial" not in str(caught.value)
    untouched(tmp_path, old)


@pytest.mark.parametrize("fails", [False, True])
def test_ctrl_c_while_a_folder_is_removed_leaves_nothing(
    tmp_path: Path, old: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Of the earlier program after a swap, of the new one after a failure."""
    rmtree = shutil.rmtree
    calls = 0

    def interrupted(path: Path, **more: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyboardInterrupt
        rmtree(path, **more)

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("xbc.system.directory.shutil.rmtree", interrupted)
    if fails:
        monkeypatch.setattr("xbc.backend.emit._write_tables", fail)
    with pytest.raises(KeyboardInterrupt):
        emit(small_program(), tmp_path)
    assert calls > 1
    assert [p.name for p in tmp_path.iterdir()] == ["p.xbc"]
    assert (content(tmp_path / "p.xbc") == old) == fails
    Program.open(tmp_path / "p.xbc")


def test_a_failing_swap_puts_the_old_program_back(
    tmp_path: Path, old: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(XbcError, match="Input/output error"):
        emit(small_program(), tmp_path)
    untouched(tmp_path, old)


_KILLED = """
import os, signal, sys
from tests.xbc.backend.programs import small_program
from xbc.backend import emit_program

def stop(what, done, total):
    print("writing", flush=True)
    signal.pause()

emit_program(small_program(), b"", sys.argv[1], provenance={}, progress=stop)
"""


def test_leftovers_of_a_killed_run_are_removed_but_not_those_of_a_living_one(
    tmp_path: Path, old: dict[str, bytes]
) -> None:
    root = Path(__file__).parents[3]
    run = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path / "p.xbc")],
        cwd=root, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert run.stdout is not None
    with run.stdout:
        assert run.stdout.readline() == b"writing\n"
        (partial,) = (p for p in tmp_path.iterdir() if p.name != "p.xbc")
        emit_program(small_program(), b"old host", tmp_path / "p.xbc", provenance={})
        assert partial.exists()
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert partial.exists()
    emit_program(small_program(), b"old host", tmp_path / "p.xbc", provenance={})
    untouched(tmp_path, old)


def test_a_run_killed_while_swapping_is_put_back(tmp_path: Path, old: dict[str, bytes]) -> None:
    aside = tmp_path / ".p.xbc.previous-x"
    aside.mkdir()
    (tmp_path / "p.xbc").rename(aside / "p.xbc")
    with pytest.raises(KeyboardInterrupt):
        emit(small_program(), tmp_path, progress=_interrupt)
    untouched(tmp_path, old)


def _interrupt(what: str, done: int, total: int) -> None:
    raise KeyboardInterrupt


def refused(folder: Path, words: str, **more: Any) -> None:
    before = content(folder)
    with pytest.raises(XbcError, match=words):
        emit(small_program(), folder, **more)
    assert content(folder) == before


def test_what_is_not_a_program_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "p.xbc").mkdir()
    emit(small_program(), tmp_path)
    refused(tmp_path, "exists: remove it", overwrite=False)
    (tmp_path / "p.xbc" / "notes.txt").write_text("mine")
    refused(tmp_path, "notes.txt")
    (tmp_path / "p.xbc" / "notes.txt").unlink()
    (tmp_path / "p.xbc" / "manifest.json").write_text("{}")
    refused(tmp_path, "no whole program")
    (tmp_path / "p.xbc" / "manifest.json").unlink()
    refused(tmp_path, "not a program")
    shutil.rmtree(tmp_path / "p.xbc")
    (tmp_path / "p.xbc").write_text("a file")
    refused(tmp_path, "not a directory")


def test_destinations_that_cannot_be(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "create the folder first")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "inside a folder")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "p.xbc").symlink_to(tmp_path / "real" / "there")
    emit(small_program(), tmp_path)
    emit(small_program(), tmp_path)
    assert (tmp_path / "p.xbc").is_symlink()
    Program.open(tmp_path / "real" / "there")
    assert [p.name for p in (tmp_path / "real").iterdir()] == ["there"]


def test_files_are_readable_like_any_other(tmp_path: Path) -> None:
    emit(small_program(), tmp_path)
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "p.xbc").stat().st_mode == (tmp_path / "plain").stat().st_mode
