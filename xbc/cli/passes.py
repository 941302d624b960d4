"""``xbc passes``: the list of passes, and the manual page of one."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import click

from xbc.cli import console
from xbc.cli.options import json_option

if TYPE_CHECKING:
    from passes.base import Pass


@click.command("passes")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the passes and the levels -O0, -O1, ..., or show the manual page of one pass.

    \b
    Examples:
      xbc passes
      xbc passes sort-sections
      xbc passes --json
    """
    from passes.pipeline import LEVELS
    from passes.table import PASSES, load_pass

    if name is not None:
        facts = describe(load_pass(name))
        console.print_json(facts) if as_json else click.echo(manual(facts), nl=False)
        return
    every = [describe(load_pass(known)) for known in PASSES]
    if as_json:
        console.print_json(
            {"passes": every, "levels": {f"-O{level}": text for level, text in LEVELS.items()}}
        )
        return
    table = console.table("", "pass", "what it decides", "needs", "makes", text=4)
    for facts in every:
        table.add_row(facts["name"], facts["summary"], facts["requires"], facts["ensures"])
    console.stdout().print(table)
    click.echo("\nLevels:")
    for level, text in LEVELS.items():
        click.echo(f"  -O{level}  {text}")
    click.echo("\nManual page of one: xbc passes NAME")


def describe(cls: type[Pass]) -> dict[str, Any]:
    """The facts of a pass: what its class, fields and docstring say."""
    from passes.base import describe_type

    text = inspect.cleandoc(cls.__doc__ or "")
    summary = text.split("\n\n")[0].replace("\n", " ")
    return {
        "name": cls.name,
        "summary": summary,
        "manual": text,
        "requires": cls.requires.stage(),
        "ensures": cls.ensures.stage(),
        "options": [
            {"name": option, "type": describe_type(hint), "default": default}
            for option, (hint, default) in cls.options().items()
        ],
    }


def manual(facts: dict[str, Any]) -> str:
    """Manual page in plain text."""
    lines = [facts["name"], "=" * len(facts["name"]), "", facts["manual"], ""]
    lines += [f"Needs stage {facts['requires']!r}, makes stage {facts['ensures']!r}.", ""]
    if facts["options"]:
        shown = [(o["name"], o["type"], shown_default(o["default"])) for o in facts["options"]]
        widths = [max(len(row[i]) for row in shown) for i in range(2)]
        lines.append("Options, in braces after the name: " + example(facts))
        lines += [f"  {n:<{widths[0]}}  {t:<{widths[1]}}  default {d}" for n, t, d in shown]
    else:
        lines.append("No options.")
    return "\n".join(lines) + "\n"


def shown_default(value: Any) -> str:
    """A default as the pipeline text writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else str(value)


def example(facts: dict[str, Any]) -> str:
    """How the first option is given."""
    first = facts["options"][0]
    return f"{facts['name']}{{{first['name']}={shown_default(first['default'])}}}"
