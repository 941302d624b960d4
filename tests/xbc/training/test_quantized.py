"""Uniformly scaled and one-signed training."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'xbc[train]'")

from ir.errors import XbcError  # noqa: E402
from xbc.training.quantized import UniformConv2d, UniformLinear, UniformScale, constrain  # noqa: E402


def digits() -> Any:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))[:700]
    return torch.tensor(data.images[order] / 16, dtype=torch.float32)[:, None], torch.tensor(
        data.target[order]
    )


@pytest.mark.parametrize("polarity", ["bipolar", "positive", "negative", "blocks"])
@pytest.mark.parametrize("bits", [2, 4])
def test_codes_keep_the_sign_and_the_grid_while_training(polarity: Any, bits: int) -> None:
    torch.manual_seed(0)
    layer = UniformLinear(12, 8, UniformScale(weight_bits=bits), polarity, block=2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=5.0)
    top = 2**bits - 1
    for _ in range(10):
        optimizer.zero_grad()
        (layer(torch.rand(20, 12)) * torch.randn(8)).sum().backward()
        optimizer.step()
        constrain(layer)
        codes = layer.codes()
        signs = layer.signs.numpy()[:, None]
        assert np.abs(codes).max() <= top
        if polarity == "bipolar":
            assert (layer.signs == 0).all()
        else:
            assert (codes * signs >= 0).all()
            assert (layer.stored_weight() >= 0).all()
    np.testing.assert_allclose(
        layer.stored_weight().detach().numpy() * top,
        np.rint(layer.stored_weight().detach().numpy() * top),
        atol=1e-5,
    )
    if polarity == "blocks":
        assert layer.signs.tolist() == [1, 1, -1, -1, 1, 1, -1, -1]


@pytest.mark.parametrize("polarity", ["bipolar", "blocks"])
def test_two_bit_networks_learn_digits(polarity: Any) -> None:
    torch.manual_seed(0)
    scale = UniformScale(weight_bits=2, dac_bits=4, adc_bits=8, adc_full_scale=16.0)
    x, y = digits()
    model = torch.nn.Sequential(
        UniformConv2d(1, 16, 3, scale, polarity, stride=2, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        UniformLinear(256, 10, scale, polarity, block=5),
        torch.nn.BatchNorm1d(10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(12):
        for i in range(0, 700, 50):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[i : i + 50]), y[i : i + 50]).backward()
            optimizer.step()
            constrain(model)
    assert float((model.eval()(x).argmax(1) == y).float().mean()) > 0.9


def test_float_twin_is_an_ordinary_layer() -> None:
    layer = UniformLinear(5, 3, UniformScale(weight_bits=0, dac_bits=0, adc_bits=0))
    x = torch.randn(4, 5)
    torch.testing.assert_close(layer(x), x @ layer.weight.T)


def test_nonsense_is_refused() -> None:
    with pytest.raises(XbcError, match="unknown polarity"):
        UniformLinear(3, 2, UniformScale(), "upward")  # type: ignore[arg-type]
    with pytest.raises(XbcError, match="weight_bits"):
        UniformScale(weight_bits=17)
    with pytest.raises(XbcError, match="adc_full_scale"):
        UniformScale(adc_full_scale=0)
