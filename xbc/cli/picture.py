"""A layer down to its cells: one section, and what the next load on the same crossbar changes."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Layer
from ir.stages import Placed, Programmed, Quantized, Sectioned
from xbc.cli import console
from xbc.cli.inspect import layer_row


def layer_facts(layer: Layer, section: int, rows: int) -> dict[str, Any]:
    """The layer's table row and, once it has sections, the cells of one.

    ``cells`` are level digits, most significant first, of every row of the first output of the section;
    ``changes`` marks the next load on the same crossbar: ``+`` SET, ``-`` RESET, ``.`` unchanged.
    """
    facts: dict[str, Any] = {"layer": layer_row(layer, None)}
    body = layer.body
    if isinstance(body, Quantized):
        codes = body.codes
        low, high = (int(codes.min()), int(codes.max())) if codes.size else (0, 0)
        facts["codes"] = {"min": low, "max": high, "zeros": int((codes == 0).sum())}
    if not isinstance(body, Sectioned):
        return facts
    if section >= body.sections:
        raise XbcError(
            f"layer {layer.name!r} has {body.sections} sections, numbered from 0; "
            f"section {section} is not among them"
        )
    following = next_on_crossbar(body, section)
    shown = min(rows, body.rows)
    now = _section(body, section, shown)
    facts["section"] = now
    facts["following"] = None
    if following is not None:
        then = _section(body, following, shown)
        for before, after in zip(now["rows"], then["rows"], strict=True):
            after["changes"] = changes(before["cells"], after["cells"])
        facts["following"] = then
    return facts


def next_on_crossbar(body: Sectioned, section: int) -> int | None:
    """The layer's next section in load order on the same crossbar, None when there is none."""
    if not isinstance(body, Placed):
        return section + 1 if section + 1 < body.sections else None
    later = np.flatnonzero((body.crossbar == body.crossbar[section]) & (body.step > body.step[section]))
    return int(later[np.argmin(body.step[later])]) if len(later) else None


def _section(body: Sectioned, section: int, rows: int) -> dict[str, Any]:
    part = slice(section, section + 1)
    wanted = body.section_codes(part)[0, :rows, 0]
    words: Array = body.stored[part] if isinstance(body, Programmed) else body.wanted_words(part)
    stored = body.stored_codes(part)[0, :rows, 0] if isinstance(body, Programmed) else wanted
    levels = body.cells.levels(words[0, :rows, 0])
    gated = None if body.row_outputs is None else body.row_outputs[section]
    return {
        "index": section,
        "output": int(body.outputs[section, 0]),
        "outputs": [int(o) for o in (body.outputs[section] if gated is None else np.unique(gated)) if o >= 0],
        "rank": int(body.rank[section]),
        "polarity": int(body.polarity[section]),
        "crossbar": int(body.crossbar[section]) if isinstance(body, Placed) else None,
        "step": int(body.step[section]) if isinstance(body, Placed) else None,
        "rows": [
            {
                "row": r,
                "input": int(body.inputs[section, r]) if body.inputs[section, r] >= 0 else None,
                **({} if gated is None else {"output": int(gated[r]) if gated[r] >= 0 else None}),
                "code": int(wanted[r]),
                "stored": int(stored[r]),
                "cells": "".join(f"{level:x}" for level in levels[r]) if body.inputs[section, r] >= 0 else "",
            }
            for r in range(rows)
        ],
    }


def changes(before: str, after: str) -> str:
    """``+`` where a cell is SET, ``-`` RESET, ``.`` unchanged; nothing when either row is don't care."""
    if not before or not after:
        return ""
    marks = ("+" if new > old else "-" if new < old else "." for old, new in zip(before, after, strict=True))
    return "".join(marks)


def draw(layer: Layer, facts: dict[str, Any], out: Console) -> None:
    """Cells now, cells after the next load, changed ones marked (and in colour on a terminal)."""
    row = facts["layer"]
    out.print(
        f"[bold]{layer.name}[/]: {row['op_type']} {row['outputs']} x {row['inputs']}"
        f"{' in ' + str(row['groups']) + ' groups' if row['groups'] > 1 else ''}, stage {row['stage']}"
        f"{', ' + console.count(row['sections']) + ' sections' if row['sections'] is not None else ''}"
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
        "[dim]cells: levels, most significant first; change: + SET, - RESET, . unchanged; "
        "code* differs from the model's[/]"
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
