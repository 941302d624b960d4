"""The picture of a sweep (needs the ``plot`` extra: matplotlib)."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ir.errors import XbcError
from xbc.simulate.sweep import Point, to_csv

FORMATS = (".png", ".svg", ".html")


def draw(points: Sequence[Point], path: Path, title: str) -> bytes:
    """The sweep as a PNG, SVG or HTML file (picture and table), by the ending of ``path``.

    One swept key makes one line; a second key one line per value of the first.  Error bars are 95 %
    intervals: over trials, or of the drop over the samples.  The reference is a dashed line.
    Raises: XbcError for another ending or when matplotlib is not installed.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise XbcError(
            f"{path}: a sweep is drawn as {', '.join(FORMATS)} (or written as .csv), not {ending!r}"
        )
    try:
        import matplotlib as mpl
    except ImportError:
        raise XbcError(
            "drawing needs matplotlib: in the checkout, pip install -e '.[plot]'; or write a .csv file"
        ) from None
    out = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if ending != ".png" else {}
    # letters stay text, and the same sweep gives the same bytes
    with mpl.rc_context({"svg.hashsalt": "xbc", "svg.fonttype": "none"}):
        figure = _figure(points, title)
        figure.savefig(out, format="png" if ending == ".png" else "svg", metadata=metadata, dpi=150)
    if ending != ".html":
        return out.getvalue()
    picture = out.getvalue().decode()
    return _page(points, picture[picture.index("<svg") :], title).encode()


def _figure(points: Sequence[Point], title: str) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    keys = list(points[0].settings)
    across = keys[-1]
    lines = list(dict.fromkeys(tuple(p.settings[k] for k in keys[:-1]) for p in points))
    for line in lines:
        mine = [p for p in points if tuple(p.settings[k] for k in keys[:-1]) == line]
        x = [p.settings[across] for p in mine]
        y = [100 * p.score for p in mine]
        label = ", ".join(f"{k} = {v}" for k, v in zip(keys[:-1], line, strict=True)) or "simulated"
        spans = [_span(p) for p in mine]
        bars = [[100 * below for below, _ in spans], [100 * above for _, above in spans]]
        axes.errorbar(x, y, yerr=bars, marker="o", capsize=3, label=label)
    reference = points[0].reference
    if reference is not None:
        axes.axhline(100 * reference, linestyle="--", color="grey", label="reference model")
    axes.set_xlabel(across)
    axes.set_ylabel(f"{points[0].metric} in % (n = {points[0].samples:,})")
    if all(isinstance(p.settings[across], int) for p in points):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _span(point: Point) -> tuple[float, float]:
    """How far the 95 % interval reaches below and above the score; nothing when it is not known."""
    low = high = point.score
    if point.interval is not None and math.isfinite(point.interval[0]):
        low, high = point.interval
    elif point.drop_interval is not None and point.reference is not None:
        low, high = (point.reference - bound for bound in reversed(point.drop_interval))
    return max(0.0, point.score - low), max(0.0, high - point.score)


def _page(points: Sequence[Point], picture: str, title: str) -> str:
    head, *rows = [line.split(",") for line in to_csv(points).splitlines()]
    cells = "".join(f"<th>{html.escape(c)}</th>" for c in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>\n" for row in rows)
    name = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>\n'
        "<style>body{font-family:sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right}</style>"
        "</head>\n"
        f"<body><h1>{name}</h1>\n{picture}\n<table><tr>{cells}</tr>\n{body}</table></body></html>\n"
    )
