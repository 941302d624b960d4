"""Every export format gives back the program it was made from."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir.errors import XbcError
from tests.xbc.cases import CHIPS, Case
from xbc.backend.stream import WRITE_COLUMNS, stream_loads
from xbc.export import (
    FORMATS,
    aihwkit,
    binary,
    csv_tables,
    export_program,
    jsonl,
    memh,
    neurosim,
    npy,
    pimcomp,
)
from xbc.export.binary_code import decode, encode

Cases = Callable[[str], Case]
chips = pytest.mark.parametrize("chip", CHIPS)
at_once = pytest.mark.parametrize("chip", [chip for chip in CHIPS if chip != "gated"])
"""Chips whose sections are read in one go."""


def joined(chunks: Any, *names: str) -> dict[str, np.ndarray]:
    parts = list(chunks)
    out = {name: np.concatenate([getattr(p, name) for p in parts]).astype(np.int64) for name in names}
    out["load"] = np.concatenate([p.owner() + p.start for p in parts])
    return out


@chips
@pytest.mark.parametrize("module", [csv_tables, jsonl, binary], ids=lambda m: m.NAME)
def test_tables_come_back_whole(chip: str, module: Any, case: Cases, tmp_path: Path) -> None:
    program = case(chip).program
    export_program(program, module.NAME, tmp_path / "out")
    names = [*WRITE_COLUMNS, "step", "crossbar", "section", "crc_first", "crc_steady"]
    wanted, found = joined(stream_loads(program), *names), joined(module.read(tmp_path / "out"), *names)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], name)


@chips
@pytest.mark.parametrize("module", [npy, memh], ids=lambda m: m.NAME)
def test_images_are_those_of_the_replay(chip: str, module: Any, case: Cases, tmp_path: Path) -> None:
    one = case(chip)
    export_program(one.program, module.NAME, tmp_path / "out")
    seen = 0
    wanted = {name: one.images(name) for name in ("first", "steady")}
    for inference, bar, ids, levels in module.read(tmp_path / "out"):
        for load, image in zip(ids.tolist(), levels, strict=True):
            assert one.loads[load]["crossbar"] == bar
            np.testing.assert_array_equal(image, wanted[inference][load])
            seen += 1
    assert seen == 2 * len(one.loads)


@chips
def test_neurosim_pairs_are_the_arrays_before_and_after(chip: str, case: Cases, tmp_path: Path) -> None:
    one = case(chip)
    export_program(one.program, "neurosim", tmp_path / "out")
    images = one.images("steady")
    bars = [load["crossbar"] for load in one.loads]
    last = {bar: images[i] for i, bar in enumerate(bars)}  # what an inference leaves behind
    expected: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    layer_of = [x for block in one.program.sections() for x in block["layer"].tolist()]
    for image, bar, layer in zip(images, bars, layer_of, strict=True):
        expected.setdefault(layer, []).append((last[bar], image))
        last[bar] = image
    found = {layer: (old, new) for layer, old, new in neurosim.read(tmp_path / "out")}
    assert found.keys() == expected.keys()
    for layer, pairs in expected.items():
        np.testing.assert_array_equal(found[layer][0], [old for old, _ in pairs])
        np.testing.assert_array_equal(found[layer][1], [new for _, new in pairs])


@chips
def test_aihwkit_conductances_are_the_levels_and_pairs_are_partners(
    chip: str, case: Cases, tmp_path: Path
) -> None:
    one = case(chip)
    export_program(one.program, "aihwkit", tmp_path / "out")
    batches = list(aihwkit.read(tmp_path / "out"))
    rows = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    for ours, theirs in (
        ("load", "load"),
        ("row", "row"),
        ("column", "column"),
        ("level", "after"),
        ("phase", "phase"),
    ):
        np.testing.assert_array_equal(rows[ours], [w[theirs] for w in one.writes])
    device = one.program.target.device
    assert rows["siemens"].min() == pytest.approx(device.g_min_siemens)
    assert rows["siemens"].max() == pytest.approx(device.g_max_siemens)
    if chip == "pairs":  # 8-bit weights in 2-bit cells: columns 0-3 positive, 4-7 negative
        column = rows["column"]
        np.testing.assert_array_equal(rows["pair"], np.where(column % 8 < 4, column + 4, column - 4))
    else:
        assert set(rows["pair"].tolist()) == {-1}


def test_pimcomp_refuses_sections_of_several_outputs(case: Cases, tmp_path: Path) -> None:
    with pytest.raises(XbcError, match=r"has an output for each row .*export another format"):
        export_program(case("gated").program, "pimcomp", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@at_once
def test_pimcomp_instructions_write_the_same_cells_and_wait_for_what_they_need(
    chip: str, case: Cases, tmp_path: Path
) -> None:
    one = case(chip)
    export_program(one.program, "pimcomp", tmp_path / "out")
    cells: dict[int, list[list[int]]] = {}
    position: dict[int, int] = {}
    for bar, instruction in pimcomp.read(tmp_path / "out"):
        if instruction["op"] == "write":
            load = instruction["load"]
            assert one.loads[load]["crossbar"] == bar
            cells[load] = instruction["cells"]
            previous = one.loads[load]["previous"]
            assert instruction["wait"] == ([3 * previous + 1] if previous >= 0 else [])
        elif instruction["op"] == "mvm":
            layer = one.program.layers[instruction["node"]]
            assert instruction["wait_nodes"] == list(layer.predecessors)
            assert instruction["wait"] == [instruction["id"] - 1]
        position[instruction["id"]] = len(position)
        assert all(position[wait] < position[instruction["id"]] for wait in instruction["wait"])
    written = [[w["row"], w["column"], w["after"], w["phase"]] for w in one.writes]
    assert [cell for load in sorted(cells) for cell in cells[load]] == written


@chips
def test_the_c_reader_reproduces_every_post_state(chip: str, case: Cases, tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler on this machine (cc or gcc)")
    one = case(chip)
    out = tmp_path / "out"
    export_program(one.program, "binary", out)
    command = [compiler, "-O1", "-std=c99", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "replay")]
    subprocess.run([*command, str(out / "xbc_replay.c")], check=True)
    stream = out / binary.FILE
    good = subprocess.run([tmp_path / "replay", stream], capture_output=True, text=True, check=True).stdout
    totals = one.program.manifest["totals"]
    for inference in ("first", "steady"):
        count = totals[inference]
        wanted = f"PASS {inference} loads={totals['loads']} set={count['set']} reset={count['reset']}"
        assert wanted in good.splitlines()
    raw = bytearray(stream.read_bytes())
    raw[-3] ^= 0x10  # in the last load
    (tmp_path / "bad").write_bytes(raw)
    (tmp_path / "cut").write_bytes(raw[:-9])
    assert subprocess.run([tmp_path / "replay", tmp_path / "bad"], capture_output=True).returncode in (1, 2)
    assert subprocess.run([tmp_path / "replay", tmp_path / "cut"], capture_output=True).returncode == 2


@chips
def test_icarus_runs_the_program_to_the_expected_post_states(chip: str, case: Cases, tmp_path: Path) -> None:
    if shutil.which("iverilog") is None:
        pytest.skip("Icarus Verilog is not on this machine (package iverilog)")
    one = case(chip)
    out = tmp_path / "out"
    export_program(one.program, "memh", out)
    totals = one.program.manifest["totals"]
    writes = totals["first"]["writes"] + totals["steady"]["writes"]
    bars = len({load["crossbar"] for load in one.loads})
    said = run_bench(out, tmp_path)
    assert f"PASS crossbars={bars} loads={2 * totals['loads']} writes={writes}" in said.stdout
    assert said.returncode == 0
    image = next((out / "steady").glob("c*.images.memh"))  # one wrong bit in one image is found
    text = image.read_text()
    image.write_text(text[:-2] + ("1" if text[-2] != "1" else "0") + "\n")
    said = run_bench(out, tmp_path)
    assert "FAIL" in said.stdout
    assert "PASS" not in said.stdout


def run_bench(out: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    bench = tmp_path / "bench.vvp"
    build = ["iverilog", "-g2012", "-Wall", "-s", "xbc_testbench", "-o", str(bench), *memh.BENCH]
    built = subprocess.run(build, cwd=out, capture_output=True, text=True, check=True)
    assert not built.stderr, built.stderr
    return subprocess.run(["vvp", "-n", str(bench)], cwd=out, capture_output=True, text=True)


@pytest.mark.parametrize("name", FORMATS)
def test_first_loads_only(name: str, case: Cases, tmp_path: Path) -> None:
    one = case("pairs")
    description = export_program(one.program, name, tmp_path / "out", loads=7)
    assert description["loads"] == 7
    module = {m.NAME: m for m in (csv_tables, jsonl, binary, npy, memh)}.get(name)
    if module in (csv_tables, jsonl, binary):
        assert joined(module.read(tmp_path / "out"), "step")["load"].max() <= 6
    elif module in (npy, memh):
        assert sorted(i for *_, ids, _ in module.read(tmp_path / "out") for i in ids.tolist()) == sorted(
            [*range(7)] * 2
        )
    with pytest.raises(XbcError, match="outside 1"):
        export_program(one.program, name, tmp_path / "out", loads=10**6)


@given(st.data())
def test_compact_code_round_trip(data: st.DataObject) -> None:
    rows, columns, bits = (data.draw(st.integers(1, high)) for high in (9, 9, 4))
    chip = np.zeros((3, rows, columns), np.uint8)
    later = np.ones((3, rows, columns), np.uint8)
    loads = data.draw(st.integers(1, 6))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    per: list[tuple[int, int, int, bool]] = []
    at = [0]
    for _ in range(loads):
        for cell in np.flatnonzero(
            draw.random(rows * columns) < data.draw(st.sampled_from([0.0, 0.1, 0.9]))
        ).tolist():
            for phase in data.draw(st.sampled_from([(0,), (1,), (2,), (1, 2)])):
                per.append((cell, int(draw.integers(2**bits)), phase, bool(draw.integers(2))))
        at.append(len(per))
    columns_of: list[Any] = [np.array([row[i] for row in per], np.int64) for i in range(4)]
    cell, after, phase, verify = columns_of[0], columns_of[1], columns_of[2], columns_of[3].astype(np.bool_)
    bar, steps = draw.integers(0, 3, loads), draw.integers(0, 1000, loads)
    crc = draw.integers(0, 2**32, (2, loads))
    raw = encode(bar, steps, crc[0], crc[1], np.array(at), cell, after, phase, verify, bits)
    used, head, owner, *found = decode(raw, 0, loads, chip, later, bits)
    assert used == len(raw)
    np.testing.assert_array_equal(head, np.stack([bar, steps, crc[0], crc[1]], axis=1))
    np.testing.assert_array_equal(np.searchsorted(owner, np.arange(loads + 1)), at)
    for wanted, got in zip((cell, after, phase, verify), (found[0], *found[2:]), strict=True):
        np.testing.assert_array_equal(got, wanted)
    if len(raw) > 1:
        cut = decode(raw[:-1], 0, loads, chip, later, bits)[0]
        assert cut == -1


def test_damaged_streams_are_refused(case: Cases, tmp_path: Path) -> None:
    one = case("gather")
    export_program(one.program, "binary", tmp_path / "out")
    raw = (tmp_path / "out" / binary.FILE).read_bytes()
    target = one.program.target
    path = tmp_path / "s"
    for content, sentence in (
        (b"", "damaged"),
        (raw[:40], "damaged"),
        (raw[:-1], "damaged"),
        (raw + b"\0", "damaged"),
        (b"NOPE" + raw[4:], "no xbc stream"),
        (raw[:4] + b"\x02\0" + raw[6:], "use newer xbc"),
        (raw[:12] + b"\x01\0" + raw[14:], "another chip"),
    ):
        path.write_bytes(content)
        with pytest.raises(XbcError, match=sentence):
            list(binary.read_stream(path, target))
    draw = np.random.default_rng(0)
    for _ in range(200):  # any flipped byte: an error or another stream, never a crash
        bad = bytearray(raw)
        bad[draw.integers(68, len(bad))] ^= 1 << draw.integers(8)
        path.write_bytes(bad)
        with contextlib.suppress(XbcError):
            list(binary.read_stream(path, target))


def test_damaged_exports_are_refused(case: Cases, tmp_path: Path) -> None:
    out = tmp_path / "out"
    one = case("pairs")

    def fresh() -> dict[str, Any]:
        return export_program(one.program, "csv", out)

    def sentence() -> str:
        with pytest.raises(XbcError) as error:
            list(csv_tables.read(out))
        return str(error.value)

    assert "holds no export.json" in sentence()
    description = fresh()
    text = (out / "writes.csv").read_text()
    (out / "writes.csv").write_text(text.replace(",1,", ",0,", 1))
    assert "does not fit its SHA-256" in sentence()
    fresh()
    (out / "loads.csv").unlink()
    assert "not in the export" in sentence()
    fresh()
    (out / "extra").write_text("")
    assert "does not belong" in sentence()
    (out / "extra").unlink()
    for change, wanted in (
        ({"format_version": 2}, "use newer xbc"),
        ({"format": "jsonl"}, "wanted 'csv'"),
        ({"kind": "x"}, "does not describe"),
        ({"files": None}, "damaged"),
        (
            {"files": {**description["files"], "../../evil": description["files"]["loads.csv"]}},
            "not in the export",
        ),
    ):
        fresh()
        (out / "export.json").write_text(json.dumps({**description, **change}))
        assert wanted in sentence()


def test_a_destination_that_is_no_export_is_left_alone(case: Cases, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    with pytest.raises(XbcError, match="no export of xbc"):
        export_program(case("pairs").program, "csv", tmp_path / "mine")
    assert (tmp_path / "mine" / "file").read_text() == "kept"
    with pytest.raises(XbcError, match="does not exist"):
        export_program(case("pairs").program, "csv", tmp_path / "none" / "out")
    with pytest.raises(XbcError, match="unknown format"):
        export_program(case("pairs").program, "xml", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]


def test_exports_are_reproducible(case: Cases, tmp_path: Path) -> None:
    one = case("offset")
    for name in FORMATS:
        digests = [export_program(one.program, name, tmp_path / f"{name}{i}")["files"] for i in range(2)]
        assert digests[0] == digests[1]


def test_chunks_do_not_depend_on_their_size(case: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    program = case("gather").program
    names = [
        f.name for f in dataclasses.fields(next(stream_loads(program))) if f.name not in ("start", "write_at")
    ]
    whole = joined(stream_loads(program), *names)
    monkeypatch.setattr("xbc.backend.stream.CHUNK_WRITES", 100)
    small = joined(stream_loads(program, most=3), *names)
    for name in whole:
        np.testing.assert_array_equal(small[name], whole[name])
