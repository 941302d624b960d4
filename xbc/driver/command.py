"""The command that builds a program again, for its manifest: run in a folder that holds the files it names."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ir.target import Target
from xbc.targets import list_targets, load_target, parse_settings

Given = str | os.PathLike[str]


def target_words(
    given: Given | Target, settings: Mapping[str, Any] | None, chip: Target, program: Path
) -> list[str]:
    """Which chip: a known name; a file by its name; else the program itself, whose IR holds the chip.

    Args:
        given, settings: as ``compile_model`` got them.
        chip: what they made.
        program: directory of the program.
    """
    if isinstance(given, Target):
        if given.name not in list_targets() or load_target(given.name) != given:
            assert given.name == chip.name
            return ["--target", f"./{program.name}"]
        name = given.name
    else:
        name = os.fspath(given)
        if name not in list_targets():
            file = Path(name).name
            name = file if file.endswith(".toml") else f"./{file}"
    return [
        "--target",
        name,
        *(f"--set={key}={_value(key, value)}" for key, value in (settings or {}).items()),
    ]


def _value(key: str, value: Any) -> str:
    """A setting as ``--set`` reads it back; bare where a string is not something else in TOML."""
    if isinstance(value, str) and value and parse_settings([f"{key}={value}"])[key] == value:
        return value
    return json.dumps(value)


def budget_words(
    data: Given | None, report_data: Given | None, max_drop: float | None, max_error: float | None
) -> list[str]:
    """The same -O3 (files by name only)."""
    words = ["-O3"]
    for name, file in (("--data", data), ("--report-data", report_data)):
        words += [] if file is None else [name, Path(file).name]
    for name, value in (("--max-drop", max_drop), ("--max-error", max_error)):
        words += [] if value is None else [name, str(value)]
    return words
