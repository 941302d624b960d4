"""``xbc emit``: a compiled program in the format that a tool or a test bench reads."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ir.errors import XbcError
from xbc.cli import console
from xbc.cli.options import json_option, quiet_option
from xbc.export import FORMATS, INFERENCES, load_format


class WithFormats(click.Command):
    """Its help ends with the formats and where each comes from."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Asked for only when the help is shown: packages are looked for then."""
        rows = []
        for name, entry in FORMATS.items():
            try:
                summary = load_format(name).SUMMARY
            except XbcError as error:
                summary = str(error)
            rows.append((name, summary if entry.built_in else f"{summary} (from {entry.origin})"))
        with formatter.section("Formats"):
            formatter.write_dl(rows)


@click.command("emit", cls=WithFormats)
@click.argument("program", type=click.Path(path_type=Path), metavar="PROGRAM.xbc")
@click.option(
    "-f",
    "--format",
    "format_name",
    metavar="FORMAT",
    required=True,
    help="What to write, see the list below.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Directory to write.")
@click.option("--loads", type=int, metavar="N", help="Only the first N loads.")
@click.option(
    "--inference", type=click.Choice([*INFERENCES, "both"]), default="both", show_default=True,
    help="From blank cells, or any later one (memh and npy; tables hold both).",
)  # fmt: skip
@json_option
@quiet_option
def command(
    program: Path,
    format_name: str,
    output: Path,
    loads: int | None,
    inference: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Export a compiled program: tables, memory images, instruction lists or a compact stream.

    The directory appears whole or not at all; its export.json names the program, the format version and the
    SHA-256 of every file. Every format is described in the documentation (Exports).

    \b
    Examples:
      xbc emit model.xbc --format csv -o model-csv
      xbc emit model.xbc --format memh --loads 1000 -o rtl
      xbc emit model.xbc --format binary -o stream --json
    """
    from xbc.export import export_program

    started = time.perf_counter()
    wanted = INFERENCES if inference == "both" else (inference,)
    with console.progress_bars(quiet) as progress:
        description = export_program(
            program, format_name, output, loads=loads, inferences=wanted, progress=progress
        )
    facts = {
        "format": format_name,
        "format_version": description["format_version"],
        "output": str(output),
        "loads": description["loads"],
        "files": len(description["files"]),
        "bytes": sum(entry["bytes"] for entry in description["files"].values()),
        "seconds": round(time.perf_counter() - started, 3),
    }
    if as_json:
        console.print_json(facts)
        return
    console.stdout().print(
        console.bold_first(
            format_name,
            f" ({load_format(format_name).SUMMARY}): {console.count(facts['loads'])} loads in "
            f"{facts['files']} file(s), {console.quantity(facts['bytes'], 'B')}, "
            f"{console.seconds(facts['seconds'])} -> {output}",
        ),
        soft_wrap=True,
    )
