from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir import ENCODINGS, ROUTINGS, Target, XbcError
from ir.faulty import FaultyCells

MINIMAL = {"name": "t", "rows": 4, "columns": 8}


@given(
    st.builds(
        Target,
        name=st.text(max_size=5),
        rows=st.integers(1, 65535),
        columns=st.integers(1, 65535),
        bits_per_cell=st.integers(1, 4),
        crossbars=st.integers(1, 2**24),
        encoding=st.sampled_from(sorted(ENCODINGS)),
        routing=st.sampled_from(sorted(ROUTINGS)),
        endurance=st.floats(1, 1e12),
        faulty=st.lists(st.just((0, 0, 0, 1)), max_size=2).map(FaultyCells),
    )
)
def test_dict_round_trip(target: Target) -> None:
    assert Target.from_dict(target.to_dict()) == target


def test_integers_are_taken_for_floats() -> None:
    target = Target.from_dict({**MINIMAL, "endurance": 100000, "write": {"set_pj": 3}})
    assert (target.endurance, target.write.set_pj) == (1e5, 3.0)
    assert type(target.endurance) is float


def test_override() -> None:
    target = Target.from_dict(MINIMAL)
    changed = target.override({"crossbars": 64, "write.set_pj": 2, "device.reference_column": False})
    assert (changed.crossbars, changed.write.set_pj, changed.device.reference_column) == (64, 2.0, False)
    assert dataclasses.replace(changed, crossbars=1, write=target.write, device=target.device) == target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rowz": 1}, "target 't': unknown key rowz; did you mean rows\\? known: name, rows,"),
        ({"write": {"set_joule": 1}}, "unknown key write.set_joule;.* known: write.set_pj"),
        ({"rows": 4.0}, "rows = 4.0 must be an int"),
        ({"rows": True}, "rows = True must be an int"),
        ({"encoding": 3}, "encoding = 3 must be a str"),
        ({"write": 3}, "write must be a table"),
        ({"endurance": 10**400}, "endurance = 1000"),
        ({"endurance": 0.0}, "endurance = 0.0 must be positive and finite"),
        ({"endurance": float("inf")}, "endurance = inf must be positive"),
        ({"endurance": float("nan")}, "endurance = nan must be positive"),
        ({"rows": 0}, "rows = 0 is outside 1..65535"),
        ({"crossbars": 2**24 + 1}, "crossbars = 16777217 is outside"),
        ({"bits_per_cell": 5}, "bits_per_cell = 5 is outside 1..4"),
        ({"encoding": "driven"}, "encoding = 'driven' is unknown; known: driver, split"),
        ({"routing": "any"}, "routing = 'any' is unknown; known: gather, block, fixed"),
        ({"outputs_per_section": 2}, "'driver' needs outputs_per_section = 1"),
        ({"write": {"parallel_cells": 0}}, "write.parallel_cells = 0 must be at least 1"),
        ({"read": {"array_ns": -1.0}}, "read.array_ns = -1.0 must be at least 0"),
        ({"read": {"array_ns": float("nan")}}, "read.array_ns = nan must be at least 0 and finite"),
        ({"converters": {"adc_bits": 25}}, "converters.adc_bits = 25 is above 24"),
        ({"device": {"g_max_siemens": 1e-7}}, "device.g_max_siemens must be above device.g_min_siemens"),
        ({"device": {"stuck_low": 0.6, "stuck_high": 0.6}}, "device.stuck_low"),
        ({"device": {"error_law": "gauss"}}, "device.error_law = 'gauss' is unknown; known: normal"),
        ({"faulty": [[0, 0, 8, 0]]}, r"faulty entry \[0, 0, 8, 0\]"),
        ({"faulty": [[0, 0, 0]]}, r"faulty entry \[0, 0, 0\]"),
        ({"faulty": [0]}, "faulty must be a list of integer lists"),
    ],
)
def test_errors_name_the_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(XbcError, match=message):
        Target.from_dict({**MINIMAL, **change})


@pytest.mark.parametrize("key", ["rows", "columns", "name"])
def test_missing_keys(key: str) -> None:
    with pytest.raises(XbcError, match=f"key {key} is missing"):
        Target.from_dict({k: v for k, v in MINIMAL.items() if k != key})


def test_override_suggests_the_nearest_key() -> None:
    for key, near in (("crossbarz", "crossbars"), ("write.setpj", "write.set_pj")):
        with pytest.raises(XbcError, match=rf"has no key '{key}'; did you mean '{near}'\? keys: name, rows"):
            Target.from_dict(MINIMAL).override({key: 1})
    with pytest.raises(XbcError, match=r"unknown key write.setpj; did you mean write.set_pj\?"):
        Target.from_dict({**MINIMAL, "write": {"setpj": 1.0}})


@pytest.mark.parametrize("key", ["nothing", "write", "write.nothing", "rows.x", "faulty.0"])
def test_override_refuses_unknown_keys(key: str) -> None:
    with pytest.raises(XbcError, match=f"target 't' has no key '{key}';.* keys: name, rows"):
        Target.from_dict(MINIMAL).override({key: 1})
