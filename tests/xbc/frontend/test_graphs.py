"""Where weights come from, what stays in the host graph, names, edges and product counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ir.arrays import Array
from tests.xbc.frontend.oracle import (
    TARGET,
    check_against_onnxruntime,
    integers,
    model,
    only_layer,
    random_feeds,
    session,
    weights,
)
from xbc.frontend import host_bytes, host_with_weights, import_model, module_tensors

node = helper.make_node
F = np.float32
both = pytest.mark.parametrize("optimise", [True, False])


def tensor(array: Array, name: str = "t") -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


@both
@pytest.mark.parametrize(
    "chain",
    [
        [node("Constant", [], ["w"], value=tensor(weights(5, 3)))],
        [node("Constant", [], ["c"], value=tensor(weights(3, 5))), node("Transpose", ["c"], ["w"])],
        [
            node("Constant", [], ["c"], value=tensor(weights(15))),
            node("Constant", [], ["d"], value_ints=[5, -1]),
            node("Reshape", ["c", "d"], ["w"]),
        ],
        [
            node("Constant", [], ["d"], value_ints=[5, 3]),
            node("ConstantOfShape", ["d"], ["w"], value=tensor(np.array([0.25], F))),
        ],
        [
            node("Constant", [], ["c"], value=tensor(weights(5, 3, dtype="float16"))),
            node("Cast", ["c"], ["f"], to=1),
            node("Mul", ["f", "f"], ["w"]),
        ],
        [
            node("Constant", [], ["a"], value=tensor(weights(2, 3))),
            node("Constant", [], ["b"], value=tensor(weights(3, 3))),
            node("Concat", ["a", "b"], ["w"], axis=0),
        ],
    ],
    ids=["constant", "transpose", "reshape", "constant-of-shape", "arithmetic", "concat"],
)
def test_weights_that_are_expressions(chain: list[Any], optimise: bool, tmp_path: Path) -> None:
    proto = model([*chain, node("MatMul", ["x", "w"], ["y"], "product")], {"x": (F, [4, 5])}, {"y": F})
    imported = check_against_onnxruntime(proto, tmp_path, optimise=optimise)
    assert only_layer(imported).body.shape == (3, 5)
    assert [n.op_type for n in imported.host.graph.node] == ["MatMul"]


@both
def test_a_shared_tensor_gives_two_layers(optimise: bool, tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["t"], "first"),
        node("Relu", ["t"], ["r"]),
        node("MatMul", ["r", "w"], ["u"], "second"),
        node("Gather", ["w", "i"], ["g"], "table"),
        node("Add", ["u", "g"], ["y"]),
    ]
    constants = {"w": weights(4, 4), "i": np.array([0, 1])}
    proto = model(nodes, {"x": (F, [2, 4])}, {"y": F}, constants)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    imported = import_model(path, TARGET, optimise=optimise)
    assert [x.name for x in imported.module.layers] == ["first", "second"]
    assert len({x.origin.tensor for x in imported.module.layers}) == 2
    again = host_with_weights(imported.host, module_tensors(imported.module))
    feeds = random_feeds(proto)
    (expected,), (actual,) = session(path).run(None, feeds), session(again).run(None, feeds)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_embedding_tables_are_listed(tmp_path: Path) -> None:
    nodes = [node("Gather", ["w", "i"], ["e"], "table"), node("MatMul", ["e", "m"], ["y"], "product")]
    constants = {"w": weights(10, 4), "m": weights(4, 3)}
    proto = model(nodes, {"i": (np.int64, ["n"])}, {"y": F}, constants)
    imported = check_against_onnxruntime(proto, tmp_path, feeds={"i": np.array([3, 9, 0])})
    (entry,) = imported.module.unmapped
    assert (entry.node, entry.op_type, entry.weights) == ("table", "Gather", 40)
    assert [x.name for x in imported.module.layers] == ["product"]


def test_elementwise_operands_and_dynamic_products_are_not_listed(tmp_path: Path) -> None:
    nodes = [
        node("Mul", ["x", "s"], ["a"]),
        node("Add", ["a", "p"], ["b"]),
        node("Transpose", ["b"], ["c"]),
        node("MatMul", ["b", "c"], ["y"]),
    ]
    proto = model(nodes, {"x": (F, [4, 5])}, {"y": F}, {"s": weights(5), "p": weights(4, 5)})
    imported = check_against_onnxruntime(proto, tmp_path)
    assert not imported.module.layers
    assert not imported.module.unmapped


def test_elementwise_operators_of_onnxruntime_are_not_listed(tmp_path: Path) -> None:
    names = ["x", "s", "z", "p", "s", "z", "s", "z"]
    constants = {"s": np.array(0.1, F), "z": np.array(3, np.uint8), "p": integers(4, 5, dtype="uint8")}
    nodes = [node("QLinearAdd", names, ["y"], domain="com.microsoft")]
    proto = model(nodes, {"x": (np.uint8, [4, 5])}, {"y": (np.uint8, 2)}, constants)
    assert not check_against_onnxruntime(proto, tmp_path).module.unmapped


def test_operators_without_a_rule_are_listed(tmp_path: Path) -> None:
    nodes = [
        node("Einsum", ["x", "w"], ["e"], "contraction", equation="ab,cb->ac"),
        node("CDist", ["e", "v"], ["y"], "distance", domain="com.microsoft"),
    ]
    proto = model(nodes, {"x": (F, [4, 5])}, {"y": (F, 2)}, {"w": weights(3, 5), "v": weights(6, 3)})
    imported = check_against_onnxruntime(proto, tmp_path)
    assert [(u.node, u.weights) for u in imported.module.unmapped] == [("contraction", 15), ("distance", 18)]
    assert all(u.reason for u in imported.module.unmapped)


def test_packed_block_codes_are_listed(tmp_path: Path) -> None:
    nodes = [
        node("MatMulNBits", ["x", "q", "s"], ["y"], K=32, N=4, bits=4, block_size=16, domain="com.microsoft")
    ]
    constants = {"q": integers(4, 2, 8, dtype="uint8"), "s": np.abs(weights(8))}
    proto = model(nodes, {"x": (F, [2, 32])}, {"y": (F, 2)}, constants)
    imported = check_against_onnxruntime(proto, tmp_path)
    assert "block" in imported.module.unmapped[0].reason


def test_linear_classifiers_are_listed(tmp_path: Path) -> None:
    classifier = node(
        "LinearClassifier", ["x"], ["l", "y"], "classes", domain="ai.onnx.ml", coefficients=[0.5] * 8,
        intercepts=[0.0, 1.0], classlabels_ints=[0, 1],
    )  # fmt: skip
    proto = model([classifier], {"x": (F, [2, 4])}, {"l": (np.int64, 1), "y": (F, 2)})
    imported = check_against_onnxruntime(proto, tmp_path)
    assert [(u.node, u.weights) for u in imported.module.unmapped] == [("classes", 8)]


def branch(name: str, w: Array, *, constant: bool) -> onnx.GraphProto:
    """A body that multiplies the outer value t."""
    weight = [node("Constant", [], ["w"], value=tensor(w))] if constant else []
    return helper.make_graph(
        [
            *weight,
            node("MatMul", ["t", "w"], [f"{name}_y"], "product"),
            node("Relu", [f"{name}_y"], [f"{name}_o"]),
        ],
        name, [], [helper.make_tensor_value_info(f"{name}_o", 1, [None, None])],
        [] if constant else [tensor(w, "w")],
    )  # fmt: skip


@both
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("chosen", [False, True])
def test_if_bodies_are_mapped(chosen: bool, constant: bool, optimise: bool, tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "m"], ["t"], "before"),
        node(
            "If", ["c"], ["i"], "choice",
            then_branch=branch("yes", weights(4, 3), constant=constant),
            else_branch=branch("no", weights(4, 3), constant=constant),
        ),
        node("MatMul", ["i", "v"], ["y"], "after"),
    ]  # fmt: skip
    constants = {"m": weights(5, 4), "v": weights(3, 2)}
    proto = model(nodes, {"x": (F, [2, 5]), "c": (np.bool_, [])}, {"y": (F, 2)}, constants)
    feeds = random_feeds(proto) | {"c": np.array(chosen)}
    imported = check_against_onnxruntime(proto, tmp_path, optimise=optimise, feeds=feeds)
    names = [x.name for x in imported.module.layers]
    assert (names[0], {*names[1:3]}, names[3]) == ("before", {"product", "product_2"}, "after")
    assert set(imported.module.edges) == {
        ("before", "product"), ("before", "product_2"), ("product", "after"), ("product_2", "after"),
    }  # fmt: skip


@both
def test_loop_and_scan_bodies_are_listed(optimise: bool, tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("MatMul", ["s", "w"], ["t"], "looped"), node("Identity", ["go"], ["again"])],
        "body",
        [info("at", 7, []), info("go", 9, []), info("s", 1, [2, 4])],
        [info("again", 9, []), info("t", 1, [2, 4])],
        [tensor(weights(4, 4), "w")],
    )
    scan = helper.make_graph(
        [node("MatMul", ["r", "outer"], ["u"], "scanned"), node("Identity", ["u"], ["v"])],
        "scan", [info("q", 1, [4]), info("r", 1, [4])], [info("u", 1, [4]), info("v", 1, [4])],
    )  # fmt: skip
    nodes = [
        node("MatMul", ["x", "m"], ["f"], "first"),
        node("Loop", ["n", "", "f"], ["l"], "loop", body=body),
        node("Scan", ["z", "l"], ["last", "all"], "scan", body=scan, num_scan_inputs=1),
        node("MatMul", ["all", "m"], ["y"], "head"),
    ]
    constants = {"n": np.array(3), "m": weights(4, 4), "outer": weights(4, 4), "z": np.zeros(4, F)}
    proto = model(nodes, {"x": (F, [2, 4])}, {"y": (F, 2)}, constants)
    imported = check_against_onnxruntime(proto, tmp_path, optimise=optimise)
    assert [x.name for x in imported.module.layers] == ["first", "head"]
    assert imported.module.edges == (("first", "head"),)
    assert [(u.node, u.weights) for u in imported.module.unmapped] == [("looped", 16), ("scanned", 16)]
    assert "Loop" in imported.module.unmapped[0].reason
    assert "Scan" in imported.module.unmapped[1].reason


def test_batch_normalisation_is_folded(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], "conv"),
        node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"], "norm"),
    ]
    constants = {
        "w": weights(4, 3, 3, 3),
        "g": weights(4),
        "b": weights(4),
        "m": weights(4),
        "v": np.ones(4, F) * 3,
    }
    imported = check_against_onnxruntime(
        model(nodes, {"x": (F, ["n", 3, 5, 5])}, {"y": F}, constants), tmp_path
    )
    assert [n.op_type for n in imported.host.graph.node] == ["Conv"]


def test_overridable_initializers_are_constants(tmp_path: Path) -> None:
    proto = model(
        [node("MatMul", ["x", "w"], ["y"])],
        {"x": (F, [2, 5]), "w": (F, [5, 3])},
        {"y": F},
        {"w": weights(5, 3)},
    )
    imported = check_against_onnxruntime(proto, tmp_path)
    assert len(imported.module.layers) == 1
    assert any("optional inputs" in note for note in imported.notes)


def test_functions_are_inlined(tmp_path: Path) -> None:
    function = helper.make_function(
        "custom", "Dense", ["a", "b"], ["c"],
        [node("MatMul", ["a", "b"], ["d"], "inner"), node("Relu", ["d"], ["c"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    proto = model(
        [node("Dense", ["x", "w"], ["y"], "dense", domain="custom")],
        {"x": (F, [2, 5])},
        {"y": (F, 2)},
        {"w": weights(5, 3)},
    )
    proto.functions.append(function)
    imported = check_against_onnxruntime(proto, tmp_path)
    assert only_layer(imported).body.shape == (3, 5)


def test_sparse_initializers(tmp_path: Path) -> None:
    dense = np.zeros((5, 3), F)
    dense.flat[[1, 4, 7]] = [1, 2, 3]
    sparse = helper.make_sparse_tensor(
        tensor(np.array([1, 2, 3], F), "w"), tensor(np.array([1, 4, 7]), "at"), [5, 3]
    )
    for optimise in (True, False):
        proto = model(
            [node("MatMul", ["x", "w"], ["y"])],
            {"x": (F, [2, 5])},
            {"y": (F, 2)},
            sparse_initializer=[sparse],
        )
        imported = check_against_onnxruntime(proto, tmp_path, optimise=optimise)
        np.testing.assert_array_equal(only_layer(imported).body.values, dense.T)
        assert not imported.host.graph.sparse_initializer


@pytest.mark.parametrize("opset", range(7, 27))
def test_operator_sets(opset: int, tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], "conv"),
        node("Relu", ["c"], ["r"]),
        node("Flatten", ["r"], ["f"]),
        node("Gemm", ["f", "m", "b"], ["y"], "head"),
    ]
    constants = {"w": weights(2, 3, 3, 3), "m": weights(18, 4), "b": weights(4)}
    ir_version = 3 if opset < 9 else 10
    inputs: dict[str, Any] = {"x": (F, [1, 3, 5, 5])}
    if ir_version < 4:
        inputs |= {name: (F, array.shape) for name, array in constants.items()}
    proto = model(nodes, inputs, {"y": F}, constants, opset=opset, ir_version=ir_version)
    imported = check_against_onnxruntime(proto, tmp_path)
    assert [x.name for x in imported.module.layers] == ["conv", "head"]
    assert not imported.notes


def test_external_data(tmp_path: Path) -> None:
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": (F, [2, 50])}, {"y": F}, {"w": weights(50, 30)})
    (tmp_path / "data").mkdir()
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="data/weights.bin", size_threshold=0)
    for optimise in (True, False):
        imported = check_against_onnxruntime(path, tmp_path, optimise=optimise)
        assert only_layer(imported).weights == 1500


def test_names_are_readable_unique_and_stable(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "a"], ["t0"], "/block 1/fc/MatMul"),
        node("MatMul", ["t0", "b"], ["t1"], "/block 1/fc/MatMul"),
        node("MatMul", ["t1", "a"], ["t2"]),
        node("MatMul", ["t2", "b"], ["t3"], "net;é"),
        node("Add", ["t3", "c"], ["y"], "bias"),
    ]
    proto = model(
        nodes, {"x": (F, [2, 3])}, {"y": F}, {"a": weights(3, 3), "b": weights(3, 3), "c": weights(3)}
    )
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    imported = import_model(path, TARGET)  # onnxruntime itself refuses two nodes of one name
    assert not imported.notes
    names = [x.name for x in imported.module.layers]
    assert names == ["block.1.fc.MatMul", "block.1.fc.MatMul_2", "MatMul_2", "net"]
    second = import_model(path, TARGET)
    assert second.module == imported.module
    assert host_bytes(second.host) == host_bytes(imported.host)
    nodes_in_host = {n.name for n in imported.host.graph.node}
    assert {x.origin.node for x in imported.module.layers} <= nodes_in_host


def test_edges_stop_at_the_next_layer(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "a"], ["t0"], "one"),
        node("Relu", ["t0"], ["r0"]),
        node("MatMul", ["r0", "a"], ["t1"], "two"),
        node("Mul", ["t1", "r0"], ["s"]),
        node("MatMul", ["s", "a"], ["t2"], "three"),
        node("MatMul", ["x", "b"], ["t3"], "side"),
        node("Max", ["t2", "t3"], ["y"]),
    ]
    proto = model(nodes, {"x": (F, [2, 3])}, {"y": F}, {"a": weights(3, 3), "b": weights(3, 3)})
    for optimise in (False, True):
        imported = check_against_onnxruntime(proto, tmp_path, optimise=optimise)
        assert set(imported.module.edges) == {("one", "two"), ("one", "three"), ("two", "three")}
        order = [x.name for x in imported.module.layers]
        assert all(order.index(a) < order.index(b) for a, b in imported.module.edges)


def test_products_are_unknown_for_a_free_sequence(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "a"], ["y"], "one")]
    proto = model(nodes, {"x": (F, ["batch", "sequence", 3])}, {"y": F}, {"a": weights(3, 3)})
    assert only_layer(check_against_onnxruntime(proto, tmp_path)).origin.products is None
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    assert only_layer(check_against_onnxruntime(proto, tmp_path)).origin.products == 7


def test_host_with_weights_refuses_what_does_not_fit(tmp_path: Path) -> None:
    from ir.errors import XbcError

    proto = model(
        [node("MatMul", ["x", "a"], ["y"], "one")], {"x": (F, [2, 3])}, {"y": F}, {"a": weights(3, 3)}
    )
    imported = check_against_onnxruntime(proto, tmp_path)
    with pytest.raises(XbcError, match="no input 'nothing'"):
        host_with_weights(imported.host, {"nothing": weights(3, 3)})
    with pytest.raises(XbcError, match=r"float32 \[2, 3\]"):
        host_with_weights(imported.host, {"one.weight": weights(2, 3)})
    with pytest.raises(XbcError, match="float64"):
        host_with_weights(imported.host, {"one.weight": weights(3, 3, dtype="float64")})


def test_long_graphs_do_not_recurse(tmp_path: Path) -> None:
    nodes = [node("Constant", [], ["c0"], value=tensor(weights(3, 3)))]
    nodes += [node("Identity", [f"c{i}"], [f"c{i + 1}"]) for i in range(3000)]
    nodes.append(node("MatMul", ["x", "c3000"], ["y"], "one"))
    proto = model(nodes, {"x": (F, [2, 3])}, {"y": (F, 2)})
    assert only_layer(check_against_onnxruntime(proto, tmp_path)).weights == 9
