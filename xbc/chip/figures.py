"""Every number of the manifest, counted again: from the replay, and from the IR that the tables agree with."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ir.module import Module
from passes.counting import wear_summary
from xbc.backend.problems import Problem
from xbc.backend.program import Program
from xbc.backend.tables import GROUP_VALUES, MANIFEST
from xbc.chip.replay import Replay, steady_totals

Recount = Callable[[Module], Mapping[str, Any]]
"""What the compiler counts of a programmed module: the manifest's ``counts``."""


def replayed_totals(program: Program, run: Replay) -> dict[str, Any]:
    """The manifest's ``totals`` as the replay has them."""
    loads = program.loads
    return {
        "layers": len(program.layers),
        "sections": len(run.counts),
        "loads": len(run.counts),
        "steps": len(set(loads["step"].tolist())),
        "write_rows": int(loads["write_count"].sum()),
        **steady_totals(run),
    }


def check_replayed(program: Program, run: Replay, totals: Mapping[str, Any]) -> Iterator[Problem]:
    """Totals, and the counts that a replay can tell, without the compiler's own counting."""
    yield from _compare(program.manifest["totals"], totals, "totals", "the replay has", True)
    counts = program.manifest.get("counts")
    if counts is not None:
        known = {
            "weights": int(sum(codes.size for codes in run.codes.values())),
            **{name: totals[name] for name in ("layers", "sections", "loads")},
            **{name: totals["steady"][name] for name in ("set", "reset")},
            "writes": {"full": totals["full"], "emitted": totals["steady"]["writes"]},
            "first_deployment": {"full": totals["full"], "emitted": totals["first"]["writes"]},
            "wear": wear_summary(run.wear),
        }
        yield from _compare(counts, known, "counts", "the replay has")


def check_stated(
    program: Program, module: Module, recount: Recount | None
) -> tuple[list[Problem], list[str]]:
    """(problems, what could not be checked): model, layers left to the host, counts and seed against the IR.

    Args:
        recount: counts of the compiler; None: the counts that no replay tells are listed as not checked.
    """
    manifest, unchecked = program.manifest, []
    model = {"name": module.name, "sha256": module.host.model_sha256, "weights": module.weights}
    found = list(_compare(manifest["model"], model, "model", "the IR has"))
    left = [dataclasses.asdict(node) for node in module.unmapped]
    found += _compare(manifest, {"unmapped": left}, "", "the IR has")
    found += _compare(manifest, {"tables": {"row_group_values": GROUP_VALUES}}, "", "the format has")
    provenance = manifest.get("provenance") or {}
    words = shlex.split(str(provenance.get("command", "")))
    if "--seed" in words[:-1]:
        seed = words[words.index("--seed") + 1]
        if str(provenance.get("seed")) != seed:
            text = f"provenance.seed is given as {provenance.get('seed')}, its command has {seed}"
            found.append(Problem(MANIFEST, text))
    unchecked += [f"provenance.facts.{name}" for name in provenance.get("facts", {})]
    counts, version = manifest.get("counts"), manifest["tool"]["version"]
    if counts is not None:
        if recount is not None and version == importlib.metadata.version("xbc"):
            found += _compare(counts, recount(module), "counts", "the IR has")
        else:
            unchecked.append("counts: natural, scheduled, reads and row maps")
    return found, unchecked


def _compare(
    said: Mapping[str, Any], found: Mapping[str, Any], name: str, who: str, all_there: bool = False
) -> Iterator[Problem]:
    """Keys of ``found`` that the manifest gives another value; absent ones only matter with ``all_there``."""
    for key, value in found.items():
        dotted = f"{name}.{key}" if name else key
        stated = said.get(key)
        if stated is None and value is not None and not all_there:
            continue
        if isinstance(value, Mapping) and isinstance(stated, Mapping):
            yield from _compare(stated, value, dotted, who, all_there)
        elif not _same(stated, value):
            yield Problem(MANIFEST, f"{dotted} is given as {stated}, {who} {value}")


def _same(stated: Any, value: Any) -> bool:
    if isinstance(value, float) and type(stated) in (int, float):
        return math.isclose(stated, value, rel_tol=1e-9)
    return bool(stated == value)
