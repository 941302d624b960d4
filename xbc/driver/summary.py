"""The facts of a compilation as one JSON object: the four counts, wear, energy, time, row maps."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ir.arrays import Array
from ir.faulty import FaultyCells
from ir.module import Layer, Module
from ir.stages import Placed, Programmed, Sectioned
from ir.target import Target
from passes.counting import count_module, natural_module
from passes.manager import finish
from xbc.schedule.bound import bound_facts
from xbc.schedule.costs import module_costs, read_costs, write_costs
from xbc.schedule.maps import layer_map_bits
from xbc.schedule.timeline import by_step
from xbc.schedule.whole import cost_facts


def count_all(module: Module) -> dict[str, Any]:
    """The counts that go into the manifest and the compile table.

    ``writes`` and ``first_deployment`` hold the four counts: every driven cell of every load (``full``),
    changed cells in natural order (``natural``, the baseline of ``reduction``), in xbc's order with exact
    codes (``scheduled``), and as the program writes them (``emitted``).

    Args:
        module: at stage Programmed.
    """
    emitted = count_module(module)
    in_natural_order = natural_module(module)
    natural = count_module(in_natural_order)
    scheduled = _exact(module)
    exact = emitted if scheduled is None else count_module(scheduled)
    wear = emitted.wear_summary()
    weights, crossbars = module.weights, module.target.crossbars
    unfaulty = dataclasses.replace(
        in_natural_order, target=dataclasses.replace(module.target, faulty=FaultyCells())
    )
    natural_cost = module_costs(finish(unfaulty))
    emitted_cost = module_costs(module)
    return {
        "weights": module.weights,
        "layers": len(module.layers),
        "sections": sum(layer.at(Sectioned).sections for layer in module.layers),
        "loads": emitted.loads,
        "writes": _four(emitted.full, natural.steady.total, exact.steady.total, emitted.steady.total),
        "first_deployment": _four(emitted.full, natural.first.total, exact.first.total, emitted.first.total),
        "reduction": natural.steady.total / emitted.steady.total if emitted.steady.total else None,
        "set": emitted.steady.set,
        "reset": emitted.steady.reset,
        "wear": wear,
        "lifetime_inferences": module.target.endurance / wear["max"] if wear["max"] else None,
        "row_map_bytes": row_map_bytes(module),
        **bound_facts(module, emitted.steady.total),
        "cost": {
            "natural": cost_facts(natural_cost, crossbars, weights, int(natural.wear.max(initial=0))),
            "emitted": cost_facts(emitted_cost, crossbars, weights, int(emitted.wear.max(initial=0))),
        },
        "reads": {**read_facts(module), "natural": read_facts(in_natural_order)},
        "unmapped": [
            {"node": u.node, "op_type": u.op_type, "weights": u.weights, "reason": u.reason}
            for u in module.unmapped
        ],
    }


def _four(full: int, natural: int, scheduled: int, emitted: int) -> dict[str, int]:
    return {"full": full, "natural": natural, "scheduled": scheduled, "emitted": emitted}


def _exact(module: Module) -> Module | None:
    """The module with exact codes in the cells, None when they stand there already."""
    changed = False
    layers: list[Layer] = []
    for layer in module.layers:
        body = layer.at(Placed)
        if isinstance(body, Programmed):
            exact = body.lower(Placed)
            changed = changed or not np.array_equal(body.stored, exact.wanted_words())
            layer = layer.with_body(exact)
        layers.append(layer)
    return module.with_layers(layers) if changed else None


def row_map_bytes(module: Module) -> int:
    """Bytes of the row -> input maps that the hardware has to hold (``layer_map_bits``), each layer rounded up."""
    routing = module.target.routing
    return sum(-(-int(layer_map_bits(layer.at(Sectioned), routing).sum()) // 8) for layer in module.layers)


def read_facts(module: Module) -> dict[str, Any]:
    """What computing with the sections takes: ``phases`` reads of the whole table per product and input slice.

    ``per_inference`` counts them for every product (layers whose number of products the model does not say count
    one).  ``time_ns`` is that of the plain loader: the loads of a step are read together, steps follow each
    other; writes are not in it.  A section is read once, or with scope=layer once for each of its outputs.
    """
    phases = per_inference = 0
    energy, steps, times = 0.0, [np.zeros(0, np.int64)], [np.zeros(0)]
    for layer in module.layers:
        body, products = layer.at(Placed), layer.origin.products or 1
        reads = body.read_phases()
        columns = (body.outputs >= 0).sum(axis=1) * body.cells.columns
        pj, ns = read_costs(module.target, body.driven().sum(axis=1), columns, reads)
        phases += int(reads.sum())
        per_inference += int(reads.sum()) * products
        energy += float(pj.sum()) * products
        steps.append(body.step)
        times.append(ns * products)
    return {
        "phases": phases,
        "per_inference": per_inference,
        "energy_pj": energy,
        "time_ns": by_step(np.concatenate(steps), np.concatenate(times)),
    }


def write_cost(
    step: Array, set_: Array, reset: Array, set_verified: Array, reset_verified: Array, target: Target
) -> tuple[float, float]:
    """Energy (pJ) and time (ns) of the writes of one steady inference; reads that compute are not in it.

    A write of ``n`` trials costs n pulses, each followed by a verify read when it is verified.  A load
    writes ``parallel_cells`` cells at once, in separate phases for SET and RESET and for verified and other
    cells; the loads of one step run on their crossbars in parallel, and steps follow one another.

    Args:
        step, set_, reset: ``[loads]``: time step, cells raised, cells lowered.
        set_verified, reset_verified: ``[loads]``: how many of these get write-verify.
    """
    energy, duration = write_costs(target, set_, reset, set_verified, reset_verified)
    return float(energy.sum()), by_step(step, duration)
