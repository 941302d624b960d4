from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir import Float, Layer, Layout, Module, Origin, Placed, Programmed, Sectioned, Target, XbcError, frozen
from tests.ir.tiny import modules, programmed

bodies = programmed().map(lambda pair: pair[0])
exact_bodies = programmed(exact=True).map(lambda pair: pair[0])


def output_of(body: Sectioned, s: int, r: int, g: int) -> int:
    return int(body.outputs[s, g] if body.row_outputs is None else body.row_outputs[s, r])


def wanted_code(body: Sectioned, s: int, r: int, g: int) -> int:
    """The definition, cell by cell."""
    output, source = output_of(body, s, r, g), int(body.inputs[s, r])
    if output < 0 or source < 0:
        return 0
    code = int(body.codes[output, source])
    if body.encoding == "split" and code * int(body.polarity[s]) < 0:
        return 0
    return code


def offset_of(body: Sectioned, output: int) -> int:
    return int(body.offset[output if len(body.offset) > 1 else 0])


def places(body: Sectioned) -> list[tuple[int, int, int]]:
    return [
        (s, r, g) for s in range(body.sections) for r in range(body.rows) for g in range(body.group_width)
    ]


@given(bodies)
def test_section_codes_and_wanted_words(body: Programmed) -> None:
    codes, words = body.section_codes(), body.wanted_words()
    assert codes.shape == words.shape == (body.sections, body.rows, body.group_width)
    for s, r, g in places(body):
        code = wanted_code(body, s, r, g)
        assert codes[s, r, g] == code
        used = body.outputs[s, g] >= 0 and body.inputs[s, r] >= 0
        offset = offset_of(body, output_of(body, s, r, g)) if used and body.encoding == "offset" else 0
        expected = body.cells.encode(np.array(code), offset) if used else 0
        assert words[s, r, g] == expected


@given(exact_bodies)
def test_exact_words_compute_with_the_exact_codes(body: Programmed) -> None:
    np.testing.assert_array_equal(body.effective_codes(), body.codes)
    np.testing.assert_array_equal(body.stored_codes(), body.section_codes())


@given(bodies)
def test_effective_codes_are_the_sums_over_the_cells(body: Programmed) -> None:
    """Any stored words (stale cells, flipped columns), level by level."""
    effective = np.zeros(body.shape, int)
    full = 2**body.bits_per_cell - 1
    for s, r, g in places(body):
        output, source = output_of(body, s, r, g), int(body.inputs[s, r])
        if output < 0 or source < 0:
            continue
        levels = body.cells.levels(body.stored[s, r, g]).astype(int)
        if body.flip is not None:
            flipped = body.cells.levels(body.flip[s, g]) == full
            levels = np.where(flipped, full - levels, levels)
        code = int(levels @ body.cells.cell_weights)
        if body.encoding == "offset":
            code -= offset_of(body, output)
        if body.encoding == "driver":
            wanted = int(body.codes[output, source])
            code *= -1 if wanted < 0 or (wanted == 0 and (output + source) % 2) else 1
        if body.encoding == "split":
            code *= int(body.polarity[s])
        assert body.stored_codes()[s, r, g] == code
        effective[output, source] += code
    np.testing.assert_array_equal(body.effective_codes(), effective)


@given(bodies, st.data())
def test_parts_agree_with_the_whole(body: Programmed, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, body.sections))
    part = slice(start, data.draw(st.integers(start, body.sections)))
    np.testing.assert_array_equal(body.section_codes(part), body.section_codes()[part])
    np.testing.assert_array_equal(body.wanted_words(part), body.wanted_words()[part])
    np.testing.assert_array_equal(body.stored_codes(part), body.stored_codes()[part])
    np.testing.assert_array_equal(body.row_signs(part), body.row_signs()[part])
    np.testing.assert_array_equal(body.driven(part), body.inputs[part] >= 0)


@given(bodies)
def test_read_phases_are_the_outputs_of_a_section(body: Programmed) -> None:
    phases = body.read_phases()
    for s in range(body.sections):
        met = {output_of(body, s, r, 0) for r in range(body.rows) if body.inputs[s, r] >= 0}
        assert phases[s] == (1 if body.row_outputs is None else len(met))


def test_split_keeps_the_most_negative_code() -> None:
    body = Sectioned(
        codes=np.array([[-32768, 5]], np.int16),
        scale=np.ones(1, np.float32),
        zero_point=np.zeros(1, np.int32),
        limits=np.array([[-32768, 32767]], np.int32),
        bits=16,
        given=True,
        encoding="split",
        stored_bits=16,
        offset=np.zeros(1, np.int32),
        bits_per_cell=1,
        outputs=np.zeros((2, 1), np.int32),
        inputs=np.array([[0], [1]], np.int32),
        rank=np.zeros(2, np.int32),
        polarity=np.array([-1, 1], np.int8),
    )
    assert body.section_codes().ravel().tolist() == [-32768, 5]
    assert body.wanted_words().ravel().tolist() == [32768, 5]


@given(bodies)
def test_lowering_keeps_fields_and_equality(body: Programmed) -> None:
    placed = body.lower(Placed)
    assert type(placed) is Placed
    assert placed.lower(Programmed, stored=body.stored, flip=body.flip, verify=body.verify) == body
    changed = body.codes.copy()
    changed[0, 0] += 1
    assert body.lower(Programmed, codes=changed) != body
    assert body != placed


def test_arrays_are_read_only_and_native() -> None:
    values = np.zeros((2, 2), ">f4")
    body = Float(values=values)
    assert body.values.dtype == np.float32
    assert body.values.dtype.isnative
    with pytest.raises(ValueError, match="read-only"):
        body.values[0, 0] = 1
    array = np.arange(4)
    assert frozen(array).base is array
    assert array.flags.writeable


@given(modules())
def test_module_access(module: Module) -> None:
    assert module.weights == sum(np.prod(layer.body.shape) for layer in module.layers)
    assert set(module.graph().edges) == set(module.edges)
    for layer in module.layers:
        assert module.layer(layer.name) is layer
    assert module.stage() in {Float, *(type(layer.body) for layer in module.layers)}


def test_asking_for_a_later_stage_says_what_to_do() -> None:
    layout = Layout((1, 1), (1, 1), (0, 1), 1)
    layer = Layer(
        "a", Origin("n", "Gemm", 1, "w", "float32", layout), Float(values=np.ones((1, 1), np.float32))
    )
    with pytest.raises(XbcError, match="layer 'a' is at stage 'float', 'placed' is needed: run the pass"):
        layer.at(Placed)
    module = Module("m", Target("t", 1, 1), (layer,))
    with pytest.raises(XbcError, match="no layer 'b' in module 'm'; layers: a"):
        module.layer("b")
