"""CP-SAT: a shortest open path with a proof, for small groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ortools.sat.python import cp_model

from ir.arrays import Array


@dataclass(frozen=True)
class Proof:
    """Outcome: the path, the proven lower bound, and whether they meet."""

    path: Array
    bound: int
    optimal: bool


def shortest_path(cost: Array, path: Array, bound: int, work: float = 20.0, seconds: float = 60.0) -> Proof:
    """Shortest open path with free ends.

    Args:
        cost: ``[n, n]`` symmetric.
        path: a known path (the hint).
        bound: a known lower bound.
        work: CP-SAT deterministic time, the same on every machine.
        seconds: wall-clock cap.
    """
    n = len(path)
    length = int(cost[path[:-1], path[1:]].sum(dtype=np.int64))
    if length <= bound or n < 3:
        return Proof(path, length, True)
    model = cp_model.CpModel()
    arcs, terms = [], []
    after = dict(zip(path[:-1].tolist(), path[1:].tolist(), strict=True))
    for i in range(n):
        for j in range(n):
            if i != j:
                literal = model.new_bool_var("")
                arcs.append((i, j, literal))
                terms.append(int(cost[i, j]) * literal)
                model.add_hint(literal, after.get(i) == j)
        for a, b, used in ((n, i, int(path[0]) == i), (i, n, int(path[-1]) == i)):
            literal = model.new_bool_var("")
            arcs.append((a, b, literal))
            model.add_hint(literal, used)
    model.add_circuit(arcs)
    total = sum(terms)
    model.add(total >= bound)
    model.minimize(total)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = work
    solver.parameters.max_time_in_seconds = seconds
    status = solver.solve(model)
    proven = max(bound, int(np.ceil(solver.best_objective_bound - 1e-6)))
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Proof(path, min(proven, length), False)
    following = {a: b for a, b, literal in arcs if solver.boolean_value(literal)}
    order, node = [], following[n]
    while node != n:
        order.append(node)
        node = following[node]
    found = np.asarray(order)
    reached = int(cost[found[:-1], found[1:]].sum(dtype=np.int64))
    if reached > length:
        found, reached = path, length
    return Proof(found, min(proven, reached), proven >= reached)
