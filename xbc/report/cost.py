"""The whole cost in the report: natural order beside the program, totals first."""

from __future__ import annotations

from html import escape
from typing import Any

from xbc.report.svg import short, si

_PARTS = (
    ("total", "total"),
    ("writes", "writing cells, verify reads"),
    ("reads", "reading arrays, converters"),
    ("row_maps", "fetching row maps and signs"),
    ("program", "fetching the program"),
)


def whole_cost(manifest: dict[str, Any]) -> str:
    """The table, or nothing for a program whose manifest has no cost (one that was put together in Python)."""
    cost = (manifest.get("counts") or {}).get("cost")
    if not cost:
        return ""
    natural, emitted = cost["natural"], cost["emitted"]
    rows = []

    def add(name: str, a: float, b: float, unit: str, scale: float) -> None:
        shown = [si(value * scale, unit) if unit else short(float(value)) for value in (a, b)]
        ratio = f"{a / b:.3g}x" if b else "-"
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in (name, *shown, ratio))
        rows.append(f"<tr>{cells}</tr>")

    for key, unit, scale in (("energy_pj", "J", 1e-12), ("time_ns", "s", 1e-9)):
        for part, name in _PARTS:
            add(f"{key.partition('_')[0]}: {name}", natural[key][part], emitted[key][part], unit, scale)
    add("fetched from outside the chip", natural["offchip_bytes"], emitted["offchip_bytes"], "B", 1.0)
    add(
        "row map bits per weight",
        natural["row_map_bits_per_weight"],
        emitted["row_map_bits_per_weight"],
        "",
        1.0,
    )
    add("writes of the worst cell", natural["wear_max"], emitted["wear_max"], "", 1.0)
    ratios = [
        f"{natural[key]['total'] / emitted[key]['total']:.3g}x {name}"
        for key, name in (("energy_pj", "less energy"), ("time_ns", "less time"))
        if emitted[key]["total"]
    ]
    lead = f"<p>Natural order over this program, everything that an inference moves: <b>{', '.join(ratios)}</b>.</p>"
    head = "<tr><th></th><th>natural order</th><th>this program</th><th>natural / this</th></tr>"
    table = f'<div class="scroll"><table id="cost">{head}{"".join(rows)}</table></div>'
    return f"<h2>Whole cost per inference</h2>{lead}{table}"
