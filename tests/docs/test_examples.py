"""Runs the shell examples of the documentation and compares what they print.

A fenced block marked ``console``: lines that begin with ``$ `` are commands, the others their output,
stdout and stderr together. ``...`` stands for anything. The blocks of one page share a folder in which
``models`` is the repository's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted(
    page for page in (ROOT / "docs").glob("*.md") if BLOCK.search(page.read_text(encoding="utf-8"))
)


def examples(text: str) -> list[tuple[str, str]]:
    """(command, expected output) pairs of a page."""
    pairs: list[tuple[str, str]] = []
    for block in BLOCK.findall(text):
        for line in block.splitlines():
            if line.startswith("$ "):
                pairs.append((line[2:], ""))
            else:
                command, expected = pairs.pop()
                pairs.append((command, expected + line + "\n"))
    return pairs


def squeezed(text: str) -> str:
    """Runs of blanks as one, no blanks at line ends, no empty lines: columns may be wider elsewhere."""
    lines = (re.sub(r"[ \t]+", " ", line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def matches(expected: str, got: str) -> bool:
    """Whether ``got`` is ``expected`` with something in place of each ``...``."""
    parts = [re.escape(part.strip()) for part in squeezed(expected).split("...")]
    return (
        re.fullmatch(r"\s*" + r"(?:.*?)".join(rf"\s*{part}\s*" for part in parts), got, re.DOTALL) is not None
    )


def test_matching() -> None:
    assert matches("a ... c\n", "a b c")
    assert matches("a\n...\nd\n", "a\nb\nc\nd")
    assert matches("a 1\n", "a   1") is False, "the output is squeezed before it is compared"
    assert not matches("a\n", "a\nb")
    assert not matches("a ... c", "a b d")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples(page: Path, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models", target_is_directory=True)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "COLUMNS": "120",
    }
    for command, expected in examples(page.read_text(encoding="utf-8")):
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, text=True, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        wrong = expected.lstrip().startswith("xbc: error:")
        assert done.returncode == (2 if wrong else 0), f"{page.name}: {command}\n{done.stdout}"
        assert matches(expected, squeezed(done.stdout)), f"{page.name}: {command}\nprinted\n{done.stdout}"


def test_every_command_is_on_the_page() -> None:
    from xbc.cli.main import COMMANDS

    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    missing = [name for name in COMMANDS if f"`{name}`" not in text]
    assert not missing, f"add to the table of docs/command-line.md: {missing}"


def test_python_examples_name_what_exists() -> None:
    """The Python page: every ``xbc.name`` and imported name is there."""
    import importlib

    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    package = importlib.import_module("xbc")
    for name in set(re.findall(r"\bxbc\.([A-Za-z_]+)\(", text)) | set(re.findall(r"`xbc\.([A-Z]\w+)`", text)):
        assert hasattr(package, name), name
    for module, names in re.findall(r"^from ([\w.]+) import (.+)$", text, re.MULTILINE):
        for name in names.split(","):
            assert hasattr(importlib.import_module(module), name.strip()), f"{module}.{name}"
