"""Pipeline text: round trips, and errors that name the place, the pass and the option."""

import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir import XbcError
from passes.pipeline import LEVELS, Pipeline, Shape, level_pipeline, parse_pipeline
from passes.quantize import Quantize
from passes.table import PASSES, load_pass


def six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def values_of(hint: Any) -> Any:
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    return {
        bool: st.booleans(), int: st.integers(-5, 300), str: st.text("abcXYZ019_-.", min_size=1, max_size=8),
        float: st.floats(-10, 2e6, allow_nan=False) | st.floats(0, 1),
        tuple[float, ...]: st.lists(st.floats(0.001, 1e6).map(six_digits), max_size=4).map(tuple),
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
    pipeline = Pipeline(chain)
    assert parse_pipeline(str(pipeline)) == pipeline
    assert str(parse_pipeline(str(pipeline))) == str(pipeline)


@given(st.text(alphabet="abquantize-{}=,18 \n.", max_size=40) | st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        chain = parse_pipeline(text)
    except XbcError:
        return
    if chain:  # an item of old words may stand for no pass at all
        assert parse_pipeline(str(chain)) == chain


def test_defaults_are_left_out_and_blanks_are_allowed() -> None:
    assert str(parse_pipeline(" quantize{ bits = 8 } , slice-bits { } ")) == "quantize,slice-bits"
    assert parse_pipeline("quantize{bits=6,granularity=channel}") == (
        Quantize(bits=6, granularity="channel"),
    )
    (keep,) = parse_pipeline("encode-signs{keep-unipolar=true}")
    assert str(keep) == "encode-signs{keep-unipolar=true}"
    (held,) = parse_pipeline("hold-codes{lambda=0.25,grades=1.5:0.2}")
    assert str(held) == "hold-codes{lambda=0.25,grades=1.5:0.2}"


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
    for level, text in LEVELS.items():
        assert str(level_pipeline(level)) == text
    with pytest.raises(XbcError, match="unknown level -O7; known: -O0, -O1, -O2, -O3"):
        level_pipeline(7)


def test_a_pipeline_is_cut_and_changed_by_name() -> None:
    pipeline = parse_pipeline("quantize,slice-bits,form-sections,sort-sections,form-sections")
    assert str(pipeline.until("form-sections")) == "quantize,slice-bits"
    assert str(pipeline.after("quantize")) == "slice-bits,form-sections,sort-sections,form-sections"
    assert str(pipeline.after("form-sections")) == ""
    assert str(pipeline.without("form-sections")) == "quantize,slice-bits,sort-sections"
    assert str(pipeline.until("slice-bits").then(pipeline.after("sort-sections"))) == "quantize,form-sections"
    twice = pipeline.with_options("form-sections", outputs=2)
    assert str(twice) == "quantize,slice-bits,form-sections{outputs=2},sort-sections,form-sections{outputs=2}"
    assert pipeline == parse_pipeline(str(pipeline))  # a value: nothing above changed it
    for cut in (pipeline.until, pipeline.after, pipeline.with_options):
        with pytest.raises(XbcError, match=r"the pipeline quantize,.* has no pass 'level-wear'"):
            cut("level-wear")


def test_a_shape_changes_a_level() -> None:
    changed = Shape(outputs=4, spare=0.25, quantize="bits=7,granularity=channel").of(level_pipeline(2))
    assert str(changed).startswith(
        "quantize{bits=7,granularity=channel},encode-signs,slice-bits,form-sections{outputs=4},"
        "sort-sections{spare=0.25},order-sections"
    )
    assert Shape().of(level_pipeline(2)) == level_pipeline(2)
    with pytest.raises(XbcError, match="-O0 does not"):
        Shape(spare=0.5).of(level_pipeline(0))
    with pytest.raises(XbcError, match=r"no option 'bit'"):
        Shape(quantize="bit=7").of(level_pipeline(0))


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        (
            "reprogram{mode=random,columns=4}",
            "stick-bits{columns=4}",
            "reprogram{mode=random} is now stick-bits",
        ),
        ("reprogram{mode=optimal,lambda=0.2}", "hold-codes{lambda=0.2}", "mode=optimal} is now hold-codes"),
        ("reprogram{mode=pairs}", "choose-pairs", "is now choose-pairs"),
        ("reprogram{mode=near-pairs,lambda=0.2}", "hold-pairs{lambda=0.2}", "is now hold-pairs"),
        ("reprogram", "", "reprogram{mode=none} is now nothing"),
        ("match-rows{pairs=true,lambda=0.2}", "match-pairs{lambda=0.2}", "is now match-pairs"),
        ("order-sections{method=auto,bound=0}", "order-sections{bound=0}", "its method is local"),
    ],
)
def test_old_words_are_read_with_a_note(old: str, new: str, note: str) -> None:
    pipeline = parse_pipeline(old)
    assert str(pipeline) == new
    (said,) = pipeline.notes
    assert note in said
    assert not new or parse_pipeline(new).notes == ()


OPTIONS: dict[str, Any] = {
    "bits": 5, "percentile": 99.0, "keep_unipolar": True, "outputs": 2, "spare": 0.5, "max_outputs": 3,
    "metric": "cells", "group": 16, "bound": 7, "window": 5, "effort": 9, "seconds": 2.0, "layer_seconds": 3.0,
    "total_seconds": 4.0, "resident": "free", "time": 2.0, "solver": "ortools", "slowdown": 2.0,
    "method": "greedy", "grades": (1.0, 2.0), "detail": "weight", "variance": "equal", "epochs": 3,
}  # fmt: skip
IDLE = {
    "quantize{range=max}": "percentile", "quantize{range=mse}": "percentile", "quantize{range=percentile}": "",
    "encode-signs{encoding=unipolar}": "keep_unipolar", "encode-signs": "",
    "form-sections{scope=layer}": "outputs", "form-sections": "",
    "order-sections{method=natural}": "metric group bound window effort seconds layer_seconds total_seconds",
    "order-sections{method=rank}": "metric group bound window effort seconds layer_seconds total_seconds",
    "order-sections{method=sum}": "metric group bound window effort seconds layer_seconds total_seconds",
    "order-sections{method=greedy}": "window effort seconds layer_seconds total_seconds",
    "order-sections": "window effort layer_seconds total_seconds",
    "order-sections{bound=0}": "window effort seconds layer_seconds total_seconds",
    "order-sections{method=routing}": "",
    "deal-sections{method=contiguous}": "resident time solver slowdown",
    "deal-sections{method=interleaved}": "resident time solver slowdown",
    "deal-sections": "", "deal-sections{method=assign}": "",
    "deal-sections{resident=free}": "time", "deal-sections{resident=cost}": "slowdown",
    "deal-sections{slowdown=3}": "time",
    "match-rows": "grades", "match-rows{lambda=0.5}": "method", "match-pairs": "grades",
    "match-pairs{lambda=0.5}": "", "hold-codes{grades=1:2}": "detail", "hold-codes": "",
    "select-write-verify{method=magnitude}": "variance", "select-write-verify{method=random}": "variance",
    "select-write-verify": "", "level-wear": "",
    "level-wear{rows=false,columns=false,crossbars=false}": "epochs",
}  # fmt: skip


@pytest.mark.parametrize("text", IDLE)
def test_options_without_effect_are_refused_by_name(text: str) -> None:
    (step,) = parse_pipeline(text)
    set_already = {f.name for f in dataclasses.fields(step) if getattr(step, f.name) != f.default}
    for name in {f.name for f in dataclasses.fields(step)} & OPTIONS.keys() - set_already:
        if name == "method" and step.name != "match-rows":
            continue  # what the rows of the table are about
        if name in IDLE[text].split():
            option = name.rstrip("_").replace("_", "-")
            with pytest.raises(XbcError, match=f"^{step.name}: {option} = .* has an effect only w"):
                dataclasses.replace(step, **{name: OPTIONS[name]})
        else:
            dataclasses.replace(step, **{name: OPTIONS[name]})


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
