"""--print-before, --print-after and --time-passes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from ir.errors import XbcError

if TYPE_CHECKING:
    from ir.module import Module
    from passes.base import Pass
    from passes.manager import Hook, PassRecord


class Tracing:
    """Hooks for the pass manager that print the module around the passes asked for, on stderr."""

    def __init__(self, print_before: str | None, print_after: str | None) -> None:
        """Texts of the two options.  Raises XbcError for an unknown pass."""
        self._wanted = {"before": _checked(print_before), "after": _checked(print_after)}
        self.prints = bool(print_before or print_after)
        self.before: Hook | None = self._show if print_before else None
        self.after: Hook | None = self._show if print_after else None

    def _show(self, when: str, step: Pass, module: Module) -> None:
        from ir.text import print_module

        if self._wanted[when] in ("all", step.name):
            click.echo(f"// {when} {step}\n{print_module(module)}", err=True)

    @staticmethod
    def print_times(records: Iterable[PassRecord]) -> None:
        """Seconds per pass, slowest last to read."""
        records = list(records)
        total = sum(record.seconds for record in records)
        for record in records:
            share = record.seconds / total if total else 0.0
            click.echo(f"{record.seconds:9.3f} s {share:6.1%}  {record.text}", err=True)
        click.echo(f"{total:9.3f} s         all passes", err=True)


def _checked(name: str | None) -> str | None:
    from passes.table import PASSES, load_pass

    if name not in (None, "all") and name not in PASSES:
        try:
            load_pass(name)
        except XbcError as error:
            raise XbcError(f"{error}; or 'all'") from None
    return name
