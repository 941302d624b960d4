"""The door of the public API: what a caller hands in is checked once, here, and only XbcError comes out."""

from __future__ import annotations

import functools
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any, Final, Literal

import numpy as np

from ir.errors import XbcError

RANGES: Final = {
    "seed": (0, 2**32 - 1),
    "threads": (1, 1024),
    "limit": (1, None),
    "batch": (1, None),
    "trials": (1, 100_000),
    "outputs": (0, None),
    "loads": (1, None),
    "load": (-1, None),
    "number": (0, 2**32 - 1),
}
"""Smallest and largest value of whole numbers that mean the same in every function."""


def public(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` that refuses arguments of another type than its annotations say, in one sentence."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*arguments: Any, **options: Any) -> Any:
        try:
            bound = signature.bind(*arguments, **options)
        except TypeError as error:
            raise XbcError(f"{function.__name__}: {error}") from None
        hints = types_of(function)
        for name, value in bound.arguments.items():
            if name in hints:
                _check(f"{function.__name__}: {name}", name, value, hints[name])
        try:
            return function(*arguments, **options)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise XbcError(f"{function.__name__}: {where}{error.strerror or error}") from error
        except MemoryError:
            raise XbcError(f"{function.__name__}: out of memory: too large for this machine") from None

    return checked


@functools.cache
def types_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> annotated type."""
    from ir.progress import Progress  # light modules import these for the type checker only
    from xbc.backend import Program

    return typing.get_type_hints(inspect.unwrap(function), localns={"Program": Program, "Progress": Progress})


def _check(who: str, name: str, value: Any, hint: Any) -> None:
    if not fits(value, hint):
        raise XbcError(f"{who} = {repr(value)[:60]} must be {_words(hint)}")
    if isinstance(value, str | os.PathLike) and "\0" in str(value):
        raise XbcError(f"{who} holds a zero byte, which no path or name has")
    if isinstance(value, str) and not value and any(map(_is_path, (hint, *typing.get_args(hint)))):
        raise XbcError(f"{who} is empty: give a path")
    low, high = RANGES.get(name, (None, None))
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if (low is not None and value < low) or (high is not None and value > high):
            upper = "" if high is None else f" and at most {high}"
            raise XbcError(f"{who} = {value} must be at least {low}{upper}")
    elif isinstance(value, float) and not np.isfinite(value):
        raise XbcError(f"{who} = {value} must be a finite number")


def _is_path(hint: Any) -> bool:
    return typing.get_origin(hint) is os.PathLike or (isinstance(hint, type) and issubclass(hint, PurePath))


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the annotated type, as far as that can be seen without using it up."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in arguments)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if hint in (None, type(None)):
        return value is None
    if hint is bool:
        return isinstance(value, bool | np.bool_)
    if hint is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    kind = origin or hint
    if kind is Callable or kind is typing.get_origin(Callable[[], None]):
        return callable(value)
    if not isinstance(kind, type):
        return True
    if not isinstance(value, kind) or (isinstance(value, str | bytes) and kind not in (str, bytes)):
        return False
    if isinstance(value, Mapping) and len(arguments) == 2:
        return all(fits(key, arguments[0]) and fits(one, arguments[1]) for key, one in value.items())
    if isinstance(value, list | tuple) and arguments and issubclass(kind, Iterable):
        return all(fits(one, arguments[0]) for one in value)
    return True


def _words(hint: Any) -> str:
    """A type as a sentence has it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        parts = list(dict.fromkeys(_words(option) for option in arguments))
        return " or ".join(parts)
    if origin is Literal:
        return " or ".join(repr(option) for option in arguments)
    if hint in (None, type(None)):
        return "None"
    kind = origin or hint
    named = {
        bool: "true or false", int: "a whole number", float: "a number", str: "a text", bytes: "bytes",
        os.PathLike: "a path", np.ndarray: "an array",
    }  # fmt: skip
    if kind in named:
        return named[kind]
    name = getattr(kind, "__name__", str(kind)).lower()
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
