"""The sections read back from an emitted program are those that were compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ir.errors import XbcError
from ir.stages import Programmed
from ir.target import Target
from xbc.backend import Program
from xbc.backend.order import in_load_order
from xbc.driver.compile import compile_model
from xbc.simulate.truth import replayed_module

MODEL = Path(__file__).resolve().parents[3] / "models" / "digits_lstm.onnx"
TARGETS = {
    "gather": Target("gather", 32, 8, 1, crossbars=3),
    "pairs": Target(
        "pairs", 32, 64, 2, crossbars=2, outputs_per_section=8, encoding="differential", routing="block"
    ),
    "split": Target(
        "split", 16, 64, 1, crossbars=2, outputs_per_section=4, encoding="split", routing="block"
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_replayed_module_is_the_compiled_one(name: str, tmp_path: Path) -> None:
    pipeline = "quantize{bits=8},encode-signs,slice-bits,form-sections,deal-sections{method=contiguous}"
    made = compile_model(
        MODEL, tmp_path / "p.xbc", target=TARGETS[name], pipeline=pipeline, verify_each=False
    )
    back = replayed_module(Program.open(tmp_path / "p.xbc"))
    assert [layer.name for layer in back.layers] == [layer.name for layer in made.module.layers]
    assert set(back.edges) == set(made.module.edges)
    for got, wanted in zip(back.layers, in_load_order(made.module).layers, strict=True):
        a, b = got.at(Programmed), wanted.at(Programmed)
        for field in ("outputs", "inputs", "polarity", "crossbar", "step", "scale", "offset", "rank"):
            assert np.array_equal(getattr(a, field), getattr(b, field)), field
        driven = b.driven()[:, :, None] & (b.outputs >= 0)[:, None, :]
        assert np.array_equal(a.stored, b.stored * driven)
        assert np.array_equal(a.effective_codes(), b.effective_codes())
        assert got.origin == wanted.origin


def test_a_changed_table_is_refused(tmp_path: Path) -> None:
    compile_model(MODEL, tmp_path / "p.xbc", target=TARGETS["gather"], level=0)
    path = tmp_path / "p.xbc" / "sections.parquet"
    path.write_bytes(path.read_bytes()[:-50] + bytes(50))
    with pytest.raises(XbcError, match=r"sections\.parquet"):
        replayed_module(Program.open(tmp_path / "p.xbc"))
