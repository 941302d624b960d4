"""``xbc passes``: the list of passes, and the manual page of one."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import TYPE_CHECKING, Any

import click

from ir.errors import XbcError
from ir.registry import BUILT_IN
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
    from passes.pipeline import LEVELS, O3
    from passes.table import PASSES, load_pass

    if name is not None:
        facts = {**describe(load_pass(name)), "from": PASSES.find(name).origin}
        console.print_json(facts) if as_json else click.echo(manual(facts), nl=False)
        return
    every = [usable(known, entry.origin) for known, entry in PASSES.items()]
    if as_json:
        console.print_json(
            {"passes": every, "levels": {f"-O{level}": text for level, text in LEVELS.items()}}
        )
        return
    table = console.table("", "pass", "what it decides", "needs", "makes", "drops beyond", "from", text=6)
    for facts in every:
        table.add_row(
            *(
                str(facts.get(key, "-"))
                for key in ("name", "summary", "requires", "ensures", "back_to", "from")
            )
        )
    console.stdout().print(table)
    click.echo("\nLevels:")
    for level, text in LEVELS.items():
        click.echo(f"  -O{level}  {text}")
    click.echo(
        f"  -O{O3}  -O2 within a loss budget (--data and --max-drop, or --max-error): rows matched to, and cells"
    )
    click.echo("       held at, nearby codes; ends with hold-codes")
    click.echo("  -O1 to -O3 end with order-inputs where routing is gather; faulty cells add avoid-faults")
    click.echo("\nManual page of one: xbc passes NAME")


def usable(name: str, origin: str) -> dict[str, Any]:
    """The facts of a pass and where it is from; of one that cannot be used, ``error`` and the reason."""
    from passes.table import load_pass

    try:
        return {**describe(load_pass(name)), "from": origin}
    except XbcError as error:
        return {"name": name, "summary": str(error), "error": str(error), "from": origin}


def describe(cls: type[Pass]) -> dict[str, Any]:
    """The facts of a pass: what its class, fields and docstring say."""
    from passes.base import describe_type

    text, meanings = split_manual(inspect.cleandoc(cls.__doc__ or ""))
    return {
        "name": cls.name,
        "summary": text.split("\n\n")[0].replace("\n", " ").replace("``", "`"),
        "manual": text,
        "requires": cls.requires.stage(),
        "ensures": cls.ensures.stage(),
        "back_to": cls.back_to.stage() if cls.back_to else None,
        "options": [
            {
                "name": option,
                "type": describe_type(hint),
                "default": default,
                "meaning": meanings.get(option, ""),
            }
            for option, (hint, default) in cls.options().items()
        ],
    }


_OPTION = re.compile(r"^    ([a-z][a-z0-9-]*(?:, [a-z][a-z0-9-]*)*): ", re.MULTILINE)


def split_manual(docstring: str) -> tuple[str, dict[str, str]]:
    """A docstring without its ``Options:`` block, and that block as option -> meaning on one line."""
    before, found, rest = docstring.partition("\nOptions:\n")
    if not found:
        return docstring.strip(), {}
    block, _, after = rest.partition("\n\n")
    parts = _OPTION.split(block)
    meanings = {
        name: " ".join(text.split())
        for names, text in zip(parts[1::2], parts[2::2], strict=True)
        for name in names.split(", ")
    }
    return f"{before.strip()}\n\n{after.strip()}".strip(), meanings


def manual(facts: dict[str, Any]) -> str:
    """Manual page in plain text."""
    lines = [facts["name"], "=" * len(facts["name"]), "", facts["manual"].replace("``", "`"), ""]
    lines += [f"Needs stage {facts['requires']!r}, makes stage {facts['ensures']!r}; {drops(facts)}.", ""]
    if facts["from"] != BUILT_IN:
        lines += [f"From the installed package {facts['from']}.", ""]
    if facts["options"]:
        lines.append(f"Options, in braces after the name, e.g. {example(facts)}:")
        for option in facts["options"]:
            lines.append(f"  {option['name']}={shown_default(option['default'])}  ({option['type']})")
            meaning = option["meaning"].replace("``", "`")
            lines += textwrap.wrap(meaning, 96, initial_indent="      ", subsequent_indent="      ")
    else:
        lines.append("No options.")
    return "\n".join(lines) + "\n"


def drops(facts: dict[str, Any]) -> str:
    """What the pass does to a module that is further than it needs."""
    if facts["back_to"] is None:
        return "drops nothing"
    return f"what stands beyond stage {facts['back_to']!r} is dropped, with a note"


def shown_default(value: Any) -> str:
    """A default as the pipeline text writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value in ("", ()) else str(value)


def example(facts: dict[str, Any]) -> str:
    """How the first option is given."""
    first = facts["options"][0]
    return f"{facts['name']}{{{first['name']}={shown_default(first['default'])}}}"
