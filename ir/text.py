"""The textual form of a module: ``print_module`` and ``parse_module``.

A person can read it, write it by hand in a test and diff it; printing what was parsed gives the same text.
The grammar stands on one screen of ``docs/ir.md``.  Large arrays are references (dtype, shape, digest) whose
content is kept elsewhere, see ``ir.storage``.
"""

from __future__ import annotations

import json
import textwrap
from typing import Any

import numpy as np

from ir.arrays import Array, digest
from ir.faulty import MOST_LISTED, FaultyCells
from ir.module import Module
from ir.parser import FORMAT, Reference, Source, TextError, parse_module
from ir.schema import is_array, schema

__all__ = ["FORMAT", "Reference", "Source", "TextError", "parse_module", "print_module", "print_with_arrays"]

WIDTH = 110
INLINE_LIMIT = 64


def print_module(module: Module, inline_limit: int = INLINE_LIMIT) -> str:
    """Text of a module; arrays up to ``inline_limit`` elements stand in it, larger ones are references."""
    return print_with_arrays(module, inline_limit)[0]


def print_with_arrays(module: Module, inline_limit: int = INLINE_LIMIT) -> tuple[str, dict[str, Array]]:
    """The text and the arrays it refers to, by digest (in order of appearance)."""
    printer = _Printer(inline_limit)
    lines = [f"xir {FORMAT}", *printer.record(module, 0)]
    return "\n".join(lines) + "\n", printer.arrays


def quote(text: str) -> str:
    """A string literal of the text form (that of JSON)."""
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates have no UTF-8 form
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False)


class _Printer:
    def __init__(self, inline_limit: int) -> None:
        self.inline_limit = inline_limit
        self.arrays: dict[str, Array] = {}

    def record(self, value: Any, depth: int) -> list[str]:
        """Lines of a record at nesting ``depth``; on one line when it holds only short values."""
        shape = schema(type(value))
        head = shape.keyword + (f" {quote(getattr(value, shape.label))}" if shape.label else "")
        pad = "  " * (depth + 1)
        lines: list[str] = []
        flat = True
        records = {slot.field for slot in shape.slots.values()}
        for name in value.__dataclass_fields__:
            item = getattr(value, name)
            if item is None or name == shape.label:
                continue
            if name in records:
                for nested in item if isinstance(item, tuple) else (item,):
                    lines += self.record(nested, depth + 1)
                    flat = False
            else:
                room = WIDTH - len(pad) - len(name) - 3
                first, *rest = self.value(item, shape.values[name], room)
                lines += [f"{pad}{name} = {first}", *(pad + line for line in rest)]
                flat = flat and not rest
        outer = "  " * depth
        one = f"{outer}{head} {{ {', '.join(line.strip() for line in lines)} }}"
        if flat and len(one) <= WIDTH:
            return [one if lines else f"{outer}{head} {{}}"]
        return [f"{outer}{head} {{", *lines, f"{outer}}}"]

    def value(self, value: Any, hint: Any, room: int) -> list[str]:
        """Lines of a value; continuation lines are indented relative to the field's name."""
        if isinstance(value, FaultyCells):
            if len(value) > MOST_LISTED:
                return self.array(value.cells, room)
            value = tuple(value)
        if is_array(hint):
            return self.array(np.asarray(value), room)
        if isinstance(value, tuple):
            items = [self.scalar(item) for item in value]
            one = f"[{', '.join(items)}]"
            if len(one) <= room:
                return [one]
            if any(isinstance(item, tuple | str) for item in value):
                return ["[", *(f"  {item}" for item in items), "]"]
            return ["[", *_wrapped(", ".join(items)), "]"]
        return [self.scalar(float(value) if hint is float else value)]

    def scalar(self, value: Any) -> str:
        if isinstance(value, tuple):
            return f"[{', '.join(self.scalar(item) for item in value)}]"
        if isinstance(value, str):
            return quote(value)
        if isinstance(value, bool | np.bool_):
            return "true" if value else "false"
        if isinstance(value, int | np.integer):
            return str(int(value))
        return repr(float(value))

    def array(self, array: Array, room: int) -> list[str]:
        head = f"{array.dtype.name} [{', '.join(map(str, array.shape))}]"
        if array.size > self.inline_limit:
            key = digest(array)
            self.arrays[key] = array
            return [f"{head} @{key}"]
        rows = _array_rows(array)
        one = f"{head} {{{', '.join(rows)}}}"
        if len(one) <= room or not rows:
            return [one]
        lines = [line for row in rows[:-1] for line in _wrapped(row + ",")] + _wrapped(rows[-1])
        return [f"{head} {{", *lines, "}"]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH - 8, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _array_rows(array: Array) -> list[str]:
    """One text per entry of the first axis (axes of length 1 at the end are not shown)."""
    shape = list(array.shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    if array.size == 0:
        return []
    # numpy's own shortest text that reads back to the same float32
    words = [str(x) for x in (array.ravel().astype(np.int8) if array.dtype == np.bool_ else array.ravel())]
    if len(shape) == 1:
        return [" ".join(words)]
    last, first = shape[-1], shape[0]
    groups = [" ".join(words[at : at + last]) for at in range(0, len(words), last)]
    per_row = len(groups) // first
    return [", ".join(groups[at : at + per_row]) for at in range(0, len(groups), per_row)]
