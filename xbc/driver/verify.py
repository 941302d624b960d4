"""Every promise of a program: the virtual chip's replay, and the compiler's counts counted again."""

from __future__ import annotations

from pathlib import Path

from ir.progress import Progress, silent
from xbc import chip
from xbc.driver.summary import count_all


def verify_program(folder: str | Path, progress: Progress = silent) -> chip.Report:
    """Checks a program from its files alone; see ``xbc.chip.verify_program`` and the program format page.

    Raises: XbcError when ``folder`` holds no program of this format version, its manifest is damaged, or its
        chip is too large to simulate.
    """
    return chip.verify_program(folder, progress, count_all)
