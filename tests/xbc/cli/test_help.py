"""Help texts, exit codes and streams of the entry point itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.xbc.cli.conftest import Runner
from xbc.cli.main import COMMANDS

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["verify", "passes"])
def test_golden_help(xbc: Runner, name: str, request: pytest.FixtureRequest) -> None:
    """To accept a new text: write the output of the command to tests/xbc/cli/golden/NAME.txt."""
    shown = xbc(name, "--help")
    assert shown.code == 0
    assert shown.out == (GOLDEN / f"{name}.txt").read_text()


def test_the_first_page_names_every_command_with_a_sentence(xbc: Runner) -> None:
    text = xbc("--help").out
    listed = text.partition("Commands:\n")[2]
    assert [line.split()[0] for line in listed.splitlines() if re.match(r"  \w", line)] == list(COMMANDS)
    assert "First steps:\n    xbc compile model.onnx" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches(xbc: Runner, name: str) -> None:
    text = xbc(name, "--help").out
    assert f"Usage: xbc {name}" in text
    assert "Examples:\n" in text
    assert f"      xbc {name}" in text or f"    xbc {name}" in text


def test_no_command_shows_help_and_unknown_command_is_named(xbc: Runner) -> None:
    plain = xbc()
    assert (plain.code, plain.err) == (0, "")
    assert plain.out.startswith("Usage: xbc ")
    assert "No such command 'compiel'; did you mean 'compile'" in xbc("compiel").sentence
    assert xbc("zzz").sentence.startswith("No such command 'zzz'; see")
    assert xbc("--version").out.startswith("xbc, version ")
    assert xbc("nonsense", "--help").code == 2


def test_a_reader_that_leaves_is_no_error() -> None:
    """xbc targets | head -1"""
    with subprocess.Popen(
        [sys.executable, "-c", "import xbc.cli.main as m; m.main()", "passes", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=60)
    assert err == b""
    assert process.returncode == 141


def test_a_bug_is_shown_whole(xbc: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    from xbc import targets

    def broken() -> list[str]:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(targets, "load_target", broken)
    result = xbc_run(["targets"])
    assert result == 70


def xbc_run(arguments: list[str]) -> int:
    from xbc.cli.main import run

    return run(arguments)


def test_a_full_disk_is_one_sentence(
    xbc: Runner, program: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from xbc.simulate import data as written

    def full(path: Path, arrays: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(written, "write_npz", full)
    assert xbc_run(["simulate", str(program), "--inputs", str(data), "-o", "y.npz"]) == 2


def test_help_is_quick() -> None:
    """--help imports no solver and no runtime: it has to stay instant."""
    code = (
        "import sys, xbc.cli.main as m; m.run(['--help']); "
        "known = {'numba', 'onnx', 'onnxruntime', 'ortools', 'pyarrow', 'scipy', 'networkx', 'torch'}; "
        "heavy = known & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
