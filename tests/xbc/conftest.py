"""Fixtures that the tests of xbc share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.xbc.cases import Case, compiled


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """``case("pairs")``: the digits LSTM on that chip, compiled once."""
    made: dict[str, Case] = {}

    def make(name: str) -> Case:
        if name not in made:
            made[name] = compiled(name, tmp_path_factory.mktemp(name) / "p.xbc")
        return made[name]

    return make
