"""The architecture search on a score that is known."""

from typing import Any

import pytest

pytest.importorskip("optuna", reason="optuna is not installed: pip install 'xbc[train]'")

from ir.errors import XbcError
from xbc.training.search import Space, search


def cells(architecture: Any) -> Any:
    return sum(w * k for w, k in zip(architecture.widths, architecture.kernels, strict=True))


def score(architecture: Any, seed: int) -> Any:
    wanted = ("blocks", "negative", "positive")
    return (
        sum(a == b for a, b in zip(architecture.polarities, wanted, strict=True))
        + architecture.widths[0] / 100
    )


def test_it_finds_the_polarity_of_every_matrix() -> None:
    found = search(score, cells, space=Space(widths=(8, 16), kernels=(3,), layers=3), trials=60)
    assert found.best.polarities == ("blocks", "negative", "positive")
    assert found.score == max(s for _, s, _ in found.trials)
    again = search(score, cells, space=Space(widths=(8, 16), kernels=(3,), layers=3), trials=60)
    assert again.trials == found.trials


def test_large_architectures_are_not_trained() -> None:
    found = search(
        score, cells, space=Space(widths=(8, 16), kernels=(3,), layers=3), trials=30, most_cells=60
    )
    assert all(size <= 60 for _, _, size in found.trials)
    assert len(found.trials) < 30
    with pytest.raises(XbcError, match="allow more"):
        search(score, cells, trials=3, most_cells=1)
