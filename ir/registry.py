"""Names of things that can be added: a built-in table, and the entry points of installed packages beside it."""

from __future__ import annotations

import difflib
import functools
import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from ir.errors import XbcError

BUILT_IN = "xbc"


@dataclass(frozen=True)
class Entry:
    """A name and where it is from.

    Fields:
        name: as users write it.
        value: ``module`` or ``module:attribute``, imported when it is asked for.
        origin: ``xbc``, or name and version of the installed package.
    """

    name: str
    value: str
    origin: str

    @property
    def built_in(self) -> bool:
        """Whether it is xbc's own."""
        return self.origin == BUILT_IN

    def load(self, what: str) -> object:
        """What the value names.  Raises XbcError, with the package that brought it, when it cannot be imported."""
        module, _, attribute = self.value.partition(":")
        try:
            found: object = importlib.import_module(module)
            for part in filter(None, attribute.split(".")):
                found = getattr(found, part)
        except Exception as error:
            if self.built_in:
                raise
            raise self.fault(what, f"cannot be imported ({type(error).__name__}: {error})") from error
        return found

    def fault(self, what: str, problem: str) -> XbcError:
        """The sentence on a plug-in that cannot be used."""
        text = " ".join(f"{what} {self.name!r} of the installed package {self.origin} {problem}".split())
        return XbcError(f"{text[:240]}: mend or uninstall that package")


@functools.cache
def _installed(path: tuple[str, ...]) -> dict[str, list[Entry]]:
    """Entry points of all groups ``xbc.*`` on ``path`` (which ``sys.path`` is; part of the key only)."""
    found: dict[str, list[Entry]] = {}
    seen: set[str] = set()
    for package in metadata.distributions():
        points = [point for point in package.entry_points if point.group.startswith("xbc.")]
        if not points or package.name in seen:  # seen: an older copy further down the path
            continue
        seen.add(package.name)
        for point in points:
            entry = Entry(point.name, point.value, f"{package.name} {package.version}")
            found.setdefault(point.group, []).append(entry)
    return {group: sorted(entries, key=lambda e: (e.name, e.origin)) for group, entries in found.items()}


class Registry(Mapping[str, Entry]):
    """Built-in names first, in the order of their table, then those of installed packages.

    Args:
        group: of entry points that adds to it (``xbc.passes``).
        what: one of them, in words.
        table: built-in name -> value.
        cure: end of the sentence on an unknown name.
    """

    def __init__(self, group: str, what: str, table: Mapping[str, str], cure: str = "") -> None:
        """See the class."""
        self.group, self.what, self._cure = group, what, cure
        self.built_in = {name: Entry(name, value, BUILT_IN) for name, value in table.items()}

    def entries(self) -> list[Entry]:
        """All of them; a name that two packages give is in it twice."""
        return [*self.built_in.values(), *_installed(tuple(sys.path)).get(self.group, ())]

    def __getitem__(self, name: str) -> Entry:
        return self._by_name()[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name())

    def __len__(self) -> int:
        return len(self._by_name())

    def _by_name(self) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for entry in self.entries():
            found.setdefault(entry.name, []).append(entry)
        return found

    def nearest(self, name: str) -> str:
        """``; did you mean ...?``, empty when no name is near."""
        near = difflib.get_close_matches(name, self, 1)
        return f"; did you mean {near[0]!r}?" if near else ""

    def find(self, name: str) -> Entry:
        """The entry of a name.

        Raises: XbcError for an unknown name, with the nearest known one, and for a name that comes from two places.
        """
        found = self._by_name()
        if name not in found:
            raise XbcError(
                f"unknown {self.what} {name!r}{self.nearest(name) or ';'} known: {', '.join(found)}{self._cure}"
            )
        first, *others = found[name]
        if others:
            raise XbcError(
                f"two packages bring a {self.what} {name!r}: {first.origin} ({first.value}) and "
                f"{others[0].origin} ({others[0].value}); rename one or uninstall its package"
            )
        return first
