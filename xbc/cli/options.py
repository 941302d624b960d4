"""Options that several commands share, with one wording."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import click

from ir.errors import XbcError

SampleAxisWord = Literal["auto", "0", "none"]
F = TypeVar("F", bound=Callable[..., Any])


def _settings(ctx: click.Context, param: click.Parameter, items: tuple[str, ...]) -> dict[str, Any]:
    from xbc.targets import parse_settings

    return parse_settings(items)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress and no notes on stderr.")
set_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", callback=_settings,
    help="Replace a key of the target, e.g. crossbars=64 or write.set_pj=2.5. May be repeated.",
)  # fmt: skip
seed_option = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Seed of every random choice.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(1, 1024), default=lambda: min(os.cpu_count() or 1, 1024),
    show_default="all cores", help="Worker threads; the result does not depend on it.",
)  # fmt: skip
limit_option = click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N samples.")
batch_option = click.option(
    "--batch", type=click.IntRange(1), metavar="N", help="Samples per run, where the model leaves it free."
)


sample_axis_option = click.option(
    "--sample-axis", type=click.Choice(get_args(SampleAxisWord)), default="auto", show_default=True,
    help="Whether the first axis of the inputs counts samples: the graph decides (auto), yes (0), no (none: one whole "
    "input).",
)  # fmt: skip


def _memory(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
    from xbc.simulate.memory import parse_size

    if text is None:
        return None
    if ctx.params.get("batch") is not None:
        raise XbcError("--memory chooses the samples per run: leave --batch out")
    try:
        return parse_size(text)
    except ValueError:
        raise XbcError(f"--memory {text!r} is no size like 800MB, 1.5GB or 2GiB") from None


memory_option = click.option(
    "--memory", metavar="SIZE", callback=_memory,
    help="Most memory this process may hold, e.g. 2GB: samples per run and pieces of layers are chosen to fit, "
    "and it ends with an error rather than go above.",
)  # fmt: skip
program_argument = click.argument("program", type=click.Path(path_type=Path), metavar="PROGRAM.xbc")


def pipeline_options(function: F) -> F:
    """The options with which ``compile`` and ``opt`` show what the passes do."""
    for option in reversed([
        click.option("--print-before", metavar="NAME|all", help="Print the IR before a pass, on stderr."),
        click.option("--print-after", metavar="NAME|all", help="Print the IR after a pass, on stderr."),
        click.option("--time-passes", is_flag=True, help="Print the seconds of every pass, on stderr."),
        click.option(
            "--verify-each/--no-verify-each", default=True, show_default=True,
            help="Check the IR after every pass."
        ),
    ]):  # fmt: skip
        function = option(function)
    return function
