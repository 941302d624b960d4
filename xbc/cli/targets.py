"""``xbc targets``: the chips that xbc knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ir.errors import XbcError
from xbc.cli import console
from xbc.cli.options import json_option, set_option

if TYPE_CHECKING:
    from ir.target import Target


@click.command("targets")
@click.argument("name", required=False)
@set_option
@json_option
def command(name: str | None, settings: dict[str, object], as_json: bool) -> None:
    """List the chips, or show one: every constant with its source.

    NAME is a shipped chip or the path of a TOML file, which is checked.

    \b
    Examples:
      xbc targets
      xbc targets isaac-128
      xbc targets my-chip.toml --set crossbars=64 --json
      xbc targets gather-128 > my-chip.toml        a start for a chip of your own
    """
    from xbc.targets import DEFAULT_TARGET, TARGETS, load_target, target_text

    if name is None:
        chips: dict[str, Target | XbcError] = {}
        for known in TARGETS:
            try:
                chips[known] = load_target(known, settings)
            except XbcError as error:
                if TARGETS[known].built_in:
                    raise
                chips[known] = error
        if as_json:
            console.print_json(
                [
                    {"name": known, "error": str(chip)} if isinstance(chip, XbcError) else chip.to_dict()
                    for known, chip in chips.items()
                ]
            )
            return
        table = console.table(
            "", "target", "", "crossbars", "cells", "bits/cell", "outputs", "encoding", "from", text=2
        )
        for known, chip in chips.items():
            origin = TARGETS[known].origin
            if isinstance(chip, XbcError):
                table.add_row(known, str(chip), *5 * ("-",), origin)
                continue
            default = " (default)" if known == DEFAULT_TARGET else ""
            table.add_row(
                known + default, chip.description, console.count(chip.crossbars),
                f"{chip.rows} x {chip.columns}", str(chip.bits_per_cell), str(chip.outputs_per_section),
                chip.encoding, origin,
            )  # fmt: skip
        console.stdout().print(table)
        return
    chip = load_target(name, settings)
    if as_json:
        console.print_json(chip.to_dict())
    elif name in TARGETS and not settings:
        click.echo(target_text(name), nl=False)
    else:
        click.echo("\n".join(_toml(chip.to_dict())))


def _toml(data: dict[str, object]) -> list[str]:
    """The description as TOML without its comments, for a chip that is not shipped as it stands."""
    import json

    flat = [f"{key} = {json.dumps(value)}" for key, value in data.items() if not isinstance(value, dict)]
    for key, value in data.items():
        if isinstance(value, dict):
            flat += ["", f"[{key}]", *_toml(value)]
    return flat
