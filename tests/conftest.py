"""Fixtures that all tests share: golden text, shared data, hypothesis settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

COMMON = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
# The same examples for the same commit, so that a change is judged by what it changed; `make fuzz` looks further.
settings.register_profile("repeatable", COMMON, max_examples=50, derandomize=True)
settings.register_profile("fuzz", COMMON, max_examples=200)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the golden-text tests produce into their golden files instead of comparing",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``golden(name, text)`` holds ``text`` against ``golden/<name>`` beside the test file."""
    folder = request.path.parent / "golden"
    update = request.config.getoption("--update-golden")

    def compare(name: str, text: str) -> None:
        file = folder / name
        if update:
            folder.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
            return
        assert file.exists(), f"{file} is missing: run pytest --update-golden and read what it wrote"
        assert text == file.read_text(encoding="utf-8"), (
            f"{file.name} differs (pytest --update-golden accepts it)"
        )

    return compare


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the shared models and sets: XBC_DATA, else ../shared/data beside the checkout."""
    folder = Path(os.environ.get("XBC_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"shared data is not at {folder}: set XBC_DATA to its folder")
    return folder
