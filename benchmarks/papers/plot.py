"""A line chart with error bars as a self-contained SVG that follows the reader's light or dark theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = {
    "light": ["#1f7a5c", "#b3541e", "#6b6f76", "#4a5fc1", "#a33a7a", "#8a7a1f"],
    "dark": ["#3fb68b", "#e08a52", "#9aa4af", "#8c9df0", "#e07fbb", "#d0bf5a"],
}


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Sequence[tuple[float, float, float]]],
    levels: Mapping[str, float] | None = None,
) -> str:
    """``series``: name -> (x, y, half width of the interval) points; ``levels``: name -> horizontal line."""
    points = [p for values in series.values() for p in values]
    xs, ys = [p[0] for p in points], [p[1] for p in points] + list((levels or {}).values())
    x0, x1 = min(xs), max(xs)
    pad = 0.08 * (max(ys) - min(ys) or 1)
    y0, y1 = min(ys) - pad, max(ys) + pad
    left, top, width, height = 62, 48, 470, 280

    def px(x: float) -> float:
        return left + width * (x - x0) / (x1 - x0)

    def py(y: float) -> float:
        return top + height * (1 - (y - y0) / (y1 - y0))

    rules = "".join(f".s{i} {{ stroke: {c}; fill: {c} }} " for i, c in enumerate(COLOURS["light"]))
    dark = "".join(f".s{i} {{ stroke: {c}; fill: {c} }} " for i, c in enumerate(COLOURS["dark"]))
    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 390" role="img">',
        f"<title>{escape(title)}</title>",
        "<style>text { font: 12px system-ui, sans-serif; fill: #24292f; stroke: none } .h { font-weight: 600 }"
        ".g { stroke: #d5d9de } .l { fill: none; stroke-width: 2 } .r { stroke-dasharray: 4 4; fill: none }"
        f"{rules} @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} .g {{ stroke: #3a424c }} {dark} }}"
        "</style>",
        f'<text class="h" x="12" y="24">{escape(title)}</text>',
    ]
    for i in range(6):
        x, y = x0 + (x1 - x0) * i / 5, y0 + (y1 - y0) * i / 5
        out.append(f'<line class="g" x1="{left}" x2="{left + width}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>')
        out.append(f'<text x="{left - 8}" y="{py(y) + 4:.1f}" text-anchor="end">{y:.4g}</text>')
        out.append(f'<text x="{px(x):.1f}" y="{top + height + 18}" text-anchor="middle">{x:.3g}</text>')
    out.append(
        f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">{escape(x_label)}</text>'
    )
    out.append(f'<text x="{left}" y="{top - 8}">{escape(y_label)}</text>')
    for i, (name, values) in enumerate(series.items()):
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y, _ in values)
        out.append(f'<polyline class="l s{i}" style="fill:none" points="{path}"/>')
        for x, y, half in values:
            low, high = py(max(y0, y - half)), py(min(y1, y + half))
            out.append(
                f'<line class="s{i}" x1="{px(x):.1f}" x2="{px(x):.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
            )
            out.append(f'<circle class="s{i}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="3"/>')
        out.append(f'<rect class="s{i}" x="{left + width + 18}" y="{top + 22 * i}" width="14" height="4"/>')
        out.append(f'<text x="{left + width + 40}" y="{top + 6 + 22 * i}">{escape(name)}</text>')
    for name, level in (levels or {}).items():
        out.append(
            f'<line class="g r" x1="{left}" x2="{left + width}" y1="{py(level):.1f}" y2="{py(level):.1f}"/>'
        )
        out.append(f'<text x="{left + 4}" y="{py(level) - 4:.1f}">{escape(name)}</text>')
    return "\n".join([*out, "</svg>", ""])
