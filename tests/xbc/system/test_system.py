"""Outputs that are whole or absent, scratch folders and signals: nothing is lost, nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ir.errors import XbcError
from xbc.backend.tables import FORMAT, MANIFEST
from xbc.export.package import DESCRIPTION, KIND
from xbc.system import directory, interrupts
from xbc.system.directory import SEALED, whole_directory
from xbc.system.files import whole_file
from xbc.system.scratch import scratch_folder


def test_a_signal_in_a_held_block_takes_effect_at_its_end() -> None:
    steps = []

    def interrupted() -> None:
        with interrupts.Held():
            signal.raise_signal(signal.SIGINT)
            steps.append("end of the block")
        steps.append("behind it")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert steps == ["end of the block"]


def test_a_signal_right_after_the_folder_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(path: Path) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(directory, "lock_folder", stopped)
    with pytest.raises(SystemExit), whole_directory(tmp_path / "o", lambda there: None):
        pass
    assert not list(tmp_path.iterdir())


def test_scratch_folders_go_and_those_of_killed_runs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, young, other = (tmp_path / name for name in ("xbc-abcdefgh", "xbc-abcdefgi", "xbc-notes"))
    for folder in (old, young, other):
        folder.mkdir()
        (folder / "weights.bin").write_bytes(b"x")
        if folder != young:
            os.utime(folder, (time.time() - 3600,) * 2)
    real, calls = os.unlink, 0

    def unlink(*arguments: object, **more: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyboardInterrupt
        real(*arguments, **more)  # type: ignore[arg-type]

    def interrupted() -> None:
        with scratch_folder() as mine:
            assert not old.exists()
            Path(mine, "a").write_text("")
            monkeypatch.setattr(os, "unlink", unlink)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert calls > 1
    monkeypatch.setattr(os, "unlink", real)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["xbc-abcdefgi", "xbc-notes"]


def test_nothing_is_written_into_a_program_or_an_export(tmp_path: Path) -> None:
    assert {MANIFEST: f'"{FORMAT}"'.encode(), DESCRIPTION: f'"{KIND}"'.encode()} == SEALED
    (tmp_path / "p.xbc" / "deep").mkdir(parents=True)
    (tmp_path / "p.xbc" / MANIFEST).write_text(f'{{"format": "{FORMAT}"}}')
    for inside in (tmp_path / "p.xbc" / "out", tmp_path / "p.xbc" / "deep" / "out"):
        with pytest.raises(XbcError, match=r"cannot write into .*: it is a program"), whole_file(inside):
            pass
        with pytest.raises(XbcError, match="choose another"), whole_directory(inside, lambda there: None):
            pass
    (tmp_path / MANIFEST).write_text("{}")  # somebody else's
    with whole_file(tmp_path / "out") as partial:
        partial.write_text("whole")
    assert (tmp_path / "out").read_text() == "whole"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")

    def fail(error: BaseException) -> None:
        with whole_file(tmp_path / "out") as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    with pytest.raises(XbcError, match="No space left on device; free some space"):
        fail(OSError(28, "No space left on device"))
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


_COMMAND = """
import os, signal, sys, time
import click
from xbc.cli import main
from xbc.system.files import whole_file

class Busy:
    def __del__(self):
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        time.sleep(0.01)

@click.command()
def command():
    if sys.argv[2] == "written":
        with whole_file("out") as partial:
            partial.write_text("whole")
    Busy()
    if sys.argv[2] == "long":
        time.sleep(60)

main.cli, real = command, main.run
main.run = lambda: real([])
main.main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("what", ["long", "short", "written"])
def test_a_signal_inside_a_destructor_is_not_lost(name: str, code: int, what: str, tmp_path: Path) -> None:
    started = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", _COMMAND, name, what], cwd=tmp_path, capture_output=True, text=True, timeout=50,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}, check=False,
    )  # fmt: skip
    assert run.returncode == code, run.stderr
    assert time.monotonic() - started < 50
    word = "interrupted" if code == 130 else "terminated"
    says = (
        f"{tmp_path.resolve() / 'out'} had been written and stands complete"
        if what == "written"
        else "no output was changed"
    )
    assert run.stderr.strip() == f"xbc: {word}; {says}"


def _xbc(*words: str | bytes, folder: Path, closed: str = "") -> subprocess.CompletedProcess[bytes]:
    command = [os.fsencode(sys.executable), b"-m", b"xbc", *(os.fsencode(word) for word in words)]
    line = b" ".join(b"'" + word + b"'" for word in command) + os.fsencode(closed)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run([b"sh", b"-c", line], cwd=folder, capture_output=True, env=env, check=False)


def test_closed_standard_streams(tmp_path: Path) -> None:
    for closed in (" >&-", " 2>&-", " <&- >&- 2>&-"):
        run = _xbc("targets", folder=tmp_path, closed=closed)
        assert run.returncode == 0, run.stderr
        assert not run.stderr


def test_names_that_are_no_text(tmp_path: Path) -> None:
    run = _xbc("compile", b"n\xff.onnx", folder=tmp_path)
    assert run.returncode == 2
    assert (
        run.stderr
        == b"xbc: error: 'n\\\\udcff.onnx' is no UTF-8 text: rename the file, or give another name\n"
    )


@pytest.mark.parametrize(("number", "code", "word"), [(2, 130, "interrupted"), (15, 143, "terminated")])
def test_a_second_signal_while_the_first_is_said_is_told(number: int, code: int, word: str) -> None:
    text = (
        "import os, signal; from xbc.cli import main\n"
        "def twice():\n"
        "    try:\n"
        f"        os.kill(os.getpid(), {number})\n"
        "    finally:\n"
        f"        os.kill(os.getpid(), {number})\n"
        "main.run = twice\n"
        "main.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert done.stderr == f"xbc: {word}; no output was changed\n"
