"""The plots of a report that show time: crossbars, layers, and the first loads one by one."""

from __future__ import annotations

import numpy as np

from ir.arrays import Array
from xbc.report.facts import Facts
from xbc.report.svg import WIDTH, Drawing, clip, si

MOST_LANES = 24
MOST_LAYERS = 60
_WRITE, _READ, _IDLE = (217, 112, 54), (58, 126, 190), (128, 138, 148)
_FAINT = 48


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
            target[lane] = share(mine[:, a] / end * pixels, mine[:, b] / end * pixels, pixels)
    tones = [np.array([*c, a], np.float64) for c, a in ((_WRITE, 255), (_READ, 255), (_IDLE, _FAINT))]
    idle = np.clip(1 - write - read, 0, 1)
    image = sum(part[..., None] * tone for part, tone in zip((write, read, idle), tones, strict=True))
    tall = max(6.0, min(18.0, 360.0 / max(len(shown), 1)))
    drawing = Drawing(
        "Timeline of one inference", 30 + tall * len(shown) + (46 if len(shown) < len(used) else 26)
    )
    _legend(drawing, (("written", "s2"), ("read", "s1")))
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


def share(start: Array, stop: Array, pixels: int) -> Array:
    """Covered share of every pixel by intervals that do not overlap."""
    points = np.arange(pixels + 1, dtype=np.float64)
    order = np.argsort(start)
    start, stop = start[order], stop[order]
    before = np.concatenate([[0.0], np.cumsum(stop - start)])
    index = np.searchsorted(start, points, side="right")
    last = np.maximum(index - 1, 0)
    open_part = np.where(index > 0, np.maximum(stop[last] - points, 0.0), 0.0) if len(start) else 0.0
    return np.clip(np.diff(before[index] - open_part), 0, 1)


def timeline_layers(facts: Facts) -> Drawing | None:
    """When every layer is written and read: from its first write to the end of its last read."""
    times, layer = facts.timeline.times, facts.costs.layer
    found = np.unique(layer)
    if not len(found):
        return None
    shown = found[:MOST_LAYERS]
    begin, ready = np.full(len(facts.layers), np.inf), np.full(len(facts.layers), np.inf)
    end = np.zeros(len(facts.layers))
    np.minimum.at(begin, layer, times[:, 0])
    np.minimum.at(ready, layer, times[:, 2])
    np.maximum.at(end, layer, times[:, 3])
    whole = facts.timeline.latency_ns or 1.0
    row, left, wide = (20.0 if len(shown) <= 24 else 13.0), 168.0, WIDTH - 178.0
    cut = len(shown) < len(found)
    drawing = Drawing("Layers over time", 30 + row * len(shown) + (46 if cut else 26))
    _legend(drawing, (("only written so far", "s2"), ("read, and its other sections written", "s1")))
    rows: list[tuple[str, ...]] = []
    for i, a in enumerate(shown.tolist()):
        y, name = 30 + row * i, facts.layers[a]["name"]
        drawing.text(left - 8, y + row / 2 + 4, clip(name), "end", "tiny")
        for start, stop, kind, what in (
            (begin[a], ready[a], "s2", "written"),
            (ready[a], end[a], "s1", "read"),
        ):
            tip = f"{name} {what}: {start:,.0f} to {stop:,.0f} ns"
            drawing.box(left + wide * start / whole, y + 2, wide * (stop - start) / whole, row - 4, kind, tip)
        rows.append((name, f"{begin[a]:,.0f}", f"{ready[a]:,.0f}", f"{end[a]:,.0f}"))
    _time_axis(drawing, left, left + wide, 30 + row * len(shown), 0.0, whole)
    if cut:
        note = f"the first {len(shown)} of {len(found)} layers"
        drawing.text(0, drawing.height - 4, note, kind="soft small")
    drawing.table = (("layer", "first write ns", "first read ns", "last read ends ns"), rows)
    return drawing


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
    _legend(drawing, (("written", "s2"), ("read", "s1")))
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


def _legend(drawing: Drawing, entries: tuple[tuple[str, str], ...]) -> None:
    drawing.legend([name for name, _ in entries], kinds=[kind for _, kind in entries])


def _time_axis(drawing: Drawing, left: float, right: float, y: float, start: float, end: float) -> None:
    for i in range(5):
        x = left + (right - left) * i / 4
        drawing.line(x, y, x, y + 4)
        anchor = ("start", "middle", "middle", "middle", "end")[i]
        drawing.text(
            x,
            y + 18,
            "0" if start + i * (end - start) == 0 else si((start + (end - start) * i / 4) * 1e-9, "s"),
            anchor,
            "soft small",
        )
