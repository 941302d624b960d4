"""Which layer costs the most: each layer made ideal in turn, the others as they are."""

from __future__ import annotations

from dataclasses import dataclass

from ir.progress import Progress
from xbc.simulate.fidelity import Reference, Simulation, score


@dataclass(frozen=True)
class Blame:
    """What making one layer ideal changes.

    Fields:
        score_gain: of the metric (top-1 or agreement).
        error_gain: fall of the output's rms error, as a fraction of the error with every layer simulated.
    """

    layer: str
    score_gain: float
    error_gain: float


def blame(
    reference: Reference, simulation: Simulation, *, trial: int = 0, progress: Progress | None = None
) -> list[Blame]:
    """All simulated layers, the costliest first (by metric, then by output error).

    At device fidelity this is measured on one chip, the same for every layer.
    """
    if simulation.settings.fidelity == "devices":
        simulation.new_chip(trial)
    whole = reference.compare(simulation.run(reference.data))
    layers = simulation.session.layers
    found = []
    for number, (name, layer) in enumerate(layers.items()):
        kept, layer.multiplier = layer.multiplier, None
        try:
            facts = reference.compare(simulation.run(reference.data))
        finally:
            layer.multiplier = kept
        error = whole["rms_error"]
        gain = (error - facts["rms_error"]) / error if error else 0.0
        found.append(Blame(name, score(facts) - score(whole), gain))
        if progress is not None:
            progress("making layers ideal", number + 1, len(layers))
    return sorted(found, key=lambda b: (-b.score_gain, -b.error_gain))
