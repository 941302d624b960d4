"""Which layers keep crossbars of their own, and over how many crossbars the others are spread.

A resident layer has a crossbar for each of its sections that nothing else writes: it costs no write in steady
state.  The layers that are rewritten share what is left.  Fewer crossbars mean fewer changes of layer, which are
what most writes go into on a large chip, but more load steps, so the modelled time of an inference is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ortools.sat.python import cp_model

from ir.arrays import Array
from ir.target import Target

WORK = 4.0
"""CP-SAT deterministic time: the same plan on every machine."""
GAP = 0.001
"""Share of the estimated writes by which a plan may miss the best one."""
MOST_STEPS = 16
"""A layer takes at most that many times the load steps it needs when it is spread over the whole chip."""
RUNS_TRIED = 40


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs when its path is cut into runs, one per crossbar.

    Fields:
        sections: of the layer.
        within: estimated writes of one load inside a run.
        change: estimated writes of the first load of a run.
        read_ns: time of the products of one load step.
        within_ns, change_ns: time that the writes of a load step take.
    """

    sections: int
    within: float
    change: float
    read_ns: float
    within_ns: float
    change_ns: float

    def writes(self, steps: int) -> float:
        """Of one inference, when the layer takes that many load steps; 0 steps: resident."""
        if not steps or not self.sections:
            return 0.0
        runs = -(-self.sections // steps)
        return runs * self.change + (self.sections - runs) * self.within

    def time_ns(self, steps: int) -> float:
        """Of one inference; a resident layer only reads."""
        if not self.sections:
            return 0.0
        if not steps:
            return self.read_ns
        return steps * self.read_ns + self.change_ns + (steps - 1) * self.within_ns


@dataclass(frozen=True)
class Plan:
    """Load steps of every layer, 0 for a resident one.

    Fields:
        steps: ``layers`` entries.
        writes, time_ns: estimated, of one inference.
        proven: no plan is more than the share ``GAP`` better under the estimates.
    """

    steps: tuple[int, ...]
    writes: float
    time_ns: float
    proven: bool = True

    @property
    def resident(self) -> list[int]:
        """Indices of the resident layers."""
        return [i for i, steps in enumerate(self.steps) if not steps]


def spread(costs: list[LayerCost], crossbars: int) -> Plan:
    """Every layer over the whole chip."""
    return _plan(costs, [-(-c.sections // crossbars) for c in costs], True)


def best_plan(costs: list[LayerCost], crossbars: int, time: float) -> Plan:
    """The plan of fewest estimated writes within ``time`` times the time of ``spread``.

    A multiple-choice knapsack: each layer is resident (its sections weigh on the crossbars) or takes one of
    several numbers of steps (which weigh on the time, and whose runs have to fit beside the residents).
    """
    base = spread(costs, crossbars)
    model = cp_model.CpModel()
    scale = 10_000_000 / max(1.0, base.writes)
    ticks = 10_000_000 / max(1.0, base.time_ns)
    resident, cells, spent, chosen = [], [], [], []
    for cost, steps in zip(costs, base.steps, strict=True):
        choices = _choices(cost.sections, steps) if cost.sections else []
        picks = {k: model.new_bool_var("") for k in choices}
        if cost.sections <= crossbars and cost.sections:
            picks[0] = model.new_bool_var("")
            resident.append(cost.sections * picks[0])
            model.add_hint(picks[0], 0)
        for k, pick in picks.items():
            if k:
                model.add_hint(pick, int(k == steps))
            cells.append(round(scale * cost.writes(k)) * pick)
            spent.append(round(ticks * cost.time_ns(k)) * pick)
        if picks:
            model.add_exactly_one(picks.values())
        chosen.append(picks)
    kept = model.new_int_var(0, crossbars, "")
    model.add(kept == sum(resident))
    for cost, picks in zip(costs, chosen, strict=True):
        if picks:
            model.add(
                sum(-(-cost.sections // k) * pick for k, pick in picks.items() if k) + kept <= crossbars
            )
    least = sum(round(ticks * cost.time_ns(k)) for cost, k in zip(costs, base.steps, strict=True))
    model.add(sum(spent) <= max(least, round(ticks * time * base.time_ns)))
    model.minimize(sum(cells))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = WORK
    solver.parameters.relative_gap_limit = GAP
    solver.parameters.catch_sigint_signal = False
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return _plan(costs, list(base.steps), False)
    best = [next((k for k, pick in picks.items() if solver.boolean_value(pick)), 0) for picks in chosen]
    return _plan(costs, best, status == cp_model.OPTIMAL)


def _choices(sections: int, fewest: int) -> list[int]:
    """Numbers of steps worth trying: all while they are few, then such that the runs fall by a few percent."""
    most = min(sections, fewest * MOST_STEPS)
    tried = {round(fewest * (most / fewest) ** (i / RUNS_TRIED)) for i in range(RUNS_TRIED + 1)}
    tried |= set(range(fewest, min(most, fewest + 8) + 1))
    return sorted(tried)


def _plan(costs: list[LayerCost], steps: list[int], proven: bool) -> Plan:
    pairs = list(zip(costs, steps, strict=True))
    return Plan(tuple(steps), sum(c.writes(k) for c, k in pairs), sum(c.time_ns(k) for c, k in pairs), proven)


def cell_write_ns(target: Target) -> float:
    """Time of one cell write among many of a load: the mean of SET and RESET, verified."""
    write = target.write
    pulses = (write.set_ns + write.reset_ns) / 2 + target.read.verify_ns
    return write.trials_verified * pulses / write.parallel_cells


def product_ns(target: Target, used_columns: Array) -> Array:
    """``[sections]`` time of one matrix-vector product.

    An input of ``converters.input_bits`` bits is applied in ceil(input_bits / dac_bits) reads.  Columns that share
    an ADC take turns at it while the next read is made, so a read takes the longer of ``read.array_ns`` and its
    conversions.
    """
    converters = target.converters
    reads = -(-converters.input_bits // converters.dac_bits)
    turns = np.minimum(used_columns, converters.columns_per_adc)
    return np.asarray(reads * np.maximum(target.read.array_ns, turns * converters.adc_ns))
