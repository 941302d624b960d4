"""The text form: round trip, golden text, hand-written modules, errors, hostile text."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ir import (
    Float,
    Host,
    Layer,
    Layout,
    Module,
    Origin,
    Placed,
    Programmed,
    Sectioned,
    Sliced,
    Target,
    Unmapped,
    XbcError,
    digest,
    parse_module,
    print_module,
    verify_module,
)
from ir.faulty import FaultyCells
from ir.text import print_with_arrays
from tests.ir.tiny import modules

INVALID = sorted((Path(__file__).parent / "invalid").glob("*.xir"))

HAND_WRITTEN = """
# a comment before the header
xir 1
module "by hand" {  # commas are white space, fields with a default may be left out
  target "t" { rows = 2 columns = 3, crossbars = 1 }
  layer "a" {
    origin "n" {
      op_type = "Gemm"
      operand = 1, tensor = "w", dtype = "float32"
      layout { shape = [1 2], split = [1, 2,], perm = [0 1] outer = 1 }
    }
    float {
      values = float32 [1, 2] {  # one row
        0.5  # first
        -1e-3,
      }
    }
  }
}
"""


def example() -> Module:
    """One layer at the first stage, one at the last, every kind of field."""
    layout = Layout((2, 1, 3), (2, 1, 3), (0, 1, 2), 1)
    sliced = Sliced(
        codes=np.array([[1, -2, 7], [0, 5, -6]], np.int16),
        scale=np.array([0.1, 1e-9], np.float32),
        zero_point=np.zeros(1, np.int32),
        limits=np.array([[-7, 7]], np.int32),
        bits=3,
        given=False,
        encoding="driver",
        stored_bits=3,
        offset=np.zeros(1, np.int32),
        bits_per_cell=1,
    )
    placed = sliced.lower(
        Sectioned,
        outputs=np.array([[0], [1]], np.int32),
        inputs=np.array([[0, 1, 2, -1], [2, 0, -1, 1]], np.int32),
        rank=np.zeros(2, np.int32),
        polarity=np.zeros(2, np.int8),
    ).lower(Placed, crossbar=np.array([1, 0], np.int32), step=np.array([0, 1]))
    programmed = placed.lower(
        Programmed, stored=placed.wanted_words(), verify=np.full((2, 4, 1), 4, np.uint8)
    )
    values = (np.arange(60, dtype=np.float32) / 64 - 0.5).reshape(3, 20)
    return Module(
        "example",
        Target(
            "chip",
            rows=4,
            columns=3,
            crossbars=2,
            faulty=FaultyCells([(0, 3, 2, 1)]),
            description='says "hi"',
        ),
        (
            Layer("conv", Origin("Conv_0", "Conv", 1, "conv.w", "float32", layout, 1, (3,), 49), programmed),
            Layer(
                "head/ä",
                Origin("MatMul_1", "MatMul", 1, "head.w", "float16", Layout((20, 3), (20, 3), (1, 0), 1)),
                Float(values=values),
            ),
        ),
        (("conv", "head/ä"),),
        Host("host.onnx", "ab", "cd"),
        (Unmapped("Gather_3", "Gather", 500, "reads rows,\nmultiplies nothing"),),
    )


@settings(max_examples=100)
@given(modules(), st.sampled_from([0, 1, 5, 64, 10**6]))
def test_print_parse_print_is_the_identity(module: Module, limit: int) -> None:
    text, arrays = print_with_arrays(module, limit)
    parsed = parse_module(text, arrays)
    assert parsed == module
    assert print_module(parsed, limit) == text
    assert all(digest(array) == key and array.size > limit for key, array in arrays.items())


@given(
    st.lists(st.floats(width=32) | st.sampled_from([np.nan, np.inf, -0.0, 1e-45]), min_size=1, max_size=80)
)
def test_floats_keep_every_bit(values: list[float]) -> None:
    array = np.array([values], np.float32)
    module = dataclasses.replace(example(), layers=())
    layer = dataclasses.replace(example().layers[1], body=Float(values=array))
    text = print_module(module.with_layers([layer]), 1000)
    read = parse_module(text).layers[0].at(Float).values
    finite = ~np.isnan(array)
    np.testing.assert_array_equal(read[finite].view(np.uint32), array[finite].view(np.uint32))
    np.testing.assert_array_equal(np.isnan(read), np.isnan(array))


def test_long_values_are_wrapped_and_read_back() -> None:
    layer = example().layers[1]
    empty = np.zeros((0, 10**9, 10**6, 1, 1), np.float32)
    kernel = tuple(range(1000, 1060))
    origin = dataclasses.replace(layer.origin, kernel=kernel, node="with spaces " * 20)
    target = Target(
        "t", 4, 3, endurance=1000000, faulty=FaultyCells([(0, r, c, 1) for r in range(4) for c in range(3)])
    )
    layers = (Layer("a", origin, Float(values=empty)), dataclasses.replace(layer, name="b" * 90))
    module = Module("m", target, layers, (("a", "b" * 90), ("b" * 90, "a")))
    text = print_module(module, 100)
    assert parse_module(text) == module
    assert print_module(parse_module(text), 100) == text
    assert f'  edges = [\n    ["a", "{"b" * 90}"]' in text
    assert "  1000, 1001" in text


def test_golden(golden: Callable[[str, str], None]) -> None:
    module = example()
    assert verify_module(module) == []
    golden("example.xir", print_module(module))
    golden("example-references.xir", print_module(module, inline_limit=4))


def test_hand_written() -> None:
    module = parse_module(HAND_WRITTEN)
    assert module.target == Target("t", 2, 3)
    assert module.host == Host()
    assert module.edges == ()
    np.testing.assert_array_equal(module.layers[0].at(Float).values, np.array([[0.5, -0.001]], np.float32))
    assert module.layers[0].origin.products is None
    assert parse_module(print_module(module)) == module


def test_documented_example_is_valid() -> None:
    """The example of docs/ir.md is what the reader is shown: it must parse and verify."""
    page = Path(__file__).parents[2] / "docs" / "ir.md"
    texts = re.findall(
        r"^```\w*\n(xir 1\n.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert texts
    for text in texts:
        module = parse_module(text)
        assert verify_module(module) == []
        body = module.layers[0].at(Programmed)
        np.testing.assert_array_equal(body.effective_codes(), body.codes)


WHOLE = [
    (HAND_WRITTEN.replace("xir 1", "xir 2"), r"line 3: format version 2 is newer than 1, .* newer xbc"),
    (HAND_WRITTEN.replace("xir 1", "xir 0"), r"line 3: format version 0 does not exist"),
    (HAND_WRITTEN.replace("xir 1", "onnx"), r"line 1: not an xbc module: the first line must be 'xir 1'"),
    ("", r"line 1: not an xbc module"),
    ("xir 1\n", r"line 2: expected 'module', found the end of the text"),
    ("xir 1\nprogram {}", r"line 2: expected 'module', found 'program'"),
    (HAND_WRITTEN + "}", r"line 20: expected the end after the module, found '}'"),
    (HAND_WRITTEN.rstrip()[:-1], r'line 19, module "by hand": expected a field, a record or .*the end'),
]
PARTS = [
    ('module "by hand"', "module", r"line 4.*expected a string in double quotes, found '{'"),
    ("rows = 2", "rowz = 2", r"line 5, .*unknown field 'rowz'; did you mean 'rows'\? \(known: rows, c"),
    ("rows = 2", "rows = 2.5", r"line 5, .*field 'rows': expected an integer, found '2.5'"),
    ("rows = 2", 'rows = "2"', r"line 5, .*expected an integer \(field 'rows'\), found \"2\""),
    ("rows = 2", "rows 2", r"line 5, .*expected '=' after 'rows', found '2'"),
    ("rows = 2", "rows = 0", r"line 5, .*target 't': rows = 0 is outside 1..65535"),
    ("rows = 2", "rows = 2 rows = 2", r"line 5, .*'rows' is given twice"),
    ("rows = 2", "row_gating = 1", r"line 5, .*'row_gating': expected true or false, found '1'"),
    ("rows = 2", "endurance = a", r"line 5, .*'endurance': expected a number, found 'a'"),
    ("rows = 2", "faulty = [[0 0 0]]", r"'faulty': expected a list of 4 entries, found 3"),
    ("rows = 2", "faulty = [[0 0 0 0 0]]", r"'faulty': expected a list of 4 entries, found more"),
    ("rows = 2", "wire { set_pj = 1 }", r"line 5, .*unknown record 'wire'; did you mean 'write'\?"),
    ("rows = 2", "write {} write {}", r"line 5, .*'write' is given twice"),
    ("rows = 2", "", r'line 5, module "by hand" > target "t": \'rows\' must be given'),
    ('target "t"', 'targte "t"', r"line 5, .*unknown record 'targte'; did you mean 'target'\?"),
    ("    float {", "    floating {", r"line 12, .*unknown record 'floating'; did you mean 'float'\?"),
    ("    float {", "    floating {", r"\(known: origin, float, quantized, encoded, sliced, sectioned, pl"),
    ("    float {", "    float {} float {", r"line 12, .*layer \"a\" > float: 'values' must be given"),
    ("    float {", "    encoded {} float {", r"> encoded: 'codes' and 'scale' and .* must be given"),
    ("      layout {", "      layout2 {", r"line 10, .*unknown record 'layout2'"),
    ("perm = [0 1]", "perm = [0 x]", r"line 10, .*field 'perm': expected an integer, found 'x'"),
    ("perm = [0 1]", "perm = 0", r"line 10, .*expected '\[', found '0'"),
    ('"Gemm"', '"Ge\\qmm"', r'line 8, .*"Ge\\qmm" is no JSON string'),
    ('"Gemm"', '"Gemm', r"line 8, .*expected a string in double quotes, found '\"'"),
    ("float32 [1, 2]", "float31 [1, 2]", r"line 13, .*unknown array type 'float31'; did you mean 'f"),
    ("float32 [1, 2]", "object [1, 2]", r"line 13, .*unknown array type 'object'"),
    ("float32 [1, 2]", "float32 [1, 3]", r"line 13, .*shape \[1, 3\] has 3 elements, 2 are given"),
    ("float32 [1, 2]", "float32 [1, -2]", r"line 13, .*'-2' is no axis length"),
    ("float32 [1, 2]", "int8 [1, 2]", r"line 13, .*field 'values': '0.5' is not of type int8"),
    ("-1e-3", "-1e99", r"line 13, .*field 'values': -1e99 is outside the range of float32"),
    ("-1e-3", "abc", r"line 13, .*field 'values': 'abc' is not of type float32"),
    ("-1e-3", "{1}", r"line 15, .*expected '}', found '{'"),
    ("values =", "values = int8 [1] @sha256:0 #", r"line 13, .*'sha256:0' is no digest sha256:<16 h"),
    ("values =", "values = int8 [1] @../../x #", r"line 13, .*'../../x' is no digest"),
    ("values =", "values = int8 [1] @sha256:0123456789abcdef #", r"stands beside the text: load the"),
]


def changed(old: str, new: str) -> str:
    assert HAND_WRITTEN.count(old) == 1
    return HAND_WRITTEN.replace(old, new)


ERRORS = WHOLE + [(changed(old, new), message) for old, new, message in PARTS]


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_errors_say_where_and_what(text: str, message: str) -> None:
    with pytest.raises(XbcError, match=message) as caught:
        parse_module(text)
    assert str(caught.value).startswith("line ")


def test_integers_out_of_range() -> None:
    text = print_module(example())
    for old, new in (
        ("int16 [2, 3] {1", "int16 [2, 3] {40000"),
        ("uint8 [2, 4, 1] {1", "uint8 [2, 4, 1] {-1"),
    ):
        assert text.count(old) == 1
        with pytest.raises(XbcError, match=r"is outside the range of u?int"):
            parse_module(text.replace(old, new))


def test_references_are_checked_against_the_text() -> None:
    text, arrays = print_with_arrays(example(), 4)
    key = next(key for key, array in arrays.items() if array.shape == (2, 3))
    for wrong in (arrays[key].astype(np.int32), arrays[key].reshape(3, 2)):
        with pytest.raises(
            XbcError, match=rf"line \d+.*field 'codes': array {key} is int.*, the text says int16 \[2, 3\]"
        ):
            parse_module(text, {**arrays, key: wrong})
    with pytest.raises(XbcError, match=f"array {key} is not among the 1 arrays given"):
        parse_module(text, {"sha256:0": arrays[key]})


@pytest.mark.parametrize(
    "array",
    [
        "float32 [999999999999, 999999999999] {}",
        "float32 [99999999999999999999] {1}",
        "float32 [0, 999999999999, 999999999999, 999999999999] {}",
        "float32 [99999999999] {1 2}",
        "float32 [1,1,1,1,1,1,1,1,1] {1}",
        "float32 [" * 100_000,
        "[" * 100_000,
        "{" * 100_000,
        "9" * 100_000,
        "float32 [1] {" + "9" * 100_000 + "}",
    ],
)
def test_hostile_arrays_are_refused_before_memory_is_asked_for(array: str) -> None:
    with pytest.raises(XbcError, match=r"line 13"):
        parse_module(HAND_WRITTEN.replace("values =", f"values = {array} #"))


TEXTS = [HAND_WRITTEN, print_module(example()), *(file.read_text(encoding="utf-8") for file in INVALID[::5])]


PIECES = ["", "0", "-1", "9" * 12, "{", "}", '"', "[", "]", "=", " ", "\n", "#", "x", "3"]


@settings(max_examples=400)
@given(st.data())
def test_no_text_crashes_the_parser_or_the_verifier(data: st.DataObject) -> None:
    """Damage a text anywhere: it is read and judged, or refused with a sentence."""
    text = data.draw(st.sampled_from(TEXTS))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.sampled_from([0, 0, 1, 1, 2, 10, 300])))
        piece = data.draw(
            st.sampled_from(["", "0", "-1", "9" * 12, "{", "}", '"', "[", "]", "=", " ", "\n", "#", "x", "3"])
        )
        text = text[:start] + piece + text[end:]
    try:
        module = parse_module(text)
    except XbcError as error:
        message = str(error)
    else:
        verify_module(module)
        assert print_module(parse_module(print_module(module))) == print_module(module)
        return
    assert re.match(r"line \d+", message)
