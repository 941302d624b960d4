"""From trained devices to ONNX and to a program that holds the same codes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from ir import stages

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'xbc[train]'")

from ir.errors import XbcError  # noqa: E402
from xbc.backend import Program  # noqa: E402
from xbc.chip import effective_codes, verify_program  # noqa: E402
from xbc.frontend import import_model  # noqa: E402
from xbc.targets import load_target  # noqa: E402
from xbc.training.devices import Programming  # noqa: E402
from xbc.training.export import compile_trained, device_codes, export_onnx, plain_model  # noqa: E402
from xbc.training.layers import CrossbarConfig, CrossbarConv2d, CrossbarLinear  # noqa: E402
from xbc.training.quantized import UniformConv1d, UniformConv2d, UniformLinear, UniformScale  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def crossbar_model(**options: Any) -> Any:
    torch.manual_seed(0)
    config = CrossbarConfig(programming=Programming(sigma_levels=0.3), seed=2, **options)
    return torch.nn.Sequential(
        CrossbarConv2d(1, 4, 3, config, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        CrossbarLinear(64, 10, config),
    )


def run(path: Any, x: Any) -> Any:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(
        None, {"input": x.numpy()}
    )[0]


def test_the_program_holds_the_codes_of_the_devices(tmp_path: Path) -> None:
    model = crossbar_model()
    done = compile_trained(model, torch.zeros(1, 1, 8, 8), tmp_path / "m.xbc")
    assert verify_program(tmp_path / "m.xbc").ok
    held = effective_codes(Program.open(tmp_path / "m.xbc"))
    wanted = device_codes(model)
    assert len(held) == len(wanted) == 2
    for a, b in zip(held.values(), wanted.values(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert {layer.body.cells.columns for layer in done.module.layers} == {2}  # a pair of 2-bit devices


def test_exported_weights_are_the_device_levels(tmp_path: Path) -> None:
    model = crossbar_model()
    export_onnx(model, torch.zeros(2, 1, 8, 8), tmp_path / "m.onnx")
    x = torch.rand(5, 1, 8, 8)
    np.testing.assert_allclose(run(tmp_path / "m.onnx", x), plain_model(model)(x).detach().numpy(), atol=1e-5)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("polarity", ["bipolar", "positive", "negative", "blocks"])
def test_uniform_layers_keep_grids_signs_and_converters(tmp_path: Path, polarity: Any) -> None:
    torch.manual_seed(1)
    scale = UniformScale(weight_bits=2, dac_bits=4, adc_bits=8, adc_full_scale=7.3)
    model = torch.nn.Sequential(
        UniformConv1d(3, 8, 4, scale, polarity, stride=2, block=2),
        torch.nn.BatchNorm1d(8),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        UniformLinear(56, 6, scale, polarity, block=3),
    ).eval()
    x = torch.rand(4, 3, 16)
    export_onnx(model, x[:1], tmp_path / "m.onnx")
    np.testing.assert_allclose(run(tmp_path / "m.onnx", x), model(x).detach().numpy(), atol=1e-4)
    imported = import_model(tmp_path / "m.onnx", load_target("gather-128"))
    assert len(imported.module.layers) == 2
    for layer in imported.module.layers:
        codes = layer.at(stages.Float).values * 3
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-5)
        if polarity != "bipolar":  # the sign is digital: the crossbar holds one sign
            assert codes.min() >= 0


def test_uniform_conv2d_exports(tmp_path: Path) -> None:
    model = torch.nn.Sequential(
        UniformConv2d(1, 4, 3, UniformScale(), "positive", padding=1), torch.nn.ReLU()
    ).eval()
    x = torch.rand(2, 1, 6, 6)
    export_onnx(model, x, tmp_path / "m.onnx")
    np.testing.assert_allclose(run(tmp_path / "m.onnx", x), model(x).detach().numpy(), atol=1e-5)


def test_what_cannot_be_compiled_is_said(tmp_path: Path) -> None:
    model = crossbar_model()
    model[3].array.codes = np.clip(model[3].array.codes, -2, 2)
    with pytest.raises(XbcError, match="highest level"):
        compile_trained(model, torch.zeros(1, 1, 8, 8), tmp_path / "m.xbc")
