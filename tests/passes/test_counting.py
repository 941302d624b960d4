"""count_module against a chip of plain dictionaries."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ir import Layer, Layout, Module, Origin, Placed, Programmed, Target, XbcError
from passes.counting import count_module, natural_module
from passes.pipeline import LEVELS
from tests.ir.tiny import programmed
from tests.passes.small import compiled, module, random_codes, target


def played(given_module: Any, inferences: Any = 3) -> Any:
    """Per inference: (set, reset, by layer); and the writes per cell of the last one.  One dictionary is the chip."""
    loads = []
    for layer in given_module.layers:
        body = layer.at(Placed)
        words = body.stored if isinstance(body, Programmed) else body.wanted_words()
        levels = body.cells.levels(words)
        loads += [
            (int(body.step[s]), int(body.crossbar[s]), layer.name, body, levels, s)
            for s in range(body.sections)
        ]
    loads.sort(key=lambda load: load[:2])
    chip: dict[Any, Any] = {}
    out: list[Any] = []
    for _ in range(inferences):
        up = down = 0
        by_layer = {layer.name: 0 for layer in given_module.layers}
        wear: dict[Any, Any] = {}
        for _, crossbar, name, body, levels, s in loads:
            for r in range(body.rows):
                for g in range(body.group_width):
                    if body.inputs[s, r] < 0 or body.outputs[s, g] < 0:
                        continue
                    for d in range(body.cells.columns):
                        cell = crossbar, r, g * body.cells.columns + d
                        level, held = int(levels[s, r, g, d]), chip.get(cell, 0)
                        up += level > held
                        down += level < held
                        by_layer[name] += level != held
                        wear[cell] = wear.get(cell, 0) + (level != held)
                        chip[cell] = level
        out.append((up, down, by_layer, wear))
    return out


@st.composite
def chips(draw: Any) -> Any:
    """Two layers of different formats on common crossbars, don't-care rows and empty groups included."""
    layers, step = [], 0
    for i in range(draw(st.integers(1, 2))):
        body, groups = draw(programmed(first_step=step))
        step = int(body.step.max()) + 1
        if draw(st.booleans()):
            body = body.lower(Placed)
        layout = Layout(body.shape, body.shape, (0, 1), 1)
        layers.append(Layer(f"l{i}", Origin(f"n{i}", "MatMul", 1, f"w{i}", "float32", layout, groups), body))
    chip = Target("t", rows=4, columns=64, bits_per_cell=4, crossbars=3, encoding="split")
    return Module("m", chip, tuple(layers))


@given(given_module=chips())
@settings(max_examples=50)
def test_counts_equal_a_chip_of_dictionaries(given_module: Any) -> None:
    counts = count_module(given_module)
    first, second, third = played(given_module)
    assert second == third, "the second inference is not the steady state"
    assert (counts.first.set, counts.first.reset) == first[:2]
    assert (counts.steady.set, counts.steady.reset) == second[:2]
    assert counts.layer_writes == second[2]
    wear = np.zeros_like(counts.wear)
    for cell, writes in second[3].items():
        wear[cell] = writes
    np.testing.assert_array_equal(counts.wear, wear)
    assert counts.wear.sum() == counts.steady.total == sum(counts.layer_writes.values())
    assert counts.loads == sum(layer.at(Placed).sections for layer in given_module.layers)
    cells = 0
    for layer in given_module.layers:
        body = layer.at(Placed)
        for s in range(body.sections):
            cells += (body.inputs[s] >= 0).sum() * (body.outputs[s] >= 0).sum() * body.cells.columns
    assert counts.full == cells
    assert counts.wear_summary()["max"] == max(second[3].values(), default=0)


def test_by_hand() -> None:
    """One cell row of 2 bits: 3, 1, 2 -> first 2 + 1 + 2, later inferences pay 2 -> 3 once instead."""
    given_module = compiled(
        "encode-signs,slice-bits,form-sections,deal-sections", module([[[3, 1, 2]]], target(rows=1))
    )
    counts = count_module(given_module)
    assert (counts.first.set, counts.first.reset) == (3, 2)
    assert (counts.steady.set, counts.steady.reset) == (2, 2)
    assert counts.full == 3 * 8
    assert counts.wear_summary()["max"] == 2


def test_layers_whose_steps_interleave() -> None:
    """The order of loads is that of steps, not of layers."""
    given_module = compiled(
        "encode-signs,slice-bits,form-sections,deal-sections",
        module([[[3, 1, 2]], [[7, 4, 6]]], target(rows=1)),
    )
    a, b = (layer.at(Placed) for layer in given_module.layers)
    layers = [
        given_module.layers[0].with_body(a.lower(Placed, step=np.array([0, 2, 4]))),
        given_module.layers[1].with_body(b.lower(Placed, step=np.array([1, 3, 5]))),
    ]
    mixed = given_module.with_layers(layers)
    counts = count_module(mixed)
    second = played(mixed)[1]
    assert (counts.steady.set, counts.steady.reset) == second[:2]
    assert counts.layer_writes == second[2]
    assert (counts.full, counts.loads) == (6 * 8, 6)
    assert counts.layer_writes != count_module(given_module).layer_writes


def test_natural_module_is_the_plain_pipeline() -> None:
    rng = np.random.default_rng(0)
    given_module = module([random_codes(rng, (5, 9)), random_codes(rng, (3, 6))], target(crossbars=2))
    plain = "encode-signs,slice-bits,form-sections"
    best = compiled(f"{plain},sort-sections,order-sections,deal-sections,match-rows", given_module)
    natural = natural_module(best)
    assert natural == compiled(LEVELS[0].removeprefix("quantize,"), given_module)
    assert count_module(best).steady.total < count_module(natural).steady.total


def test_module_that_is_not_placed_is_refused() -> None:
    given_module = compiled("encode-signs,slice-bits,form-sections", module([[[3]]], target()))
    with pytest.raises(XbcError, match="'l0' is at stage 'sectioned', 'placed' is needed"):
        count_module(given_module)
