"""The whole cost of an inference in steady state: everything that it moves, as one table of plain numbers."""

from __future__ import annotations

from typing import Any

from xbc.schedule.costs import Costs
from xbc.schedule.timeline import by_step, schedule

PARTS = ("writes", "reads", "row_maps", "program", "total")
"""What the total is made of; docs/cost.md says what is in each."""


def cost_facts(costs: Costs, crossbars: int, weights: int, wear_max: int) -> dict[str, Any]:
    """One column of the table of docs/cost.md.

    The times of the parts are what they take alone: writes and reads step after step, fetches one after the other.
    The total overlaps them as the timeline does (``Schedule.latency_ns``), so it is less than their sum.

    Args:
        costs: of all loads.
        crossbars: of the chip.
        weights: of the network.
        wear_max: writes of the cell that is written most.
    """
    timeline = schedule(costs, crossbars)
    reads = costs.read_ns * costs.products[costs.layer]
    per_bit = costs.memory.ns_per_bit(costs.fetched_bits)
    return {
        "energy_pj": {
            "writes": timeline.write_pj,
            "reads": timeline.read_pj,
            "row_maps": timeline.map_pj,
            "program": timeline.program_pj,
            "total": timeline.energy_pj,
        },
        "time_ns": {
            "writes": by_step(costs.step, costs.write_ns),
            "reads": by_step(costs.step, reads),
            "row_maps": float(costs.map_bits.sum()) * per_bit,
            "program": float(costs.program_bits.sum()) * per_bit,
            "total": timeline.latency_ns,
        },
        "offchip_bytes": costs.offchip_bytes,
        "row_map_bits_per_weight": int(costs.map_bits.sum()) / weights if weights else 0.0,
        "wear_max": wear_max,
    }
