"""Tables that notebooks show (``_repr_html_``)."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any


def html_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]], most: int = 60) -> str:
    """A plain table: numbers grouped by thousands and to the right, at most ``most`` rows, then how many more."""
    lines = [f"<table><caption>{html.escape(caption)}</caption>"]
    lines.append(
        f"<thead><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr></thead><tbody>"
    )
    rest = 0
    for number, row in enumerate(rows):
        if number < most:
            lines.append(f"<tr>{''.join(_cell(value) for value in row)}</tr>")
        else:
            rest += 1
    if rest:
        lines.append(f'<tr><td colspan="{len(head)}">and {rest:,} more</td></tr>')
    return "".join([*lines, "</tbody></table>"])


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{html.escape('' if value is None else str(value))}</td>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    return f'<td style="text-align: right">{text}</td>'
