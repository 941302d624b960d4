"""OR-Tools routing: improves an open path over a small set of nodes with fixed ends."""

from __future__ import annotations

import time

import numpy as np
from ortools.constraint_solver import pywrapcp, routing_enums_pb2

from ir.arrays import Array

CLOCKS = 0.01
"""Seconds by which the solver's clock may be behind."""


def improve_path(cost: Array, path: Array, solutions: int, seconds: float) -> tuple[Array, bool]:
    """A path no longer than ``path`` with the same first and last node.

    Args:
        cost: ``[m, m]`` symmetric distances.
        path: ``[n]`` nodes to visit, the first solution.
        solutions: work limit (solutions found), the same on every machine.
        seconds: wall-clock cap.
    Returns: the path, and whether the cap struck (only then the result depends on the machine).
    """
    n = len(path)
    if n < 4:
        return path, False
    manager = pywrapcp.RoutingIndexManager(n, 1, [0], [n - 1])
    model = pywrapcp.RoutingModel(manager)
    along = np.asarray(cost[np.ix_(path, path)], np.int64)
    transit = model.RegisterTransitMatrix(along.tolist())
    model.SetArcCostEvaluatorOfAllVehicles(transit)
    parameters = pywrapcp.DefaultRoutingSearchParameters()
    parameters.local_search_metaheuristic = routing_enums_pb2.LocalSearchMetaheuristic.GUIDED_LOCAL_SEARCH
    parameters.solution_limit = solutions
    parameters.time_limit.FromMilliseconds(max(1, int(seconds * 1000)))
    model.CloseModelWithParameters(parameters)
    first = model.ReadAssignmentFromRoutes([list(range(1, n - 1))], True)
    started = time.monotonic()
    solution = model.SolveFromAssignmentWithParameters(first, parameters)
    # the status does not tell which limit was met, and the solver's clock is a few milliseconds off ours
    capped = time.monotonic() - started >= seconds - CLOCKS
    if solution is None:
        return path, capped
    order, index = [], model.Start(0)
    while not model.IsEnd(index):
        order.append(manager.IndexToNode(index))
        index = solution.Value(model.NextVar(index))
    order.append(manager.IndexToNode(index))
    steps = np.asarray(order)
    before = int(along[np.arange(n - 1), np.arange(1, n)].sum())
    after = int(along[steps[:-1], steps[1:]].sum())
    return (path[steps] if after < before else path), capped
