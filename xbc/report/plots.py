"""The plots of a report: name -> drawing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ir.arrays import Array
from xbc.report.facts import Facts
from xbc.report.svg import WIDTH, Drawing, Line, bars, columns, heat, lines, short

MOST_LAYERS = 60
MOST_MAPS = 16
MOST_LANES = 24
_WRITE, _READ, _IDLE = (217, 112, 54), (58, 126, 190), (128, 138, 148)
_FAINT = 48


def plots(facts: Facts) -> dict[str, Drawing]:
    """All plots of one program."""
    found = {
        "counts": counts([facts]),
        "layers": layers(facts),
        "wear-map": wear_map(facts.wear),
        "wear-columns": wear_columns([facts]),
        "wear-histogram": wear_histogram([facts]),
        "lifetime": lifetime([facts]),
        "timeline": timeline(facts),
        "timeline-start": timeline_start(facts),
        "energy": energy(facts),
        "batch-throughput": batch([facts], "throughput_per_s", "inferences per second"),
        "batch-energy": batch([facts], "energy_pj", "energy per inference, J", 1e-12),
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
        "batch-throughput": batch(facts, "throughput_per_s", "inferences per second"),
        "batch-energy": batch(facts, "energy_pj", "energy per inference, J", 1e-12),
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
    """SET and RESET of every layer; the smallest ones together when there are many."""
    rows = facts.layers
    if len(rows) > MOST_LAYERS:
        order = sorted(range(len(rows)), key=lambda i: -(rows[i]["set"] + rows[i]["reset"]))
        kept = sorted(order[: MOST_LAYERS - 1])
        rest = order[MOST_LAYERS - 1 :]
        others = {
            "name": f"{len(rest)} others",
            **{k: sum(rows[i][k] for i in rest) for k in ("set", "reset")},
        }
        rows = [rows[i] for i in kept] + [others]
    series = [(kind.upper(), [row[kind] for row in rows]) for kind in ("set", "reset")]
    return bars("Cell writes per layer and inference", [row["name"] for row in rows], series, "writes")


def layers_of(facts: Sequence[Facts]) -> Drawing | None:
    """Writes of the layers that all programs have, side by side."""
    tables = [{row["name"]: row["set"] + row["reset"] for row in one.layers} for one in facts]
    names = [name for name in tables[0] if all(name in table for table in tables)]
    if not names:
        return None
    names = sorted(names, key=lambda name: -tables[0][name])[:MOST_LAYERS]
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
        "each image: one crossbar, rows down, columns across (left: most significant bit)",
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


def wear_columns(facts: Sequence[Facts]) -> Drawing | None:
    """Mean writes of the cells of every bit column of a weight."""
    series = []
    for one in facts:
        widths = set(one.widths)
        if len(widths) != 1:
            return None
        (width,) = widths
        used = one.wear[..., : one.wear.shape[2] // width * width]
        series.append((one.name, used.reshape(-1, used.shape[2] // width, width).mean(axis=(0, 1)).tolist()))
    if len({len(values) for _, values in series}) != 1:
        return None
    names = [str(i) for i in range(len(series[0][1]))]
    return columns(
        "Writes by bit column of a weight (0: most significant)",
        names,
        series,
        "writes per cell and inference",
    )


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


def timeline(facts: Facts) -> Drawing:
    """One batch on all crossbars: what each does over time."""
    times, bars_ = facts.timeline.times, facts.costs.crossbar
    used, load = np.unique(bars_, return_counts=True)
    shown = used[np.argsort(-load, kind="stable")[:MOST_LANES]]
    shown.sort()
    end = facts.timeline.latency_ns or 1.0
    pixels = 1024
    write, read = np.zeros((len(shown), pixels)), np.zeros((len(shown), pixels))
    lane_of = {int(bar): i for i, bar in enumerate(shown)}
    for bar, lane in lane_of.items():
        mine = times[bars_ == bar]
        for target, a, b in ((write, 0, 1), (read, 2, 3)):
            target[lane] = _share(mine[:, a] / end * pixels, mine[:, b] / end * pixels, pixels)
    tones = [np.array([*c, a], np.float64) for c, a in ((_WRITE, 255), (_READ, 255), (_IDLE, _FAINT))]
    idle = np.clip(1 - write - read, 0, 1)
    image = sum(part[..., None] * tone for part, tone in zip((write, read, idle), tones, strict=True))
    tall = max(6.0, min(18.0, 360.0 / max(len(shown), 1)))
    drawing = Drawing(
        "Timeline of one inference", 30 + tall * len(shown) + (46 if len(shown) < len(used) else 26)
    )
    _time_legend(drawing)
    drawing.image(44, 30, WIDTH - 54, tall * len(shown), np.rint(np.asarray(image)).astype(np.uint8))
    every = max(1, -(-len(shown) // 12))
    for i, bar in enumerate(shown.tolist()):
        if i % every == 0:
            drawing.text(38, 30 + tall * (i + 0.5) + 4, f"#{bar}", "end", "soft small")
    _time_axis(drawing, 44, WIDTH - 10, 30 + tall * len(shown), 0.0, end)
    if len(shown) < len(used):
        drawing.text(
            0,
            drawing.height - 4,
            f"{len(shown)} of {len(used)} crossbars, those with the most loads",
            kind="soft small",
        )
    total = end * len(used)
    drawing.table = (
        ("state", "share of the used crossbars' time"),
        [
            ("write", f"{facts.timeline.write_ns / total:.2%}"),
            ("read", f"{facts.timeline.read_ns / total:.2%}"),
        ],
    )
    return drawing


def _share(start: Array, stop: Array, pixels: int) -> Array:
    """Covered share of every pixel by intervals that do not overlap."""
    points = np.arange(pixels + 1, dtype=np.float64)
    order = np.argsort(start)
    start, stop = start[order], stop[order]
    before = np.concatenate([[0.0], np.cumsum(stop - start)])
    index = np.searchsorted(start, points, side="right")
    last = np.maximum(index - 1, 0)
    open_part = np.where(index > 0, np.maximum(stop[last] - points, 0.0), 0.0) if len(start) else 0.0
    return np.clip(np.diff(before[index] - open_part), 0, 1)


def timeline_start(facts: Facts) -> Drawing | None:
    """The first loads of the crossbars, one by one."""
    times, bars_ = facts.timeline.times, facts.costs.crossbar
    lanes = np.unique(bars_)[:8]
    chosen = np.concatenate([np.flatnonzero(bars_ == bar)[: max(3, 24 // len(lanes))] for bar in lanes])
    if not len(chosen):
        return None
    end = float(np.median([times[chosen[bars_[chosen] == bar], 3].max() for bar in lanes])) or 1.0
    chosen = chosen[times[chosen, 0] < end]
    drawing = Drawing("The first loads, one by one", 30 + 26 * len(lanes) + 26)
    _time_legend(drawing)
    names = [row["name"] for row in facts.layers]
    left, wide = 44.0, WIDTH - 54.0
    for i, bar in enumerate(lanes.tolist()):
        y = 30 + 26 * i
        drawing.text(38, y + 15, f"#{bar}", "end", "soft small")
        for load in chosen[bars_[chosen] == bar].tolist():
            a, b, c, d = (float(t) for t in times[load])
            name = names[int(facts.costs.layer[load])]
            for start, stop, kind, what in ((a, b, "s2", "written"), (c, d, "s1", "read")):
                tip = f"load {load} ({name}) {what}: {start:,.0f} to {stop:,.0f} ns"
                x1, x2 = (left + wide * min(t, end) / end for t in (start, stop))
                if x2 > x1:
                    drawing.box(x1, y + 3, x2 - x1, 18, kind, tip)
    _time_axis(drawing, left, left + wide, 30 + 26.0 * len(lanes), 0.0, end)
    drawing.table = (
        ("load", "crossbar", "layer", "write ns", "read ns"),
        [
            (
                str(i), f"#{int(bars_[i])}", names[int(facts.costs.layer[i])],
                f"{times[i, 0]:,.0f} to {times[i, 1]:,.0f}", f"{times[i, 2]:,.0f} to {times[i, 3]:,.0f}",
            )
            for i in sorted(chosen.tolist())
        ],
    )  # fmt: skip
    return drawing


def _time_legend(drawing: Drawing) -> None:
    drawing.box(44, 4, 12, 12, "s2")
    drawing.text(61, 15, "written", kind="small")
    drawing.box(120, 4, 12, 12, "s1")
    drawing.text(137, 15, "read", kind="small")


def _time_axis(drawing: Drawing, left: float, right: float, y: float, start: float, end: float) -> None:
    for i in range(5):
        x = left + (right - left) * i / 4
        drawing.line(x, y, x, y + 4)
        anchor = ("start", "middle", "middle", "middle", "end")[i]
        drawing.text(x, y + 18, short((start + (end - start) * i / 4) * 1e-9) + "s", anchor, "soft small")


def energy(facts: Facts) -> Drawing:
    """Energy of writing and reading by layer."""
    rows = sorted(facts.layers, key=lambda row: -(row["write_pj"] + row["read_pj"]))[:MOST_LAYERS]
    series = [("reading", [row["read_pj"] for row in rows]), ("writing", [row["write_pj"] for row in rows])]
    names = [row["name"] for row in rows]
    return bars("Energy per layer and inference", names, series, "pJ", shown=joules)


def joules(value_pj: float) -> str:
    """3370000 -> 3.37uJ."""
    return "0" if value_pj == 0 else short(value_pj * 1e-12) + "J"


def batch(facts: Sequence[Facts], key: str, unit: str, factor: float = 1.0) -> Drawing:
    """A figure over the batch size."""
    series = []
    for one in facts:
        values = [(p["batch"], p[key] * factor) for p in one.curve]
        series.append(Line(one.name, [(float(n), v, f"batch {n}: {short(v)} {unit}") for n, v in values]))
    return lines(f"{unit[0].upper()}{unit[1:]} by batch size", series, "batch size", unit, log_x=True)


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
