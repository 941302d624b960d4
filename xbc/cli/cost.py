"""The whole cost of an inference as the compile table shows it."""

from __future__ import annotations

from typing import Any

from xbc.cli import console

NAMES = {
    "writes": "writing cells, verify reads",
    "reads": "reading arrays, converters",
    "row_maps": "fetching row maps and signs",
    "program": "fetching the program",
}


def cost_table(cost: dict[str, Any]) -> Any:
    """Natural order beside this program, totals first; times of the parts are what they take alone."""
    natural, emitted = cost["natural"], cost["emitted"]
    table = console.table("Whole cost per inference", "", "natural order", "this program", "natural / this")

    def add(name: str, unit: str, a: float, b: float) -> None:
        table.add_row(
            name, console.quantity(a, unit), console.quantity(b, unit), console.ratio(a / b if b else None)
        )

    for key, unit in (("energy_pj", "pJ"), ("time_ns", "ns")):
        add(f"{key.partition('_')[0]}, total", unit, natural[key]["total"], emitted[key]["total"])
    for key, unit in (("energy_pj", "pJ"), ("time_ns", "ns")):
        for part in ("writes", "reads", "row_maps", "program"):
            add(f"{key.partition('_')[0]}: {NAMES[part]}", unit, natural[key][part], emitted[key][part])
    add("fetched from outside the chip", "B", natural["offchip_bytes"], emitted["offchip_bytes"])
    for name, key in (
        ("row map bits per weight", "row_map_bits_per_weight"),
        ("writes of the worst cell", "wear_max"),
    ):
        a, b = natural[key], emitted[key]
        table.add_row(name, console.figure(a), console.figure(b), console.ratio(a / b if b else None))
    return table
