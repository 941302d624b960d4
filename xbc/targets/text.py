"""A chip as TOML text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ir.target import Target


def target_toml(target: Target) -> str:
    """Text that ``load_target`` reads back to the same chip."""
    return "".join(line + "\n" for line in _table(target.to_dict(), ""))


def _table(table: Mapping[str, Any], name: str) -> list[str]:
    lines, nested = [f"\n[{name}]"] if name else [], []
    for key, value in table.items():
        if isinstance(value, Mapping):
            nested += _table(value, f"{name}.{_key(key)}" if name else _key(key)) if value else []
        elif value is not None:
            lines.append(f"{_key(key)} = {_value(value)}")
    return lines + nested


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value) if isinstance(value, float) else json.dumps(value)
