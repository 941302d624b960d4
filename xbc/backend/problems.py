"""What the virtual chip finds wrong with a program."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ir.display import html_table
from ir.errors import XbcError

MOST_KEPT = 200


@dataclass(frozen=True)
class Problem:
    """One broken promise.

    Fields:
        file: the file that makes it.
        message: what is wrong, with the value found and the one expected.
        load, crossbar, row, column: where, as far as it has a place.
    """

    file: str
    message: str
    load: int | None = None
    crossbar: int | None = None
    row: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """``file, load 3, crossbar 0, row 5, column 1: message``."""
        places = [(name, getattr(self, name)) for name in ("load", "crossbar", "row", "column")]
        where = "".join(f", {name} {value}" for name, value in places if value is not None)
        return f"{self.file}{where}: {self.message}"


class Broken(XbcError):  # noqa: N818 - a state of a program, found by its replay
    """The tables contradict their own structure; ``problems`` says where."""

    def __init__(self, *problems: Problem) -> None:
        """Ends the replay with these findings."""
        super().__init__(str(problems[0]))
        self.problems = problems


class Findings:
    """Collects problems: the first ``MOST_KEPT`` are kept, all are counted."""

    def __init__(self) -> None:
        """Nothing found yet."""
        self.kept: list[Problem] = []
        self.count = 0

    def add(self, problem: Problem) -> None:
        """Takes one problem."""
        self.count += 1
        if len(self.kept) < MOST_KEPT:
            self.kept.append(problem)

    def extend(self, problems: Iterable[Problem]) -> None:
        """Takes several."""
        for problem in problems:
            self.add(problem)


@dataclass(frozen=True)
class Report:
    """Outcome of ``verify_program``.

    Fields:
        problems: the first ones found, empty for a sound program.
        found: how many there are in all (cells and loads counted one by one).
        facts: what was replayed: loads, writes, SET, RESET, wear, ...
    """

    problems: tuple[Problem, ...]
    found: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Nothing was found."""
        return self.found == 0

    def __repr__(self) -> str:
        shown = "sound" if self.ok else f"{self.found:,} problem(s), the first: {self.problems[0]}"
        return f"<Report: {shown}>"

    def _repr_html_(self) -> str:
        if self.ok:
            facts = ((name, value) for name, value in self.facts.items() if isinstance(value, int))
            return html_table("sound: every promise of the program holds", ("replayed", ""), facts)
        rows = ((p.file, p.load, p.crossbar, p.row, p.column, p.message) for p in self.problems)
        head = ("file", "load", "crossbar", "row", "column", "problem")
        return html_table(f"{self.found:,} problem(s)", head, rows)
