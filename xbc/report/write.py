"""Writing reports and plots to files, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ir.errors import XbcError
from xbc.report.facts import Facts
from xbc.report.page import comparison_page, report_page
from xbc.report.plots import comparison, plots
from xbc.system.files import whole_file


def write_report(facts: Sequence[Facts], output: Path) -> int:
    """Writes the page of one program, or of several against the first; returns its bytes."""
    text = report_page(facts[0]) if len(facts) == 1 else comparison_page(facts)
    return _write(output, text.encode())


def write_plots(facts: Sequence[Facts], folder: Path, kind: str) -> list[Path]:
    """Writes every plot as ``<name>.svg`` or ``<name>.png`` into ``folder`` (made when missing).

    Raises: XbcError when the folder cannot be written, or for PNG without the package that draws them.
    """
    drawings = plots(facts[0]) if len(facts) == 1 else comparison(facts)
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
