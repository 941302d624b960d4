"""The recursion over whole models: exact, close where it approximates, refused where it cannot."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from ir.errors import XbcError
from xbc.frontend import import_model, module_tensors
from xbc.sensitivity import load_sensitivities, save_sensitivities
from xbc.sensitivity import model_sensitivities as all_sensitivities
from xbc.targets import load_target

MODELS = Path(__file__).parents[3] / "models"
TARGET = load_target("gather-128")


def model_sensitivities(*arguments: Any, **options: Any) -> Any:
    """SWIM's recursion unless a test asks for the gradient."""
    return all_sensitivities(*arguments, **{"method": "recursion", **options})


def save_model(path: Any, nodes: Any, inputs: Any, outputs: Any, initialisers: Any) -> Any:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, outputs)],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in initialisers.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def second_differences(imported: Any, x: Any, step: Any = 0.02) -> Any:
    """Diagonal Hessian of the mean cross-entropy with the model's own output as target, by layer."""
    base = module_tensors(imported.module)
    session = ort.InferenceSession(imported.host.SerializeToString(), providers=["CPUExecutionProvider"])
    name = imported.host.graph.input[0].name
    logits = session.run(None, {name: x, **base})[0].astype(np.float64)
    q = np.exp(logits - logits.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)

    def loss(tensors: Any) -> Any:
        z = session.run(None, {name: x, **tensors})[0].astype(np.float64)
        log = z - z.max(1, keepdims=True)
        return -(q * (log - np.log(np.exp(log).sum(1, keepdims=True)))).sum(1).mean()

    centre = loss(base)
    out = {}
    for layer in imported.module.layers:
        tensor = base[layer.origin.tensor]
        found = np.zeros(tensor.shape)
        for at in np.ndindex(tensor.shape):
            both = 0.0
            for sign in (1, -1):
                moved = tensor.copy()
                moved[at] += sign * step
                both += loss({**base, layer.origin.tensor: moved})
            found[at] = (both - 2 * centre) / step**2
        out[layer.name] = layer.origin.layout.to_matrix(found)
    return out


def small_mlp(path: Any, hidden: Any, activation: Any, rng: Any) -> Any:
    act = {
        "Relu": [helper.make_node("Relu", ["h"], ["a"])],
        "Gelu": [
            helper.make_node("Div", ["h", "root2"], ["d"]),
            helper.make_node("Erf", ["d"], ["e"]),
            helper.make_node("Add", ["e", "one"], ["p"]),
            helper.make_node("Mul", ["h", "p"], ["m"]),
            helper.make_node("Mul", ["m", "half"], ["a"]),
        ],
    }[activation]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        *act,
        helper.make_node("MatMul", ["a", "w2"], ["z"], name="last"),
    ]
    weights = {
        "w1": rng.standard_normal((6, hidden)),
        "w2": rng.standard_normal((hidden, 4)),
        "root2": np.sqrt(2.0),
        "one": np.array(1.0),
        "half": np.array(0.5),
    }
    return save_model(path, nodes, ["n", 6], ["n", 4], weights)


@pytest.mark.parametrize("activation", ["Relu", "Gelu"])
def test_last_layer_is_the_exact_hessian(tmp_path: Path, activation: Any) -> None:
    rng = np.random.default_rng(1)
    imported = import_model(small_mlp(tmp_path / "m.onnx", 5, activation, rng), TARGET)
    x = rng.standard_normal((8, 6)).astype(np.float32)
    ours = model_sensitivities(imported, x).layers
    exact = second_differences(imported, x)
    np.testing.assert_allclose(ours["last"], exact["last"], rtol=0.02, atol=2e-4)


def test_one_hidden_unit_is_exact_in_all_layers(tmp_path: Path) -> None:
    # One path from every weight of the first layer to the logits: what is left out is between logits only.
    # With two classes whose logits are z and 0 there is nothing between them.
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["y"], name="last"),
        helper.make_node("Concat", ["y", "zero"], ["z"], axis=1),
    ]
    weights = {"w1": np.abs(rng.standard_normal((5, 1))), "w2": np.array([[0.7]]), "zero": np.zeros((3, 1))}
    path = save_model(tmp_path / "m.onnx", nodes, [3, 5], [3, 2], weights)
    imported = import_model(path, TARGET)
    x = np.abs(rng.standard_normal((3, 5))).astype(np.float32)
    ours = model_sensitivities(imported, x).layers
    for name, exact in second_differences(imported, x).items():
        np.testing.assert_allclose(ours[name], exact, rtol=0.02, atol=1e-4, err_msg=name)


def test_hidden_layers_rank_like_the_true_hessian(tmp_path: Path) -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(3)
    imported = import_model(small_mlp(tmp_path / "m.onnx", 12, "Relu", rng), TARGET)
    x = rng.standard_normal((32, 6)).astype(np.float32)
    ours = model_sensitivities(imported, x).layers["first"]
    exact = second_differences(imported, x)["first"]
    assert spearmanr(ours.ravel(), exact.ravel()).statistic > 0.8


def test_gelu_written_out_equals_gelu_as_one_node(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    path = small_mlp(tmp_path / "m.onnx", 7, "Gelu", rng)
    written_out = import_model(path, TARGET)
    model = onnx.load(path)
    kept = [n for n in model.graph.node if n.name in ("first", "last")]
    del model.graph.node[:]
    model.graph.node.extend([kept[0], helper.make_node("Gelu", ["h"], ["a"]), kept[1]])
    model.opset_import[0].version = 20
    onnx.save(model, tmp_path / "one.onnx")
    one = import_model(tmp_path / "one.onnx", TARGET)
    x = rng.standard_normal((9, 6)).astype(np.float32)
    a, b = model_sensitivities(written_out, x).layers, model_sensitivities(one, x).layers
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-8)


def test_batches_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = import_model(MODELS / "digits_vit.onnx", TARGET)
    x = np.load(MODELS / "digits_calib.npz")["image"][:10]
    once = model_sensitivities(imported, x)
    monkeypatch.setattr("xbc.sensitivity.diagonal.BUDGET_BYTES", 1)
    one_by_one = model_sensitivities(imported, x)
    for name, values in once.layers.items():
        np.testing.assert_allclose(values, one_by_one.layers[name], rtol=1e-3, atol=1e-9)
        assert values.dtype == np.float32
        assert (values >= 0).all()
        assert values.any()


def test_dequantised_weights_count_per_unit_of_weight(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    codes, scale = rng.integers(-100, 100, (6, 4)), 0.02
    x = rng.standard_normal((9, 6)).astype(np.float32)
    product = helper.make_node("MatMul", ["x", "w"], ["z"], name="only")
    plain = save_model(tmp_path / "f.onnx", [product], ["n", 6], ["n", 4], {"w": codes * scale})
    model = onnx.load(plain)
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(codes.astype(np.int8), "q"),
            numpy_helper.from_array(np.array(scale, np.float32), "s"),
        ]
    )
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["q", "s"], ["w"]))
    onnx.save(model, tmp_path / "q.onnx")
    found = [
        model_sensitivities(import_model(tmp_path / f, TARGET), x).layers["only"]
        for f in ("f.onnx", "q.onnx")
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_sensitivity_predicts_the_loss_of_small_noise(tmp_path: Path) -> None:
    """E[loss(w + e)] - loss(w) = 1/2 sum S sigma**2: the last layer of a real network, many draws."""
    imported = import_model(MODELS / "digits_cnn.onnx", TARGET)
    x = np.load(MODELS / "digits_calib.npz")["image"][:64]
    s = model_sensitivities(imported, x).layers
    last = imported.module.layers[-1]
    tensors = module_tensors(imported.module)
    session = ort.InferenceSession(imported.host.SerializeToString(), providers=["CPUExecutionProvider"])
    name = imported.host.graph.input[0].name
    z0 = session.run(None, {name: x, **tensors})[0].astype(np.float64)
    q = np.exp(z0 - z0.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)

    def loss(z: Any) -> Any:
        z = z - z.max(1, keepdims=True)
        return -(q * (z - np.log(np.exp(z).sum(1, keepdims=True)))).sum(1).mean()

    rng = np.random.default_rng(0)
    sigma = 0.01
    rises = []
    for _ in range(300):
        noisy = tensors[last.origin.tensor] + sigma * rng.standard_normal(last.origin.layout.shape)
        z = session.run(None, {name: x, **tensors, last.origin.tensor: noisy.astype(np.float32)})[0]
        rises.append(loss(z.astype(np.float64)) - loss(z0))
    assert np.mean(rises) == pytest.approx(0.5 * sigma**2 * s[last.name].sum(), rel=0.15)


def gauss_newton(imported: Any, x: Any, step: Any = 5e-3) -> Any:
    """The exact diagonal J' (diag(q) - q q') J of the mean cross-entropy, J by finite differences, by layer."""
    base = module_tensors(imported.module)
    session = ort.InferenceSession(imported.host.SerializeToString(), providers=["CPUExecutionProvider"])

    def logits(tensors: Any) -> Any:
        return session.run(None, {"x": x, **tensors})[0].astype(np.float64)

    z = logits(base)
    q = np.exp(z - z.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    out = {}
    for layer in imported.module.layers:
        tensor = base[layer.origin.tensor]
        found = np.zeros(tensor.shape)
        for at in np.ndindex(tensor.shape):
            both = []
            for sign in (1, -1):
                moved = tensor.copy()
                moved[at] += sign * step
                both.append(logits({**base, layer.origin.tensor: moved}))
            j = (both[0] - both[1]) / (2 * step)
            found[at] = ((q * j * j).sum(1) - (q * j).sum(1) ** 2).mean()
        out[layer.name] = layer.origin.layout.to_matrix(found)
    return out


def small_cnn(path: Any, rng: Any) -> Any:
    """Two convolutions, a residual sum, global average, classifier: where the recursion's assumptions fail."""
    weights = {
        "c1": 0.5 * rng.standard_normal((4, 1, 3, 3)),
        "c2": 0.2 * rng.standard_normal((4, 4, 3, 3)),
        "w": rng.standard_normal((4, 3)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "c1"], ["a"], name="one", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "c2"], ["c"], name="two", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("MatMul", ["g", "w"], ["z"], name="last"),
    ]
    return save_model(path, nodes, ["n", 1, 8, 8], ["n", 3], weights)


def test_the_gradient_is_the_gauss_newton_diagonal_where_the_recursion_is_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    imported = import_model(small_cnn(tmp_path / "m.onnx", rng), TARGET)
    x = np.repeat(rng.standard_normal((20, 1, 8, 8)), 40, axis=0).astype(np.float32)  # 40 labels per image
    gradient = model_sensitivities(imported, x, method="gradient").layers
    recursion = model_sensitivities(imported, x[::40]).layers
    exact = gauss_newton(imported, x[::40])
    for name in ("one", "two", "last"):
        assert gradient[name].sum() == pytest.approx(exact[name].sum(), rel=0.15), name
    # one weight of a convolution meets 64 positions that act together: the recursion adds them as independent
    assert recursion["one"].sum() < 0.6 * exact["one"].sum()
    assert recursion["last"].sum() == pytest.approx(exact["last"].sum(), rel=0.02)


def test_gradient_of_given_labels_is_the_one_by_finite_differences(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    imported = import_model(small_cnn(tmp_path / "m.onnx", rng), TARGET)
    x = rng.standard_normal((3, 1, 8, 8)).astype(np.float32)
    labels = np.array([0, 2, 1])
    found = model_sensitivities(imported, x, labels, loss="empirical", method="gradient").layers
    base = module_tensors(imported.module)
    session = ort.InferenceSession(imported.host.SerializeToString(), providers=["CPUExecutionProvider"])

    def losses(tensors: Any) -> Any:
        z = session.run(None, {"x": x, **tensors})[0].astype(np.float64)
        return np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1) - z[np.arange(3), labels]

    for layer in imported.module.layers:
        tensor = base[layer.origin.tensor]
        squares = np.zeros(tensor.shape)
        for at in np.ndindex(tensor.shape):
            both = []
            for sign in (1, -1):
                moved = tensor.copy()
                moved[at] += sign * 2e-4
                both.append(losses({**base, layer.origin.tensor: moved}))
            squares[at] = np.mean(((both[0] - both[1]) / 4e-4) ** 2)
        expected = layer.origin.layout.to_matrix(squares)
        slack = 0.02 * expected.max()  # a ReLU may switch within the step
        np.testing.assert_allclose(found[layer.name], expected, rtol=0.05, atol=slack, err_msg=layer.name)


def test_drawn_labels_depend_on_the_seed_only(tmp_path: Path) -> None:
    imported = import_model(small_cnn(tmp_path / "m.onnx", np.random.default_rng(8)), TARGET)
    x = np.random.default_rng(9).standard_normal((4, 1, 8, 8)).astype(np.float32)
    a, b, c = (model_sensitivities(imported, x, method="gradient", seed=s).layers for s in (1, 1, 2))
    assert all((a[n] == b[n]).all() for n in a)
    assert any((a[n] != c[n]).any() for n in a)


def test_noise_moves_the_weights_at_which_the_curvature_is_taken(tmp_path: Path) -> None:
    """z = w2 w1 x under half the squared error: S of w1[i, h] is w2[h]**2 x[i]**2, of a noisy w2 its mean square."""
    rng = np.random.default_rng(11)
    weights = {"w1": rng.standard_normal((3, 4)), "w2": rng.standard_normal((4, 1))}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "w2"], ["z"], name="last"),
    ]
    imported = import_model(save_model(tmp_path / "m.onnx", nodes, ["n", 3], ["n", 1], weights), TARGET)
    x = np.repeat(rng.standard_normal((1, 3)).astype(np.float32), 3000, axis=0)
    for noise in (0.0, 0.4):
        found = all_sensitivities(imported, x, loss="squared", noise=noise)
        error = noise * np.abs(weights["w2"]).max()
        wanted = (weights["w2"] ** 2 + error**2) @ x[:1] ** 2
        np.testing.assert_allclose(found.layers["first"], wanted, rtol=0.15 if noise else 1e-4)
    assert found.noise == 0.4
    save_sensitivities(found, tmp_path / "s.npz")
    assert load_sensitivities(tmp_path / "s.npz", imported.module).noise == 0.4
    for bad in (-0.1, float("nan")):
        with pytest.raises(XbcError, match=r"noise = .* must be 0 or more"):
            all_sensitivities(imported, x, noise=bad)


def test_gradient_needs_one_sample_at_a_time(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["z"], name="only")
    path = save_model(tmp_path / "m.onnx", [node], [4, 6], [4, 3], {"w": np.ones((6, 3))})
    imported = import_model(path, TARGET)
    with pytest.raises(XbcError, match="one sample at a time"):
        model_sensitivities(imported, np.zeros((4, 6), np.float32), method="gradient")


@pytest.fixture(scope="module")
def digits() -> Any:
    imported = import_model(MODELS / "digits_cnn.onnx", TARGET)
    x = np.load(MODELS / "digits_calib.npz")["image"][:4]
    return imported, x, model_sensitivities(imported, x)


def test_file_round_trip(digits: Any, tmp_path: Path) -> None:
    imported, _, found = digits
    save_sensitivities(found, tmp_path / "sens.npz")
    again = load_sensitivities(tmp_path / "sens.npz", imported.module)
    assert (again.model_sha256, again.samples, again.loss, again.method) == (
        found.model_sha256,
        4,
        "cross-entropy",
        "recursion",
    )
    for name, values in found.layers.items():
        np.testing.assert_array_equal(again.layers[name], values)
    assert list(tmp_path.iterdir()) == [tmp_path / "sens.npz"]


def test_files_that_do_not_fit_are_refused(digits: Any, tmp_path: Path) -> None:
    imported, _, found = digits
    path = tmp_path / "sens.npz"

    def refused(match: Any, **changes: Any) -> None:
        save_sensitivities(dataclasses.replace(found, **changes), path)
        with pytest.raises(XbcError, match=match):
            load_sensitivities(path, imported.module)

    name, values = next(iter(found.layers.items()))
    refused("SHA-256", model_sha256="0" * 64)
    refused("has no layer", layers={k: v for k, v in found.layers.items() if k != name})
    refused("unknown layer", layers={**found.layers, "other": values})
    refused("wanted float32", layers={**found.layers, name: values[:, :1]})
    refused("wanted float32", layers={**found.layers, name: values.astype(np.float64)})
    refused("negative", layers={**found.layers, name: values - 1})
    path.write_bytes(b"not a zip")
    with pytest.raises(XbcError, match="cannot be read"):
        load_sensitivities(path, imported.module)
    np.savez(path, a=np.zeros(3))
    with pytest.raises(XbcError, match="not a file made by"):
        load_sensitivities(path, imported.module)
    with pytest.raises(XbcError, match="cannot be read"):
        load_sensitivities(tmp_path / "absent.npz", imported.module)


def test_data_that_does_not_fit_is_refused(digits: Any) -> None:
    imported, x, _ = digits
    with pytest.raises(XbcError, match="the model's input"):
        model_sensitivities(imported, x[:, :, :5])
    with pytest.raises(XbcError, match="no samples"):
        model_sensitivities(imported, x[:0])
    with pytest.raises(XbcError, match="out of range"):
        model_sensitivities(imported, x, np.array([0, 1, 2, 10]), loss="empirical")
    with pytest.raises(XbcError, match="one integer class"):
        model_sensitivities(imported, x, np.zeros(3, np.int64))
    with pytest.raises(XbcError, match="needs labels"):
        model_sensitivities(imported, x, loss="empirical")


def test_an_operator_without_a_rule_is_named() -> None:
    imported = import_model(MODELS / "digits_lstm.onnx", TARGET)
    with pytest.raises(XbcError, match="is a LSTM"):
        model_sensitivities(imported, np.zeros((1, 8, 8), np.float32))


def test_labels_make_the_empirical_form(digits: Any) -> None:
    imported, x, found = digits
    labels = np.array([1, 2, 3, 4])
    empirical = model_sensitivities(imported, x, labels, loss="empirical")
    assert any(not np.allclose(v, empirical.layers[k]) for k, v in found.layers.items())
    with_labels = model_sensitivities(imported, x, labels)
    for name, values in found.layers.items():  # the Hessian of cross-entropy does not depend on the label
        np.testing.assert_array_equal(values, with_labels.layers[name])


@pytest.mark.parametrize(
    "model", ["lenet_mnist", "cifar10_resnet20", "deit_tiny_patch16_224", "resnet50_v1p5_w8dq"]
)
def test_real_models(shared_data: Path, model: Any) -> None:
    imported = import_model(shared_data / "models" / f"{model}.onnx", TARGET)
    shape = [d.dim_value for d in imported.host.graph.input[0].type.tensor_type.shape.dim][1:]
    x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    found = model_sensitivities(imported, x)
    assert {layer.name for layer in imported.module.layers} == set(found.layers)
    for layer in imported.module.layers:
        values = found.layers[layer.name]
        assert values.shape == layer.body.shape
        assert np.isfinite(values).all()
        assert (values >= 0).all()
        assert values.any()
