"""The manager: stages checked before and after each pass, records, errors that name the culprit."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from ir import Placed, Programmed, Quantized, Sectioned, XbcError
from passes.base import Outcome, Pass
from passes.counting import count_module
from passes.manager import Options, PassError, finish, gather_facts, gather_notes, run_pipeline
from passes.pipeline import parse_pipeline
from tests.passes.small import codes_body, module, target

LEVEL = "quantize{bits=4},encode-signs,slice-bits,form-sections,deal-sections"


def floats(**chip: Any) -> Any:
    rng = np.random.default_rng(0)
    return module([rng.standard_normal((3, 5)).astype(np.float32)], target(**chip))


@dataclass(frozen=True)
class Breaks(Pass):
    """Loses the last section."""

    name: ClassVar[str] = "breaks"
    requires = Sectioned
    ensures = Sectioned

    def run(self, module: Any, context: Any) -> Any:
        layers = []
        for layer in module.layers:
            body = layer.at(Sectioned)
            cut = {f: getattr(body, f)[:-1] for f in ("outputs", "inputs", "rank", "polarity")}
            layers.append(layer.with_body(body.lower(Sectioned, **cut)))
        return Outcome(module.with_layers(layers), {"cut": len(layers)})


@dataclass(frozen=True)
class Lies(Pass):
    """Promises what it does not do."""

    name: ClassVar[str] = "lies"
    requires = Quantized
    ensures = Placed

    def run(self, module: Any, context: Any) -> Any:
        return Outcome(module)


def test_records_say_what_each_pass_did() -> None:
    steps = parse_pipeline(LEVEL)
    given_module = floats()
    run = run_pipeline(given_module, steps)
    assert [(r.name, r.text, r.stage) for r in run.records] == [
        ("quantize", "quantize{bits=4}", "quantized"), ("encode-signs", "encode-signs", "encoded"),
        ("slice-bits", "slice-bits", "sliced"), ("form-sections", "form-sections", "sectioned"),
        ("deal-sections", "deal-sections", "placed"),
    ]  # fmt: skip
    assert [r.sections for r in run.records] == [None, None, None, 6, 6]
    assert [r.writes for r in run.records] == [None] * 4 + [count_module(run.module).steady.total]
    assert all(r.seconds >= 0 for r in run.records)
    assert given_module.stage().stage() == "float"
    uncounted = run_pipeline(given_module, steps, options=Options(count_each=False))
    assert uncounted.records[-1].writes is None
    assert uncounted.module == run.module


def test_hooks_see_the_module_before_and_after() -> None:
    seen = []

    def hook(when: Any, step: Any, at: Any) -> None:
        seen.append((when, step.name, at.stage().stage()))

    run_pipeline(floats(), parse_pipeline("quantize,slice-bits"), options=Options(before=hook, after=hook))
    assert seen == [
        ("before", "quantize", "float"), ("after", "quantize", "quantized"),
        ("before", "slice-bits", "quantized"), ("after", "slice-bits", "sliced"),
    ]  # fmt: skip


def test_pass_at_the_wrong_stage_is_named_with_those_before_it_and_the_cure() -> None:
    with pytest.raises(PassError) as caught:
        run_pipeline(floats(), parse_pipeline("quantize,sort-sections"))
    text = str(caught.value)
    assert "pass 'sort-sections' needs layers at stage 'sectioned', but layer 'l0' is at 'quantized'" in text
    assert "(passes already run: quantize)" in text
    assert "put one of these before it: form-sections" in text
    with pytest.raises(PassError, match="passes already run: none"):
        run_pipeline(floats(), parse_pipeline("slice-bits"))


def test_quantize_twice_is_refused() -> None:
    """Unless the codes are the model's own: those it leaves alone however often it runs."""
    with pytest.raises(PassError) as caught:
        run_pipeline(floats(), parse_pipeline("quantize{bits=4},quantize{bits=6}"))
    text = str(caught.value)
    assert "pass 'quantize' needs layers at stage 'float', but layer 'l0' is at 'quantized'" in text
    assert "(passes already run: quantize); leave this quantize out" in text


def test_quantize_twice_is_refused_after_slicing() -> None:
    with pytest.raises(
        PassError, match=r"'quantize' needs layers at stage 'float'.*compile from an ONNX model"
    ):
        run_pipeline(floats(), parse_pipeline("quantize,slice-bits,quantize"))


def test_failing_pass_is_named_with_those_before_it() -> None:
    steps = parse_pipeline("quantize,encode-signs,slice-bits,form-sections,sort-sections")
    with pytest.raises(PassError) as caught:
        run_pipeline(floats(routing="fixed"), steps)
    text = str(caught.value)
    assert "fixed routing" in text
    assert (
        "(in pass 'sort-sections'; passes already run: quantize, encode-signs, slice-bits, form-sections)"
        in text
    )
    assert isinstance(caught.value, XbcError)


def test_pass_that_breaks_the_module_is_named() -> None:
    steps = [*parse_pipeline("quantize,slice-bits,form-sections"), Breaks()]
    with pytest.raises(PassError) as caught:
        run_pipeline(floats(), steps)
    text = str(caught.value)
    assert (
        "pass 'breaks' made an invalid module (passes before it: quantize, slice-bits, form-sections)" in text
    )
    assert "layer 'l0'" in text
    unchecked = run_pipeline(floats(), steps, options=Options(verify_each=False))
    assert unchecked.records[-1].name == "breaks"
    assert gather_facts(unchecked.records) == {"breaks": {"cut": 1}}


def test_broken_promise_is_named() -> None:
    with pytest.raises(PassError, match=r"'lies' promised stage 'placed' but left layer 'l0' at 'quantized'"):
        run_pipeline(module([codes_body(np.ones((1, 2)))], target()), [Lies()])


def test_finish_writes_exact_words_and_keeps_programmed_layers() -> None:
    run = run_pipeline(floats(), parse_pipeline(LEVEL))
    done = finish(run.module)
    body = done.layers[0].at(Programmed)
    np.testing.assert_array_equal(body.stored, run.module.layers[0].at(Placed).wanted_words())
    assert finish(done).layers[0] is done.layers[0]
    with pytest.raises(XbcError, match="'placed' is needed"):
        finish(floats())


def test_empty_module_runs_through() -> None:
    run = run_pipeline(module([], target(crossbars=2)), parse_pipeline(f"{LEVEL},match-rows"))
    assert run.module.layers == ()
    assert count_module(run.module).steady.total == 0


@dataclass(frozen=True)
class Falls(Pass):
    """Takes sections apart without saying so."""

    name: ClassVar[str] = "falls"
    requires = Quantized
    ensures = Quantized

    def run(self, module: Any, context: Any) -> Any:
        layers = [layer.with_body(layer.at(Quantized).lower(Quantized)) for layer in module.layers]
        return Outcome(module.with_layers(layers))


def test_a_stage_falls_only_where_the_pass_declares_it() -> None:
    steps = [*parse_pipeline(LEVEL), Falls()]
    with pytest.raises(PassError, match=r"'falls' took layer 'l0' from stage 'placed' back to 'quantized'"):
        run_pipeline(floats(), steps)
    assert run_pipeline(floats(), [*parse_pipeline("quantize"), Falls()]).module.stage() is Quantized


@pytest.mark.parametrize(
    ("steps", "note"),
    [
        ("sort-sections", "sort-sections works from stage 'sectioned': placement of 1 layer dropped"),
        ("stick-bits,sort-sections", "sectioned': placement and stored words of 1 layer dropped"),
        ("stick-bits,match-rows", "match-rows works from stage 'placed': stored words of 1 layer dropped"),
        ("stick-bits,hold-codes", "hold-codes works from stage 'placed': stored words of 1 layer dropped"),
        (
            "stick-bits,deal-sections",
            "deal-sections works from stage 'sectioned': placement and stored words",
        ),
        ("stick-bits,slice-bits", "slice-bits works from stage 'sliced': placement and stored words"),
        ("stick-bits,level-wear", ""),
        ("stick-bits,select-write-verify{method=magnitude}", ""),
        ("order-sections{method=natural}", ""),
        ("match-rows", ""),
    ],
)
def test_what_a_pass_drops_is_said(steps: str, note: str) -> None:
    run = run_pipeline(floats(), parse_pipeline(f"{LEVEL},{steps}"))
    notes = gather_notes(run.records)
    assert len(notes) == bool(note)
    assert all(note in said for said in notes)
