"""xbc update: chains of versions on the virtual chip, from files alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import xbc
from ir.errors import XbcError
from ir.stages import Programmed
from xbc.backend import Program
from xbc.chip import Chip, effective_codes, replay, verify_program
from xbc.frontend import import_model, original_weights
from xbc.targets import load_target
from xbc.update.accumulator import FRACTION_BITS
from xbc.update.emit import read_accumulators, read_cells, update_program

MODELS = Path(__file__).parents[3] / "models"
PLAIN = "quantize,encode-signs,slice-bits,form-sections,deal-sections"


def changed(source: Any, path: Any, amount: Any, seed: int) -> Any:
    """``source`` with noise of ``amount`` standard deviations on every matrix."""
    model = onnx.load(source)
    rng = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim > 1:
            noise = amount * values.std() * rng.standard_normal(values.shape)
            tensor.CopyFrom(numpy_helper.from_array((values + noise).astype(np.float32), tensor.name))
    onnx.save(model, path)
    return path


def small_model(path: Any, seed: int = 0) -> Any:
    """Two matrix products; quick to compile and replay."""
    from onnx import TensorProto, helper

    rng = np.random.default_rng(seed)
    w1, w2 = rng.standard_normal((12, 10)), rng.standard_normal((10, 4))
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["z"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in (("w1", w1), ("w2", w2))],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def same_files(a: Any, b: Any) -> Any:
    names = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(b) for p in b.rglob("*") if p.is_file())
    return all((a / n).read_bytes() == (b / n).read_bytes() for n in names)


@pytest.mark.parametrize(
    ("target", "settings", "pipeline"),
    [
        ("gather-128", {"crossbars": 100, "rows": 4}, PLAIN),  # every section has a crossbar of its own
        ("gather-128", {"crossbars": 2, "rows": 4}, PLAIN),  # swapped
        ("gather-128", {"rows": 4}, PLAIN + ",stick-bits{columns=3}"),
        ("pcm-256", {"rows": 8, "crossbars": 3}, PLAIN),
        ("isaac-128", {"rows": 8, "crossbars": 3}, PLAIN),
        ("gather-128", {"rows": 4}, PLAIN.replace("encode-signs", "encode-signs{encoding=split}")),
    ],
    ids=["stationary", "swapped", "stuck", "differential", "offset", "split"],
)
def test_chain_of_versions(tmp_path: Path, target: Any, settings: Any, pipeline: Any) -> None:
    models = [small_model(tmp_path / "v1.onnx")]
    for v in (2, 3, 4):
        models.append(changed(models[-1], tmp_path / f"v{v}.onnx", 0.02, v))
    xbc.compile_model(models[0], tmp_path / "v1.xbc", target=target, settings=settings, pipeline=pipeline)
    chip = None
    for v in (2, 3, 4):
        old, new = tmp_path / f"v{v - 1}.xbc", tmp_path / f"v{v}.xbc"
        facts = update_program(old, models[v - 1], new, threshold=1.0).facts
        assert verify_program(new).ok
        # the cell writes take the chip, as it is, to where the new program's inferences begin and end
        before = replay(Program.open(old)).chip
        chip = chip or before
        np.testing.assert_array_equal(chip.levels, before.levels)
        cells = read_cells(new)
        assert not chip.apply(**{k: cells[k] for k in ("crossbar", "row", "column", "before", "after")}).any()
        np.testing.assert_array_equal(chip.levels, replay(Program.open(new)).chip.levels)
        assert len(cells["row"]) == facts["cells_written"]
        # conservation against the new model's weights, exactly
        program = Program.open(new)
        module = program.module()
        accumulators = read_accumulators(program, module)
        weights = original_weights(import_model(models[v - 1], load_target(target)).module)
        was = Program.open(old).module()
        for layer in module.layers:
            body = layer.at(Programmed)
            wanted = weights[layer.name].astype(np.float64) / body.scale.astype(np.float64).reshape(-1, 1)
            fixed = np.rint(np.ldexp(wanted, FRACTION_BITS)).astype(np.int64)
            held = body.codes.astype(np.int64) << FRACTION_BITS
            np.testing.assert_array_equal(held + accumulators[layer.name], fixed)
            before_codes = was.layer(layer.name).at(Programmed).codes
            unmoved = body.codes == before_codes
            far = np.abs(fixed - (before_codes.astype(np.int64) << FRACTION_BITS)) >= 1 << FRACTION_BITS
            assert not (~unmoved & ~far).any()
        assert facts["version"] == v
        assert 0 < facts["weights_written"] < facts["weights"]


def test_stale_cells_stay_as_they_are(tmp_path: Path) -> None:
    first = small_model(tmp_path / "a.onnx")
    pipeline = PLAIN + ",stick-bits{columns=4,fraction=0.2}"
    xbc.compile_model(first, tmp_path / "a.xbc", settings={"rows": 4}, pipeline=pipeline)
    update_program(tmp_path / "a.xbc", changed(first, tmp_path / "b.onnx", 0.02, 1), tmp_path / "b.xbc")
    codes = [effective_codes(Program.open(tmp_path / f)) for f in ("a.xbc", "b.xbc")]
    old, new = (Program.open(tmp_path / f).module() for f in ("a.xbc", "b.xbc"))
    stale = 0
    for layer in old.layers:
        kept = layer.at(Programmed).codes == new.layer(layer.name).at(Programmed).codes
        np.testing.assert_array_equal(codes[0][layer.name][kept], codes[1][layer.name][kept])
        moved = new.layer(layer.name).at(Programmed).codes[~kept]
        np.testing.assert_array_equal(codes[1][layer.name][~kept], moved)
        stale += int((codes[0][layer.name] != layer.at(Programmed).codes).sum())
    assert stale


@pytest.mark.parametrize(
    ("target", "pipeline"),
    [
        ("gather-128", PLAIN),
        ("pcm-256", PLAIN),
        ("isaac-128", PLAIN),
        ("gather-128", PLAIN.replace("encode-signs", "encode-signs{encoding=split}")),
    ],
    ids=["driver", "differential", "offset", "split"],
)
@pytest.mark.parametrize("crossbars", [200, 2])
def test_an_update_can_start_from_what_was_read_back(
    tmp_path: Path, target: Any, pipeline: Any, crossbars: Any
) -> None:
    first = small_model(tmp_path / "a.onnx")
    second = changed(first, tmp_path / "b.onnx", 0.02, 1)
    settings = {"rows": 8, "crossbars": crossbars}
    xbc.compile_model(first, tmp_path / "a.xbc", target=target, settings=settings, pipeline=pipeline)
    old = Program.open(tmp_path / "a.xbc")
    chip = replay(old).chip
    rng = np.random.default_rng(0)
    top = 2**old.target.bits_per_cell - 1
    used = chip.levels > 0
    off = used & (rng.random(chip.levels.shape) < 0.05)  # cells that drifted by a level
    chip.levels[off] = np.clip(chip.levels[off] - 1, 0, top)
    np.save(tmp_path / "levels.npy", chip.levels)
    done = update_program(tmp_path / "a.xbc", second, tmp_path / "b.xbc", measured=tmp_path / "levels.npy")
    assert verify_program(tmp_path / "b.xbc").ok
    cells = read_cells(tmp_path / "b.xbc")
    assert not chip.apply(**{k: cells[k] for k in ("crossbar", "row", "column", "before", "after")}).any()
    np.testing.assert_array_equal(chip.levels, replay(Program.open(tmp_path / "b.xbc")).chip.levels)
    program = Program.open(tmp_path / "b.xbc")
    held = effective_codes(program)
    accumulators = read_accumulators(program, program.module())
    weights = original_weights(import_model(second, load_target(target)).module)
    for layer in program.module().layers:
        body = layer.at(Programmed)
        np.testing.assert_array_equal(held[layer.name], body.codes)
        wanted = weights[layer.name].astype(np.float64) / body.scale.astype(np.float64).reshape(-1, 1)
        fixed = np.rint(np.ldexp(wanted, FRACTION_BITS)).astype(np.int64)
        total = (body.codes.astype(np.int64) << FRACTION_BITS) + accumulators[layer.name]
        np.testing.assert_array_equal(total, fixed)
        if not done.facts["limited"]:
            assert np.abs(accumulators[layer.name]).max() < 1 << FRACTION_BITS
    if crossbars == 200:  # nothing is reloaded: a repair of every drifted cell is not needed
        plain = update_program(tmp_path / "a.xbc", second, tmp_path / "c.xbc").facts
        assert done.facts["cells_written"] < plain["cells_written"] + off.sum()


def test_threshold_decides_how_much_is_written(tmp_path: Path) -> None:
    first = small_model(tmp_path / "a.onnx")
    second = changed(first, tmp_path / "b.onnx", 0.02, 1)
    xbc.compile_model(first, tmp_path / "a.xbc", settings={"crossbars": 100, "rows": 8}, pipeline=PLAIN)
    counts = {}
    for threshold in (0.5, 1.0, 3.0, 1000.0):
        done = update_program(tmp_path / "a.xbc", second, tmp_path / "b.xbc", threshold=threshold)
        counts[threshold] = done.facts["cells_written"]
    assert counts[0.5] > counts[1.0] > counts[3.0] > counts[1000.0] == 0
    # threshold 0.5 writes what a fresh quantisation on the same scale would hold
    update_program(tmp_path / "a.xbc", second, tmp_path / "b.xbc", threshold=0.5)
    held = effective_codes(Program.open(tmp_path / "b.xbc"))
    fresh = import_model(second, load_target("gather-128")).module
    old = Program.open(tmp_path / "a.xbc").module()
    for layer in old.layers:
        body = layer.at(Programmed)
        wanted = np.rint(original_weights(fresh)[layer.name] / body.scale.reshape(-1, 1))
        np.testing.assert_array_equal(held[layer.name], np.clip(wanted, *body.cells.code_range()))


def test_nothing_is_written_for_the_same_model_and_the_result_is_reproducible(tmp_path: Path) -> None:
    first = small_model(tmp_path / "a.onnx")
    xbc.compile_model(first, tmp_path / "a.xbc", settings={"rows": 4}, pipeline=PLAIN)
    facts = update_program(tmp_path / "a.xbc", first, tmp_path / "b.xbc").facts
    assert facts["cells_written"] == facts["weights_written"] == 0
    update_program(tmp_path / "a.xbc", first, tmp_path / "c.xbc")
    assert same_files(tmp_path / "b.xbc", tmp_path / "c.xbc")


def test_a_sign_that_has_no_section_stays_in_the_accumulator(tmp_path: Path) -> None:
    first = small_model(tmp_path / "a.onnx")
    model = onnx.load(first)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, tmp_path / "b.onnx")
    pipeline = PLAIN.replace("encode-signs", "encode-signs{encoding=split}")
    pipeline = pipeline.replace("form-sections", "form-sections,sort-sections")
    xbc.compile_model(first, tmp_path / "a.xbc", settings={"rows": 4}, pipeline=pipeline)
    facts = update_program(tmp_path / "a.xbc", tmp_path / "b.onnx", tmp_path / "b.xbc").facts
    assert facts["limited"] > 0
    assert verify_program(tmp_path / "b.xbc").ok


def test_other_networks_are_refused(tmp_path: Path) -> None:
    first = small_model(tmp_path / "a.onnx")
    xbc.compile_model(first, tmp_path / "a.xbc", settings={"rows": 4}, pipeline=PLAIN)

    def refused(match: Any, model: Any, **options: Any) -> None:
        with pytest.raises(XbcError, match=match):
            update_program(tmp_path / "a.xbc", model, tmp_path / "b.xbc", **options)
        assert not (tmp_path / "b.xbc").exists()

    refused("another network", MODELS / "digits_cnn.onnx")
    refused("threshold = 0", first, threshold=0)
    refused("threshold = -1", first, threshold=-1)
    refused("nothing.onnx", tmp_path / "nothing.onnx")
    model = onnx.load(first)
    w1 = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(w1[:, :9].copy(), "w1"))
    w2 = numpy_helper.to_array(model.graph.initializer[1])
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(w2[:9].copy(), "w2"))
    onnx.save(model, tmp_path / "narrow.onnx")
    refused("has weights", tmp_path / "narrow.onnx")
    model = onnx.load(first)
    model.graph.node[1].op_type = "Sigmoid"
    onnx.save(model, tmp_path / "sigmoid.onnx")
    refused("is a Sigmoid, where the deployed one has a Relu", tmp_path / "sigmoid.onnx")
    with pytest.raises(XbcError, match="itself"):
        update_program(tmp_path / "a.xbc", first, tmp_path / "a.xbc")
    with pytest.raises(XbcError):
        update_program(tmp_path / "nowhere.xbc", first, tmp_path / "b.xbc")


def test_damaged_accumulators_are_refused(tmp_path: Path) -> None:
    first = small_model(tmp_path / "a.onnx")
    xbc.compile_model(first, tmp_path / "a.xbc", settings={"rows": 4}, pipeline=PLAIN)
    update_program(tmp_path / "a.xbc", first, tmp_path / "b.xbc")
    file = tmp_path / "b.xbc" / "accumulators" / "0.npy"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(XbcError, match="damaged"):
        update_program(tmp_path / "b.xbc", first, tmp_path / "c.xbc")


def test_a_whole_network_keeps_its_accuracy(tmp_path: Path) -> None:
    first = MODELS / "digits_cnn.onnx"
    second = changed(first, tmp_path / "b.onnx", 0.02, 1)
    settings = {"crossbars": 1000}
    xbc.compile_model(first, tmp_path / "a.xbc", settings=settings, level=1)
    facts = update_program(tmp_path / "a.xbc", second, tmp_path / "b.xbc").facts
    manifest = json.loads((tmp_path / "b.xbc" / "manifest.json").read_text())
    assert manifest["update"]["cells_written"] == facts["cells_written"]
    assert manifest["update"]["version"] == 2
    blank = manifest["totals"]["first"]["writes"]
    assert facts["cells_written"] < blank / 4
    assert isinstance(replay(Program.open(tmp_path / "b.xbc")).chip, Chip)
