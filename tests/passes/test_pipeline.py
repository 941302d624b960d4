"""Pipeline text: round trips, and errors that name the place, the pass and the option."""

import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir import XbcError
from passes.pipeline import LEVELS, format_pipeline, level_text, parse_pipeline
from passes.quantize import Quantize
from passes.table import PASSES, load_pass


def values_of(hint: Any) -> Any:
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    return {
        bool: st.booleans(), int: st.integers(-5, 300), str: st.text("abcXYZ019_-.", min_size=1, max_size=8),
        float: st.floats(-10, 2e6, allow_nan=False) | st.floats(0, 1),
    }[hint]  # fmt: skip


@st.composite
def passes(draw: Any) -> Any:
    """Any pass with options that it accepts."""
    cls = load_pass(draw(st.sampled_from(sorted(PASSES))))
    hints = get_type_hints(cls)
    made = cls()
    for field in dataclasses.fields(cls):
        try:
            made = dataclasses.replace(made, **{field.name: draw(values_of(hints[field.name]))})
        except XbcError:
            continue  # out of the option's range
    return made


@given(st.lists(passes(), min_size=1, max_size=5))
def test_text_reads_back_to_the_same_passes(chain: Any) -> None:
    text = format_pipeline(chain)
    assert parse_pipeline(text) == chain
    assert format_pipeline(parse_pipeline(text)) == text


@given(st.text(alphabet="abquantize-{}=,18 \n.", max_size=40) | st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        chain = parse_pipeline(text)
    except XbcError:
        return
    assert parse_pipeline(format_pipeline(chain)) == chain


def test_defaults_are_left_out_and_blanks_are_allowed() -> None:
    assert format_pipeline(parse_pipeline(" quantize{ bits = 8 } , slice-bits { } ")) == "quantize,slice-bits"
    assert parse_pipeline("quantize{bits=6,granularity=channel}") == [Quantize(bits=6, granularity="channel")]
    (keep,) = parse_pipeline("encode-signs{keep-unipolar=true}")
    assert str(keep) == "encode-signs{keep-unipolar=true}"
    (lossy,) = parse_pipeline("reprogram{mode=optimal,lambda=0.25}")
    assert str(lossy) == "reprogram{mode=optimal,lambda=0.25}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the pipeline is empty"),
        ("  ", "the pipeline is empty"),
        ("quantize,", "ends with a comma"),
        ("quantize,,slice-bits", r"at character 10: ',slice-bits'"),
        ("quantize slice-bits", r"at character 1: 'quantize slice-bits'"),
        ("quantize{bits=8", r"at character 1: 'quantize\{bits=8'"),
        ("slice-bits,quantize}", r"at character 12: 'quantize\}'"),
        ("quantise", r"unknown pass 'quantise'; did you mean 'quantize'\? known: quantize, encode"),
        ("x", r"unknown pass 'x'; known: quantize"),
        ("quantize{bit=8}", "pass 'quantize' has no option 'bit'; its options: bits, granularity"),
        ("quantize{bits}", "pass 'quantize': option 'bits' is not of the form key=value"),
        ("quantize{bits=}", "option 'bits=' is not of the form"),
        ("quantize{bits=8,bits=9}", "option 'bits' is given twice"),
        ("quantize{bits=eight}", "option 'bits' of pass 'quantize': 'eight' is not of type int"),
        ("quantize{bits=8.5}", "'8.5' is not of type int"),
        ("quantize{granularity=row}", r"option 'granularity'.*'row' is not of type tensor \| channel"),
        ("quantize{percentile=nan}", "'nan' must be a finite number"),
        ("encode-signs{keep-unipolar=yes}", r"'yes' is not of type true \| false"),
        ("quantize{bits=99}", r"bits = 99 is outside 2\.\.16"),
    ],
)
def test_errors_name_the_place(text: str, message: str) -> None:
    with pytest.raises(XbcError, match=message):
        parse_pipeline(text)


def test_levels_are_pipelines() -> None:
    for level in LEVELS:
        assert parse_pipeline(level_text(level))
    lossy = parse_pipeline(level_text(3, 0.04))
    assert [p.name for p in lossy[-2:]] == ["match-rows", "reprogram"]
    assert lossy[-1].lambda_ == 0.04  # type: ignore[attr-defined]
    assert lossy[-2].lambda_ == pytest.approx(0.2)  # type: ignore[attr-defined]
    with pytest.raises(XbcError, match="unknown level -O7; known: -O0, -O1, -O2, -O3"):
        level_text(7)


def test_every_pass_has_a_manual_and_working_defaults() -> None:
    for name in PASSES:
        cls = load_pass(name)
        assert cls.name == name
        assert cls.__doc__
        assert str(cls()) == name
        for option in cls.options():
            assert (
                f"{option}:" in cls.__doc__ or f"{option}," in cls.__doc__ or f", {option}" in cls.__doc__
            ), f"the manual of {name} says nothing on {option}"
