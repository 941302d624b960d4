"""What the commands share for talking to people: tables on stdout, progress on stderr, JSON, numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

_LITERAL: Final[dict[str, Any]] = {"highlight": False, "markup": False, "emoji": False}
"""Names come from files: ``[/x]`` and ``:cat:`` in them are no markup."""
MINIMUM_WIDTH = 120
"""Width of tables that go to a file or a pipe (a terminal has its own)."""


class Output(Console):
    """A console that leaves a reader that has gone (``xbc ... | head``) to the entry point."""

    def on_broken_pipe(self) -> None:
        """Raise what rich has swallowed."""
        raise BrokenPipeError


def stdout() -> Console:
    """Console for results."""
    console = Output(**_LITERAL)
    return console if console.is_terminal else Output(**_LITERAL, width=max(MINIMUM_WIDTH, console.width))


def dim(text: str) -> Text:
    """An aside."""
    return Text(text, "dim")


def bold_first(bold: str, rest: str) -> Text:
    """A line that begins with a name in bold."""
    return Text.assemble((bold, "bold"), rest)


def print_json(value: Any) -> None:
    """The one JSON object of a command, on stdout; NaN and infinity become null."""
    click.echo(json.dumps(plain(value), indent=2, allow_nan=False))


def plain(value: Any) -> Any:
    """Python's own types all the way down, as JSON takes them."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A ``progress(what, done, total)`` sink that draws bars on stderr while the block runs.

    Nothing is drawn with ``quiet`` or when stderr is no terminal.
    """
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda what, done, total: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        current: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in current:  # one line at a time: the work is a sequence
                for task in current.values():
                    bars.remove_task(task)
                current.clear()
                current[what] = bars.add_task(what, total=total)
            bars.update(current[what], completed=done, total=total)

        yield show


def note(message: str, quiet: bool = False) -> None:
    """A line for people, on stderr."""
    if not quiet:
        click.echo(message, err=True)


def table(title: str, *headers: str, text: int = 1) -> Table:
    """A plain table whose first ``text`` columns are words and the rest numbers."""
    out = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )
    for i, header in enumerate(headers):
        out.add_column(
            header, justify="left" if i < text else "right", overflow="fold" if i < text else "ellipsis"
        )
    return out


def count(value: float | None) -> str:
    """Whole numbers with thin groups: 1,234,567; ``-`` for none."""
    return "-" if value is None else f"{round(value):,}"


def ratio(value: float | None) -> str:
    """``19.5x``; ``-`` for none."""
    return (
        "-"
        if value is None or not math.isfinite(value)
        else f"{value:.3g}x"
        if value < 100
        else f"{value:,.0f}x"
    )


def quantity(value: float | None, unit: str) -> str:
    """A value in pJ, ns or B with the prefix that keeps it between 1 and 1000."""
    if value is None or not math.isfinite(value):
        return "-"
    ladder = {
        "pJ": ["pJ", "nJ", "uJ", "mJ", "J"],
        "ns": ["ns", "us", "ms", "s"],
        "B": ["B", "kB", "MB", "GB"],
    }[unit]
    for name in ladder[:-1]:
        if abs(value) < 1000:
            return f"{value:.3g} {name}"
        value /= 1000
    return f"{value:,.3g} {ladder[-1]}"


def figure(value: float) -> str:
    """Three digits below 100, whole numbers above: 0.0123, 88.6, 1,143."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def seconds(value: float) -> str:
    """``12.3 s`` / ``45 ms``."""
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"
