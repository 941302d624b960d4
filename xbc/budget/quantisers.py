"""-O3 chooses how float weights are quantised: by the writes that each way will need at equal predicted loss.

The proxy works on a sample of the layers and of the crossbars, with the passes that follow; the loss it allows
includes that of the quantisation itself.  Models with a grid of their own are never touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Module
from ir.stages import Float, Placed, Quantized
from passes.base import Context
from passes.manager import Options, run_pipeline
from passes.pairs import free_pairs
from passes.pipeline import AS_IT_IS, Shape
from xbc.budget.forecast import ONE_CROSSBAR, RATIOS, Forecast, first_penalty
from xbc.budget.steps import placing_steps

CANDIDATES = ("", "granularity=channel", "range=mse", "range=percentile", "bits=7,granularity=channel")
"""Options of ``quantize`` that are compared; the first is what all other levels do."""
SAMPLE_WEIGHTS = 3_000_000
"""Weights of the layers that the proxy looks at, about."""
SPENT = 0.8
"""Share of the loss budget that quantisation alone may take."""
NEAR = 1.1
"""A second candidate predicted within this factor of the first is compiled too."""


@dataclass(frozen=True)
class Candidate:
    """One way to quantise.

    Fields:
        options: of ``quantize``, as in pipeline text.
        quantization_loss: predicted increase of the loss by quantising, in nats.
        predicted_writes: per inference at the wanted loss, scaled up from the sample; None when quantising alone
            loses too much.
    """

    options: str
    quantization_loss: float
    predicted_writes: int | None

    def facts(self) -> dict[str, Any]:
        """As a row of the manifest."""
        return {
            "quantize": self.options or "default",
            "quantization_loss": self.quantization_loss,
            "predicted_writes": self.predicted_writes,
        }


def may_choose(module: Module, context: Context) -> bool:
    """Whether there are float weights, and sensitivities to tell what their errors cost."""
    return context.sensitivities is not None and any(isinstance(x.body, Float) for x in module.layers)


def rank(module: Module, wanted: float, context: Context, shape: Shape = AS_IT_IS) -> list[Candidate]:
    """All candidates, the fewest predicted writes at predicted loss ``wanted`` first."""
    assert context.sensitivities is not None
    known = context.sensitivities.layers
    part = some_layers(module)
    share = part.weights / max(1, module.weights)
    quiet = replace(context, progress=lambda what, done, total: None)
    found: list[Candidate] = []
    seen: list[list[tuple[Array, Array]]] = []
    for done, options in enumerate(CANDIDATES):
        context.progress("comparing quantisers", done, len(CANDIDATES))
        steps = placing_steps(replace(shape, quantize=options)).with_options("order-sections", bound=0)
        if "bits=" in options and not all(isinstance(x.body, Float) for x in module.layers):
            continue  # other layers keep their own bits
        try:
            placed = run_pipeline(part, steps, quiet, Options(False, False)).module
        except XbcError:
            if not options:
                raise
            continue  # a candidate the target or the weights exclude
        codes = [(layer.at(Quantized).codes, layer.at(Quantized).scale) for layer in placed.layers]
        if any(_same(codes, other) for other in seen):
            continue
        seen.append(codes)
        lost = quantization_loss(part, placed, known)
        found.append(Candidate(options, lost / share, _writes(placed, wanted * share, lost, share, quiet)))
    return sorted(found, key=lambda c: np.inf if c.predicted_writes is None else c.predicted_writes)


def finalists(ranked: list[Candidate]) -> list[Candidate]:
    """The candidates worth compiling: the first, and the second when it is near."""
    fewest = ranked[0].predicted_writes
    if fewest is None:
        return [min(ranked, key=lambda c: c.quantization_loss)]
    second = [
        c for c in ranked[1:2] if c.predicted_writes is not None and c.predicted_writes <= NEAR * fewest
    ]
    return [ranked[0], *second]


def some_layers(module: Module) -> Module:
    """Layers drawn without regard to their place until they hold ``SAMPLE_WEIGHTS``, in module order."""
    drawn: list[int] = []
    weights = 0
    for index in np.random.default_rng(0).permutation(len(module.layers)):
        if drawn and weights + module.layers[index].weights > SAMPLE_WEIGHTS:
            continue
        drawn.append(int(index))
        weights += module.layers[index].weights
    return module.with_layers([module.layers[index] for index in sorted(drawn)])


def quantization_loss(module: Module, quantized: Module, sensitivities: Mapping[str, Array]) -> float:
    """Predicted increase of the loss by rounding and clipping float weights, to second order."""
    total = 0.0
    for before, after in zip(module.layers, quantized.layers, strict=True):
        if isinstance(before.body, Float):
            body = after.at(Quantized)
            error = body.codes * body.scale.reshape(-1, 1).astype(np.float64) - before.body.values
            total += (
                0.5 * float(sensitivities[before.name].mean(dtype=np.float64)) * float(np.square(error).sum())
            )
    return total


def _writes(placed: Module, wanted: float, lost: float, share: float, context: Context) -> int | None:
    """Predicted writes of the whole network, from the outlook of the sample's placed module."""
    if lost > SPENT * wanted:
        return None
    forecast = Forecast(placed, context)
    single = placed.target.crossbars == 1 and not free_pairs(placed)
    ratios = (ONE_CROSSBAR,) if single else RATIOS[:1]
    outlook = forecast.at_loss(wanted - lost, ratios[0], first_penalty(placed, wanted, context) / ratios[0])
    loads = sum(x.at(Placed).sections for x in placed.layers)
    looked = sum(x.at(Placed).sections for x in forecast.part.layers)
    return round(outlook.writes * loads / max(1, looked) / share)


def _same(codes: list[tuple[Array, Array]], others: list[tuple[Array, Array]]) -> bool:
    return all(
        np.array_equal(a, c) and np.array_equal(b, d) for (a, b), (c, d) in zip(codes, others, strict=True)
    )
