"""Files that cannot be compiled: one clear sentence each."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ir.errors import XbcError
from tests.xbc.frontend.oracle import TARGET, model, weights
from xbc.frontend import import_model
from xbc.frontend.read import one_line

node = helper.make_node
F = np.float32


def product(**constants: np.ndarray) -> onnx.ModelProto:
    w = constants.get("w", weights(50, 30))
    return model(
        [node("MatMul", ["x", "w"], ["y"], "dense")], {"x": (F, [2, w.shape[0]])}, {"y": (F, 2)}, {"w": w}
    )


def refused(path: Path, match: str) -> None:
    with pytest.raises(XbcError, match=match) as caught:
        import_model(path, TARGET)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message


def save(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_missing_and_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "does not exist")
    refused(tmp_path, "is a folder")


@pytest.mark.parametrize(
    "content",
    [
        b"hello, I am a text file\n" * 40,
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"PK\x03\x04" + bytes(200),
        bytes(64),
        b"\x08\x08",
    ],
    ids=["text", "png", "zip", "zeros", "header-only"],
)
def test_not_onnx(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    refused(path, "not an ONNX model")


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    refused(tmp_path / "model.onnx", "is empty")


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.99])
def test_truncated(keep: float, tmp_path: Path) -> None:
    path = save(product(), tmp_path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    refused(path, "is truncated")


@pytest.mark.parametrize("position", range(0, 260, 20))
def test_a_damaged_byte_never_crashes(position: int, tmp_path: Path) -> None:
    path = save(product(w=weights(4, 3)), tmp_path)
    content = bytearray(path.read_bytes())
    for at in range(position, min(position + 20, len(content))):
        for value in (0, 255, content[at] ^ 1):
            damaged = bytearray(content)
            damaged[at] = value
            path.write_bytes(damaged)
            try:
                import_model(path, TARGET)
            except XbcError as error:
                assert "\n" not in str(error)  # noqa: PT017 - not raising is fine as well


def test_checker_invalid(tmp_path: Path) -> None:
    proto = product()
    proto.graph.node[0].op_type = "NoSuchOperator"
    refused(save(proto, tmp_path), "not a valid ONNX model.*NoSuchOperator")
    proto = product()
    proto.graph.node[0].input[0] = "undefined"
    refused(save(proto, tmp_path), "not a valid ONNX model.*undefined")


def test_versions(tmp_path: Path) -> None:
    proto = product()
    proto.opset_import[0].version = 6
    refused(save(proto, tmp_path), "operator set 6; 7 is the oldest")
    proto.opset_import[0].version = 4000
    refused(save(proto, tmp_path), "operator set 4000.*update onnx")
    del proto.opset_import[:]
    refused(save(proto, tmp_path), "no operator set")


def test_unknown_domain(tmp_path: Path) -> None:
    proto = model([node("Warp", ["x"], ["y"], "w", domain="acme.chip")], {"x": (F, [2])}, {"y": (F, 1)})
    refused(save(proto, tmp_path), "operator 'Warp' of the unknown domain 'acme.chip'")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(value: float, tmp_path: Path) -> None:
    w = weights(5, 3)
    w[2, 1] = value
    refused(save(product(w=w), tmp_path), "node 'dense'.*1 of its 15 weights are NaN or infinite")


def test_weights_beyond_float32(tmp_path: Path) -> None:
    w = weights(5, 3, dtype="float64")
    w[0, 0] = 1e300
    proto = model(
        [node("MatMul", ["x", "w"], ["y"], "dense")],
        {"x": (np.float64, [2, 5])},
        {"y": (np.float64, 2)},
        {"w": w},
    )
    refused(save(proto, tmp_path), "beyond float32")


@pytest.mark.parametrize("axis", [None, 1])
def test_scale_that_is_not_finite(axis: int | None, tmp_path: Path) -> None:
    attrs = {} if axis is None else {"axis": axis}
    nodes = [
        node("DequantizeLinear", ["q", "s"], ["w"], **attrs),  # type: ignore[arg-type]
        node("MatMul", ["x", "w"], ["y"], "dense"),
    ]
    scale = np.array(np.nan if axis is None else [1, np.nan, 2], F)
    constants = {"q": np.ones((5, 3), np.int8), "s": scale}
    refused(save(model(nodes, {"x": (F, [2, 5])}, {"y": F}, constants), tmp_path), "scale.*NaN")


@pytest.mark.parametrize("shape", [(5, 0), (0, 5)])
def test_zero_size_layer(shape: tuple[int, int], tmp_path: Path) -> None:
    proto = product(w=np.zeros(shape, F))
    refused(save(proto, tmp_path), r"dense.*shape \[.*0.*\], a layer of no weights")


def test_misshapen_weights(tmp_path: Path) -> None:
    proto = model(
        [node("Conv", ["x", "w"], ["y"], "c")], {"x": (F, [1, 3, 4, 4])}, {"y": (F, 4)}, {"w": weights(4, 3)}
    )
    refused(save(proto, tmp_path), "node 'c' .*at least 3 dimensions")
    proto = model(
        [node("Conv", ["x", "w"], ["y"], "c", group=3)],
        {"x": (F, [1, 3, 4, 4])},
        {"y": (F, 4)},
        {"w": weights(4, 1, 1, 1)},
    )
    refused(save(proto, tmp_path), "4 output channels cannot be split into 3 groups")


def test_sizes_are_checked_before_they_are_believed(tmp_path: Path) -> None:
    proto = product()
    proto.graph.initializer[0].dims[:] = [2**40, 2**40]
    refused(save(proto, tmp_path), "needs .* bytes, the file holds 6000")
    proto.graph.initializer[0].dims[:] = [-1, 30]
    refused(save(proto, tmp_path), "negative dimension")
    proto = product()
    proto.graph.initializer[0].data_type = 200
    refused(save(proto, tmp_path), "unknown element type 200")


@pytest.mark.parametrize("inner", [False, True])
def test_constants_that_would_unfold_beyond_memory(inner: bool, tmp_path: Path) -> None:
    nodes = [
        node("Constant", [], ["n"], value_ints=[2**20, 2**22]),
        node("ConstantOfShape", ["n"], ["w"]),
        node("MatMul", ["x", "w"], ["y"], "dense"),
    ]
    if inner:
        info = helper.make_tensor_value_info("y", 1, [None, None])
        bodies = {key: helper.make_graph(nodes, key, [], [info]) for key in ("then_branch", "else_branch")}
        nodes = [node("If", ["c"], ["z"], **bodies)]
    inputs: dict[str, Any] = {"x": (F, [2, 2**20])} | ({"c": (np.bool_, [])} if inner else {})
    proto = model(nodes, inputs, {"z" if inner else "y": (F, 2)})
    path = save(proto, tmp_path)
    with pytest.raises(XbcError, match=r"would take 1759218604\d+ bytes, 107374\d+ at most for a model of"):
        import_model(path, TARGET)
    with pytest.raises(XbcError, match="memory"):
        import_model(path, TARGET, optimise=False)


def external(folder: Path) -> tuple[Path, onnx.ModelProto]:
    path = folder / "model.onnx"
    onnx.save(product(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path, onnx.load(path, load_external_data=False)


def set_external(proto: onnx.ModelProto, path: Path, **entries: str) -> None:
    tensor = proto.graph.initializer[0]
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())


def test_external_data_faults(tmp_path: Path) -> None:
    path, proto = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(5999))
    refused(path, "needs bytes 0..6000 of 'weights.bin', which has 5999")
    (tmp_path / "weights.bin").unlink()
    refused(path, "'weights.bin', which is missing")
    set_external(proto, path, location="weights.bin", length="10")
    (tmp_path / "weights.bin").write_bytes(bytes(6000))
    refused(path, "needs 6000 bytes, its external data says 10")
    set_external(proto, path, location="weights.bin", offset="many")
    refused(path, "no number")
    set_external(proto, path, location="weights.bin", offset="-4")
    refused(path, "needs bytes -4")
    (tmp_path / "folder").mkdir()
    set_external(proto, path, location="folder")
    refused(path, "no regular file")


@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/passwd", "a/../../weights.bin", "..\\weights.bin", "C:\\w.bin", ""]
)
def test_external_data_outside_the_folder(location: str, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    path, proto = external(inner)
    (tmp_path / "weights.bin").write_bytes(bytes(6000))
    set_external(proto, path, location=location)
    refused(path, "leaves the model's folder")


@pytest.mark.parametrize("folder_link", [False, True])
def test_external_data_behind_a_link(folder_link: bool, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    path, proto = external(inner)
    (tmp_path / "weights.bin").write_bytes(bytes(6000))
    (inner / "weights.bin").unlink()
    if folder_link:
        os.symlink(tmp_path, inner / "sub")
        set_external(proto, path, location="sub/weights.bin")
    else:
        os.symlink(tmp_path / "weights.bin", inner / "weights.bin")
    refused(path, "a link that leaves the model's folder")


def test_a_linked_model_file_finds_its_data(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    external(inner)
    os.symlink(inner / "model.onnx", tmp_path / "link.onnx")
    assert import_model(tmp_path / "link.onnx", TARGET).module.weights == 1500


def test_external_constant_in_a_node(tmp_path: Path) -> None:
    tensor = TensorProto(
        name="t", data_type=TensorProto.FLOAT, dims=[5, 3], data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value="../w.bin")
    nodes = [node("Constant", [], ["w"], "k"), node("MatMul", ["x", "w"], ["y"])]
    nodes[0].attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    proto = model([node("Relu", ["x"], ["y"])], {"x": (F, [2, 5])}, {"y": (F, 2)})
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    path = save(proto, tmp_path)
    refused(path, "attribute 'value' of node 'k'.*leaves the model's folder")


def test_messages_of_onnxruntime_lose_its_source_lines() -> None:
    message = (
        "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/graph/model.h:46 void onnxruntime::Check("
        "const std::map<int (*)(bool), int>&, const Logger&) ONNX Runtime knows\n opsets (released ones)."
    )
    shown = "[ONNXRuntimeError] : 1 : FAIL : ONNX Runtime knows opsets (released ones)"
    assert one_line(RuntimeError(message)) == shown


def test_graph_without_nodes(tmp_path: Path) -> None:
    proto = product()
    del proto.graph.node[:]
    refused(save(proto, tmp_path), "no graph with nodes")


def test_no_room_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(product(), tmp_path)
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(
        "xbc.frontend.normalise.shutil.disk_usage", lambda _: usage(10**6, 10**6 - 5000, 5000)
    )
    with pytest.raises(XbcError, match=r"5000 bytes free and 6000 are needed: set TMPDIR"):
        import_model(path, TARGET)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(XbcError, match="no folder for temporary files"):
        import_model(path, TARGET)
