"""Writing reports and plots to files, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ir.errors import XbcError
from ir.progress import Progress, silent
from xbc.report import plots as drawn
from xbc.report.facts import Facts, gather, load_evaluation
from xbc.report.page import comparison_page, report_page, summary
from xbc.system.files import whole_file
from xbc.system.outputs import check_file


def report_programs(
    programs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], *,
    evaluation: str | os.PathLike[str] | None = None, tradeoff: bool | None = None,
    plots: str | os.PathLike[str] | None = None, plot_format: Literal["svg", "png"] = "svg",
    progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Write one HTML file on a program, or on two to four, each against the first.

    Args:
        output: HTML file to write, whole or not at all.
        evaluation: what ``xbc evaluate --json`` wrote about the one program.
        tradeoff: program the network at several penalties for the trade-off curve; None: up to 2 M weights.
        plots: folder to write every plot to as well.
    Returns: what ``xbc report --json`` prints: ``report``, ``bytes``, ``plots``, ``programs``.
    Raises: XbcError.
    """
    if evaluation is not None and len(programs) > 1:
        raise XbcError("an evaluation belongs to one program: leave it away when comparing")
    if not 1 <= len(programs) <= 4:
        raise XbcError("a report is on one program, or compares at most four")
    path = check_file(Path(output), "an HTML")
    found = None if evaluation is None else load_evaluation(Path(evaluation))
    facts = [gather(Path(program), found, tradeoff, progress) for program in programs]
    size = write_report(facts, path)
    files = write_plots(facts, Path(plots), plot_format) if plots is not None else []
    return {
        "report": str(output),
        "bytes": size,
        "plots": [str(path) for path in files],
        "programs": [summary(one) for one in facts],
    }


def write_report(facts: Sequence[Facts], output: Path) -> int:
    """Writes the page of one program, or of several against the first; returns its bytes."""
    text = report_page(facts[0]) if len(facts) == 1 else comparison_page(facts)
    return _write(output, text.encode())


def write_plots(facts: Sequence[Facts], folder: Path, kind: str) -> list[Path]:
    """Writes every plot as ``<name>.svg`` or ``<name>.png`` into ``folder`` (made when missing).

    Raises: XbcError when the folder cannot be written, or for PNG without the package that draws them.
    """
    drawings = drawn.plots(facts[0]) if len(facts) == 1 else drawn.comparison(facts)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise XbcError(f"cannot make the folder {folder}: {error.strerror}") from None
    written = []
    for name, drawing in drawings.items():
        svg = drawing.svg(alone=True)
        path = folder / f"{name}.{kind}"
        _write(path, svg.encode() if kind == "svg" else _png(svg))
        written.append(path)
    return written


def _png(svg: str) -> bytes:
    try:
        import resvg_py
    except ImportError:
        raise XbcError(
            "PNG plots need the package resvg_py: in the checkout, pip install -e '.[plot]'; or write SVG"
        ) from None
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=2))


def _write(path: Path, content: bytes) -> int:
    with whole_file(path) as partial:
        partial.write_bytes(content)
    return len(content)
