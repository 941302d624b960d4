"""Draws docs/pictures/: what a compilation of the shipped digits CNN reports, as SVG.

python docs/pictures.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import xbc

HERE = Path(__file__).parent
MODELS = HERE.parent / "models"
MODEL = MODELS / "digits_cnn.onnx"
CALIBRATION, REPORTED = MODELS / "digits_calib.npz", MODELS / "digits_eval.npz"
PUBLISHED = (
    "quantize,encode-signs,slice-bits,form-sections,sort-sections,order-sections{method=rank},deal-sections,"
    "stick-bits{columns=3,fraction=0.5}"
)
"""Weight sorting and bit stucking, arXiv 2410.21730."""

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .small { font-size: 11px; fill: #57606a }
  .head { font-weight: 600; font-size: 15px }
  .bar { fill: #b6bec9 } .ours { fill: #1f7a5c }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9aa4af }
    .bar { fill: #56606c } .ours { fill: #3fb68b }
  }
"""


def measure() -> list[dict[str, Any]]:
    """Summaries of the lossless level, the published method, and the level within a loss budget."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.xbc"
        lossless = xbc.compile_model(MODEL, out, level=2).summary
        published = xbc.compile_model(MODEL, out, pipeline=PUBLISHED).summary
        held = xbc.compile_model(MODEL, out, level=3, data=CALIBRATION, report_data=REPORTED).summary
    return [lossless, published, held]


def draw(lossless: dict[str, Any], published: dict[str, Any], held: dict[str, Any]) -> str:
    """Five bars to scale."""
    natural, full = (lossless["writes"][kind] for kind in ("natural", "full"))
    told = held["loss"]
    accuracy = f"top-1 {100 * told['reference']:.1f} to {100 * told['compiled']:.1f} %, n = {told['samples']}"
    rows = [
        ("every cell of every load", full, natural, "bar", ""),
        ("natural order, changed cells only", natural, natural, "bar", "the baseline"),
        ("published: sort, bit stucking", published["writes"]["emitted"], natural, "bar", "inexact"),
        ("xbc -O2, exact weights", lossless["writes"]["emitted"], natural, "ours", ""),
        (
            "xbc -O3, budget of 1 point",
            held["writes"]["emitted"],
            held["writes"]["natural"],
            "ours",
            accuracy,
        ),
    ]
    left, width, top, step = 232, 300, 56, 34
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {top + len(rows) * step + 34}" role="img">',
        "<title>Cell writes per inference of a small network on one crossbar</title>",
        f"<style>{STYLE}</style>",
        '<text class="head" x="12" y="24">Memristor cells written per inference</text>',
        f'<text class="small" x="12" y="42">{lossless["model"]}, {lossless["weights"]:,} weights '
        f"on one {lossless['target']} crossbar, steady state</text>",
    ]
    for index, (label, value, base, kind, remark) in enumerate(rows):
        y = top + index * step
        length = max(2.0, width * value / full)
        times = f"{base / value:,.1f}x fewer" if value < base else ""
        remarks = ", ".join(filter(None, (times, remark)))
        out += [
            f'<text x="{left - 8}" y="{y + 19}" text-anchor="end">{label}</text>',
            f'<rect class="{kind}" x="{left}" y="{y + 4}" width="{length:.1f}" height="22" rx="2"/>',
            f'<text x="{left + length + 8:.1f}" y="{y + 19}">{value:,}'
            f'<tspan class="small" dx="8">{remarks}</tspan></text>',
        ]
    foot = top + len(rows) * step + 18
    out.append(f'<text class="small" x="12" y="{foot}">measured and drawn by docs/pictures.py</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def main() -> None:
    """Measure and draw."""
    (HERE / "pictures" / "writes.svg").write_text(draw(*measure()), encoding="utf-8")


if __name__ == "__main__":
    main()
