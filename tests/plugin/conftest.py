"""The example package, installed as users install one, and the command line with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def install(package: Path, into: Path) -> None:
    """pip, without a network: the package's build back end is one of our test dependencies."""
    words = ["install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-warn-conflicts"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, "--disable-pip-version-check", "--target", str(into), str(package)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that holds the installed example package."""
    folder = tmp_path_factory.mktemp("plugin")
    source = folder / "source"
    shutil.copytree(
        HERE, source, ignore=shutil.ignore_patterns("*.pyc", "__pycache__", "test_*", "conftest.py")
    )
    install(source, folder / "site")
    return folder / "site"


@pytest.fixture
def example(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example package on the path of this process."""
    monkeypatch.syspath_prepend(installed)
    return installed
