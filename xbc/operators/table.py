"""The table of operators: by domain and name, imported when it is first asked for.

A new operator is one file beside this one that ends in ``OPERATORS``, and its name in ``FILES``.  Outside xbc it
is the same file in an installed package, with an entry point of the group ``xbc.operators`` for each: ``Name`` or
``domain.Name`` -> ``module:OPERATOR``; or it is handed to ``register``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

from ir.errors import XbcError
from ir.registry import Registry
from xbc.operators.definition import Operator

FILES: Final = (
    "conv", "conv_transpose", "deform_conv", "matmul", "integer_matmul", "recurrent", "attention",
    "einsum", "lookup", "packed", "elementwise", "normalising", "pooling", "reshaping",
)  # fmt: skip
INSTALLED: Final = Registry("xbc.operators", "operator", {})
"""Operators of installed packages, by label; imported when a model has one."""
BUILT_IN: Final = "xbc"
Key = tuple[str, str]
"""(domain, name)."""


@cache
def _table() -> dict[Key, tuple[Operator, str]]:
    table: dict[Key, tuple[Operator, str]] = {}
    for name in FILES:
        _add(table, importlib.import_module(f"xbc.operators.{name}").OPERATORS, BUILT_IN)
    return table


def _add(table: dict[Key, tuple[Operator, str]], added: Iterable[Operator], origin: str) -> None:
    fresh: dict[Key, tuple[Operator, str]] = {}
    for operator in added:
        key = operator.domain, operator.name
        if taken := table.get(key) or fresh.get(key):
            raise XbcError(
                f"operator {operator.label} is defined by {origin} and by {taken[1]}: remove one of them"
            )
        fresh[key] = operator, origin
    table.update(fresh)


def register(added: Iterable[Operator], origin: str) -> None:
    """Add the definitions of a plug-in; the whole toolchain finds them from then on.

    Args:
        added: the operators.
        origin: who defines them, for messages (the name of the package).
    Raises: XbcError that names both origins when a name is taken; nothing is added then.
    """
    _add(_table(), added, origin)


def operators() -> Mapping[Key, Operator]:
    """(domain, name) -> definition, of all operators."""
    return MappingProxyType({key: operator for key, (operator, _) in _table().items()})


def origin(operator: Operator) -> str:
    """Who defined it: ``xbc`` or what was given to ``register``."""
    return _table()[operator.domain, operator.name][1]


def find(domain: str, name: str) -> Operator | None:
    """The definition of an operator (``ai.onnx`` is the domain ""), None for an unknown one.

    Raises: XbcError for one that two packages define, or whose package cannot be used.
    """
    key = "" if domain == "ai.onnx" else domain, name
    found = _table().get(key)
    label = Operator(name, key[0]).label
    if label not in INSTALLED:
        return None if found is None else found[0]
    entry = INSTALLED.find(label)
    if found is not None:
        raise XbcError(f"operator {label} is defined by {entry.origin} and by {found[1]}: remove one of them")
    operator = entry.load("operator")
    if not isinstance(operator, Operator) or operator.label != label:
        raise entry.fault("operator", f"is no xbc.operators.Operator of that name ({entry.value})")
    return operator
