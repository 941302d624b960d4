"""What public models hold and small tests forget: each is read as it is meant, or refused with its cure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from attack.bombs import BOMBS
from ir.errors import LONGEST, XbcError
from ir.stages import Quantized
from tests.xbc.frontend.oracle import TARGET, integers, model, only_layer, session, weights
from xbc.frontend import (
    Imported,
    host_with_weights,
    import_model,
    module_tensors,
    original_weights,
    why_no_layers,
)
from xbc.frontend.normalise import Names

node = helper.make_node
F = np.float32
both = pytest.mark.parametrize("optimise", [True, False])


def read(proto: onnx.ModelProto, folder: Path, *, optimise: bool = True) -> Imported:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return import_model(path, TARGET, optimise=optimise)


def run(imported: Imported, feeds: dict[str, Any]) -> list[Any]:
    made: list[Any] = session(host_with_weights(imported.host, module_tensors(imported.module))).run(
        None, feeds
    )
    return made


def product(weight: list[onnx.NodeProto], constants: dict[str, Any], **settings: Any) -> onnx.ModelProto:
    nodes = [*weight, node("MatMul", ["x", "w"], ["y"], "dense")]
    return model(nodes, {"x": (F, [4, 8])}, {"y": (F, 2)}, constants, **settings)


@both
@pytest.mark.parametrize("scales", [(0.1, 0.0, 0.2), (0.1, -0.3, 0.2), (-0.1, 0.0, -0.2), (-0.5,), (0.0,)])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_scales_of_zero_and_below(
    dtype: str, scales: tuple[float, ...], optimise: bool, tmp_path: Path
) -> None:
    q = integers(8, 3, dtype=dtype)
    q[0] = np.iinfo(dtype).min  # its negative is no int8
    shape = (3,) if len(scales) > 1 else ()
    constants = {"q": q, "s": np.array(scales, F).reshape(shape), "z": np.full(shape, 7, dtype)}
    dequantise = node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1)
    imported = read(product([dequantise], constants), tmp_path, optimise=optimise)
    body = only_layer(imported).body
    assert isinstance(body, Quantized)
    assert (body.scale > 0).all()
    x = weights(4, 8)
    exact = (q.astype(np.float64) - 7) * np.broadcast_to(scales, 3)
    (y,) = run(imported, {"x": x})
    assert np.allclose(y, x @ exact, rtol=1e-5, atol=1e-5)


@both
@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"])
def test_floats_of_8_bits_are_weights_like_floats(kind: str, optimise: bool, tmp_path: Path) -> None:
    w = weights(8, 3).astype(getattr(ml_dtypes, kind))
    dequantise = node("DequantizeLinear", ["q", "s"], ["w"])
    imported = read(
        product([dequantise], {"q": w, "s": np.array(0.25, F)}, opset=19, ir_version=9),
        tmp_path,
        optimise=optimise,
    )
    (matrix,) = original_weights(
        imported.module
    ).values()  # few enough of them lie on an 8-bit grid of integers
    assert np.array_equal(matrix, (w.astype(F) * F(0.25)).T)


@both
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("states", [False, True])
def test_recurrent_nodes_with_the_batch_in_front(
    op: str, states: bool, optimise: bool, tmp_path: Path
) -> None:
    gates, hidden = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 5
    constants = {"W": weights(1, gates * hidden, 6) * 0.3, "R": weights(1, gates * hidden, hidden) * 0.3}
    inputs: dict[str, Any] = {"x": (F, [2, 7, 6])}
    operands, outputs = ["x", "W", "R"], ["Y", "Yh"]
    if states:
        inputs["h"] = (F, [2, 1, hidden])
        operands += ["", "", "h"]
    nodes = [node(op, operands, outputs, "cell", hidden_size=hidden, layout=1)]
    proto = model(nodes, inputs, {"Y": (F, 4), "Yh": (F, 3)}, constants)
    imported = read(proto, tmp_path, optimise=optimise)
    assert [layer.origin.node for layer in imported.module.layers] == ["cell", "cell"]
    assert imported.module.layers[0].origin.products == 14
    feeds = {name: weights(*dims) for name, (_, dims) in inputs.items()}
    got = run(imported, feeds)
    # onnx's reference, a batch at a time: it takes initial states only where the batch is second
    turned = {"x": feeds["x"].swapaxes(0, 1)} | ({"h": feeds["h"].swapaxes(0, 1)} if states else {})
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    kept = [a for a in plain.graph.node[0].attribute if a.name != "layout"]
    del plain.graph.node[0].attribute[:]
    plain.graph.node[0].attribute.extend(kept)
    made: Any = ReferenceEvaluator(plain).run(None, turned)
    y, last = made
    assert np.allclose(got[0], y.transpose(2, 0, 1, 3), atol=1e-5)
    assert np.allclose(got[1], last.swapaxes(0, 1), atol=1e-5)


@pytest.mark.parametrize("dims", [None, "type"], ids=["no shape", "no type"])
def test_outputs_need_no_shape_and_no_type(dims: str | None, tmp_path: Path) -> None:
    proto = product([], {"w": weights(8, 3)})
    output = proto.graph.output[0]
    output.type.Clear()
    if dims is None:
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    (y,) = run(read(proto, tmp_path), {"x": np.ones((4, 8), F)})
    assert y.shape == (4, 3)


def test_a_git_lfs_pointer_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 26454\n")
    with pytest.raises(XbcError, match=r"is a Git LFS pointer.*git lfs pull"):
        import_model(path, TARGET)


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (
            model(
                [node("Einsum", ["x", "w"], ["y"], "contract", equation="bi,io->bo")],
                {"x": (F, [4, 8])}, {"y": (F, 2)}, {"w": weights(8, 3)},
            ),
            "node 'contract' (Einsum): Einsum with a static operand: write it as MatMul",
        ),
        (
            model([node("MatMul", ["x", "w"], ["y"], "dense")], {"x": (F, ["b", 8]), "w": (F, [8, 3])}, {"y": (F, 2)}),
            "node 'dense' (MatMul): its weight 'w' is an input of the model: export it with its parameters inside",
        ),
        (
            model(
                [node("Transpose", ["w"], ["t"]), node("Gemm", ["x", "t"], ["y"], "dense")],
                {"x": (F, ["b", 8]), "w": (F, [3, 8])}, {"y": (F, 2)},
            ),
            "node 'dense' (Gemm): its weight 'w' is an input of the model: export it with its parameters inside",
        ),
        (
            model([node("Relu", ["x"], ["y"])], {"x": (F, [4, 8])}, {"y": (F, 2)}),
            "it holds no product with static weights (Conv, Gemm, MatMul, LSTM and the like)",
        ),
    ],
    ids=["listed", "input", "input reshaped", "nothing"],
)  # fmt: skip
def test_a_model_without_layers_is_told_why(proto: onnx.ModelProto, reason: str, tmp_path: Path) -> None:
    imported = read(proto, tmp_path)
    assert not imported.module.layers
    assert why_no_layers(imported.host, imported.module.unmapped) == reason


SLOW = {"constant_1GB", "nodes_100000", "nodes_100000_of_one_name", "nodes_300000", "edges_2250000"}
READ = {
    "block_1e9": 1, "block_2e62": 1, "nested_20": 1, "name_of_100000": 1, "markup_name": 0, "conv_strides_0": 1,
}  # fmt: skip
"""What is no bomb after all, with the layers that it has; every other one is refused."""


@pytest.mark.parametrize("name", [name for name in BOMBS if name not in SLOW])
def test_bombs_are_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    if name in READ:
        assert len(read(BOMBS[name](), tmp_path).module.layers) == READ[name]
        return
    with pytest.raises(XbcError) as caught:
        read(BOMBS[name](), tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert len(message) <= LONGEST


@pytest.mark.parametrize("name", ["constants_6_of_1GB", "constant_3.2GB", "expand_3GB"])
def test_what_onnxruntime_did_not_fold_has_the_same_bound(name: str, tmp_path: Path) -> None:
    with pytest.raises(XbcError, match=r"at most|more than half of this machine's memory"):
        read(BOMBS[name](), tmp_path, optimise=False)


def test_names_that_repeat_are_numbered_without_counting_again() -> None:
    names = Names(["a", "a_3"])
    assert [names.fresh("a") for _ in range(3)] == ["a_2", "a_4", "a_5"]
    assert names.fresh("b") == "b"
    made = [names.fresh("same") for _ in range(100_000)]  # counting from 2 each time took an hour
    assert len(set(made)) == len(made)


def test_onnxruntime_sends_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if "TELEMETRY" not in k}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "import xbc.frontend, onnxruntime; onnxruntime.InferenceSession"],
        env=environment, capture_output=True, check=True,
    )  # fmt: skip
    assert done.stderr == b""
    assert list(tmp_path.iterdir()) == []
