"""-O2 loses nothing: the replayed program equals the model whose weights were quantised outside xbc."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.xbc.frontend.oracle import quantised_outside, random_feeds, session
from tests.xbc.frontend.test_shared_models import shared
from xbc.backend import Program
from xbc.chip import effective_codes
from xbc.driver.compile import compile_model
from xbc.simulate.data import DataSet
from xbc.simulate.ideal import compiled_model, simulate

MODELS = Path(__file__).parents[3] / "models"


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("digits_cnn", 2),
        ("digits_vit", 2),
        ("digits_lstm", 2),
        ("shared/models/mlperftiny_kws_ref_model_float32", 2),
        ("shared/models/mlperftiny_pretrainedResnet", 0),
        ("shared/hard/har_cnn", 0),
        ("shared/hard/nodpa_resnet10_single", 0),
    ],
)
def test_replayed_program_equals_quantisation_outside(name: str, level: int, tmp_path: Path) -> None:
    path = shared(name.removeprefix("shared/")) if name.startswith("shared/") else MODELS / f"{name}.onnx"
    done = compile_model(path, tmp_path / "out", level=level)
    program = Program.open(done.directory)
    host = onnx.load_from_string(program.host_bytes())
    model = compiled_model(host, program.layers, effective_codes(program))
    feeds = random_feeds(onnx.load(path), 1)
    expected = session(quantised_outside(path, tmp_path)).run(None, feeds)
    actual, _ = simulate(model, DataSet(feeds))
    original = session(path).run(None, feeds)
    changed = False
    for a, b, c in zip(expected, actual.values(), original, strict=True):
        np.testing.assert_allclose(b.reshape(a.shape), a, rtol=1e-4, atol=1e-4 * np.abs(a).max())
        changed |= bool(np.abs(a - c).max() > 1e-6)
    assert changed  # the comparison would see weights that were not quantised
