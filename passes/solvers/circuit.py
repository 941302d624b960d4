"""CP-SAT: a shortest open path with a proof, for small groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ortools.sat.python import cp_model

from ir.arrays import Array
from passes.solvers.bounds import useful_edges


@dataclass(frozen=True)
class Proof:
    """Outcome: the path, the proven lower bound, and whether they meet."""

    path: Array
    bound: int
    optimal: bool


def shortest_path(cost: Array, path: Array, bound: int, work: float = 5.0, seconds: float = 60.0) -> Proof:
    """Shortest open path with free ends.

    Args:
        cost: ``[n, n]`` symmetric.
        path: a known path; a shorter one is looked for among the edges that one could use.
        bound: a known lower bound.
        work: CP-SAT deterministic time, the same on every machine (one unit is about three processor seconds).
        seconds: upper limit of ``work``.  There is no wall-clock cap: the same model has to give the same program
            on a machine that is busy.
    """
    n = len(path)
    length = int(cost[path[:-1], path[1:]].sum(dtype=np.int64))
    if length <= bound or n < 3:
        return Proof(path, length, True)
    tighter, edges, ends = useful_edges(cost, length)
    bound = max(bound, tighter)
    if length <= bound:
        return Proof(path, length, True)
    model = cp_model.CpModel()
    arcs, terms = [], []
    for i, j in np.argwhere(edges).tolist():
        literal = model.new_bool_var("")
        arcs.append((i, j, literal))
        terms.append(int(cost[i, j]) * literal)
    for i in np.flatnonzero(ends).tolist():
        arcs += [(n, i, model.new_bool_var("")), (i, n, model.new_bool_var(""))]
    model.add_circuit(arcs)
    total = sum(terms)
    model.add(total >= bound)
    model.add(total <= length - 1)
    model.minimize(total)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = min(work, seconds)
    solver.parameters.catch_sigint_signal = (
        False  # its handler would leave Ctrl-C to kill the process from then on
    )
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return Proof(path, length, True)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Proof(path, bound, False)
    following = {a: b for a, b, literal in arcs if solver.boolean_value(literal)}
    order, node = [], following[n]
    while node != n:
        order.append(node)
        node = following[node]
    found = np.asarray(order)
    reached = int(cost[found[:-1], found[1:]].sum(dtype=np.int64))  # the solver's own value is a float
    if status == cp_model.OPTIMAL:
        return Proof(found, reached, True)
    return Proof(found, min(reached, max(bound, int(np.ceil(solver.best_objective_bound - 1e-6)))), False)
