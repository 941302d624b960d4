"""Search over small one-signed architectures, the polarity of every matrix included (optuna)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ir.errors import XbcError
from xbc.training.quantized import Polarity


@dataclass(frozen=True)
class Space:
    """What is searched.

    Fields:
        widths: channels to choose from, per layer except the last.
        kernels: kernel sizes to choose from, for the convolutions.
        polarities: of each matrix; ``positive`` and ``negative`` for the whole matrix, ``blocks`` for
            blocks of outputs in turns.
        layers: matrices of the network.
    """

    widths: tuple[int, ...] = (16, 24, 32, 48)
    kernels: tuple[int, ...] = (3, 5, 8)
    polarities: tuple[Polarity, ...] = ("positive", "negative", "blocks")
    layers: int = 4


@dataclass(frozen=True)
class Architecture:
    """A point of the space: per layer its width (the last one's is the number of classes), kernel, polarity."""

    widths: tuple[int, ...]
    kernels: tuple[int, ...]
    polarities: tuple[Polarity, ...]


@dataclass(frozen=True)
class Found:
    """Outcome of a search.

    Fields:
        best: the architecture with the best score (of those within ``cells``, the best).
        score: its validation score.
        trials: every (architecture, score, cells) in order.
    """

    best: Architecture
    score: float
    trials: tuple[tuple[Architecture, float, int], ...] = field(repr=False)


def search(
    score: Callable[[Architecture, int], float],
    cells: Callable[[Architecture], int],
    *,
    space: Space | None = None,
    trials: int = 20,
    most_cells: int | None = None,
    seed: int = 0,
) -> Found:
    """The best architecture that a tree-structured Parzen estimator finds.

    Args:
        score: (architecture, seed) -> validation accuracy; never of the reported set.
        cells: devices that an architecture needs.
        most_cells: architectures with more are not trained.
    Raises: XbcError when optuna is missing or nothing fits ``most_cells``.
    """
    try:
        import optuna
    except ImportError:
        raise XbcError(
            "xbc.training.search needs optuna, which is not installed: in the checkout, pip install -e '.[train]'"
        ) from None
    space = space or Space()
    done: list[tuple[Architecture, float, int]] = []

    def objective(trial: Any) -> float:
        architecture = Architecture(
            tuple(trial.suggest_categorical(f"width{i}", space.widths) for i in range(space.layers - 1)),
            tuple(trial.suggest_categorical(f"kernel{i}", space.kernels) for i in range(space.layers - 1)),
            tuple(trial.suggest_categorical(f"polarity{i}", space.polarities) for i in range(space.layers)),
        )
        size = cells(architecture)
        if most_cells is not None and size > most_cells:
            raise optuna.TrialPruned
        value = score(architecture, seed)
        done.append((architecture, value, size))
        return value

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials)
    if not done:
        raise XbcError(f"search: none of {trials} architectures fits {most_cells} cells: allow more")
    best = max(done, key=lambda item: item[1])
    return Found(best[0], best[1], tuple(done))
