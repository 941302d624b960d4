"""Reader of the textual form.

Text is untrusted: what is built follows the types of the IR classes, nesting is theirs, an inline array is no
larger than its own text and a referenced one is checked against what the text says before it is used.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ir.arrays import Array, frozen
from ir.errors import XbcError
from ir.faulty import FaultyCells
from ir.module import Module
from ir.schema import Schema, is_array, schema

FORMAT = 1
"""Version of the textual form that is written; older ones are read."""

DTYPES = frozenset(
    {
        "bool",
        *(f"{kind}int{n}" for kind in ("", "u") for n in (8, 16, 32, 64)),
        "float16",
        "float32",
        "float64",
    }
)
MAX_AXES = 8

_HEADER = re.compile(
    r"(?:[ \t\r]*(?:#[^\n]*)?\n)*"
    r"xir (?P<version>\d{1,9})(?: (?P<digest>sha256:[0-9a-f]{64}))?[ \t\r]*(?:\n|\Z)"
)
_SKIP = re.compile(r"(?:[\s,]+|#[^\n]*)*")
_STRING = re.compile(r'"(?:[^"\\\n]|\\[^\n])*"')
_WORD = re.compile(r'[^\s,"#@={}\[\]]+')
_INTEGER = re.compile(r"[+-]?\d{1,30}")
_FLOAT = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf|nan)")
_ITEM = "a field, a record or '}'"
_DIGEST = re.compile(r"sha256:[0-9a-f]{16}")
_INLINE = re.compile(r'[^"{}#]*(?:#[^\n]*[^"{}#]*)*')
_COMMENT = re.compile(r"#[^\n]*")


class TextError(XbcError):
    """Text that is no module: the message begins with the line number."""


@dataclass(frozen=True)
class Reference:
    """What the text says about an array that stands elsewhere (``digest`` as of ``ir.arrays.digest``)."""

    digest: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


Source = Callable[[Reference], Array]


def parse_module(text: str, arrays: Mapping[str, Array] | Source | None = None) -> Module:
    """The module that a text describes.

    Args:
        text: as of ``print_module``; ``#`` starts a comment, commas are white space.
        arrays: referenced arrays by digest, or a function that finds one (``ir.storage`` maps files lazily).
    Raises: XbcError with the line number, what was expected there and what was found.
    """
    if arrays is None:
        source: Source = _no_arrays
    elif callable(arrays):
        source = arrays
    else:
        source = _lookup(arrays)
    parser = _Parser(text, source)
    parser.header()
    place = parser.here()
    word = parser.word("'module'")
    if word != "module":
        parser.fail(f"expected 'module', found {word!r}", place)
    module: Module = parser.record(schema(Module))
    parser.skip()
    if parser.at < len(text):
        parser.fail(f"expected the end after the module, found {parser.found()}")
    return module


def _no_arrays(reference: Reference) -> NoReturn:
    raise XbcError(f"array {reference.digest} stands beside the text: load the file, not the text alone")


def _lookup(arrays: Mapping[str, Array]) -> Source:
    def find(reference: Reference) -> Array:
        array = arrays.get(reference.digest)
        if array is None:
            raise XbcError(f"array {reference.digest} is not among the {len(arrays)} arrays given")
        return array

    return find


class _Parser:
    def __init__(self, text: str, source: Source) -> None:
        self.text = text
        self.source = source
        self.at = 0
        self.inside: list[str] = []

    # -- places and errors ---------------------------------------------------------------------------------

    def here(self) -> int:
        """Where the next token begins."""
        self.skip()
        return self.at

    def fail(self, problem: str, place: int | None = None) -> NoReturn:
        number = self.text.count("\n", 0, self.here() if place is None else place) + 1
        where = f"line {number}"
        if self.inside:
            where += f", {' > '.join(self.inside)}"
        raise TextError(f"{where}: {problem}")

    def found(self) -> str:
        """The next token, for messages."""
        self.skip()
        if string := _STRING.match(self.text, self.at):
            return string[0][:40]
        word = _WORD.match(self.text, self.at)
        token = word[0] if word else self.text[self.at : self.at + 1]
        return repr(token[:40]) if token else "the end of the text"

    def unknown(self, what: str, name: str, known: Iterable[str], place: int) -> NoReturn:
        names = list(known)
        near = difflib.get_close_matches(name[:40], names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        self.fail(f"unknown {what} {name[:40]!r}{hint} (known: {', '.join(names)})", place)

    # -- tokens --------------------------------------------------------------------------------------------

    def skip(self) -> None:
        match = _SKIP.match(self.text, self.at)
        assert match is not None
        self.at = match.end()

    def take(self, mark: str) -> bool:
        """Whether the next character is ``mark``, which is then consumed."""
        self.skip()
        if self.text.startswith(mark, self.at):
            self.at += len(mark)
            return True
        return False

    def expect(self, mark: str) -> None:
        if not self.take(mark):
            self.fail(f"expected {mark!r}, found {self.found()}")

    def word(self, expected: str) -> str:
        self.skip()
        match = _WORD.match(self.text, self.at)
        if match is None:
            self.fail(f"expected {expected}, found {self.found()}")
        self.at = match.end()
        return match[0]

    def string(self) -> str:
        self.skip()
        match = _STRING.match(self.text, self.at)
        if match is None:
            self.fail(f"expected a string in double quotes, found {self.found()}")
        try:
            value = json.loads(match[0])
        except ValueError:
            self.fail(f"{match[0][:40]} is no JSON string: escape control characters and backslashes")
        self.at = match.end()
        return str(value)

    # -- grammar -------------------------------------------------------------------------------------------

    def header(self) -> None:
        match = _HEADER.match(self.text)
        if match is None:
            raise TextError(f"line 1: not an xbc module: the first line must be 'xir {FORMAT}'")
        place = match.start("version")
        version = int(match["version"])
        if version > FORMAT:
            known = f"{FORMAT}, the newest that this xbc reads"
            self.fail(f"format version {version} is newer than {known}: install a newer xbc", place)
        if version < 1:
            self.fail(f"format version {version} does not exist; this is version {FORMAT}", place)
        self.at = match.end()
        if match["digest"]:
            body = self.text[self.at :].encode("utf-8", "surrogatepass")
            if match["digest"] != "sha256:" + hashlib.sha256(body).hexdigest():
                self.fail(
                    "the text does not have the digest that this line states: it is damaged, or was edited "
                    "(after an edit on purpose, delete the digest)", place
                )  # fmt: skip

    def record(self, shape: Schema) -> Any:
        """A record whose keyword has been read."""
        start = self.here()
        values: dict[str, Any] = {slot.field: [] for slot in shape.slots.values() if slot.many}
        if shape.label:
            values[shape.label] = self.string()
        label = f' "{values[shape.label]}"' if shape.label else ""
        self.inside.append(shape.keyword + label)
        self.expect("{")
        while not self.take("}"):
            place = self.here()
            name = self.word(_ITEM)
            if self.take("="):
                if name not in shape.values:
                    self.unknown("field", name, shape.values, place)
                self.once(values, name, name, place)
                values[name] = self.value(shape.values[name], f"field {name!r}")
            elif name in shape.slots:
                slot = shape.slots[name]
                if not slot.many:
                    self.once(values, slot.field, name, place)
                item = self.record(schema(slot.cls))
                if slot.many:
                    values[slot.field].append(item)
                else:
                    values[slot.field] = item
            elif name in shape.values:
                self.fail(f"expected '=' after {name!r}, found {self.found()}", place)
            elif not name.isidentifier() or not shape.slots:
                self.fail(f"expected {_ITEM}, found {name[:40]!r}", place)
            else:
                self.unknown("record", name, shape.slots, place)
        missing = [name for name in shape.cls.__dataclass_fields__ if name in shape.required - values.keys()]
        if missing:
            self.fail(f"{' and '.join(map(repr, missing))} must be given", start)
        try:
            made = shape.cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
        except XbcError as error:
            self.fail(str(error), start)
        self.inside.pop()
        return made

    def once(self, values: dict[str, Any], field: str, name: str, place: int) -> None:
        if field in values:
            clash = "" if field == name else f" ({field!r} has been read already)"
            self.fail(f"{name!r} is given twice{clash}", place)

    def value(self, hint: Any, what: str) -> Any:
        if is_array(hint):
            return self.array(what)
        if hint is FaultyCells:
            return self.faulty(what)
        if typing.get_origin(hint) is tuple:
            return self.items(typing.get_args(hint), what)
        if hint is str:
            return self.string()
        place = self.here()
        kind = {int: "an integer", float: "a number", bool: "true or false"}[hint]
        word = self.word(f"{kind} ({what})")
        if hint is bool and word in ("true", "false"):
            return word == "true"
        if hint is int and _INTEGER.fullmatch(word):
            return int(word)
        if hint is float and _FLOAT.fullmatch(word):
            return float(word)
        self.fail(f"{what}: expected {kind}, found {word[:40]!r}", place)

    def faulty(self, what: str) -> FaultyCells:
        """Written as a list of lists, or as an array."""
        place = self.here()
        listed = self.text.startswith("[", self.at)
        cells = self.items((tuple[int, int, int, int], ...), what) if listed else self.array(what)
        try:
            return FaultyCells(cells)
        except XbcError as error:
            self.fail(str(error), place)

    def items(self, hints: tuple[Any, ...], what: str) -> tuple[Any, ...]:
        place = self.here()
        self.expect("[")
        values: list[Any] = []
        repeated = len(hints) == 2 and hints[1] is Ellipsis
        while not self.take("]"):
            if not repeated and len(values) == len(hints):
                self.fail(f"{what}: expected a list of {len(hints)} entries, found more", place)
            values.append(self.value(hints[0] if repeated else hints[len(values)], what))
        if not repeated and len(values) != len(hints):
            self.fail(f"{what}: expected a list of {len(hints)} entries, found {len(values)}", place)
        return tuple(values)

    def array(self, what: str) -> Array:
        place = self.here()
        name = self.word(f"an array such as int32 [2, 3] {{...}} ({what})")
        if name not in DTYPES:
            self.unknown("array type", name, sorted(DTYPES), place)
        dtype = np.dtype(name)
        self.expect("[")
        shape: list[int] = []
        while not self.take("]"):
            word = self.word("an axis length or ']'")
            if not word.isdecimal() or len(word) > 12 or len(shape) == MAX_AXES:
                limit = f"at most {MAX_AXES} axes of 12 digits"
                self.fail(f"{what}: {word[:40]!r} is no axis length ({limit})", place)
            shape.append(int(word))
        if max(math.prod(n for n in shape if n), 1) * dtype.itemsize >= 2**62:
            self.fail(f"{what}: an array of shape {shape} exceeds any memory", place)
        if self.take("@"):
            return self.reference(what, dtype, tuple(shape), place)
        self.expect("{")
        match = _INLINE.match(self.text, self.at)
        assert match is not None
        self.at = match.end()
        body = _COMMENT.sub("", match[0]) if "#" in match[0] else match[0]
        words = body.replace(",", " ").split()
        self.expect("}")
        if len(words) != math.prod(shape):
            self.fail(f"{what}: shape {shape} has {math.prod(shape)} elements, {len(words)} are given", place)
        return frozen(self.numbers(words, dtype, what, place).reshape(shape))

    def numbers(self, words: list[str], dtype: np.dtype[Any], what: str, place: int) -> Array:
        pattern = _FLOAT if dtype.kind == "f" else _INTEGER
        for word in words:
            if not pattern.fullmatch(word):
                self.fail(f"{what}: {word[:40]!r} is not of type {dtype.name}", place)
        if dtype.kind == "f":
            wide = np.array([float(word) for word in words], np.float64)
            with np.errstate(over="ignore"):
                array = wide.astype(dtype)
            for i in np.flatnonzero(np.isinf(array)):
                if "inf" not in words[i]:
                    self.fail(f"{what}: {words[i][:40]} is outside the range of {dtype.name}", place)
            return array
        low, high = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
        values = [int(word) for word in words]
        for number in values:
            if not low <= number <= high:
                self.fail(f"{what}: {number} is outside the range of {dtype.name}", place)
        return np.array(values, dtype)

    def reference(self, what: str, dtype: np.dtype[Any], shape: tuple[int, ...], place: int) -> Array:
        key = self.word("a digest sha256:<16 hex digits>")
        if not _DIGEST.fullmatch(key):
            self.fail(f"{what}: {key[:80]!r} is no digest sha256:<16 hex digits>", place)
        try:
            array = self.source(Reference(key, dtype, shape))
        except XbcError as error:
            self.fail(f"{what}: {error}", place)
        if array.dtype != dtype or array.shape != shape:
            self.fail(
                f"{what}: array {key} is {array.dtype.name} {list(array.shape)}, "
                f"the text says {dtype.name} {list(shape)}", place
            )  # fmt: skip
        return array
