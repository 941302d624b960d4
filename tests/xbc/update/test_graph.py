"""Two versions of a network have one graph: what may differ between them and what may not."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ir.errors import XbcError
from xbc.update.graph import check_same_graph


def body(name: str, op: Any) -> Any:
    return helper.make_graph(
        [helper.make_node(op, ["h"], [name])], name, [], [helper.make_tensor_value_info(name, 1, None)]
    )


def network() -> Any:
    """A branch, a reshape, a control flow whose bodies read the outer graph."""
    nodes = [
        helper.make_node("Add", ["x", "bias"], ["h"], name="shift"),
        helper.make_node("LeakyRelu", ["h"], ["a"], name="bend", alpha=0.1),
        helper.make_node("Sub", ["a", "h"], ["d"], name="differ"),
        helper.make_node(
            "If", ["flag"], ["i"], name="branch", then_branch=body("t", "Exp"), else_branch=body("e", "Neg")
        ),
        helper.make_node("Add", ["d", "i"], ["s"], name="sum"),
        helper.make_node("Reshape", ["s", "form"], ["z"], name="reform"),
    ]  # fmt: skip
    constants = [
        numpy_helper.from_array(np.ones(4, np.float32), "bias"),
        numpy_helper.from_array(np.array([2, 2], np.int64), "form"),
        numpy_helper.from_array(np.array(True), "flag"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 2])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def constant(model: Any, name: str, values: Any) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(values, name))


def node(model: Any, name: str) -> Any:
    return next(n for n in model.graph.node if n.name == name)


def else_branch(model: Any) -> Any:
    return next(a.g for a in node(model, "branch").attribute if a.name == "else_branch")


def renamed(model: Any) -> None:
    for n in model.graph.node:
        for names in (n.input, n.output):
            for i, name in enumerate(names):
                if name in ("a", "d", "s"):
                    names[i] = f"other_{name}"
        n.name = f"torch_{n.name}"


@pytest.mark.parametrize(
    "change",
    [
        lambda m: constant(m, "bias", np.full(4, 7, np.float32)),
        renamed,
        lambda m: setattr(m.graph, "name", "version 2"),
        lambda m: setattr(m.graph.node[0], "doc_string", "fine-tuned"),
    ],
    ids=["bias", "inner names", "graph name", "doc string"],
)
def test_what_another_version_may_change(change: Any) -> None:
    new = network()
    change(new)
    onnx.checker.check_model(new)
    check_same_graph(network(), new)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: setattr(node(m, "bend"), "op_type", "Elu"), "'bend' is a Elu, where the deployed one has a Leaky"),
        (lambda m: setattr(node(m, "bend").attribute[0], "f", 0.2), "'bend'.*another attribute alpha"),
        (lambda m: node(m, "bend").ClearField("attribute"), "'bend'.*another attribute alpha"),
        (lambda m: node(m, "differ").input.reverse(), "'differ'.*reads other tensors"),
        (lambda m: constant(m, "form", np.array([1, 4], np.int64)), "'reform'.*reads other tensors"),
        (lambda m: constant(m, "bias", np.ones((1, 4), np.float32)), "'shift'.*another type or shape"),
        (lambda m: constant(m, "flag", np.array(False)), "'branch'.*reads other tensors"),
        (lambda m: setattr(else_branch(m).node[0], "op_type", "Exp"), "is a Exp, where the deployed one has a Neg"),
        (lambda m: m.graph.node.append(helper.make_node("Relu", ["z"], ["y"])), "7 nodes, the deployed one 6"),
        (lambda m: setattr(m.graph.output[0], "name", "s"), "outputs 's'"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 8), r"inputs 'x' \[8\]"),
    ],
    ids=[
        "operator", "attribute", "no attribute", "wiring", "int64", "shape", "bool", "body", "more nodes", "output",
        "input",
    ],
)  # fmt: skip
def test_another_graph_is_refused_by_its_first_difference(change: Any, match: Any) -> None:
    new = network()
    change(new)
    with pytest.raises(XbcError, match=f"another network: .*({match})"):
        check_same_graph(network(), new)


def test_an_output_of_another_node_is_seen() -> None:
    old, new = network(), network()
    for model, source in ((old, "s"), (new, "d")):
        del model.graph.node[-1]
        model.graph.output[0].name = "z"
        model.graph.node.append(helper.make_node("Identity", [source], ["z"], name="out"))
    with pytest.raises(XbcError, match=r"'out'.*reads other tensors"):
        check_same_graph(old, new)
    old, new = network(), network()
    for model, names in ((old, ("a", "d")), (new, ("d", "a"))):
        del model.graph.node[-1], model.graph.output[:]
        for i, name in enumerate(names):
            for n in model.graph.node:
                for tensors in (n.input, n.output):
                    for k, t in enumerate(tensors):
                        if t == name:
                            tensors[k] = f"out{i}"
            model.graph.output.append(helper.make_tensor_value_info(f"out{i}", 1, [4]))
    with pytest.raises(XbcError, match="outputs come from other nodes"):
        check_same_graph(old, new)
