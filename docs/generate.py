"""Writes the pages of docs/generated/ from the code: passes, commands, targets.

What those pages say stands in docstrings, fields and TOML comments; the pages are not kept in the repository.

    python docs/generate.py
"""

from __future__ import annotations

from pathlib import Path

import click

from ir.stages import STAGES
from passes.pipeline import LEVELS, O3
from passes.table import PASSES, load_pass
from xbc.cli.main import COMMANDS, cli
from xbc.cli.passes import describe, drops, example, shown_default
from xbc.targets import DEFAULT_TARGET, list_targets, load_target, target_text

GENERATED = Path(__file__).parent / "generated"


def passes_page() -> str:
    """One section per pass, in the order of the table."""
    lines = [
        "# Passes",
        "",
        "A pipeline is text: pass names with options in braces, separated by commas. Every pass "
        "takes a module at the stage it needs (or a later one) to the stage it makes:",
        "",
        f"`{' -> '.join(stage.stage() for stage in STAGES)}`",
        "",
        "`xbc passes` lists them, `xbc passes NAME` prints what stands here, `xbc opt` runs any of them "
        "on the [textual IR](../ir.md).",
        "",
        "## Levels",
        "",
        "| level | pipeline |",
        "|---|---|",
        *(f"| `-O{level}` | `{text}` |" for level, text in LEVELS.items()),
        f"| `-O{O3}` | that of `-O2` with `match-rows` and `hold-codes` at the penalty that the loss budget allows |",
        "",
        "`-O1` to `-O3` end with `order-inputs` where routing is gather; a chip with faulty cells adds `avoid-faults`.",
        "",
    ]
    for name in PASSES:
        facts = describe(load_pass(name))
        lines += [
            f"## {name}",
            "",
            f"Needs `{facts['requires']}`, makes `{facts['ensures']}`; {drops(facts)}.",
            "",
        ]
        lines += [facts["manual"].replace("``", "`"), ""]
        if facts["options"]:
            lines += ["| option | type | default | meaning |", "|---|---|---|---|"]
            for option in facts["options"]:
                kind, meaning = (option[key].replace("|", "\\|") for key in ("type", "meaning"))
                default = shown_default(option["default"])
                lines.append(f"| `{option['name']}` | {kind} | `{default}` | {meaning.replace('``', '`')} |")
            lines += ["", f"Example: `{example(facts)}`", ""]
    return "\n".join(lines)


def commands_page() -> str:
    """The help text of every command."""
    lines = ["# Commands", "", "What `xbc --help` and `xbc COMMAND --help` print.", ""]
    context = click.Context(cli, info_name="xbc", **_wide())
    lines += ["```text", cli.get_help(context), "```", ""]
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context, **_wide())
        lines += [f"## xbc {name}", "", "```text", command.get_help(inner), "```", ""]
    return "\n".join(lines)


def _wide() -> dict[str, int]:
    return {"terminal_width": 100, "max_content_width": 100}


def targets_page() -> str:
    """The shipped chips with their sources."""
    lines = [
        "# Shipped chips",
        "",
        f"The default is `{DEFAULT_TARGET}`. Each constant states where it is from.",
        "",
    ]
    for name in list_targets():
        lines += [
            f"## {name}",
            "",
            load_target(name).description + ".",
            "",
            "```toml",
            target_text(name),
            "```",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    """Write all pages."""
    GENERATED.mkdir(exist_ok=True)
    for name, text in {
        "passes": passes_page(),
        "commands": commands_page(),
        "targets": targets_page(),
    }.items():
        (GENERATED / f"{name}.md").write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
