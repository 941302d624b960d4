"""A layer down to its cells: one section, and what the next load on the same crossbar changes."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from ir.module import Layer
from xbc.cli import console


def draw(layer: Layer, facts: dict[str, Any], out: Console) -> None:
    """Cells now, cells after the next load, changed ones marked (and in colour on a terminal)."""
    row = facts["layer"]
    out.print(
        console.bold_first(
            layer.name,
            f": {row['op_type']} {row['outputs']} x {row['inputs']}"
            f"{' in ' + str(row['groups']) + ' groups' if row['groups'] > 1 else ''}, stage {row['stage']}"
            f"{', ' + console.count(row['sections']) + ' sections' if row['sections'] is not None else ''}",
        )
    )
    if "codes" in facts:
        codes = facts["codes"]
        out.print(
            f"codes {codes['min']} .. {codes['max']}, "
            f"{console.count(codes['zeros'])} of {layer.weights:,} are 0"
        )
    if "section" not in facts:
        out.print("no sections yet: run form-sections")
        return
    now, then = facts["section"], facts["following"]
    out.print(
        f"\n{_title(now)}" + (f"\nnext load there: {_title(then)}" if then else "\n(no later load there)")
    )
    width = max(len(entry["cells"]) for entry in [*now["rows"], *(then["rows"] if then else [])])
    heads = f"{'row':>5} {'input':>6} {'code':>6}  {'cells':<{width}}"
    if then:
        heads += f"   {'change':<{max(width, 6)}}   {'cells':<{width}} {'code':>6} {'input':>6}"
    out.print(Text(heads, style="dim"))
    for index, entry in enumerate(now["rows"]):
        line = Text(
            f"{entry['row']:>5} {_number(entry['input']):>6} {_code(entry):>6}  {entry['cells']:<{width}}"
        )
        if then:
            after = then["rows"][index]
            line.append("   ")
            for mark in f"{after['changes']:<{max(width, 6)}}":
                line.append(mark, style=_STYLES.get(mark, ""))
            line.append("   ")
            for mark, digit in zip(
                f"{after['changes']:<{width}}", f"{after['cells']:<{width}}", strict=False
            ):
                line.append(digit, style=_STYLES.get(mark, ""))
            line.append(f" {_code(after):>6} {_number(after['input']):>6}")
        out.print(line)
    out.print(
        console.dim(
            "cells: levels, most significant first; change: + SET, - RESET, . unchanged; "
            "code* differs from the model's"
        )
    )


_STYLES = {"+": "bold green", "-": "bold red", ".": "dim"}


def _title(section: dict[str, Any]) -> str:
    outputs = section["outputs"]
    how = "that have rows of their own" if "output" in section["rows"][0] else "that share the rows"
    shared = f" (first of {len(outputs)} {how})" if len(outputs) > 1 else ""
    where = "" if section["crossbar"] is None else f", crossbar {section['crossbar']}, step {section['step']}"
    return f"section {section['index']}: output {section['output']}{shared}, rank {section['rank']}{where}"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _code(entry: dict[str, Any]) -> str:
    if entry["input"] is None:
        return "-"
    return f"{entry['stored']}{'' if entry['stored'] == entry['code'] else '*'}"
