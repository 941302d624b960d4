"""A sentence is one printable line of at most 300 characters, whatever a file calls itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir.errors import LONGEST, XbcError, sentence


@given(st.text(max_size=2000))
def test_any_text_becomes_one_short_printable_line(text: str) -> None:
    line = str(XbcError(text))
    assert len(line) <= LONGEST
    assert line.isprintable()
    line.encode("utf-8")
    assert sentence(line) == line, "a sentence is one already"


@given(st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), max_size=LONGEST))
def test_a_short_line_stays_as_it_is(text: str) -> None:
    assert sentence(text) == " ".join(text.split())


@pytest.mark.parametrize("length", [400, 5_000, 1_000_000])
def test_names_are_cut_in_the_middle_and_the_cure_stays(length: int) -> None:
    name = "first" + "n" * length + "last"
    line = sentence(f"some/model.onnx: node {name!r} (Conv) is bad: export it again")
    assert line.startswith("some/model.onnx: node 'firstnnn")
    assert line.endswith("nnnlast' (Conv) is bad: export it again")
    assert "..." in line
    assert len(line) == LONGEST


def test_several_long_names_share_what_there_is() -> None:
    line = sentence(f"{'a' * 500} meets {'b' * 400} and {'c' * 30}: stop")
    first, _, second, _, third, _ = line.split(" ")
    assert len(first) == len(second)
    assert third == "c" * 30 + ":"
    assert line.endswith(": stop")


def test_control_characters_and_broken_text_are_spelled_out() -> None:
    assert sentence("a\nb\tc \x1b[31m \ud800") == r"a b c \x1b[31m \ud800"
