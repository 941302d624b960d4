"""Layers that train on devices, and the optimiser that decides what is written."""

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'xbc[train]'")

from ir.cells import CellFormat  # noqa: E402
from ir.errors import XbcError  # noqa: E402
from xbc.training.converters import Converter, quantize, quantize_gradient, round_through  # noqa: E402
from xbc.training.devices import Programming  # noqa: E402
from xbc.training.layers import (  # noqa: E402
    CrossbarConfig,
    CrossbarConv2d,
    CrossbarLinear,
    crossbar_layers,
    device_report,
)
from xbc.training.optimizer import CrossbarOptimizer  # noqa: E402

IDEAL = CrossbarConfig(dac_bits=0, adc_bits=0, error_bits=0)


def digits(samples: Any = 600) -> Any:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))[:samples]
    x = torch.tensor(data.images[order] / 16, dtype=torch.float32)[:, None]
    return x, torch.tensor(data.target[order])


def small(config: Any) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        CrossbarConv2d(1, 8, 3, config, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        CrossbarLinear(128, 10, config),
    )


def train(model: Any, optimizer: Any, x: Any, y: Any, epochs: Any, batch: Any = 50) -> Any:
    for _ in range(epochs):
        for i in range(0, len(y), batch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[i : i + batch]), y[i : i + batch]).backward()
            optimizer.step()
    return float((model.eval()(x).argmax(1) == y).float().mean())


def test_products_run_on_the_conductances() -> None:
    config = CrossbarConfig(
        programming=Programming(sigma_levels=0.3), dac_bits=0, adc_bits=0, error_bits=0, seed=3
    )
    layer = CrossbarLinear(6, 4, config)
    x = torch.rand(5, 6, requires_grad=True)
    y = layer(x)
    held = torch.tensor(layer.array.conductance_codes() * layer.scale)
    torch.testing.assert_close(y, x @ held.T, atol=1e-6, rtol=1e-5)
    y.sum().backward()
    torch.testing.assert_close(x.grad, held.sum(0).expand(5, 6), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(layer.weight.grad, x.detach().sum(0).expand(4, 6))
    assert not torch.allclose(layer.weight, layer.device_weight)


def test_written_plus_accumulated_is_requested_with_errors_and_trials() -> None:
    config = CrossbarConfig(programming=Programming(sigma_levels=0.4, trials=2), seed=1)
    model = small(config)
    optimizer = CrossbarOptimizer(torch.optim.Adam(model.parameters(), lr=0.02), model, threshold=0.7)
    x, y = digits(200)
    train(model, optimizer, x, y, 2)
    for _, layer in crossbar_layers(model):
        assert layer.conserved()
        assert layer.array.writes.any()
        exact = layer.array.codes + layer.accumulator / 2**20
        got = layer.weight.detach().reshape(exact.shape).numpy() / layer.scale
        np.testing.assert_allclose(got, exact, atol=1e-5)


def test_nothing_is_written_below_the_threshold() -> None:
    model = small(IDEAL)
    before = [layer.array.codes.copy() for _, layer in crossbar_layers(model)]
    optimizer = CrossbarOptimizer(torch.optim.SGD(model.parameters(), lr=1e-3), model, threshold=5.0)
    x, y = digits(100)
    train(model, optimizer, x, y, 1)
    for was, (_, layer) in zip(before, crossbar_layers(model), strict=True):
        np.testing.assert_array_equal(layer.array.codes, was)
        assert layer.accumulator.any()
    assert optimizer.weight_writes == 0
    assert device_report(model)["device_writes"] == 0


def test_threshold_training_learns_where_writing_every_batch_does_not() -> None:
    x, y = digits()
    config = CrossbarConfig(programming=Programming(sigma_levels=0.3), seed=0)
    scores = {}
    reports = {}
    for writer in ("threshold", "every-batch"):
        model = small(config)
        inner = torch.optim.Adam(model.parameters(), lr=5e-3)
        optimizer = CrossbarOptimizer(inner, model, writer=writer, threshold=0.7)
        scores[writer] = train(model, optimizer, x, y, 12)
        reports[writer] = device_report(model)
    assert scores["threshold"] > 0.9
    assert scores["every-batch"] < scores["threshold"] - 0.2
    assert reports["every-batch"]["device_writes"] > 20 * reports["threshold"]["device_writes"]
    assert reports["threshold"]["writes_per_device"] == pytest.approx(
        sum(i * n for i, n in enumerate(reports["threshold"]["device_write_histogram"]))
        / reports["threshold"]["devices"]
    )


def test_one_signed_devices_keep_their_sign() -> None:
    config = CrossbarConfig(cells=CellFormat("unipolar", 2, 2), seed=0)
    model = small(config)
    optimizer = CrossbarOptimizer(torch.optim.Adam(model.parameters(), lr=0.02), model)
    x, y = digits(200)
    train(model, optimizer, x, y, 2)
    for _, layer in crossbar_layers(model):
        assert layer.array.codes.min() >= 0
        assert layer.array.codes.max() <= 3
        assert layer.conserved()


def test_the_same_seed_gives_the_same_training() -> None:
    x, y = digits(200)
    held = []
    for _ in range(2):
        from xbc.training.layers import CrossbarLayer

        CrossbarLayer.count = 0
        model = small(CrossbarConfig(programming=Programming(sigma_levels=0.3), seed=5))
        train(model, CrossbarOptimizer(torch.optim.Adam(model.parameters(), lr=0.01), model), x, y, 1)
        held.append([layer.array.codes.copy() for _, layer in crossbar_layers(model)])
    for a, b in zip(*held, strict=True):
        np.testing.assert_array_equal(a, b)


def test_converters() -> None:
    x = torch.linspace(-2, 2, 41, requires_grad=True)
    y = quantize(x, 1.0, 3, signed=True)
    assert set(np.round(y.detach().numpy() * 3).astype(int)) == set(range(-3, 4))
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), (np.abs(x.detach().numpy()) <= 1).astype(np.float32))
    assert round_through(torch.tensor([0.4, 0.6])).tolist() == [0, 1]
    converter = Converter(8, signed=False)
    assert converter(torch.tensor([0.0, 4.0])).tolist() == pytest.approx([0, 4])
    converter.eval()
    assert converter(torch.tensor([8.0])).tolist() == pytest.approx([4])  # clips at what it has seen
    assert Converter(0, signed=True)(torch.tensor([1.23])).tolist() == pytest.approx([1.23])


def test_the_error_that_goes_back_is_quantised() -> None:
    x = torch.ones(5, requires_grad=True)
    weights = torch.tensor([1.0, 0.4, 0.1, -0.2, -1.0])
    (quantize_gradient(x, 2) * weights).sum().backward()
    assert x.grad.tolist() == [1, 0, 0, 0, -1]


def test_bad_input_is_refused() -> None:
    model = small(IDEAL)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(XbcError, match="threshold"):
        CrossbarOptimizer(inner, model, threshold=0)
    with pytest.raises(XbcError, match="unknown writer"):
        CrossbarOptimizer(inner, model, writer="sometimes")  # type: ignore[arg-type]
    with pytest.raises(XbcError, match="no crossbar layer"):
        CrossbarOptimizer(inner, torch.nn.Linear(2, 2))


def test_a_copy_trains_on_its_own() -> None:
    model = small(IDEAL)
    twin = copy.deepcopy(model)
    optimizer = CrossbarOptimizer(torch.optim.Adam(model.parameters(), lr=0.05), model)
    x, y = digits(100)
    train(model, optimizer, x, y, 4)
    for (_, a), (_, b) in zip(crossbar_layers(model), crossbar_layers(twin), strict=True):
        assert not b.array.writes.any()
        assert (a.array.codes != b.array.codes).any()
