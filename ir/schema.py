"""How the IR's dataclasses appear in text: which fields are values, which are records, which is the label.

The text form is generic: it follows the dataclass fields, so a new field of a stage needs nothing here.

- A record is opened by its class name in lower case; a layer's body is a record named after its stage.
- A first field that is a string without default is the record's *label* and stands behind the keyword.
- Fields that hold records are found by the record's keyword, all others are ``field = value``.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np

from ir.stages import STAGES, Body


@dataclass(frozen=True)
class Slot:
    """Where a nested record goes: field name, its class, whether the field is a tuple of them."""

    field: str
    cls: type[Any]
    many: bool


@dataclass(frozen=True)
class Schema:
    """Text shape of one dataclass.

    Fields:
        values: field name -> type (``X | None`` reduced to X), in field order.
        slots: keyword -> where that record goes.
        required: fields without default.
    """

    cls: type[Any]
    keyword: str
    label: str | None
    values: dict[str, Any]
    slots: dict[str, Slot]
    required: frozenset[str]


def is_array(hint: Any) -> bool:
    """Whether a field's type is a numpy array, be ``NDArray`` an alias of it (numpy 2.5) or itself."""
    origin = typing.get_origin(hint)
    return typing.get_origin(getattr(origin, "__value__", hint)) is np.ndarray


def _plain(hint: Any) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (inner,) = (a for a in typing.get_args(hint) if a is not type(None))
        return inner
    return hint


def schema(cls: type[Any]) -> Schema:
    """The text shape of a dataclass of the IR."""
    return _schema(cast(Hashable, cls))


@cache
def _schema(cls: Hashable) -> Schema:
    assert isinstance(cls, type)
    hints = typing.get_type_hints(cls)
    label: str | None = None
    values: dict[str, Any] = {}
    slots: dict[str, Slot] = {}
    required = set()
    for position, field in enumerate(dataclasses.fields(cls)):
        hint = _plain(hints[field.name])
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed:
            required.add(field.name)
        many = typing.get_origin(hint) is tuple and dataclasses.is_dataclass(typing.get_args(hint)[0])
        inner = typing.get_args(hint)[0] if many else hint
        if inner is Body:
            slots.update((stage.stage(), Slot(field.name, stage, False)) for stage in STAGES)
        elif dataclasses.is_dataclass(inner):
            slots[keyword(cast(type, inner))] = Slot(field.name, cast(type, inner), many)
        elif position == 0 and hint is str and needed:
            label = field.name
        else:
            values[field.name] = hint
    return Schema(cls, keyword(cls), label, values, slots, frozenset(required))


def keyword(cls: type[Any]) -> str:
    """The word that opens a record of this class."""
    return cls.__name__.lower()
