"""Draws docs/pictures/: what a compilation of the shipped digits CNN reports, as SVG.

python docs/pictures.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import xbc

HERE = Path(__file__).parent
MODEL = HERE.parent / "models" / "digits_cnn.onnx"
STICK = "sort-sections,order-sections,deal-sections,match-rows,reprogram{mode=random,columns=3,fraction=0.5}"
STUCK = f"quantize,encode-signs,slice-bits,form-sections,{STICK}"

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .small { font-size: 11px; fill: #57606a }
  .head { font-weight: 600; font-size: 15px }
  .bar { fill: #b6bec9 } .ours { fill: #1f7a5c } .stuck { fill: #7fb59f }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9aa4af }
    .bar { fill: #56606c } .ours { fill: #3fb68b } .stuck { fill: #2c7a60 }
  }
"""


def measure() -> dict[str, Any]:
    """The counts of the lossless level, and those of bit stucking on top."""
    with tempfile.TemporaryDirectory() as folder:
        lossless = xbc.compile_model(MODEL, Path(folder) / "a", level=2).summary
        stuck = xbc.compile_model(MODEL, Path(folder) / "b", pipeline=STUCK).summary
    return {"lossless": lossless, "stuck": stuck["writes"]["emitted"]}


def draw(facts: dict[str, Any]) -> str:
    """Four bars to scale."""
    writes = facts["lossless"]["writes"]
    natural = writes["natural"]
    rows = [
        ("every cell of every load", writes["full"], "bar", ""),
        ("natural order, changed cells only", natural, "bar", "the baseline"),
        ("xbc -O2, exact weights", writes["emitted"], "ours", f"{natural / writes['emitted']:.1f}x fewer"),
        (
            "and bit stucking as published",
            facts["stuck"],
            "stuck",
            f"{natural / facts['stuck']:.1f}x fewer, inexact",
        ),
    ]
    left, width, top, step = 232, 300, 56, 34
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {top + 4 * step + 34}" role="img">',
        "<title>Cell writes per inference of a small network on one crossbar</title>",
        f"<style>{STYLE}</style>",
        '<text class="head" x="12" y="24">Memristor cells written per inference</text>',
        f'<text class="small" x="12" y="42">{facts["lossless"]["model"]}, '
        f"{facts['lossless']['weights']:,} weights "
        f"on one {facts['lossless']['target']} crossbar, steady state</text>",
    ]
    for index, (label, value, kind, remark) in enumerate(rows):
        y = top + index * step
        length = max(2.0, width * value / writes["full"])
        out += [
            f'<text x="{left - 8}" y="{y + 19}" text-anchor="end">{label}</text>',
            f'<rect class="{kind}" x="{left}" y="{y + 4}" width="{length:.1f}" height="22" rx="2"/>',
            f'<text x="{left + length + 8:.1f}" y="{y + 19}">{value:,}'
            f"{f' ({remark})' if remark else ''}</text>",
        ]
    foot = top + 4 * step + 18
    out.append(
        f'<text class="small" x="12" y="{foot}">xbc compile models/digits_cnn.onnx; '
        "drawn by docs/pictures.py</text>"
    )
    return "\n".join([*out, "</svg>"]) + "\n"


def main() -> None:
    """Measure and draw."""
    (HERE / "pictures" / "writes.svg").write_text(draw(measure()), encoding="utf-8")


if __name__ == "__main__":
    main()
