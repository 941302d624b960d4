"""Real networks: all of them import, and the host with their own weights computes what they compute.

They are not part of the repository: ``XBC_DATA`` names their folder (default: ``../shared/data`` beside it).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ir.stages import Quantized
from tests.xbc.frontend.oracle import TARGET, check_against_onnxruntime
from xbc.frontend import Imported, import_model

DATA = Path(os.environ.get("XBC_DATA", Path(__file__).parents[4] / "shared" / "data"))

EXPECTED = {
    "models/resnet50_v1p5_w8dq": (54, 25_502_912),
    "models/deit_tiny_patch16_224": (50, 5_647_872),
    "models/mobilenet_v2_1.0_224_quant_qdq": (53, 3_471_040),
    "models/cifar10_resnet20": (20, 268_336),
    "models/lenet_mnist": (4, 430_500),
    "models/mlperftiny_pretrainedResnet": (10, 77_360),
    "models/mlperftiny_pretrainedResnet_quant": (10, 77_360),
    "models/mlperftiny_kws_ref_model": (10, 22_016),
    "models/mlperftiny_kws_ref_model_float32": (10, 22_016),
    "hard/dtln_model_1": (5, 361_088),
    "hard/har_cnn": (4, 13_716),
    "hard/nodpa_resnet10_single": (16, 12_032),
    "hard/silero_vad_16k_op15": (10, 439_296),
    "hard/ultraface_slim_320": (42, 254_304),
}
"""Model -> layers, mapped weights."""


def shared(name: str) -> Path:
    path = DATA / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"needs {name}.onnx of the shared models: set XBC_DATA to their folder")
    return path


@pytest.mark.parametrize("name", EXPECTED)
def test_outputs_are_those_of_the_unmodified_model(name: str, tmp_path: Path) -> None:
    feeds = None
    if "silero" in name:
        rng = np.random.default_rng(0)
        feeds = {
            "input": rng.standard_normal((2, 576)),
            "state": rng.standard_normal((2, 2, 128)),
            "sr": 16000,
        }
        feeds = {k: np.asarray(v, np.int64 if k == "sr" else np.float32) for k, v in feeds.items()}
    imported = check_against_onnxruntime(shared(name), tmp_path, feeds=feeds, rtol=1e-5)  # type: ignore[arg-type]
    layers, weights = EXPECTED[name]
    assert (len(imported.module.layers), imported.module.weights) == (layers, weights)
    assert all("cannot optimise" not in note for note in imported.notes)
    if "silero" not in name:  # its sequence is free
        assert all(layer.origin.products for layer in imported.module.layers)
    if any(word in name for word in ("quant", "w8dq", "kws_ref_model")) and "float32" not in name:
        assert all(isinstance(layer.body, Quantized) and layer.body.given for layer in imported.module.layers)


def test_constants_of_shape_become_layers() -> None:
    imported: Imported = import_model(shared("hard/light_vgg19"), TARGET)
    assert (len(imported.module.layers), imported.module.weights) == (19, 143_652_544)
    assert not imported.module.unmapped
    assert imported.host.ByteSize() < 100_000


def test_nodpa_lists_its_tables() -> None:
    imported = import_model(shared("hard/nodpa_resnet10_single"), TARGET)
    assert [u.op_type for u in imported.module.unmapped] == ["Gather"] * 4
