"""select-write-verify: a true top-k over all layers, flags on the right cells, clear refusals."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir.cells import ENCODINGS, CellFormat
from ir.errors import XbcError
from ir.layout import Layout
from ir.module import Layer, Module, Origin
from ir.stages import Float, Placed, Programmed
from ir.target import Target
from ir.verify import check_module
from passes.base import Context
from passes.inputs import Sensitivities
from passes.manager import run_pipeline
from passes.pipeline import parse_pipeline
from passes.select_write_verify import SelectWriteVerify, select, verify_mask

PLACE = "quantize{bits=4},encode-signs,slice-bits,form-sections,deal-sections"


def placed(
    shapes: Any,
    seed: int = 0,
    encoding: Any = "driver",
    bits_per_cell: Any = 1,
    outputs_per_section: Any = 1,
    values: Any = None,
    quantize: Any = None,
) -> Any:
    rng = np.random.default_rng(seed)
    layers = []
    for i, shape in enumerate(shapes):
        layout = Layout(shape, shape, (0, 1), 1)
        origin = Origin(f"n{i}", "MatMul", 1, f"l{i}.weight", "float32", layout)
        weights = rng.standard_normal(shape).astype(np.float32) * (i + 1) if values is None else values[i]
        layers.append(Layer(f"l{i}", origin, Float(values=weights)))
    columns = outputs_per_section * 2 * 8
    target = Target(
        "t", rows=4, columns=columns, bits_per_cell=bits_per_cell, crossbars=2, encoding=encoding,
        outputs_per_section=outputs_per_section,
    )  # fmt: skip
    return run_pipeline(
        Module("m", target, tuple(layers)),
        parse_pipeline(PLACE if quantize is None else PLACE.replace("quantize{bits=4}", quantize)),
    ).module


def flagged(module: Any) -> Any:
    """Layer name -> bool [outputs, inputs]: weights with a verified cell, from the section table."""
    out = {}
    for layer in module.layers:
        body = layer.at(Programmed)
        hit = np.zeros(body.shape, bool)
        for s in range(body.sections):
            for r in range(body.rows):
                for g in range(body.group_width):
                    if body.inputs[s, r] >= 0 and body.outputs[s, g] >= 0 and body.verify[s, r, g]:
                        hit[body.outputs[s, g], body.inputs[s, r]] = True
                    elif body.inputs[s, r] < 0 or body.outputs[s, g] < 0:
                        assert body.verify[s, r, g] == 0, "a don't-care cell is flagged"
        out[layer.name] = hit
    return out


@given(
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=4),
    fraction=st.floats(0, 1),
    levels=st.integers(1, 1000),
    seed=st.integers(0, 2**32 - 1),
)
def test_selection_is_a_true_top_k_over_all_layers(
    shapes: Any, fraction: Any, levels: Any, seed: int
) -> None:
    module = placed(shapes, seed)
    rng = np.random.default_rng(seed)
    scores = {f"l{i}": rng.integers(0, levels, s).astype(np.float32) for i, s in enumerate(shapes)}
    chosen = select(module, scores, fraction)
    flat = np.concatenate([scores[n].ravel() for n in scores])
    hit = np.concatenate([chosen[n].ravel() for n in scores])
    assert hit.sum() == round(fraction * len(flat))
    if hit.any() and not hit.all():
        assert flat[hit].min() >= flat[~hit].max()
        sizes = []
        for layer in module.layers:
            body = layer.at(Placed)
            sizes.append((np.abs(body.codes) * body.scale.reshape(-1, 1)).ravel())
        tied = flat == flat[hit].min()
        size = np.concatenate(sizes)
        if (tied & hit).any() and (tied & ~hit).any():
            assert size[tied & hit].min() >= size[tied & ~hit].max()


@pytest.mark.parametrize(
    ("encoding", "outputs"),
    [("driver", 1), ("split", 3), ("differential", 2), ("offset", 3), ("twos-complement", 2)],
)
@pytest.mark.parametrize("slices", [0, 1, 2])
def test_flags_stand_on_the_selected_weights_and_slices(encoding: Any, outputs: Any, slices: Any) -> None:
    module = placed([(5, 9), (3, 6)], encoding=encoding, outputs_per_section=outputs)
    rng = np.random.default_rng(1)
    s = {"l0": rng.random((5, 9), np.float32), "l1": rng.random((3, 6), np.float32)}
    context = Context(sensitivities=Sensitivities(s))
    step = SelectWriteVerify(fraction=0.3, variance="equal", slices=slices)
    outcome = step.run(module, context)
    done = outcome.module
    check_module(done)
    chosen = select(module, s, 0.3)
    for name, hit in flagged(done).items():
        np.testing.assert_array_equal(hit, chosen[name])
    body = done.layers[0].at(Programmed)
    np.testing.assert_array_equal(body.stored, body.wanted_words())
    assert body.verify is not None
    marked = body.cells.levels(body.verify)[body.verify != 0]
    per_number = marked.reshape(len(marked), -1, body.cells.slices)
    expected = np.zeros(body.cells.slices, bool)
    expected[: slices or None] = True
    assert (per_number.astype(bool) == expected).all()
    assert outcome.facts["selected"] == round(0.3 * 63)


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_mask_takes_high_order_cells(encoding: Any) -> None:
    cells = CellFormat(encoding, 7, 2)
    assert verify_mask(cells, 0) == (1 << cells.word_bits) - 1
    levels = cells.levels(np.array([verify_mask(cells, 1)], np.uint32))[0]
    assert (levels[:: cells.slices] == 3).all()
    assert (levels > 0).sum() == cells.columns // cells.slices


def test_variance_weighs_by_the_largest_weight_of_a_layer() -> None:
    values = [np.array([[1.0, 0.1]], np.float32), np.array([[10.0, 0.1]], np.float32)]
    module = placed([(1, 2), (1, 2)], values=values)
    s = {"l0": np.array([[5.0, 4.0]], np.float32), "l1": np.array([[1.0, 0.5]], np.float32)}
    context = Context(sensitivities=Sensitivities(s))
    equal = flagged(SelectWriteVerify(fraction=0.5, variance="equal").run(module, context).module)
    layer = flagged(SelectWriteVerify(fraction=0.5).run(module, context).module)
    assert equal["l0"].all()
    assert not equal["l1"].any()
    assert layer["l1"].all()  # an error there is ten times as large


def test_variance_weighs_by_the_largest_weight_of_an_output_with_a_scale_of_its_own() -> None:
    values = [np.array([[1.0, 0.1], [10.0, 0.1]], np.float32)]
    s = {"l0": np.array([[5.0, 4.0], [1.0, 0.5]], np.float32)}
    for granularity, first in (("tensor", True), ("channel", False)):
        module = placed([(2, 2)], values=values, quantize=f"quantize{{bits=4,granularity={granularity}}}")
        hit = flagged(
            SelectWriteVerify(fraction=0.5).run(module, Context(sensitivities=Sensitivities(s))).module
        )["l0"]
        assert hit[0].all() == first
        assert hit[1].all() != first  # an error there is ten times as large, if it has its own scale


def test_methods_without_sensitivities() -> None:
    module = placed([(4, 8), (6, 5)])
    by_size = flagged(SelectWriteVerify(method="magnitude", fraction=0.25).run(module, Context()).module)
    sizes = {x.name: np.abs(x.at(Placed).codes) * x.at(Placed).scale.reshape(-1, 1) for x in module.layers}
    kept = min(sizes[n][h].min() for n, h in by_size.items() if h.any())
    left = max(sizes[n][~h].max() for n, h in by_size.items())
    assert kept >= left
    one = flagged(SelectWriteVerify(method="random", fraction=0.25).run(module, Context(seed=1)).module)
    same = flagged(SelectWriteVerify(method="random", fraction=0.25).run(module, Context(seed=1)).module)
    other = flagged(SelectWriteVerify(method="random", fraction=0.25).run(module, Context(seed=2)).module)
    assert all((one[n] == same[n]).all() for n in one)
    assert any((one[n] != other[n]).any() for n in one)


def test_everything_or_nothing() -> None:
    module = placed([(3, 4)])
    every = SelectWriteVerify(method="magnitude", fraction=1).run(module, Context()).module
    assert every.layers[0].at(Programmed).verify is None
    none = SelectWriteVerify(method="magnitude", fraction=0).run(module, Context()).module
    verify = none.layers[0].at(Programmed).verify
    assert verify is not None
    assert not verify.any()


def test_bad_input_is_refused_in_a_sentence() -> None:
    module = placed([(3, 4)])
    with pytest.raises(XbcError, match="needs sensitivities: run xbc sensitivity"):
        SelectWriteVerify().run(module, Context())
    with pytest.raises(XbcError, match="another model"):
        SelectWriteVerify().run(module, Context(sensitivities=Sensitivities({})))
    with pytest.raises(XbcError, match="another model"):
        SelectWriteVerify().run(
            module, Context(sensitivities=Sensitivities({"l0": np.ones((4, 3), np.float32)}))
        )
    s = Sensitivities({"l0": np.ones((3, 4), np.float32)}, "cross-entropy")
    with pytest.raises(XbcError, match="--loss empirical"):
        SelectWriteVerify(method="second-moment").run(module, Context(sensitivities=s))
    with pytest.raises(XbcError, match=r"outside 0\.\.1"):
        SelectWriteVerify(fraction=1.5)
    with pytest.raises(XbcError, match="slices"):
        SelectWriteVerify(slices=-1)
