"""What a manifest has to hold besides the list of files: checked once, so that nobody else need wonder."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ir.errors import XbcError

COUNT: Final = "a count"
NUMBER: Final = "a number"
SHARE: Final = "a number or null"
TEXT: Final = "a text"
TABLE: Final = "a table"


class Whole(dict[str, Any]):
    """A table none of whose keys may be missing."""


_WRITES: Final = Whole(full=COUNT, natural=COUNT, scheduled=COUNT, emitted=COUNT)
_RUN: Final = Whole(writes=COUNT, set=COUNT, reset=COUNT)
REQUIRED: Final[Mapping[str, Any]] = {
    "tool": Whole(name=TEXT, version=TEXT),
    "model": Whole(name=TEXT, sha256=TEXT),
    "target": TABLE,
    "totals": Whole(
        **dict.fromkeys(("layers", "sections", "loads", "steps", "write_rows", "full", "wear_max"), COUNT),
        first=_RUN,
        steady=_RUN,
        skipped=TABLE,
    ),
}
OPTIONAL: Final[Mapping[str, Any]] = {
    "counts": {"writes": _WRITES, "reduction": SHARE, "row_map_bytes": COUNT},
    "provenance": {"command": TEXT, "pipeline": TEXT, "seed": COUNT, "facts": TABLE},
    "unmapped": [Whole(node=TEXT, op_type=TEXT, weights=COUNT, reason=TEXT)],
    "update": {"version": COUNT, "fraction_bits": COUNT},
}
"""Parts that may be missing or null, as in a program that was put together in Python; what is there has to be of
its kind."""


def check_shape(path: Path, manifest: Mapping[str, Any]) -> None:
    """Raises XbcError with the first key of a manifest that is missing or of another kind."""
    for key, kind in REQUIRED.items():
        _check(path, key, manifest.get(key), kind)
    for key, kind in OPTIONAL.items():
        if manifest.get(key) is not None:
            _check(path, key, manifest[key], kind)


def _check(path: Path, key: str, value: Any, kind: Any) -> None:
    if isinstance(kind, list):
        if not isinstance(value, list):
            raise _wrong(path, key, "a list")
        for i, item in enumerate(value):
            _check(path, f"{key}[{i}]", item, kind[0])
    elif isinstance(kind, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(path, key, TABLE)
        for name, inner in kind.items():
            if isinstance(kind, Whole) or name in value:
                _check(path, f"{key}.{name}", value.get(name), inner)
    elif not _is(value, kind):
        raise _wrong(path, key, kind)


def _is(value: Any, kind: str) -> bool:
    if kind == TEXT:
        return isinstance(value, str) and re.search("[\ud800-\udfff]", value) is None
    if kind == TABLE:
        return isinstance(value, Mapping)
    if kind == COUNT:
        return type(value) is int and 0 <= value < 1 << 63
    return (kind == SHARE and value is None) or (type(value) in (int, float) and math.isfinite(value))


def _wrong(path: Path, key: str, kind: str) -> XbcError:
    return XbcError(f"{path} does not give {key} as {kind}: compile the model again")
