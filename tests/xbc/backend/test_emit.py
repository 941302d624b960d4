"""Emitted tables against plain loops over the module."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from ir.errors import XbcError
from ir.module import Module
from ir.stages import Programmed
from ir.storage import load_module
from tests.xbc.backend.programs import (
    ordered_loads,
    phases,
    programs,
    small_program,
    stick,
    three_inferences,
)
from xbc.backend import Lists, Program, emit_program
from xbc.backend.order import in_load_order
from xbc.chip import verify_program

PROVENANCE = {"pipeline": "quantize", "seed": 0}


def emit(module: Module, folder: str | Path, **more: Any) -> dict[str, Any]:
    return emit_program(module, b"host graph", Path(folder) / "p.xbc", provenance=PROVENANCE, **more)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@given(programs())
@settings(max_examples=40)
def test_tables_equal_plain_loops(module: Module) -> None:
    with tempfile.TemporaryDirectory() as folder:
        manifest = emit(module, folder)
        path = Path(folder) / "p.xbc"
        expected = phases(module)
        writes = pq.read_table(path / "writes.parquet")
        assert list(zip(*(column.to_pylist() for column in writes.columns), strict=True)) == expected

        loads = pq.read_table(path / "loads.parquet").to_pylist()
        first, later, _ = three_inferences(module)
        previous: dict[int, int] = {}
        start = 0
        for i, (row, (step, crossbar, _, _)) in enumerate(zip(loads, ordered_loads(module), strict=True)):
            assert (row["load"], row["step"], row["crossbar"], row["section"]) == (i, step, crossbar, i)
            assert row["previous"] == previous.get(crossbar, -1)
            previous[crossbar] = i
            for suffix, inference in (("", later), ("_first", first)):
                moves = [w for place, w in inference.writes.items() if place[0] == i]
                assert row["set" + suffix] == sum(after > before for before, after in moves)
                assert row["reset" + suffix] == sum(after < before for before, after in moves)
            assert {name: row[name] for name in later.skipped[i]} == later.skipped[i]
            assert (row["post_crc_first"], row["post_crc_steady"]) == (first.crcs[i], later.crcs[i])
            mine = [w for w in expected if w[0] == i]
            assert (row["write_start"], row["write_count"]) == (start, len(mine))
            assert row["write_verify"] == any(w[6] for w in mine)
            start += len(mine)
        totals = manifest["totals"]
        assert totals["steady"]["writes"] == len(later.writes)
        assert totals["first"]["writes"] == len(first.writes)
        assert totals["skipped"] == {
            name: sum(load[name] for load in later.skipped) for name in totals["skipped"]
        }
        wear: dict[tuple[int, int, int], int] = {}
        for load, row_, column in later.writes:
            cell = (loads[load]["crossbar"], row_, column)
            wear[cell] = wear.get(cell, 0) + 1
        assert totals["wear_max"] == max(wear.values(), default=0)


@given(programs())
@settings(max_examples=20)
def test_sections_and_layers_hold_the_module(module: Module) -> None:
    with tempfile.TemporaryDirectory() as folder:
        emit(module, folder)
        path = Path(folder) / "p.xbc"
        saved = in_load_order(module)
        sections = pq.read_table(path / "sections.parquet").to_pylist()
        assert len(sections) == sum(layer.at(Programmed).sections for layer in module.layers)
        for i, row in enumerate(sections):
            layer = saved.layers[row["layer"]]
            body, s = layer.at(Programmed), row["index"]
            part = slice(s, s + 1)
            assert row["section"] == i
            assert (row["rank"], row["polarity"]) == (body.rank[s], body.polarity[s])
            listed = body.outputs if body.row_outputs is None else body.row_outputs
            assert row["outputs"] == listed[s].tolist()
            assert row["inputs"] == body.inputs[s].tolist()
            assert row["stored"] == body.stored[s].reshape(-1).tolist()
            flip = np.zeros(body.group_width, np.int64) if row["flip"] is None else np.array(row["flip"])
            assert flip.tolist() == (np.zeros_like(flip) if body.flip is None else body.flip[s]).tolist()
            wanted = row["wanted"]
            if wanted is None:
                used = (body.inputs[s] >= 0)[:, None] & (body.outputs[s] >= 0)
                wanted = ((np.array(row["stored"]).reshape(used.shape) ^ flip) * used).reshape(-1).tolist()
            assert wanted == body.wanted_words(part)[0].reshape(-1).tolist()
            signs = body.row_signs(part)[0].tolist() if body.encoding == "driver" else None
            assert row["signs"] == signs
            for group, output in enumerate(row["outputs"]):
                for name in ("scale", "offset"):
                    values = getattr(body, name)
                    value = 0 if output < 0 else values[output if len(values) > 1 else 0]
                    assert row[name][group] == value
        program = Program.open(path)
        for layer, row_ in zip(saved.layers, program.layers, strict=True):
            body, origin = layer.at(Programmed), layer.origin
            assert (row_.name, row_.node, row_.tensor, row_.dtype) == (
                layer.name, origin.node, origin.tensor, origin.dtype,
            )  # fmt: skip
            assert (row_.layout, row_.groups, row_.kernel, row_.products) == (
                origin.layout, origin.groups, origin.kernel, origin.products,
            )  # fmt: skip
            assert (row_.outputs, row_.inputs) == body.shape
            assert list(row_.cell_weights) == body.cells.cell_weights.tolist()
            assert np.array_equal(row_.scale, body.scale)
            assert np.array_equal(row_.zero_point, body.zero_point)
        assert [row.predecessors for row in program.layers] == [
            tuple(saved.layers.index(saved.layer(a)) for a, b in saved.edges if b == layer.name)
            for layer in saved.layers
        ]


def test_program_holds_the_module_and_the_host(tmp_path: Path) -> None:
    module = small_program()
    manifest = emit(module, tmp_path)
    program = Program.open(tmp_path / "p.xbc")
    assert program.manifest == manifest
    assert program.target == module.target
    assert program.host_bytes() == b"host graph"
    saved = program.module()
    assert saved.host.sha256 == hashlib.sha256(b"host graph").hexdigest()
    assert saved.host.model_sha256 == module.host.model_sha256 == manifest["model"]["sha256"]
    assert saved.layers == module.layers
    assert manifest["provenance"] == PROVENANCE


def test_a_host_model_is_serialised(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph([], "empty", [], [])
    model = onnx.helper.make_model(graph)
    emit_program(small_program(), model, tmp_path / "p.xbc", provenance={})
    assert onnx.load(tmp_path / "p.xbc" / "host.onnx") == model


@given(programs())
@settings(max_examples=10)
def test_two_emits_give_the_same_bytes(module: Module) -> None:
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        emit(module, a)
        emit(module, b)
        assert content(Path(a)) == content(Path(b))


def test_a_module_read_back_gives_the_same_program(tmp_path: Path) -> None:
    emit(small_program(), tmp_path)
    (tmp_path / "again").mkdir()
    module = load_module(tmp_path / "p.xbc" / "program.xir", mmap=True)
    emit(module, tmp_path / "again")
    assert content(tmp_path / "again" / "p.xbc") == content(tmp_path / "p.xbc")


def test_a_network_without_layers(tmp_path: Path) -> None:
    manifest = emit(Module("none", small_program().target, ()), tmp_path)
    assert manifest["totals"]["loads"] == 0
    assert verify_program(tmp_path / "p.xbc").ok


def test_no_path_or_time_is_written(tmp_path: Path) -> None:
    emit(small_program(), tmp_path)
    for name, data in content(tmp_path / "p.xbc").items():
        assert str(tmp_path).encode() not in data, name
    assert list(json.loads((tmp_path / "p.xbc" / "manifest.json").read_text())) == [
        "counts", "files", "format", "format_version", "model", "provenance", "self_sha256", "tables",
        "target", "tool", "totals", "unmapped",
    ]  # fmt: skip


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    emit(small_program(), tmp_path, progress=lambda *what: seen.append(what))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1] == seen[-1][2] == 26


def test_many_row_groups_read_as_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    emit(small_program(), tmp_path / "a")
    for module in ("walk", "rows"):
        monkeypatch.setattr(f"xbc.backend.{module}.GROUP_VALUES", 7)
    (tmp_path / "b").mkdir()
    emit(small_program(), tmp_path / "b")
    one, many = (Program.open(tmp_path / name / "p.xbc") for name in "ab")
    assert pq.ParquetFile(many.folder / "writes.parquet").metadata.num_row_groups > 5
    for table in ("sections", "loads", "writes"):
        assert pq.read_table(one.folder / f"{table}.parquet") == pq.read_table(
            many.folder / f"{table}.parquet"
        )
    whole = {name: np.concatenate([b[name] for b in one.writes()]) for name in ("load", "row", "after")}
    for start, stop in ((0, 5), (3, 40), (10, 10), (50, None)):
        for name, values in whole.items():
            parts = [block[name] for block in many.writes(start, stop)]
            assert np.concatenate([values[:0], *parts]).tolist() == values[start:stop].tolist()
    stored = [row for block in one.sections() for row in lists(block["stored"])]
    assert [row for block in many.sections(3, 9) for row in lists(block["stored"])] == stored[3:9]


def lists(column: Lists) -> list[list[int]]:
    return [column.row(i).tolist() for i in range(len(column))]


def refused(module: Module, folder: Path, *words: str) -> None:
    with pytest.raises(XbcError) as caught:
        emit(module, folder)
    for word in words:
        assert word in str(caught.value)
    assert not list(folder.iterdir())


def test_modules_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    module = small_program()
    first = module.layers[0]
    body = first.at(Programmed)

    def with_target(**settings: Any) -> Module:
        return Module("m", module.target.override(settings), module.layers)

    refused(with_target(rows=3), tmp_path, "layer 'first'", "4 x 4", "3 x 5")
    refused(with_target(columns=3), tmp_path, "layer 'first'", "4 x 4", "4 x 3")
    refused(with_target(crossbars=1), tmp_path, "layer 'first'", "crossbar 1")
    twice = Module("m", module.target, (first, as_second(first)))
    refused(twice, tmp_path, "crossbar 0 gets two sections in step 0", "first", "other")
    refused(
        Module("m", module.target, (first.with_body(body.lower(type(body).__mro__[1])),)), tmp_path, "stage"
    )


def as_second(layer: Any) -> Any:
    return type(layer)("other", layer.origin, layer.body)


def test_a_faulty_cell_is_never_written(tmp_path: Path) -> None:
    module = small_program()
    faulty = {(0, 1, 2): 1, (1, 3, 3): 0}
    target = module.target.override({"faulty": [[*cell, level] for cell, level in faulty.items()]})
    words = ("layer 'first'", "faulty at level", "stores another")
    refused(Module("m", target, module.layers), tmp_path, *words)
    emit(Module("m", target, tuple(stick(list(module.layers), faulty))), tmp_path)
    program = Program.open(tmp_path / "p.xbc")
    loads = program.loads
    assert loads["faulty"].sum() == program.manifest["totals"]["skipped"]["faulty"] > 0
    for block in program.writes():
        bar = loads["crossbar"][block["load"]]
        cells = set(zip(bar.tolist(), block["row"].tolist(), block["column"].tolist(), strict=True))
        assert not cells & set(faulty)


def test_provenance_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        emit_program(small_program(), b"", tmp_path / "p", provenance={"x": {1, 2}})
    assert not list(tmp_path.iterdir())
