"""Chip descriptions: TOML files beside this one, and the loader that also takes a user's own file.

Installed packages add chips through entry points of the group ``xbc.targets``: name of the chip -> package that
holds ``<name>.toml``.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from ir.errors import XbcError
from ir.registry import Registry
from ir.target import Target
from passes.table import PASSES, load_pass

DEFAULT_TARGET: Final = "gather-128"
MAX_BYTES: Final = 64 * 2**20
"""A description larger than this is not one (a text of 3 million faulty cells stays below)."""


_SHIPPED = sorted(
    (entry.name.removesuffix(".toml") for entry in resources.files(__name__).iterdir() if entry.name.endswith(".toml")),
    key=lambda name: (name != DEFAULT_TARGET, name),
)  # fmt: skip
TARGETS: Final = Registry(
    "xbc.targets", "target", dict.fromkeys(_SHIPPED, __name__), ", or give the path of a .toml file"
)


def list_targets() -> list[str]:
    """Names of the shipped chips, the default first, then of those that installed packages bring."""
    return list(TARGETS)


def target_text(name: str) -> str:
    """The TOML text of a chip known by name, comments with the sources included.

    Raises: XbcError for a name that is not known, with the nearest one that is, or known twice; for a package that
        cannot be imported or has no such file.
    """
    entry = TARGETS.find(name)
    entry.load("target")
    try:
        return (resources.files(entry.value) / f"{name}.toml").read_text(encoding="utf-8")
    except (OSError, TypeError, UnicodeDecodeError) as error:
        raise entry.fault("target", f"has no readable file {name}.toml in {entry.value}") from error


def load_target(
    name_or_path: str | os.PathLike[str] | Target, settings: Mapping[str, Any] | None = None
) -> Target:
    """The chip of that name, of that TOML file or of that compiled program, with ``settings`` (dotted keys) replaced.

    Raises: XbcError that names the target and the key for everything that is wrong with it, tables ``[extra.NAME]``
        included.
    """
    if isinstance(name_or_path, Target):
        target = name_or_path
    elif (text := os.fspath(name_or_path)).endswith(".toml") or "/" in text or "\\" in text:
        target = _from_file(Path(text)) if not Path(text).is_dir() else _of_program(Path(text))
    else:
        target = _parsed(target_text(text), f"target {text!r}", text)
    return check_extras(target.override(settings) if settings else target)


def _of_program(path: Path) -> Target:
    from ir.storage import load_module

    file = path / "program.xir"
    if not file.is_file():
        raise XbcError(f"target {path} is a folder, but no compiled program: it has no program.xir")
    return load_module(file).target


def check_extras(target: Target) -> Target:
    """``target`` when a pass reads each of its tables ``[extra.NAME]`` and takes what it holds."""
    for name in target.extras():
        if name not in PASSES:
            near = PASSES.nearest(name)
            raise XbcError(
                f"target {target.name!r}: [extra.{name}] is for a pass {name!r}, which nothing installed here brings"
                f"{near}"
            )
        kind = load_pass(name).extra
        if kind is None:
            raise XbcError(
                f"target {target.name!r}: the pass {name!r} reads no table [extra.{name}]; delete it"
            )
        target.extra_table(name, kind)
    return target


def _from_file(path: Path) -> Target:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise XbcError(
                f"target file {path} is larger than {MAX_BYTES >> 20} MiB: this is no chip description"
            )
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise XbcError(f"cannot read target file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise XbcError(f"target file {path} is not valid TOML: {error}") from error
    return _parsed(text, f"target file {path}", path.stem)


def _parsed(text: str, who: str, name: str) -> Target:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise XbcError(f"{who} is not valid TOML: {error}") from error
    data.setdefault("name", name)
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
