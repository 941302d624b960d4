"""The verifier: every invariant of a module, each with its own message (``INVARIANTS``).

All checks work on whole arrays in bounded portions: a module of 25 M weights takes seconds, and temporaries
stay at a few bytes per weight of the largest layer.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from ir.errors import XbcError
from ir.invariants import INVARIANTS, Findings, Problem
from ir.module import Layer, Module
from ir.stages import Encoded, Float, Placed, Programmed, Quantized, Sectioned, Sliced
from ir.target import Target
from ir.verify_cells import check_placed, check_programmed
from ir.verify_matrix import (
    check_arrays,
    check_cell_format,
    check_codes,
    check_encoded,
    check_float,
    check_origin,
    check_sliced,
)
from ir.verify_sections import check_sections

__all__ = ["INVARIANTS", "Problem", "VerifyError", "check_module", "verify_module"]


class VerifyError(XbcError):
    """A module that breaks an invariant; ``problems`` has all of them."""

    def __init__(self, name: str, problems: list[Problem], where: str = "") -> None:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        super().__init__(f"{where}module {name!r} is not valid: {problems[0]}{more}")
        self.problems = problems


def check_module(module: Module, where: str = "") -> None:
    """Raises VerifyError when an invariant does not hold; ``where`` begins its sentence."""
    problems = verify_module(module)
    if problems:
        raise VerifyError(module.name, problems, where)


def verify_module(module: Module) -> list[Problem]:
    """All violated invariants: those of the module first, then layer by layer.

    Each invariant is reported once per layer, with the first offending index and how many there are.  Where a
    violation makes later questions meaningless (a table of the wrong shape), those are not asked.
    """
    found = Findings()
    names = [layer.name for layer in module.layers]
    _check_names(module, names, found)
    problems, sound = [], []
    for layer in module.layers:
        of_layer = verify_layer(layer, module.target)
        problems += of_layer
        if not of_layer:
            sound.append(layer)
    _check_edges(module, names, sound, found)
    _check_clashes(sound, found)
    return found.problems + problems


def verify_layer(layer: Layer, target: Target) -> list[Problem]:
    """The violated invariants that concern one layer alone."""
    found = Findings(layer.name)
    body = layer.body
    cells = None
    if isinstance(body, Encoded):
        cells = check_cell_format(body, found)
        if cells is None:
            return found.problems
    check_arrays(body, found)
    if not found:
        check_origin(layer, found)
    if found:
        return found.problems
    if isinstance(body, Float):
        check_float(body, found)
    if isinstance(body, Quantized):
        check_codes(body, found)
    if isinstance(body, Encoded) and cells is not None:
        check_encoded(body, cells, found)
    if isinstance(body, Sliced):
        check_sliced(body, target, found)
    if isinstance(body, Sectioned):
        check_sections(body, layer.origin.groups, target, found)
    if isinstance(body, Placed):
        check_placed(body, target, found)
    if isinstance(body, Programmed) and not found:
        check_programmed(body, target, found)
    return found.problems


def _check_names(module: Module, names: list[str], found: Findings) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            found.add("layer-name", f"{count} layers are named {name!r}")
    by_tensor: dict[str, str] = {}
    for layer in module.layers:
        tensor = layer.origin.tensor
        if tensor in by_tensor:
            both = f"{by_tensor[tensor]!r} and {layer.name!r}"
            found.add("tensor-twice", f"layers {both} give their weights back to one host input, {tensor!r}")
        by_tensor.setdefault(tensor, layer.name)


def _check_edges(module: Module, names: list[str], sound: list[Layer], found: Findings) -> None:
    position = {name: i for i, name in enumerate(names)}
    forward = True
    for before, after in module.edges:
        unknown = [name for name in (before, after) if name not in position]
        if unknown:
            found.add("edge-layer", f"edge {before!r} -> {after!r}: there is no layer {unknown[0]!r}")
            return
        forward = forward and position[before] < position[after]
    if not forward:
        _check_order(module, position, found)
    span = {
        layer.name: (int(layer.body.step.min()), int(layer.body.step.max()))
        for layer in sound
        if isinstance(layer.body, Placed) and layer.body.sections
    }
    for before, after in module.edges:
        if before in span and after in span and span[after][0] <= span[before][1]:
            first, last = f"from step {span[after][0]}", f"until step {span[before][1]}"
            found.add("step-order", f"layer {after!r} is loaded {first}, {before!r} that feeds it {last}")
            return


def _check_order(module: Module, position: dict[str, int], found: Findings) -> None:
    import networkx as nx  # costs more to import than the whole IR

    graph = module.graph()
    if nx.is_directed_acyclic_graph(graph):
        before, after = next(edge for edge in module.edges if position[edge[0]] > position[edge[1]])
        found.add("edge-order", f"layer {after!r} stands before layer {before!r}, which feeds it")
    else:
        cycle = [edge[0] for edge in nx.find_cycle(graph)]
        found.add("edge-cycle", f"edges form a cycle: {' -> '.join([*cycle, cycle[0]])}")


def _check_clashes(sound: list[Layer], found: Findings) -> None:
    bodies = [(layer.name, layer.body) for layer in sound if isinstance(layer.body, Placed)]
    if not bodies:
        return
    step = np.concatenate([body.step for _, body in bodies])
    crossbar = np.concatenate([body.crossbar for _, body in bodies])
    order = np.lexsort((crossbar, step))
    clash = (np.diff(step[order]) == 0) & (np.diff(crossbar[order]) == 0)
    if not clash.any():
        return
    starts = np.cumsum([0] + [body.sections for _, body in bodies])
    places = []
    for load in order[int(clash.argmax()) :][:2]:
        i = int(np.searchsorted(starts, load, side="right")) - 1
        places.append(f"section {load - starts[i]} of layer {bodies[i][0]!r}")
    at = order[int(clash.argmax())]
    count = int(np.count_nonzero(clash))
    found.add(
        "load-clash",
        f"crossbar {crossbar[at]} gets {places[0]} and {places[1]} in step {step[at]}"
        + (f" ({count} such)" if count > 1 else ""),
    )
