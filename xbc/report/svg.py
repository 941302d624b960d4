"""Small SVG charts, written by hand: a report stays below a megabyte and needs no script to be read.

Colours are CSS classes, so that one drawing follows the page from light to dark; a drawing that is saved by
itself carries the light rules.
"""

from __future__ import annotations

import math
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

import numpy as np

from ir.arrays import Array

WIDTH: Final = 560
SERIES: Final = ("s1", "s2", "s3", "s4")
LIGHT: Final = {
    "paper": "#ffffff", "ink": "#1b1f24", "soft": "#59636e", "line": "#d5dae0", "s1": "#2a6fb0",
    "s2": "#d1662b",
    "s3": "#3f8f5b", "s4": "#8a5fb0",
}  # fmt: skip
DARK: Final = {
    "paper": "#14181d", "ink": "#e6e9ed", "soft": "#9aa5b1", "line": "#333b45", "s1": "#5aa2e6",
    "s2": "#ec8d55",
    "s3": "#66bb85", "s4": "#b48be0",
}  # fmt: skip
_RULES: Final = (
    "text{{font:14px system-ui,sans-serif;fill:{ink}}}.soft{{fill:{soft}}}.line{{stroke:{line};fill:none}}"
    ".s1{{fill:{s1}}}.s2{{fill:{s2}}}.s3{{fill:{s3}}}.s4{{fill:{s4}}}"
    ".l1{{stroke:{s1}}}.l2{{stroke:{s2}}}.l3{{stroke:{s3}}}.l4{{stroke:{s4}}}"
    ".curve{{fill:none;stroke-width:2.5}}.small{{font-size:12px}}.tiny{{font-size:11px}}"
)


def rules(colours: dict[str, str]) -> str:
    """CSS rules of the drawings' classes."""
    return _RULES.format(**colours)


@dataclass
class Drawing:
    """An SVG under construction.

    Fields:
        title: what it shows, for those who do not see it.
        height: in units of which the width has ``WIDTH``.
        parts: elements.
        table: header and rows of the values drawn, for those who want to read them.
    """

    title: str
    height: float
    parts: list[str] = field(default_factory=list)
    table: tuple[tuple[str, ...], list[tuple[str, ...]]] = ((), [])

    def text(self, x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> None:
        """A line of text; ``kind``: CSS classes."""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """A thin line of axes and grids."""
        self.parts.append(f'<path class="line" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>')

    def box(self, x: float, y: float, width: float, height: float, kind: str, title: str = "") -> None:
        """A filled rectangle with a tooltip."""
        tip = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(
            f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{max(width, 0):.2f}" '
            f'height="{max(height, 0):.2f}">{tip}</rect>'
        )

    def dot(self, x: float, y: float, kind: str, title: str) -> None:
        """A mark with a tooltip."""
        self.parts.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escape(title)}</title></circle>'
        )

    def curve(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.parts.append(f'<path class="curve {kind}" d="M{path}"/>')

    def image(self, x: float, y: float, width: float, height: float, pixels: Array) -> None:
        """An image (see ``png``) with sharp pixels."""
        uri = "data:image/png;base64," + b64encode(png(pixels)).decode()
        self.parts.append(
            f'<image x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'preserveAspectRatio="none" style="image-rendering:pixelated" href="{uri}"/>'
        )

    def legend(self, names: Sequence[str], y: float = 14, kinds: Sequence[str] = SERIES) -> None:
        """Names of the series beside their colours, from the left."""
        x = 0.0
        for name, kind in zip(names, kinds, strict=False):
            self.box(x, y - 10, 12, 12, kind)
            self.text(x + 17, y + 1, name, kind="small")
            x += 17 + 7.4 * len(name) + 14

    def svg(self, alone: bool = False) -> str:
        """The element; ``alone`` makes a file of it: its own colours and a background."""
        size = f'viewBox="0 0 {WIDTH} {self.height:.0f}"'
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{_attribute(self.title)}"'
        )
        inside = "".join(self.parts)
        if alone:
            head += f' width="{WIDTH}" height="{self.height:.0f}"'
            inside = (
                f"<style>{rules(LIGHT)}</style>"
                f'<rect width="{WIDTH}" height="{self.height:.0f}" style="fill:{LIGHT["paper"]}"/>{inside}'
            )
        return f"{head}>{inside}</svg>"


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;"})


def png(pixels: Array) -> bytes:
    """PNG of ``[rows, columns, 3 or 4]`` uint8: red, green, blue and, with four, opacity."""
    rows, columns, channels = pixels.shape
    raw = np.zeros((rows, 1 + channels * columns), np.uint8)
    raw[:, 1:] = pixels.reshape(rows, -1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", columns, rows, 8, 6 if channels == 4 else 2, 0, 0, 0)
    body = zlib.compress(raw.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


_HEAT: Final = np.array(  # perceptually even from dark to light, after the published inferno map
    [
        [0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39],
        [252, 255, 164],
    ],
    np.float64,
)  # fmt: skip


def heat(values: Array, top: float) -> Array:
    """Colours ``[..., 3]`` uint8 of values 0 to ``top``."""
    place = np.clip(values / top if top > 0 else np.zeros(values.shape), 0, 1) * (len(_HEAT) - 1)
    low = np.minimum(place.astype(np.int64), len(_HEAT) - 2)
    part = (place - low)[..., None]
    return np.asarray(np.rint(_HEAT[low] * (1 - part) + _HEAT[low + 1] * part), np.uint8)


_PREFIXES: Final = (
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1, ""),
    (1e-3, "m"),
    (1e-6, "u"),
    (1e-9, "n"),
    (1e-12, "p"),
)


def short(value: float) -> str:
    """1234567 -> 1.23M; 0.00123 -> 1.23m."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "-"
    for limit, unit in _PREFIXES:
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.2g}"


def si(value: float, unit: str) -> str:
    """0.0000068, "J" -> 6.8 uJ."""
    text = short(value)
    number = text.rstrip("TGMkmunp")
    return f"{number} {text[len(number) :]}{unit}"


def plain(value: float) -> str:
    """Numbers that stand without a prefix: 0.5 stays 0.5."""
    return f"{value:.3g}"


def ticks(top: float, count: int = 4) -> list[float]:
    """Round values from 0 to at least ``top``."""
    if top <= 0:
        return [0.0, 1.0]
    raw = top / count
    unit = 10 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.9999)
    return [i * step for i in range(math.ceil(top / step - 1e-9) + 1)]


def bars(
    title: str,
    names: Sequence[str],
    series: Sequence[tuple[str, Sequence[float]]],
    unit: str,
    grouped: bool = False,
    shown: Callable[[float], str] = short,
    kinds: Sequence[str] = SERIES,
) -> Drawing:
    """Horizontal bars, one row per name; several series are stacked, or stand below each other when ``grouped``."""
    left, right = 168.0, WIDTH - 70.0
    row = 24.0 if not grouped else 11.0 * len(series) + 10
    top = 30.0 if len(series) > 1 else 8.0
    drawing = Drawing(title, top + row * len(names) + 30)
    totals = [
        sum(v[i] for _, v in series) if not grouped else max(v[i] for _, v in series)
        for i in range(len(names))
    ]
    scale = ticks(max(totals, default=0.0))
    if len(series) > 1:
        drawing.legend([name for name, _ in series], kinds=kinds)
    for tick in scale:
        x = left + (right - left) * tick / scale[-1]
        drawing.line(x, top, x, drawing.height - 24)
        drawing.text(x, drawing.height - 8, shown(tick), "middle", "soft small")
    for i, name in enumerate(names):
        y = top + i * row
        drawing.text(left - 8, y + row / 2 + 4, clip(name), "end", "small")
        x = left
        for j, (label, values) in enumerate(series):
            width = (right - left) * values[i] / scale[-1]
            tip = f"{name}, {label}: {values[i]:,.6g} {unit}"
            if grouped:
                drawing.box(left, y + 4 + j * 11, width, 10, kinds[j], tip)
                drawing.text(left + width + 5, y + 13 + j * 11, shown(values[i]), kind="soft tiny")
            else:
                drawing.box(x, y + 4, width, row - 8, kinds[j], tip)
            x += width
        if not grouped:
            drawing.text(x + 5, y + row / 2 + 4, shown(totals[i]), kind="soft small")
    drawing.table = (
        ("", *(f"{name} ({unit})" for name, _ in series)),
        [(name, *(f"{v[i]:,.6g}" for _, v in series)) for i, name in enumerate(names)],
    )
    return drawing


def clip(name: str, limit: int = 24) -> str:
    """The end of a long name."""
    return name if len(name) <= limit else "…" + name[-limit + 1 :]


def columns(
    title: str, names: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], unit: str
) -> Drawing:
    """Vertical bars over few categories (histograms, bit columns), series side by side."""
    top = 30.0 if len(series) > 1 else 12.0
    left, right, bottom = 52.0, WIDTH - 8.0, top + 190
    drawing = Drawing(title, bottom + 48)
    if len(series) > 1:
        drawing.legend([name for name, _ in series])
    scale = ticks(max((max(v, default=0) for _, v in series), default=0))
    for tick in scale:
        y = bottom - (bottom - top) * tick / scale[-1]
        drawing.line(left, y, right, y)
        drawing.text(left - 6, y + 4, short(tick), "end", "soft small")
    step = (right - left) / max(len(names), 1)
    wide = step * 0.8 / len(series)
    every = max(1, math.ceil(max((len(n) for n in names), default=1) * 7.5 / step))
    for i, name in enumerate(names):
        x = left + i * step + step * 0.1
        for j, (label, values) in enumerate(series):
            height = (bottom - top) * values[i] / scale[-1]
            tip = f"{name}, {label}: {values[i]:,.6g} {unit}"
            drawing.box(x + j * wide, bottom - height, wide, height, SERIES[j], tip)
        if i % every == 0:
            drawing.text(x + step * 0.4, bottom + 18, name, "middle", "soft small")
    drawing.text((left + right) / 2, bottom + 42, unit, "middle", "soft small")
    drawing.table = (
        ("", *(name for name, _ in series)),
        [(name, *(f"{v[i]:,.6g}" for _, v in series)) for i, name in enumerate(names)],
    )
    return drawing


@dataclass(frozen=True)
class Line:
    """A series of a line chart: its name and its points (x, y, tooltip)."""

    name: str
    points: Sequence[tuple[float, float, str]]


def lines(
    title: str,
    series: Sequence[Line],
    x_name: str,
    y_name: str,
    log_x: bool = False,
    log_y: bool = False,
    shown: Callable[[float], str] = short,
) -> Drawing:
    """Curves with a mark at every point; ``shown`` writes the values of the y axis."""
    top = 44.0 if len(series) > 1 else 30.0
    left, right, bottom = 56.0, WIDTH - 22.0, top + 188
    drawing = Drawing(title, bottom + 48)
    if len(series) > 1:
        drawing.legend([line.name for line in series])
    xs = [p[0] for line in series for p in line.points]
    ys = [p[1] for line in series for p in line.points]
    place_x, marks_x = _axis(xs, left, right, log_x)
    place_y, marks_y = _axis(ys, bottom, top, log_y)
    for value in marks_y:
        drawing.line(left, place_y(value), right, place_y(value))
        drawing.text(left - 6, place_y(value) + 4, shown(value), "end", "soft small")
    for value in marks_x:
        drawing.line(place_x(value), bottom, place_x(value), bottom + 4)
        drawing.text(place_x(value), bottom + 18, plain(value), "middle", "soft small")
    drawing.text(left, top - 12, y_name, "start", "soft small")
    drawing.text((left + right) / 2, bottom + 42, x_name, "middle", "soft small")
    rows: list[tuple[str, ...]] = []
    for j, line in enumerate(series):
        points = [(place_x(x), place_y(y)) for x, y, _ in line.points]
        drawing.curve(points, f"l{j % 4 + 1}")
        for (x, y), (vx, vy, tip) in zip(points, line.points, strict=True):
            drawing.dot(x, y, SERIES[j % 4], tip)
            rows.append((line.name, f"{vx:,.6g}", f"{vy:,.6g}", tip))
    drawing.table = (("series", x_name, y_name, ""), rows)
    return drawing


def _axis(
    values: Sequence[float], low: float, high: float, log: bool
) -> tuple[Callable[[float], float], list[float]]:
    """(value -> place, tick values) of an axis from place ``low`` to ``high``."""
    top = max(values, default=1.0)
    if not log:
        marks = ticks(top)
        return (lambda v: low + (high - low) * v / marks[-1]), marks
    positive = [v for v in values if v > 0] or [1.0]
    a: float = math.floor(math.log10(min(positive)) + 1e-9)
    b: float = math.ceil(math.log10(max(positive)) - 1e-9)
    if b - a <= 2 and max(positive) / min(positive) < 100 and len(set(positive)) <= 8:
        marks = sorted(set(positive))
        a, b = math.log10(marks[0]), math.log10(marks[-1])
    else:
        marks = [10.0**e for e in range(int(a), int(b) + 1, max(1, (int(b) - int(a)) // 6))]
    span = (b - a) or 1.0
    return (lambda v: low + (high - low) * (math.log10(max(v, positive[0] * 1e-9)) - a) / span), marks
