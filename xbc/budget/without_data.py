"""-O3 without data: the largest penalties at which every layer's code error stays bounded."""

from __future__ import annotations

import numpy as np

from ir.module import Module
from ir.stages import Programmed
from passes.base import Context
from passes.counting import count_module, natural_module
from passes.penalty import written_grades
from xbc.budget.steps import MATCH_OVER_HOLD, hold_codes, hold_steps
from xbc.budget.trial import Point
from xbc.budget.tune import Tuned, lossless

ERROR_ROUNDS = 5
SETTLING_ROUNDS = 6


def bound_error(placed: Module, max_error: float, context: Context) -> Tuned:
    """Holds codes so that the root mean square code error of every layer is at most ``max_error`` LSB.

    Each layer has a penalty of its own, bisected over ``ERROR_ROUNDS`` rounds.  Then those penalties that kept
    the bound are used together; layers that leave it all the same, because another one changed what their
    crossbars held, are made stricter until none does.
    """
    natural = count_module(natural_module(placed)).steady.total
    names = [layer.name for layer in placed.layers]
    factor = dict.fromkeys(names, 0.05 / max_error**2)
    strict: dict[str, float] = {}
    loose: dict[str, float] = {}
    curve: list[Point] = []
    for turn in range(ERROR_ROUNDS + SETTLING_ROUNDS):
        if turn >= ERROR_ROUNDS:
            factor = {name: strict.get(name, factor[name] * 4) for name in names}
        grades = written_grades(factor[name] for name in names)
        module, records = hold_codes(placed, 1.0, MATCH_OVER_HOLD, grades, context)
        errors = {layer.name: layer_error(layer.at(Programmed)) for layer in module.layers}
        kept = all(error <= max_error for error in errors.values())
        writes = count_module(module).steady.total
        curve.append(Point(1.0, writes, natural / max(writes, 1), rms_code_error(module), None, None, kept))
        if kept and turn >= ERROR_ROUNDS:
            steps = hold_steps(placed, 1.0, MATCH_OVER_HOLD, grades)
            return Tuned(module, steps, records, curve, [])
        for name, error in errors.items():
            if error <= max_error:
                strict[name] = min(strict.get(name, factor[name]), factor[name])
            else:
                loose[name] = max(loose.get(name, factor[name]), factor[name])
                if strict.get(name, np.inf) <= loose[name]:
                    del strict[name]
        factor = {name: _between(factor[name], loose.get(name), strict.get(name)) for name in names}
    note = f"no penalties kept every layer within {max_error} LSB: the program is lossless"
    return lossless(placed, context, curve, [note])


def _between(value: float, loose: float | None, strict: float | None) -> float:
    """Next penalty to try between one that was too loose and one that kept the bound."""
    if loose is None:
        return value / 4
    return value * 4 if strict is None else float(np.sqrt(loose * strict))


def layer_error(body: Programmed) -> float:
    """Root mean square code error of one layer, in LSB."""
    difference = (body.effective_codes() - body.codes).astype(np.float64)
    return float(np.sqrt(np.mean(difference**2))) if difference.size else 0.0


def rms_code_error(module: Module) -> float:
    """Root mean square code error over all weights, in LSB."""
    squares = sum(layer_error(layer.at(Programmed)) ** 2 * layer.weights for layer in module.layers)
    return float(np.sqrt(squares / max(1, module.weights)))
