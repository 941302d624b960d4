"""What a penalty will cost, from a part of the loads: writes, and the loss that second derivatives predict.

-O3 asks here which penalties are worth trying on the whole network, so that few whole tries are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ir.module import Module
from ir.stages import Placed, Programmed, Quantized
from passes.base import Context
from passes.counting import count_module
from passes.pairs import free_pairs
from passes.penalty import code_curvature, layer_grades
from xbc.budget.steps import hold_steps

SHARE = 16
"""One crossbar in so many is looked at (of fewer crossbars, one)."""
RATIOS = (4.0, 8.0, 16.0)
"""Penalties of matching over those of holding that are compared."""
SHARED_RATIOS = (2.0, 4.0)
"""The same where several outputs share the rows: such rows fit badly, and matching has to bear with errors."""
ONE_CROSSBAR = 16.0
"""Penalty of matching over that of holding on one crossbar, of which no sample can be taken."""
SLOPE = -0.9
"""Exponent of the penalty in the predicted loss, as a first guess."""
STEPS = 5
CLOSE = 1.15
"""A penalty whose predicted loss is within this factor of the wanted one will do."""


@dataclass(frozen=True)
class Outlook:
    """Predicted for penalty ``lambda_`` of holding and ``ratio`` times that of matching.

    ``writes`` of the sampled loads only; ``loss``: predicted increase of the network's loss.
    """

    lambda_: float
    ratio: float
    writes: int
    loss: float


def shares_rows(module: Module) -> bool:
    """Whether several outputs share the rows of a section."""
    return any(layer.at(Placed).group_width > 1 for layer in module.layers)


def sample(placed: Module, share: int) -> Module:
    """The module with one crossbar in ``share``."""
    layers = []
    for layer in placed.layers:
        body = layer.at(Placed)
        kept = body.crossbar % share == share // 2
        rows = ("outputs", "inputs", "rank", "polarity", "row_outputs", "crossbar", "step")
        arrays = {name: getattr(body, name) for name in rows}
        part = body.lower(
            Placed, **{name: None if array is None else array[kept] for name, array in arrays.items()}
        )
        layers.append(layer.with_body(part))
    return placed.with_layers(layers)


def predicted_loss(module: Module, errors: Mapping[str, float], context: Context) -> float:
    """Increase of the loss by squared code errors summed over each layer, to second order.

    In the units of the sensitivities' loss (nats); without sensitivities half the sum of the errors.
    """
    known = context.sensitivities
    total = 0.0
    for layer in module.layers:
        curvature = 1.0 if known is None else code_curvature(layer.at(Quantized), known.layers[layer.name])
        total += 0.5 * curvature * errors[layer.name]
    return total


def first_penalty(placed: Module, wanted: float, context: Context) -> float:
    """A penalty of matching whose predicted loss should be ``wanted``: a write per load, and half the slope of
    writes over loss at its square root."""
    assert context.sensitivities is not None
    known = context.sensitivities.layers
    weights = max(1, placed.weights)
    mean = sum(code_curvature(x.at(Quantized), known[x.name]) * x.weights for x in placed.layers) / weights
    writes = sum(layer.at(Placed).sections for layer in placed.layers)
    return max(ONE_CROSSBAR * 0.25 * mean * writes / wanted, 1e-9)


class Forecast:
    """Outlooks for a placed module.

    Losses are in the units of the sensitivities' loss (nats), or squared code errors without sensitivities.
    """

    def __init__(self, placed: Module, context: Context, share: int = SHARE) -> None:
        """Takes its sample of ``placed``."""
        self.context = replace(context, progress=lambda what, done, total: None)
        self.grades = layer_grades(placed, context)
        self.part = sample(placed, min(share, placed.target.crossbars))
        self.loads = {
            whole.name: whole.at(Placed).sections / max(1, part.at(Placed).sections)
            for whole, part in zip(placed.layers, self.part.layers, strict=True)
        }

    def __call__(self, lambda_: float, ratio: float) -> Outlook:
        """Matches and holds the sampled loads."""
        module = self.part
        for step in hold_steps(module, lambda_, ratio, self.grades):
            module = step.run(module, self.context).module
        errors = {}
        for layer in module.layers:
            body = layer.at(Programmed)
            error = body.stored_codes() - body.section_codes()
            errors[layer.name] = self.loads[layer.name] * float(np.square(error, dtype=np.float64).sum())
        loss = predicted_loss(module, errors, self.context)
        return Outlook(lambda_, ratio, count_module(module).steady.total, loss)

    def at_loss(self, wanted: float, ratio: float, lambda_: float) -> Outlook:
        """The outlook of the penalty whose predicted loss is ``wanted``, searched from ``lambda_`` on.

        Writes are moved along the last two outlooks' line to exactly that loss.
        """
        seen = [self(lambda_, ratio)]
        slope = SLOPE
        lowest, highest = -np.inf, np.inf  # logarithms of penalties of too large and of too small a loss
        for _ in range(STEPS):
            last = seen[-1]
            at, off = float(np.log(last.lambda_)), float(np.log(max(last.loss, wanted / 1e3) / wanted))
            if not last.writes or (abs(off) < np.log(CLOSE) and len(seen) > 1):
                break
            lowest, highest = (max(lowest, at), highest) if off > 0 else (lowest, min(highest, at))
            aim = at + float(np.clip(-off / slope, -4.0, 4.0))
            if np.isfinite(lowest) and np.isfinite(highest):
                aim = float(
                    np.clip(aim, lowest + 0.2 * (highest - lowest), lowest + 0.8 * (highest - lowest))
                )
            if abs(aim - at) < np.log(1.05):
                break
            seen.append(self(float(np.exp(aim)), ratio))
            slope = _slope(seen[-2], seen[-1], slope)
        last = seen[-1]
        if len(seen) == 1 or not last.writes or not seen[-2].writes or not last.loss or not seen[-2].loss:
            return last
        ahead = float(np.clip(np.log(wanted / last.loss), -0.5, 0.5))
        bend = float(
            np.clip(np.log(last.writes / seen[-2].writes) / np.log(last.loss / seen[-2].loss), -1.5, 0)
        )
        return Outlook(
            last.lambda_ * float(np.exp(ahead / slope)),
            ratio,
            round(last.writes * np.exp(bend * ahead)),
            wanted,
        )

    def best(self, wanted: float, lambda_: float) -> Outlook:
        """The outlook of fewest writes at predicted loss ``wanted``, over growing ratios while they save writes."""
        ratios: tuple[float, ...] = SHARED_RATIOS if shares_rows(self.part) else RATIOS
        if free_pairs(self.part):
            ratios = ratios[:1]
        found = self.at_loss(wanted, ratios[0], lambda_)
        for ratio in ratios[1:]:
            other = self.at_loss(wanted, ratio, found.lambda_ * found.ratio / ratio)
            if other.writes >= found.writes:
                break
            found = other
        return found


def _slope(a: Outlook, b: Outlook, otherwise: float) -> float:
    """Exponent of the penalty in the predicted loss between two outlooks, kept between -2 and -0.3."""
    if not a.loss or not b.loss or a.lambda_ == b.lambda_:
        return otherwise
    return float(np.clip(np.log(b.loss / a.loss) / np.log(b.lambda_ / a.lambda_), -2.0, -0.3))
