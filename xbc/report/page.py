"""The report's HTML: one file, no network, no library; readable without script."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any, Final

from xbc.report.cost import whole_cost
from xbc.report.facts import Facts, rms_error
from xbc.report.plots import comparison, plots
from xbc.report.svg import DARK, LIGHT, Drawing, rules, short, si

_CSS: Final = """
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{margin:0;font:16px/1.5 system-ui,sans-serif;background:var(--page);color:var(--ink)}
main{max-width:1240px;margin:0 auto;padding:16px}h1{font-size:1.5rem;margin:.2em 0}
h2{font-size:1.15rem;margin:1.6em 0 .5em}
p{margin:.4em 0}.soft,figcaption,summary{color:var(--soft)}
header{display:flex;gap:12px;align-items:flex-start;justify-content:space-between}
button{font:inherit;color:var(--ink);background:var(--paper);border:1px solid var(--line);border-radius:6px;
padding:4px 10px}
.groups{display:flex;flex-wrap:wrap;column-gap:24px}
.groups section{flex:var(--n) 1 calc(var(--n)*160px - 10px);min-width:0}.groups h2{margin:1em 0 .4em}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px}
.card{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:10px 12px;min-width:0}
.card b{display:block;font-size:1.12rem;font-weight:600;overflow-wrap:anywhere}
.card span{font-size:.83rem;color:var(--soft)}
.plots{columns:480px;column-gap:14px}
figure{margin:0 0 14px;break-inside:avoid;background:var(--paper);border:1px solid var(--line);
border-radius:8px;padding:12px;min-width:0}
figure h3{margin:0 0 8px;font-size:1rem}svg{display:block;width:100%;height:auto}
summary{cursor:pointer;font-size:.85rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.86rem;width:100%}
th,td{text-align:right;padding:3px 8px;border-bottom:1px solid var(--line);vertical-align:top}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:600}
th.text,td.text{text-align:left;min-width:14em}td:first-child{overflow-wrap:anywhere}
.loss{margin-top:1em}#layers td{white-space:nowrap}#parameters td:nth-child(2){overflow-wrap:anywhere}
pre{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:10px;
white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem}
button{flex:none}.drawing{overflow-x:auto}
@media (max-width:520px){.drawing svg{min-width:470px}.cards{grid-template-columns:1fr 1fr}
#parameters tr{display:grid;grid-template-columns:auto 1fr;border-bottom:1px solid var(--line)}
#parameters th{display:none}
#parameters td:first-child{white-space:nowrap}#parameters td{border:0}
#parameters td.text{grid-column:1/3;padding-top:0;color:var(--soft)}
#parameters td.text:empty{display:none}
main{padding:10px}figure{padding:8px}h1{font-size:1.25rem}}
@media print{button{display:none}details{display:none}}
"""


def _variables(colours: dict[str, str], page: str) -> str:
    names = ";".join(f"--{key}:{colours[key]}" for key in ("paper", "ink", "soft", "line"))
    return f"--page:{page};{names}"


def _style() -> str:
    light, dark = _variables(LIGHT, "#f4f6f8"), _variables(DARK, "#0d1014")

    def scoped(scope: str, colours: dict[str, str]) -> str:
        parts = [part for part in rules(colours).split("}") if part]
        return "".join(f"{scope} svg {part}}}" for part in parts)

    return (
        f":root{{color-scheme:light dark;{light}}}{scoped(':root', LIGHT)}"
        f"@media (prefers-color-scheme:dark){{:root:not(.light){{{dark}}}{scoped(':root:not(.light)', DARK)}}}"
        f":root.dark{{{dark}}}{scoped(':root.dark', DARK)}{_CSS}"
    )


GROUPS: Final = {
    "Loss": ("rms code error", "top-1", "equal decisions"),
    "Wear": ("worst cell", "lifetime", "levelled lifetime", "share of perfect"),
    "Time and energy": (
        "energy", "latency", "throughput", "batch of 64", "busy", "critical path", "row maps",
    ),
}  # fmt: skip
"""Headings of the key figures; what is in none of them counts writes."""

_SCRIPT: Final = """
document.getElementById('theme').onclick=function(){var r=document.documentElement,
d=r.classList.contains('dark')||(!r.classList.contains('light')&&matchMedia('(prefers-color-scheme:dark)').matches);
r.classList.toggle('dark',!d);r.classList.toggle('light',d)};
"""


def _page(title: str, lead: str, body: str, data: dict[str, Any]) -> str:
    facts = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_style()}</style></head><body><main><header><div><h1>{escape(title)}</h1>"
        f'<p class="soft">{lead}</p></div><button id="theme" type="button">light / dark</button></header>\n'
        f"{body}\n</main><script>{_SCRIPT}</script>"
        f'<script type="application/json" id="facts">{facts}</script></body></html>\n'
    )


def report_page(facts: Facts) -> str:
    """The report of one program."""
    manifest = facts.manifest
    target = manifest["target"]
    lead = (
        f"{escape(str(manifest['model']['name']))} on {escape(target['name'])}: {target['crossbars']} "
        f"crossbar(s) of "
        f"{target['rows']} x {target['columns']} cells, {target['bits_per_cell']} bit(s) per cell"
    )
    body = [
        whole_cost(manifest),
        _cards(facts),
        _loss(facts),
        "<h2>Plots</h2>",
        f'<div class="plots">{"".join(figure(n, d) for n, d in plots(facts).items())}</div>',
        "<h2>Layers</h2>",
        _layers(facts),
        "<h2>Nodes left to the host</h2>",
        _unmapped(manifest.get("unmapped", [])),
        "<h2>Parameters and where they come from</h2>",
        _parameters(facts),
        "<h2>How it was made</h2>",
        _provenance(manifest),
    ]
    return _page(f"xbc report: {facts.name}", lead, "\n".join(body), summary(facts))


def comparison_page(facts: Sequence[Facts]) -> str:
    """Several programs beside each other; the first one is what the others are compared with."""
    names = [one.name for one in facts]
    tables = [{key: (text, value) for key, text, _, value in _figures(one)} for one in facts]
    rows = []
    for key in tables[0]:
        cells = [f"<td>{escape(table.get(key, ('-', None))[0])}</td>" for table in tables]
        base = tables[0][key][1]
        for table in tables[1:]:
            value = table.get(key, ("-", None))[1]
            cells.append(f"<td>{value / base:.3g}x</td>" if base and value is not None else "<td>-</td>")
        rows.append(f"<tr><td>{escape(key)}</td>{''.join(cells)}</tr>")
    heads = [*names, *(f"{name} / {names[0]}" for name in names[1:])]
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = [
        f'<div class="scroll"><table id="comparison"><tr><th></th>{head}</tr>{"".join(rows)}</table></div>',
        "<h2>Plots</h2>",
        f'<div class="plots">{"".join(figure(n, d) for n, d in comparison(facts).items())}</div>',
    ]
    for one in facts:
        body += [f"<h2>How {escape(one.name)} was made</h2>", _provenance(one.manifest)]
    lead = " against ".join(escape(name) for name in names)
    return _page(
        "xbc report: comparison", lead, "\n".join(body), {"programs": [summary(one) for one in facts]}
    )


def _cards(facts: Facts) -> str:
    """The key figures, group by group."""
    groups: dict[str, list[str]] = {}
    for key, text, note, _ in _figures(facts):
        group = next((name for name, keys in GROUPS.items() if key in keys), "Writes per inference")
        groups.setdefault(group, []).append(_card(key, text, note))
    body = "".join(
        f'<section style="--n:{len(cards)}"><h2>{name}</h2><div class="cards">{"".join(cards)}</div></section>'
        for name, cards in groups.items()
    )
    return f'<div class="groups">{body}</div>'


def _figures(facts: Facts) -> list[tuple[str, str, str, float | None]]:
    """(name, text, note, value for comparisons)."""
    counts = facts.manifest.get("counts") or {}
    totals, writes = facts.manifest["totals"], facts.writes
    out: list[tuple[str, str, str, float | None]] = []

    def add(key: str, value: float | None, note: str = "", text: str | None = None) -> None:
        out.append((key, "-" if value is None else text or short(float(value)), note, value))

    if writes:
        for kind, note in (
            ("full", "every cell of every load"),
            ("natural", "natural order, changed cells: the baseline"),
            ("scheduled", "this order, exact codes"),
            ("emitted", "as the program writes"),
        ):
            add(f"{kind} writes", writes[kind], note, f"{writes[kind]:,}")
        above = counts.get("times_above_bound")
        if above is not None:
            add("above the bound", above, "writes over the information bound", f"{above:.3g}x")
        add("reduction", counts.get("reduction"), "natural / emitted", f"{counts.get('reduction') or 0:.3g}x")
    else:
        add("emitted writes", totals["steady"]["writes"], "per inference", f"{totals['steady']['writes']:,}")
    add("SET", totals["steady"]["set"], "cells raised per inference", f"{totals['steady']['set']:,}")
    add("RESET", totals["steady"]["reset"], "cells lowered per inference", f"{totals['steady']['reset']:,}")
    error = rms_error(facts.layers)
    add("rms code error", error, "steps of the last bit", f"{error:.3g}")
    faults = ((facts.manifest.get("provenance") or {}).get("facts") or {}).get("avoid-faults")
    if isinstance(faults, dict) and {"cells", "rows_exchanged", "weights_held"} <= faults.keys():
        note = f"cells; {faults['rows_exchanged']:,} rows exchanged, {faults['weights_held']:,} weights held"
        add("faulty", faults["cells"], note, f"{faults['cells']:,}")
    found = facts.evaluation
    if found and found.get("metric") == "top-1":
        add(
            "top-1",
            found["compiled"],
            f"before {found['reference']:.2%}, n = {found['samples']:,}",
            f"{found['compiled']:.2%}",
        )
    elif found and found.get("agreement") is not None:
        add("equal decisions", found["agreement"], f"n = {found['samples']:,}", f"{found['agreement']:.2%}")
    add("worst cell", float(facts.wear.max(initial=0)), f"writes per inference; mean {facts.wear.mean():.3g}")
    life = facts.lifetime
    if life:
        add(
            "lifetime",
            life["lifetime_still"],
            f"inferences, endurance {facts.manifest['target']['endurance']:.0e}",
        )
        share = life["share_of_perfect"]
        add("levelled lifetime", life["lifetime_levelled"], "inferences, with level-wear")
        text = None if share is None else f"{share:.1%}"
        add("share of perfect", share, "levelled / perfectly spread writes", text)
    one = facts.timeline
    add("energy", one.energy_pj, "per inference, batch 1", si(one.energy_pj * 1e-12, "J"))
    add("latency", one.latency_ns, "one inference, idle chip", si(one.latency_ns * 1e-9, "s"))
    add(
        "throughput",
        one.throughput_per_s,
        "inferences per second, batch 1",
        si(one.throughput_per_s, "/s"),
    )
    if facts.curve:
        last = facts.curve[-1]
        rate = last["throughput_per_s"]
        add(f"batch of {last['batch']}", rate, "inferences per second", si(rate, "/s"))
    use = one.utilisation()
    note = f"of all crossbar time: {use['write']:.1%} writing, {use['read']:.1%} reading"
    add("busy", use["write"] + use["read"], note, f"{use['write'] + use['read']:.1%}")
    path = one.critical_write_ns / one.latency_ns if one.latency_ns else 0.0
    fetch = one.critical_fetch_ns / one.latency_ns if one.latency_ns else 0.0
    add("critical path", path, f"is writing, {fetch:.0%} fetching; the rest is reading", f"{path:.0%}")
    if counts.get("row_map_bytes") is not None:
        add("row maps", counts["row_map_bytes"], "held by the hardware", si(counts["row_map_bytes"], "B"))
    return out


def summary(facts: Facts) -> dict[str, Any]:
    """The same figures for a machine; also inside the page."""
    return {
        "program": facts.name,
        "model": facts.manifest["model"],
        "target": facts.manifest["target"]["name"],
        "writes": facts.writes,
        "totals": facts.manifest["totals"],
        "cost": (facts.manifest.get("counts") or {}).get("cost"),
        "rms_code_error": rms_error(facts.layers),
        "evaluation": facts.evaluation,
        "lifetime": facts.lifetime,
        "timeline": facts.timeline.facts(),
        "batch_curve": facts.curve,
        "trade_off": facts.tradeoff,
    }


def _card(name: str, value: str, note: str) -> str:
    key = name.replace(" ", "-").lower()
    inside = f"<span>{escape(name)}</span><b>{escape(value)}</b><span>{escape(note)}</span>"
    return f'<div class="card" id="figure-{key}">{inside}</div>'


def figure(name: str, drawing: Drawing) -> str:
    """A plot with its title and its values in a table."""
    head, rows = drawing.table
    table = ""
    if rows:
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        inside = f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'
        table = f"<details><summary>values</summary>{inside}</details>"
    picture = f'<div class="drawing">{drawing.svg()}</div>'
    return f'<figure id="plot-{name}"><h3>{escape(drawing.title)}</h3>{picture}{table}</figure>'


def _loss(facts: Facts) -> str:
    found = facts.evaluation
    if not found:
        return (
            '<p class="soft loss">Accuracy is not in this report: run <code>xbc evaluate ... --json</code> and '
            "give its output with --evaluation.</p>"
        )
    if found.get("metric") == "top-1":
        low, high = found["interval"]
        return (
            f'<p class="loss">top-1 {found["reference"]:.2%} before, {found["compiled"]:.2%} after: drop '
            f"{found['drop'] * 100:+.2f} points, 95 % interval {low * 100:+.2f} to {high * 100:+.2f}, "
            f"n = {found['samples']:,}.</p>"
        )
    share = found.get("agreement") or 0
    return f'<p class="loss">equal decisions: {share:.2%}, n = {found["samples"]:,}.</p>'


def _layers(facts: Facts) -> str:
    total = sum(row["set"] + row["reset"] for row in facts.layers) or 1.0
    heads = (
        "layer",
        "operator",
        "outputs x inputs",
        "sections",
        "writes",
        "share",
        "rms code error",
        "products",
        "energy",
    )
    rows = []
    for row in facts.layers:
        writes = row["set"] + row["reset"]
        cells = (
            row["name"], row["op"], row["shape"], f"{row['sections']:,}", f"{writes:,.0f}", f"{writes / total:.1%}",
            f"{row['rms_error']:.3g}", "?" if row["products"] is None else f"{row['products']:,}",
            si((row["write_pj"] + row["read_pj"] + row["fetch_pj"]) * 1e-12, "J"),
        )  # fmt: skip
        rows.append(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f'<div class="scroll"><table id="layers"><tr>{head}</tr>{"".join(rows)}</table></div>'


def _unmapped(nodes: list[dict[str, Any]]) -> str:
    if not nodes:
        return "<p>Every node with static weights runs on crossbars.</p>"
    rows = "".join(
        f"<tr><td>{escape(str(n['node']))}</td><td>{escape(str(n['op_type']))}</td><td>{n['weights']:,}</td>"
        f'<td class="text">{escape(str(n["reason"]))}</td></tr>'
        for n in nodes
    )
    return (
        '<div class="scroll"><table id="unmapped"><tr><th>node</th><th>operator</th><th>weights</th>'
        f"<th>reason</th></tr>{rows}</table></div>"
    )


def _parameters(facts: Facts) -> str:
    rows = "".join(
        f'<tr><td>{escape(key)}</td><td>{escape(value)}</td><td class="text">{escape(source)}</td></tr>'
        for key, value, source in facts.sources
    )
    legend = "<br>".join(escape(line) for line in facts.legend)
    note = f'<p class="soft">{legend}</p>' if legend else ""
    return (
        f"<details open><summary>{len(facts.sources)} parameters of the target</summary>"
        f'<div class="scroll"><table id="parameters"><tr><th>key</th><th>value</th><th class="text">source</th></tr>'
        f"{rows}</table></div>{note}</details>"
    )


def _provenance(manifest: dict[str, Any]) -> str:
    provenance = manifest.get("provenance") or {}
    tool = manifest["tool"]
    lines = [f"$ {provenance.get('command', '(not recorded)')}"]
    lines += [f"pipeline: {provenance['pipeline']}"] if "pipeline" in provenance else []
    lines += [f"seed: {provenance['seed']}"] if "seed" in provenance else []
    lines += [
        f"{tool['name']} {tool['version']}, program format {manifest['format_version']}",
        f"model SHA-256: {manifest['model']['sha256']}",
        f"manifest SHA-256: {manifest['self_sha256']}",
    ]
    return f"<pre>{escape(chr(10).join(lines))}</pre>"
