"""Reports hold the program's figures, load nothing, and show themselves in a browser without complaint."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil
import struct
import subprocess
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ir.errors import XbcError
from tests.xbc.cases import CHIPS, Case
from xbc.report import write_plots, write_report
from xbc.report.facts import Facts, gather, load_evaluation, parameter_sources
from xbc.report.plots import comparison, plots
from xbc.report.svg import heat, png, short, si, ticks
from xbc.report.times import share
from xbc.targets import load_target

Cases = Callable[[str], Case]
EVALUATION = {"metric": "top-1", "samples": 597, "reference": 0.9983, "compiled": 0.9966, "drop": 0.0017,
              "interval": [-0.002, 0.005], "agreement": 0.99}  # fmt: skip


@pytest.fixture(scope="module")
def facts(case: Cases) -> Callable[[str], Facts]:
    made: dict[str, Facts] = {}

    def make(name: str) -> Facts:
        if name not in made:
            made[name] = gather(case(name).folder, EVALUATION if name == "gather" else None)
        return made[name]

    return make


class Page(HTMLParser):
    """Ids with their text, and everything that would load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.open: list[tuple[str, str | None]] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data")]
        if tag not in ("meta", "link", "br", "input"):
            self.open.append((tag, found.get("id")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        for _, name in self.open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data


@pytest.mark.parametrize("chip", CHIPS)
def test_the_page_holds_the_figures_and_loads_nothing(
    chip: str, facts: Callable[[str], Facts], tmp_path: Path
) -> None:
    one = facts(chip)
    assert write_report([one], tmp_path / "r.html") == (tmp_path / "r.html").stat().st_size < 1_000_000
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert not page.open
    assert all(link.startswith("data:") for link in page.links), page.links
    assert not re.search(r"@import|url\((?!data:)|fetch\(|XMLHttpRequest", text)
    counts = one.manifest["counts"]["writes"]
    for kind in ("full", "natural", "scheduled", "emitted"):
        assert f"{counts[kind]:,}" in page.texts[f"figure-{kind}-writes"]
    assert f"{one.manifest['totals']['steady']['set']:,}" in page.texts["figure-set"]
    assert one.manifest["provenance"]["command"] in text.replace("&#x27;", "'").replace("&quot;", '"')
    for layer in one.layers:
        assert layer["name"] in page.texts["layers"]
    assert "write.set_pj" in page.texts["parameters"]
    data = json.loads(page.texts["facts"])
    assert data["writes"] == counts
    assert [point["batch"] for point in data["batch_curve"]] == [1, 2, 4, 8, 16, 32, 64]
    assert sum(layer["set"] + layer["reset"] for layer in one.layers) == counts["emitted"]
    wanted = {
        "counts",
        "layers",
        "wear-map",
        "wear-columns",
        "wear-histogram",
        "lifetime",
        "timeline",
        "timeline-layers",
        "trade-off",
    }
    assert wanted <= {name.removeprefix("plot-") for name in page.texts if name.startswith("plot-")}
    assert (
        ("99.66%" in page.texts["figure-top-1"]) if chip == "gather" else ("figure-top-1" not in page.texts)
    )


def test_a_browser_shows_it_without_complaint(facts: Callable[[str], Facts], tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine (package chromium)")
    one = facts("gather")
    write_report([one], tmp_path / "r.html")
    write_report([one, facts("pairs")], tmp_path / "c.html")
    probe = (  # runs in the page: what is wider than the screen, and what the script does to the theme
        "<script>addEventListener('load',function(){var d=document,r=d.documentElement,"
        "a=getComputedStyle(d.body).backgroundColor;d.getElementById('theme').click();"
        "var b=getComputedStyle(d.body).backgroundColor;d.body.setAttribute('data-probe',"
        "[r.scrollWidth<=innerWidth+1,a!=b,d.querySelectorAll('svg').length].join(' '))})</script>"
    )
    for name, plots_expected in (
        ("r.html", len(plots(one))),
        ("c.html", len(comparison([one, facts("pairs")]))),
    ):
        page = tmp_path / f"probed-{name}"
        page.write_text((tmp_path / name).read_text() + probe)
        for width, dark in ((1280, False), (500, True)):
            mode = ["--blink-settings=preferredColorScheme=0"] if dark else []
            command = [
                browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
                f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", *mode, "--dump-dom",
                page.as_uri(),
            ]  # fmt: skip
            found = subprocess.run(command, capture_output=True, text=True, timeout=120)
            assert found.returncode == 0, found.stderr
            assert "CONSOLE" not in found.stderr, found.stderr
            probed = re.search(r'data-probe="(\w+) (\w+) (\d+)"', found.stdout)
            assert probed is not None, "the page's script did not run"
            assert probed.groups() == ("true", "true", str(plots_expected)), (name, width)


def test_comparison_gives_ratios(facts: Callable[[str], Facts], tmp_path: Path) -> None:
    a, b = facts("gather"), facts("pairs")
    write_report([a, b], tmp_path / "c.html")
    page = Page((tmp_path / "c.html").read_text())
    emitted = [one.manifest["counts"]["writes"]["emitted"] for one in (a, b)]
    assert f"{emitted[1] / emitted[0]:.3g}x" in page.texts["comparison"]
    assert [p["writes"]["emitted"] for p in json.loads(page.texts["facts"])["programs"]] == emitted


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_every_plot_as_a_file(kind: str, facts: Callable[[str], Facts], tmp_path: Path) -> None:
    if kind == "png":
        pytest.importorskip("resvg_py", reason="PNG plots need the package resvg_py (extra plot)")
    files = write_plots([facts("gather")], tmp_path / "plots", kind)
    assert {path.stem for path in files} == set(plots(facts("gather")))
    for path in files:
        content = path.read_bytes()
        if kind == "svg":
            assert ET.fromstring(content).tag.endswith("svg")
        else:
            assert content.startswith(b"\x89PNG")
            assert struct.unpack(">I", content[16:20])[0] == 1120


def test_trade_off_is_monotone_and_starts_with_the_program(facts: Callable[[str], Facts]) -> None:
    points = facts("gather").tradeoff
    assert points[0]["writes"] == facts("gather").manifest["counts"]["writes"]["emitted"]
    held = points[1:]
    assert [p["rms_error"] for p in held] == sorted(p["rms_error"] for p in held)
    assert [p["writes"] for p in held] == sorted((p["writes"] for p in held), reverse=True)


def test_levelling_evens_out_the_bit_columns(facts: Callable[[str], Facts]) -> None:
    drawing = plots(facts("gather"))["wear-columns"]
    assert drawing.table[0] == ("", "as it is", "with level-wear")
    still, levelled = np.array([[float(v) for v in row[1:]] for row in drawing.table[1]]).T
    assert still.max() > 2 * still.min()
    assert levelled.max() < 1.05 * levelled.min()
    assert levelled.mean() == pytest.approx(still.mean(), rel=0.01)  # moving costs next to nothing


def test_layers_over_time_are_those_of_the_timeline(facts: Callable[[str], Facts]) -> None:
    one = facts("pairs")
    rows = plots(one)["timeline-layers"].table[1]
    assert [row[0] for row in rows] == [layer["name"] for layer in one.layers]
    ends = [float(row[3].replace(",", "")) for row in rows]
    assert max(ends) == pytest.approx(one.timeline.latency_ns, abs=1)
    for name, *times in rows:
        begin, ready, end = (float(t.replace(",", "")) for t in times)
        assert 0 <= begin <= ready < end, name


def test_sources_are_the_comments_of_the_shipped_file() -> None:
    rows, legend = parameter_sources(load_target("gather-128", {"write.set_pj": 7.5}).to_dict())
    table = {key: (value, source) for key, value, source in rows}
    assert table["rows"] == ("128", "[1]")
    assert table["write.set_pj"][1].startswith("set for this compilation (the shipped value is 5.0)")
    assert "assumption" in table["endurance"][1]
    assert any("2410.21730" in line for line in legend)
    own = load_target("gather-128").override({"name": "mine"}).to_dict()
    assert parameter_sources(own)[0][0][2] == "the target file that was given"


def test_small_parts() -> None:
    assert [short(v) for v in (0, 999.6, 1234567, 0.00123, 2e-10)] == ["0", "1k", "1.23M", "1.23m", "200p"]
    assert ticks(7) == [0, 2, 4, 6, 8]
    assert ticks(0) == [0, 1]
    assert [si(v, "J") for v in (6.8e-6, 0.25, 3.0)] == ["6.8 uJ", "250 mJ", "3 J"]
    covered = share(np.array([0.5, 2.25]), np.array([1.5, 2.75]), 4)
    np.testing.assert_allclose(covered, [0.5, 0.5, 0.5, 0])
    pixels = heat(np.array([[0.0, 1.0], [0.5, 2.0]]), 1.0)
    raw = png(pixels)
    at = raw.index(b"IDAT")
    size = struct.unpack(">I", raw[at - 4 : at])[0]
    lines = np.frombuffer(zlib.decompress(raw[at + 4 : at + 4 + size]), np.uint8).reshape(2, 7)
    np.testing.assert_array_equal(lines[:, 1:].reshape(2, 2, 3), pixels)


def test_bad_input(case: Cases, tmp_path: Path, facts: Callable[[str], Facts]) -> None:
    with pytest.raises(XbcError, match="not a directory"):
        gather(tmp_path / "none")
    (tmp_path / "e.json").write_text("[1]")
    with pytest.raises(XbcError, match="not the output of xbc evaluate"):
        load_evaluation(tmp_path / "e.json")
    with pytest.raises(XbcError, match="does not exist"):
        write_report([facts("pairs")], tmp_path / "none" / "r.html")
    (tmp_path / "e.json").write_text("{")
    with pytest.raises(XbcError, match="cannot read the evaluation"):
        load_evaluation(tmp_path / "e.json")


def test_names_from_a_model_cannot_break_the_page(facts: Callable[[str], Facts], tmp_path: Path) -> None:
    one = facts("pairs")
    evil = "</script><script>alert(1)</script>\"'<b>"
    manifest = copy.deepcopy(one.manifest)
    manifest["model"]["name"] = evil
    manifest["unmapped"] = [{"node": evil, "op_type": evil, "weights": 1, "reason": evil}]
    layers = [{**layer, "name": evil} for layer in one.layers]
    write_report([dataclasses.replace(one, name=evil, manifest=manifest, layers=layers)], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "alert(1)</script>" not in text.replace("&lt;/script", "")
    assert text.count("<script") == 2
    Page(text)
