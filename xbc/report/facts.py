"""Everything a report shows, gathered from one emitted program."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.faulty import FaultyCells
from ir.module import Module
from ir.progress import Progress, silent
from ir.stages import Placed, Programmed
from passes.base import Context
from passes.counting import count_module
from passes.level_wear import lifetimes
from passes.solvers.levelling import choose, live
from xbc.backend import Program
from xbc.chip.wear import plan_of, program_wear
from xbc.schedule import Costs, Schedule, batch_curve, program_costs, schedule

LAMBDAS: Final = (0.01, 0.03, 0.1, 0.3, 1.0)
CURVE_WEIGHTS: Final = 2_000_000
"""Networks up to this size get their trade-off curve computed for the report; it programs them several times."""
LEVELLED_CELLS: Final = 1 << 21


@dataclass(frozen=True)
class Facts:
    """One program, ready to be drawn.

    Fields:
        name: of the program's directory.
        manifest: its manifest.
        layers: one entry per layer: name, op, shape, sections, loads, set, reset, energy_pj, rms_error, weights.
        widths: cells of a weight, per layer.
        wear: ``[crossbars, rows, columns]`` writes per steady inference.
        lifetime: see ``passes.level_wear.lifetimes``; empty for a chip too large to plan for.
        levelled: like ``wear``, the mean over a life with level-wear; None when there is no such life.
        costs, timeline, curve: see ``xbc.schedule``.
        tradeoff: points of writes, rms_error, label: this program first.
        evaluation: what ``xbc evaluate --json`` said, or None.
        sources: dotted key of the target -> (value, where it comes from).
        legend: the numbered sources of the target's file.
    """

    name: str
    manifest: dict[str, Any]
    layers: list[dict[str, Any]]
    widths: list[int]
    wear: Array
    lifetime: dict[str, float | None]
    levelled: Array | None
    costs: Costs
    timeline: Schedule
    curve: list[dict[str, Any]]
    tradeoff: list[dict[str, Any]]
    evaluation: dict[str, Any] | None
    sources: list[tuple[str, str, str]]
    legend: list[str]

    @property
    def writes(self) -> dict[str, int] | None:
        """The four counts per inference, when the compiler has put them into the manifest."""
        counts = self.manifest.get("counts")
        return counts.get("writes") if isinstance(counts, dict) else None


def gather(
    folder: Path,
    evaluation: dict[str, Any] | None = None,
    tradeoff: bool | None = None,
    progress: Progress = silent,
) -> Facts:
    """Facts of a program.

    Args:
        evaluation: JSON of ``xbc evaluate`` for it.
        tradeoff: whether to program the network at several lambdas for the curve; None: when it is small.
    Raises: XbcError when the program is damaged.
    """
    program = Program.open(folder)
    progress("reading the program", 0, 4)
    module = program.module()
    costs = program_costs(program)
    progress("timeline", 1, 4)
    timeline = schedule(costs, program.target.crossbars)
    wear = program_wear(program)
    progress("wear", 2, 4)
    lifetime: dict[str, float | None] = {}
    levelled: Array | None = None
    plan = plan_of(program)
    if plan is not None or wear.wear.size <= LEVELLED_CELLS:
        fixed = program.target.faulty.crossbars()
        axes = (True, program.target.routing != "fixed", True)
        used = plan or choose(wear, program.target.endurance, fixed, axes, 256)
        lifetime = lifetimes(wear, used, program.target.endurance)
        life = live(wear, used, program.target.endurance)
        if 0 < life.inferences < float("inf"):
            levelled = life.wear / life.inferences
    layers = _layers(program, module, costs)
    progress("trade-off", 3, 4)
    small = module.weights <= CURVE_WEIGHTS if tradeoff is None else tradeoff
    sources, legend = parameter_sources(program.manifest["target"])
    facts = Facts(
        name=folder.resolve().name,
        manifest=program.manifest,
        layers=layers,
        widths=[layer.columns_per_weight for layer in program.layers],
        wear=wear.wear,
        lifetime=lifetime,
        levelled=levelled,
        costs=costs,
        timeline=timeline,
        curve=batch_curve(costs, program.target.crossbars),
        tradeoff=[{"label": "this program", "writes": int(wear.wear.sum()), "rms_error": rms_error(layers)}],
        evaluation=evaluation,
        sources=sources,
        legend=legend,
    )
    if small:
        facts.tradeoff.extend(_tradeoff(module))
    progress("done", 4, 4)
    return facts


def rms_error(layers: list[dict[str, Any]]) -> float:
    """Root mean square of (stored - wanted code) over all weights, in steps of the last bit."""
    weights = sum(layer["weights"] for layer in layers)
    return float(
        np.sqrt(sum(layer["rms_error"] ** 2 * layer["weights"] for layer in layers) / max(weights, 1))
    )


def _layers(program: Program, module: Module, costs: Costs) -> list[dict[str, Any]]:
    loads = program.loads
    count = len(program.layers)
    sums = {
        name: np.bincount(costs.layer, weights=values, minlength=count)
        for name, values in (
            ("set", loads["set"]),
            ("reset", loads["reset"]),
            ("write_pj", costs.write_pj),
            ("read_pj", costs.read_pj * costs.products[costs.layer]),
            ("fetch_pj", costs.memory.pj_per_bit(costs.fetched_bits) * (costs.map_bits + costs.program_bits)),
        )
    }
    out = []
    for i, (row, layer) in enumerate(zip(program.layers, module.layers, strict=True)):
        body = layer.at(Programmed)
        error = (body.effective_codes() - body.codes).astype(np.float64)
        out.append(
            {
                "name": row.name,
                "op": row.op_type,
                "shape": f"{row.outputs} x {row.inputs}" + (f" / {row.groups}" if row.groups > 1 else ""),
                "weights": row.outputs * row.inputs,
                "sections": row.sections,
                "products": row.products,
                "rms_error": float(np.sqrt(np.mean(error**2))) if error.size else 0.0,
                **{name: float(values[i]) for name, values in sums.items()},
            }
        )
    return out


def _tradeoff(module: Module) -> list[dict[str, Any]]:
    """Writes and code error of the same placement at several prices of an error, and with exact codes."""
    from passes.hold_codes import HoldCodes

    placed = module.with_layers([a.with_body(a.at(Programmed).lower(Placed)) for a in module.layers])
    points = [{"label": "exact codes", "writes": count_module(placed).steady.total, "rms_error": 0.0}]
    for weight in reversed(LAMBDAS):
        held = HoldCodes(weight).run(placed, Context()).module
        square = total = 0.0
        for layer in held.layers:
            body = layer.at(Programmed)
            square += float(((body.effective_codes() - body.codes).astype(np.float64) ** 2).sum())
            total += body.codes.size
        points.append(
            {
                "label": f"lambda {weight:g}",
                "writes": count_module(held).steady.total,
                "rms_error": float(np.sqrt(square / max(total, 1))),
            }
        )
    return points


def parameter_sources(target: dict[str, Any]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """([(dotted key, value, source)], numbered sources): from the comments of the shipped file, where it applies."""
    from xbc.targets import list_targets, target_text

    shipped = str(target.get("name")) in list_targets()
    text = target_text(str(target["name"])) if shipped else ""
    original, comments = _flat(tomllib.loads(text)), _comments(text)
    rows = []
    for key, value in _flat(target).items():
        if key == "faulty":
            value = f"{len(FaultyCells.from_plain(value))} cells"
        if not shipped:
            source = "the target file that was given"
        elif key in original and _same(original[key], value):
            source = comments.get(key, "")
        elif key in original:
            source = f"set for this compilation (the shipped value is {original[key]})"
        else:
            source = "default of xbc"
        rows.append((key, str(value), source))
    legend = [line.lstrip("# ") for line in text.split("\n\n")[0].splitlines()] if shipped else []
    return rows, legend


def _same(a: Any, b: Any) -> bool:
    return bool(a == b)


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


def _comments(text: str) -> dict[str, str]:
    """Dotted key -> comment behind its value."""
    out, prefix = {}, ""
    for line in text.splitlines():
        code, _, comment = line.partition("#")
        if code.strip().startswith("["):
            prefix = code.strip().strip("[]") + "."
        elif "=" in code:
            out[prefix + code.partition("=")[0].strip()] = comment.strip()
    return out


def load_evaluation(path: Path) -> dict[str, Any]:
    """What ``xbc evaluate --json`` wrote.  Raises XbcError when it is something else."""
    import json

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise XbcError(f"cannot read the evaluation {path}: {error}") from None
    if not isinstance(found, dict) or not {"metric", "samples"} <= found.keys():
        raise XbcError(f"{path} is not the output of xbc evaluate --json")
    return found
