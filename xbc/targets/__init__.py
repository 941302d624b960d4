"""Chip descriptions: TOML files beside this one, and the loader that also takes a user's own file."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from ir.errors import XbcError
from ir.target import Target

DEFAULT_TARGET: Final = "gather-128"
MAX_BYTES: Final = 64 * 2**20
"""A description larger than this is not one (a text of 3 million faulty cells stays below)."""


def list_targets() -> list[str]:
    """Names of the shipped chips, the default first."""
    names = sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files(__name__).iterdir()
        if entry.name.endswith(".toml")
    )
    return sorted(names, key=lambda name: name != DEFAULT_TARGET)


def target_text(name: str) -> str:
    """The TOML text of a shipped chip, comments with the sources included.

    Raises: XbcError for a name that is not shipped, with the nearest one that is.
    """
    names = list_targets()
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ";"
        raise XbcError(
            f"unknown target {name!r}{hint} shipped targets: {', '.join(names)}, "
            f"or give the path of a .toml file"
        )
    return (resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8")


def load_target(name_or_path: str | Path, settings: Mapping[str, Any] | None = None) -> Target:
    """The chip of that name, or described in that TOML file, with ``settings`` (dotted keys) replaced.

    Raises: XbcError that names the target and the key for everything that is wrong with it.
    """
    text = str(name_or_path)
    if text.endswith(".toml") or "/" in text or "\\" in text:
        target = _from_file(Path(text))
    else:
        target = Target.from_dict(tomllib.loads(target_text(text)))
    return target.override(settings) if settings else target


def _from_file(path: Path) -> Target:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise XbcError(
                f"target file {path} is larger than {MAX_BYTES >> 20} MiB: this is no chip description"
            )
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise XbcError(f"cannot read target file {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise XbcError(f"target file {path} is not valid TOML: {error}") from error
    data.setdefault("name", path.stem)
    return Target.from_dict(data)


def parse_settings(items: Iterable[str]) -> dict[str, Any]:
    """``key=value`` texts as settings for ``Target.override``; values are read as TOML, bare words as
    strings.

    >>> parse_settings(["crossbars=64", "write.set_pj=2.5", "routing=block"])
    {'crossbars': 64, 'write.set_pj': 2.5, 'routing': 'block'}
    """
    settings: dict[str, Any] = {}
    for item in items:
        key, equals, text = (part.strip() for part in item.partition("="))
        if not (key and equals and text):
            raise XbcError(f"--set {item!r} is not of the form key=value, e.g. --set crossbars=64")
        if key in settings:
            raise XbcError(f"--set gives the key {key!r} twice")
        try:
            settings[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key] = text
    return settings
