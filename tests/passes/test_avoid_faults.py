"""Sections around faulty cells: nearest words and placements against exhaustive searches, programs against a replay."""

from __future__ import annotations

import dataclasses
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from ir.cells import CellFormat
from ir.errors import XbcError
from ir.faulty import FaultyCells
from ir.module import Host, Module
from ir.stages import Programmed
from ir.target import Target
from ir.verify import check_module
from passes.arrange import Arranger
from passes.avoid_faults import AvoidFaults, with_faults
from passes.base import Context
from passes.inputs import Sensitivities
from passes.manager import finish, gather_facts, run_pipeline
from passes.pipeline import LEVELS, parse_pipeline
from passes.solvers.stuck import NONE, nearest
from passes.stuck_words import StuckWords
from tests.ir.tiny import formats, programmed
from tests.xbc.backend.programs import as_layer
from tests.xbc.cases import MODELS
from xbc.backend import Program, emit_program
from xbc.chip import effective_codes, verify_program
from xbc.frontend import import_model
from xbc.targets import load_target


@given(formats(most_bits=8), st.data())
def test_nearest_word_against_all_words(cells: CellFormat, data: st.DataObject) -> None:
    assume(cells.word_bits <= 12)
    width, bits = cells.columns, cells.bits_per_cell
    top = (1 << bits) - 1
    stuck = data.draw(st.dictionaries(st.integers(0, width - 1), st.integers(0, top), min_size=1))
    target = Target("t", 1, width, bits)
    map_ = FaultyCells([(0, 0, column, level) for column, level in stuck.items()])
    words = StuckWords.of(map_, cells, target)
    every = np.arange(1 << cells.word_bits)
    numbers = cells.decode(every)
    value = data.draw(st.integers(int(numbers.min()), int(numbers.max())))
    low = data.draw(st.integers(int(numbers.min()), int(numbers.max())))
    high = data.draw(st.integers(low, int(numbers.max())))
    levels = cells.levels(every.astype(cells.dtype))
    possible = np.all([levels[:, c] == level for c, level in stuck.items()], axis=0)
    possible &= (numbers >= low) & (numbers <= high)
    wanted = int(np.abs(numbers[possible] - value).min()) if possible.any() else NONE
    error, word = nearest(value, words.masks[0], words.levels[0], words.cells, words.shifts, bits, low, high)
    assert error == wanted
    if possible.any():
        assert possible[word]
        assert abs(int(numbers[word]) - value) == wanted
    errors, table = words.tables(bits, low, high)
    assert errors[0, value - words.lowest] == min(wanted, 1 << 30)
    assert not possible.any() or table[0, value - words.lowest] == word


@settings(max_examples=60)
@given(programmed(exact=True), st.data())
def test_rows_against_all_permutations(drawn: tuple[Programmed, int], data: st.DataObject) -> None:
    """The squared errors of a section are the least of all orders of its rows."""
    body, _ = drawn
    target = Target("t", 4, 128, body.bits_per_cell, 3, row_gating=True)
    top = (1 << body.bits_per_cell) - 1
    width = body.cells.columns * body.group_width
    places = st.tuples(st.integers(0, 2), st.integers(0, body.rows - 1), st.integers(0, width - 1))
    found = data.draw(st.dictionaries(places, st.integers(0, top), min_size=1, max_size=8))
    target = dataclasses.replace(target, faulty=FaultyCells([(*p, level) for p, level in found.items()]))
    fit = Arranger(target, 1e3, 1).fit(body)
    words = StuckWords.of(target.faulty, body.cells, target)
    wanted = body.cells.decode(body.wanted_words())
    flip = np.zeros(body.outputs.shape, np.int64) if body.flip is None else body.flip.astype(np.int64)

    def price(s: int, order: tuple[int, ...]) -> float:
        total = 0.0
        for w in range(words.at[body.crossbar[s]], words.at[body.crossbar[s] + 1]):
            r, g, p = int(words.row[w]), int(words.group[w]), int(words.pattern[w])
            j = order[r]
            if body.outputs[s, g] < 0 or body.inputs[s, j] < 0:
                continue
            if int(body.stored[s, j, g]) & words.masks[p] == words.levels[p]:
                continue
            held = words.levels[p] ^ (flip[s, g] & words.masks[p])
            low, high = words.lowest, words.lowest + words.numbers - 1
            error, _ = nearest(
                int(wanted[s, j, g]),
                words.masks[p],
                held,
                words.cells,
                words.shifts,
                body.bits_per_cell,
                low,
                high,
            )
            total += float(error) ** 2
        return total

    for s in range(body.sections):
        best = min(price(s, order) for order in permutations(range(body.rows)))
        assert fit.row_error[s].sum() == best
        assert fit.group_error[s].sum() == best
        assert sorted(fit.body.inputs[s].tolist()) == sorted(body.inputs[s].tolist())


@settings(max_examples=60, deadline=None, phases=[Phase.generate], report_multiple_bugs=False)
@given(programmed(), st.data())
def test_any_faults_any_weights(drawn: tuple[Programmed, int], data: st.DataObject) -> None:
    """The program verifies, and what a replay reads are the codes that the module says."""
    body, groups = drawn
    body = dataclasses.replace(body, given=False)
    top = (1 << body.bits_per_cell) - 1
    places = st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 60))
    found = data.draw(st.dictionaries(places, st.integers(0, top), min_size=1, max_size=40))
    target = Target(
        "tiny", 4, 128, body.bits_per_cell, 3, encoding="split", row_gating=True, adders="any",
        faulty=FaultyCells([(*p, level) for p, level in found.items()]),
    )  # fmt: skip
    module = Module("m", target, (as_layer("a", body, groups),), (), Host(model_sha256="0" * 64))
    outcome = AvoidFaults(most_error=data.draw(st.sampled_from([0.0, 0.1, 1.0]))).run(module, Context())
    done = outcome.module
    check_module(done)
    again = AvoidFaults().run(done, Context()).module
    assert outcome.facts["cells"] == len(target.faulty)
    check_module(again)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        emit_program(done, b"", Path(folder) / "p", provenance={})
        report = verify_program(Path(folder) / "p")
        assert report.ok, [str(p) for p in report.problems[:3]]
        codes = effective_codes(Program.open(Path(folder) / "p"))
    np.testing.assert_array_equal(codes["a"], done.layers[0].at(Programmed).effective_codes())


def chip(name: str, share: float, kind: str = "uniform", **settings_: object) -> Target:
    """A chip of faulty cells: uniform, or whole rows and columns."""
    target = load_target(name, settings_)
    shape = (target.crossbars, target.rows, target.columns)
    draw = np.random.default_rng(3)
    if kind == "uniform":
        mask = draw.random(shape) < share
    else:
        mask = np.broadcast_to(draw.random((*shape[:2], 1)) < share / 2, shape).copy()
        mask |= draw.random((shape[0], 1, shape[2])) < share / 2
        mask[0, 5] = True
    cells = np.argwhere(mask)
    level = draw.integers(0, 2, len(cells)) * (2**target.bits_per_cell - 1)
    return dataclasses.replace(target, faulty=FaultyCells(np.column_stack([cells, level])))


CHIPS: dict[str, dict[str, object]] = {
    "gather-128": {"crossbars": 8},
    "isaac-128": {"crossbars": 4},
    "pcm-256": {"crossbars": 4},
    "rram-64": {"crossbars": 8},
}


@pytest.mark.parametrize("kind", ["uniform", "lines"])
@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize(("share", "routing"), [(0.001, "gather"), (0.03, "block"), (0.03, "fixed")])
def test_shipped_chips(name: str, kind: str, share: float, routing: str, tmp_path: Path) -> None:
    target = chip(name, share, kind, routing=routing, **CHIPS[name])
    imported = import_model(MODELS / "digits_lstm.onnx", target)
    text = LEVELS[0] if routing == "fixed" else LEVELS[1]
    plain = finish(run_pipeline(imported.module, parse_pipeline(text)).module)
    run = run_pipeline(imported.module, with_faults(parse_pipeline(text), target))
    found = gather_facts(run.records)
    emit_program(run.module, imported.host, tmp_path / "p.xbc", provenance={"facts": found})
    report = verify_program(tmp_path / "p.xbc")
    assert report.ok, [str(p) for p in report.problems[:3]]
    facts = found["avoid-faults"]
    squares = different = 0
    codes = effective_codes(Program.open(tmp_path / "p.xbc"))
    for a, b in zip(plain.layers, run.module.layers, strict=True):
        np.testing.assert_array_equal(codes[b.name], b.at(Programmed).effective_codes())
        change = codes[b.name].astype(np.int64) - a.at(Programmed).effective_codes()
        squares += int((change**2).sum())
        different += int(np.count_nonzero(change))
    assert facts["weights_held"] == different
    assert facts["rms_error"] == pytest.approx(np.sqrt(squares / run.module.weights))
    if share == 0.001 and kind == "uniform":
        assert different == 0


def test_a_dead_row_is_left_and_a_dead_column_is_not_used() -> None:
    target = load_target("isaac-128", {"crossbars": 3, "rows": 16, "columns": 24, "outputs_per_section": 3})
    cells = [(0, 3, c, 1) for c in range(24)] + [(1, r, 8, 1) for r in range(16)]
    target = dataclasses.replace(target, faulty=FaultyCells(cells))
    module = import_model(MODELS / "digits_lstm.onnx", target).module
    passes = with_faults(parse_pipeline(LEVELS[0]), target)
    done = run_pipeline(module, passes)
    facts = gather_facts(done.records)["avoid-faults"]
    assert facts["sections_added"] > 0
    assert facts["rms_error"] < 0.5
    left = run_pipeline(module, [*passes[:-1], AvoidFaults(most_error=0.0)])
    facts = gather_facts(left.records)["avoid-faults"]
    assert facts["sections_added"] == 0
    assert facts["rms_error"] > 3.0
    for run in (done, left):
        check_module(run.module)


def test_sensitive_weights_get_the_good_rows() -> None:
    target = load_target("isaac-128", {"rows": 16, "columns": 16, "outputs_per_section": 2})
    cells = [(0, r, c, 1) for r, c in product(range(0, 16, 2), (0, 9))]
    target = dataclasses.replace(target, faulty=FaultyCells(cells))
    module = import_model(MODELS / "digits_lstm.onnx", target).module
    quantized = run_pipeline(module, parse_pipeline("quantize"), Context()).module
    draw = np.random.default_rng(0)
    important = {x.name: draw.random(x.body.shape[1]) < 0.2 for x in quantized.layers}
    known = {
        x.name: np.broadcast_to(np.where(important[x.name], 100.0, 0.1), x.body.shape).copy()
        for x in quantized.layers
    }

    def errors(context: Context) -> float:
        passes = [*parse_pipeline(LEVELS[0]), AvoidFaults(most_error=0.0)]
        done = run_pipeline(module, passes, context).module
        total = 0.0
        for layer in done.layers:
            body = layer.at(Programmed)
            change = (body.effective_codes() - body.codes)[:, important[layer.name]]
            total += float(np.square(change, dtype=np.float64).sum())
        return total

    assert errors(Context(sensitivities=Sensitivities(known))) < 0.5 * errors(Context())


def test_a_chip_that_holds_no_integer_of_the_model_is_refused() -> None:
    target = load_target("gather-128", {"rows": 8})
    target = dataclasses.replace(target, faulty=FaultyCells([(0, row, 0, 1) for row in range(8)]))
    module = import_model(MODELS / "digits_lstm.onnx", target).module
    module = run_pipeline(module, parse_pipeline(LEVELS[0]), Context()).module
    layers = [
        x.with_body(dataclasses.replace(x.at(Programmed), given=True, limits=np.array([[-127, 127]], np.int32)))
        for x in finish(dataclasses.replace(module, target=dataclasses.replace(target, faulty=FaultyCells()))).layers
    ]  # fmt: skip
    with pytest.raises(XbcError, match="no integer of the model's type fits the faulty cells in row"):
        AvoidFaults().run(module.with_layers(layers), Context())


def test_nothing_happens_without_faults() -> None:
    module = import_model(MODELS / "digits_lstm.onnx", load_target("gather-128")).module
    passes = parse_pipeline(LEVELS[1])
    assert with_faults(passes, module.target) is passes
    done = finish(run_pipeline(module, passes, Context()).module)
    assert AvoidFaults().run(done, Context()).module == done


def test_options_are_checked() -> None:
    with pytest.raises(XbcError, match="lambda = 0"):
        AvoidFaults(lambda_=0.0)
    with pytest.raises(XbcError, match="most-error = -1"):
        AvoidFaults(most_error=-1.0)
