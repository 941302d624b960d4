"""The plots of a report: name -> drawing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ir.arrays import Array
from xbc.report.facts import Facts
from xbc.report.svg import WIDTH, Drawing, Line, bars, columns, heat, lines, short, si
from xbc.report.times import timeline, timeline_layers, timeline_start

MOST_LAYERS = 60
MOST_MAPS = 16


def plots(facts: Facts) -> dict[str, Drawing]:
    """All plots of one program."""
    found = {
        "counts": counts([facts]),
        "layers": layers(facts),
        "wear-map": wear_map(facts.wear),
        "wear-columns": wear_columns([facts], levelled=True),
        "wear-histogram": wear_histogram([facts]),
        "lifetime": lifetime([facts]),
        "timeline": timeline(facts),
        "timeline-layers": timeline_layers(facts),
        "timeline-start": timeline_start(facts),
        "energy": energy(facts),
        "batch-throughput": throughput([facts]),
        "batch-energy": batch_energy([facts]),
        "trade-off": tradeoff([facts]),
    }
    return {name: drawing for name, drawing in found.items() if drawing is not None}


def comparison(facts: Sequence[Facts]) -> dict[str, Drawing]:
    """Plots of several programs against each other."""
    found = {
        "counts": counts(facts),
        "layers": layers_of(facts),
        "wear-columns": wear_columns(facts),
        "wear-histogram": wear_histogram(facts),
        "lifetime": lifetime(facts),
        "batch-throughput": throughput(facts),
        "batch-energy": batch_energy(facts),
        "trade-off": tradeoff(facts),
    }
    return {name: drawing for name, drawing in found.items() if drawing is not None}


def counts(facts: Sequence[Facts]) -> Drawing | None:
    """The four counts."""
    if any(one.writes is None for one in facts):
        return None
    kinds = ("full", "natural", "scheduled", "emitted")
    series = [(one.name, [float((one.writes or {})[kind]) for kind in kinds]) for one in facts]
    return bars("Cell writes per inference", kinds, series, "writes", grouped=True)


def layers(facts: Facts) -> Drawing:
    """SET and RESET of every layer."""
    rows = _most(facts.layers, ("set", "reset"))
    series = [(kind.upper(), [row[kind] for row in rows]) for kind in ("set", "reset")]
    names = [row["name"] for row in rows]
    return bars("Cell writes per layer and inference", names, series, "writes", kinds=("s3", "s4"))


def _most(layers: list[dict[str, Any]], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Layers in the network's order; the smallest ones together when there are many."""
    if len(layers) <= MOST_LAYERS:
        return layers
    order = sorted(range(len(layers)), key=lambda i: -sum(layers[i][key] for key in keys))
    rest = order[MOST_LAYERS - 1 :]
    others = {"name": f"{len(rest)} others", **{key: sum(layers[i][key] for i in rest) for key in keys}}
    return [layers[i] for i in sorted(order[: MOST_LAYERS - 1])] + [others]


def layers_of(facts: Sequence[Facts]) -> Drawing | None:
    """Writes of the layers that all programs have, side by side."""
    tables = [{row["name"]: row["set"] + row["reset"] for row in one.layers} for one in facts]
    names = [name for name in tables[0] if all(name in table for table in tables)]
    if not names:
        return None
    most = set(sorted(names, key=lambda name: -tables[0][name])[:MOST_LAYERS])
    names = [name for name in names if name in most]
    series = [(one.name, [table[name] for name in names]) for one, table in zip(facts, tables, strict=True)]
    return bars("Cell writes per layer and inference", names, series, "writes", grouped=True)


def wear_map(wear: Array) -> Drawing:
    """Writes of every cell of the most worn crossbars, as images side by side."""
    order = np.argsort(-wear.sum(axis=(1, 2)), kind="stable")[:MOST_MAPS]
    top = float(wear.max(initial=0))
    across = min(len(order), 8 if len(order) > 4 else max(len(order), 1))
    down = -(-len(order) // across)
    gap = 8.0
    width = (WIDTH - 70 - gap * across) / across
    high, wide = wear.shape[1:]
    height = min(max(width * high / wide, 40.0), 300.0 if down == 1 else 150.0)
    width = min(width, height * 3) if wide < high else width
    drawing = Drawing(
        "Heat map: writes per cell and inference", 26 + down * (height + 24) + 22 * (len(order) < len(wear))
    )
    drawing.text(
        0,
        12,
        "each image: a crossbar, the most worn first; rows down, columns across, bit 0 left",
        kind="soft small",
    )
    for i, bar in enumerate(order.tolist()):
        x, y = (i % across) * (width + gap), 26 + (i // across) * (height + 24)
        drawing.image(x, y, width, height, heat(_thin(wear[bar]), top))
        drawing.text(x, y + height + 14, f"#{bar}", kind="soft small")
    scale = np.linspace(1, 0, 64)[:, None]
    x, tall = WIDTH - 56.0, min(180.0, drawing.height - 60)
    drawing.image(x, 26, 12, tall, heat(scale, 1.0))
    drawing.text(x + 16, 36, short(top), kind="soft small")
    drawing.text(x + 16, 26 + tall, "0", kind="soft small")
    if len(order) < len(wear):
        drawing.text(
            0, drawing.height - 6, f"the {len(order)} most worn of {len(wear)} crossbars", kind="soft small"
        )
    rows: list[tuple[str, ...]] = [
        (f"#{bar}", f"{int(wear[bar].sum()):,}", f"{int(wear[bar].max()):,}") for bar in order.tolist()
    ]
    drawing.table = (("crossbar", "writes", "worst cell"), rows)
    return drawing


def _thin(wear: Array, most: int = 512) -> Array:
    """The worst cell of each block, so that no image is larger than ``most`` pixels a side."""
    for axis in (0, 1):
        if wear.shape[axis] > most:
            step = -(-wear.shape[axis] // most)
            wear = np.maximum.reduceat(wear, np.arange(0, wear.shape[axis], step), axis=axis)
    return wear.astype(np.float64)


def wear_columns(facts: Sequence[Facts], levelled: bool = False) -> Drawing | None:
    """Mean writes of the cells of every bit column of a weight; ``levelled``: also with level-wear."""
    cells = [(one.name, one.wear, one.widths) for one in facts]
    if levelled:
        cells = [("as it is", one.wear, one.widths) for one in facts]
        cells += [("with level-wear", one.levelled, one.widths) for one in facts if one.levelled is not None]
    if any(len(set(widths)) != 1 for *_, widths in cells):
        return None
    series = [(name, _by_column(wear, widths[0])) for name, wear, widths in cells]
    if len({len(values) for _, values in series}) != 1:
        return None
    names = [str(i) for i in range(len(series[0][1]))]
    title = "Writes by bit column of a weight (0: most significant)"
    return columns(title, names, series, "writes per cell and inference")


def _by_column(wear: Array, width: int) -> list[float]:
    used = wear[..., : wear.shape[2] // width * width]
    return [float(v) for v in used.reshape(-1, used.shape[2] // width, width).mean(axis=(0, 1))]


def wear_histogram(facts: Sequence[Facts]) -> Drawing:
    """How many cells are written how often, in classes of powers of two."""
    top = max(int(one.wear.max(initial=0)) for one in facts)
    edges = [0, 1]
    while edges[-1] <= top:
        edges.append(edges[-1] * 2)
    bins = np.array([*edges[:-1], np.inf])
    names = [
        "0",
        *(str(a) if b - a == 1 else f"{short(a)}-{short(b - 1)}" for a, b in itertools.pairwise(edges[1:])),
    ]
    series = []
    for one in facts:
        found, _ = np.histogram(one.wear, bins=bins)
        series.append((one.name, found.astype(float).tolist()))
    drawing = columns(
        "Wear histogram: cells by writes per inference", names, series, "writes per inference (bars: cells)"
    )
    return drawing


def lifetime(facts: Sequence[Facts]) -> Drawing | None:
    """Inferences until the worst cell is worn out: as it is, levelled, perfect."""
    kinds = ("still", "levelled", "perfect")
    tables = [[one.lifetime.get(f"lifetime_{kind}") for kind in kinds] for one in facts]
    if any(value is None for table in tables for value in table):
        return None
    names = ("no levelling", "level-wear", "perfect")
    series = [(one.name, [float(v or 0) for v in table]) for one, table in zip(facts, tables, strict=True)]
    return bars("Lifetime in inferences", names, series, "inferences", grouped=True)


def energy(facts: Facts) -> Drawing:
    """Energy of writing and reading by layer."""
    rows = _most(facts.layers, ("read_pj", "write_pj"))
    series = [("reading", [row["read_pj"] for row in rows]), ("writing", [row["write_pj"] for row in rows])]
    names = [row["name"] for row in rows]
    return bars("Energy per layer and inference", names, series, "pJ", shown=joules)


def joules(value_pj: float) -> str:
    """3370000 -> 3.37 uJ."""
    return "0" if value_pj == 0 else si(value_pj * 1e-12, "J")


def throughput(facts: Sequence[Facts]) -> Drawing:
    """Inferences per second over the batch size."""
    return _batch(facts, "Throughput by batch size", "throughput_per_s", "inferences per second", short)


def batch_energy(facts: Sequence[Facts]) -> Drawing:
    """Energy of an inference over the batch size."""
    return _batch(facts, "Energy by batch size", "energy_pj", "energy per inference", joules)


def _batch(facts: Sequence[Facts], title: str, key: str, unit: str, shown: Callable[[float], str]) -> Drawing:
    series = []
    for one in facts:
        values = [(p["batch"], p[key]) for p in one.curve]
        series.append(Line(one.name, [(float(n), v, f"batch {n}: {shown(v)} {unit}") for n, v in values]))
    return lines(title, series, "batch size", unit, log_x=True, shown=shown)


def tradeoff(facts: Sequence[Facts]) -> Drawing | None:
    """Writes against the error of the stored codes."""
    series = []
    for one in facts:
        points = sorted(one.tradeoff, key=lambda p: (p["rms_error"], -p["writes"]))
        tips = [f"{p['label']}: {p['writes']:,} writes, rms code error {p['rms_error']:.3g}" for p in points]
        places = [(p["rms_error"], float(p["writes"]), tip) for p, tip in zip(points, tips, strict=True)]
        series.append(Line(one.name, places))
    if sum(len(line.points) for line in series) < 2:
        return None
    title = "Trade-off: writes against the error of the stored codes"
    return lines(
        title, series, "rms error of a code, steps of the last bit", "writes per inference", log_y=True
    )
