"""How long work tells whoever waits for it how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)``."""


def silent(what: str, done: int, total: int) -> None:
    """Progress sink that shows nothing."""
