"""Whether rows of the inputs are samples: rules against onnxruntime, and random graphs cut at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
from hypothesis import given
from onnx import helper

from ir.errors import XbcError
from tests.xbc.frontend.oracle import model, weights
from xbc.simulate.data import DataSet
from xbc.simulate.fidelity import Reference
from xbc.simulate.host import HostSession, open_session
from xbc.simulate.ideal import evaluate
from xbc.simulate.samples import SampleAxis

F, I64 = np.float32, np.int64
node = helper.make_node


def ints(*values: int) -> np.ndarray:
    return np.array(values, I64)


def lstm(**attributes: Any) -> list[onnx.NodeProto]:
    return [node("LSTM", ["x", "w", "r"], ["y", "h"], hidden_size=2, **attributes)]


LSTM = {"w": weights(1, 8, 6), "r": weights(1, 8, 2)}
SHAPED = [
    node("Shape", ["x"], ["s"]),
    node("Gather", ["s", "zero"], ["n"], axis=0),
]
CASES: dict[str, tuple[str, list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    # kind, nodes from x [n, 4, 6] to y, constants
    "elementwise": ("apart", [node("Relu", ["x"], ["y"])], {}),
    "broadcast constant": ("apart", [node("Add", ["x", "c"], ["y"])], {"c": weights(4, 6)}),
    "positions": ("unknown", [node("Add", ["x", "c"], ["y"])], {"c": weights(2, 4, 6)}),
    "product": ("apart", [node("MatMul", ["x", "w"], ["y"])], {"w": weights(6, 3)}),
    "left product": ("apart", [node("MatMul", ["w", "x"], ["y"])], {"w": weights(3, 4)}),
    "with itself": (
        "apart",
        [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"], ["y"])],
        {},
    ),
    "gram over rows": (
        "whole",
        [
            node("Reshape", ["x", "flat"], ["f"]),
            node("Transpose", ["f"], ["t"]),
            node("MatMul", ["f", "t"], ["y"]),
        ],
        {"flat": ints(0, 24)},
    ),
    "mean over rows": ("whole", [node("ReduceMean", ["x"], ["y"], axes=[0])], {}),
    "mean over features": ("apart", [node("ReduceMean", ["x"], ["y"], axes=[1, -1], keepdims=0)], {}),
    "softmax over rows": ("whole", [node("Softmax", ["x"], ["y"], axis=0)], {}),
    "softmax over features": ("apart", [node("Softmax", ["x"], ["y"], axis=-1)], {}),
    "layer norm": ("apart", [node("LayerNormalization", ["x", "g"], ["y"])], {"g": weights(6)}),
    "layer norm over all": (
        "whole",
        [node("LayerNormalization", ["x", "g"], ["y"], axis=0)],
        {"g": weights(1, 4, 6)},
    ),
    "cumulative": ("whole", [node("CumSum", ["x", "a"], ["y"])], {"a": ints(0)}),
    "cumulative features": ("apart", [node("CumSum", ["x", "a"], ["y"])], {"a": ints(-1)}),
    "moved": ("apart", [node("Transpose", ["x"], ["y"], perm=[2, 0, 1])], {}),
    "moved, then reduced": (
        "whole",
        [node("Transpose", ["x"], ["t"], perm=[2, 0, 1]), node("ReduceMax", ["t"], ["y"], axes=[1])],
        {},
    ),
    "moved, reduced beside": (
        "apart",
        [node("Transpose", ["x"], ["t"], perm=[2, 0, 1]), node("ReduceMax", ["t"], ["y"], axes=[0])],
        {},
    ),
    "flattened": ("apart", [node("Flatten", ["x"], ["y"], axis=1)], {}),
    "tokens": (
        "apart",
        [node("Flatten", ["x"], ["f"], axis=2), node("MatMul", ["f", "w"], ["y"])],
        {"w": weights(6, 3)},
    ),
    "all in one row": ("apart", [node("Flatten", ["x"], ["y"], axis=0)], {}),
    "soft over all in one row": (
        "whole",
        [node("Flatten", ["x"], ["f"], axis=0), node("Softmax", ["f"], ["y"], axis=1)],
        {},
    ),
    "interleaved": (
        "whole",
        [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("Reshape", ["t", "s"], ["y"])],
        {"s": ints(-1, 6)},
    ),
    "interleaved and back": (
        "apart",
        [
            node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            node("Reshape", ["t", "s"], ["f"]),
            node("Relu", ["f"], ["r"]),
            node("Reshape", ["r", "back"], ["u"]),
            node("Transpose", ["u"], ["y"], perm=[1, 0, 2]),
        ],
        {"s": ints(-1, 6), "back": ints(4, -1, 6)},
    ),
    "another split": ("whole", [node("Reshape", ["x", "s"], ["y"])], {"s": ints(3, -1)}),
    "first row": ("whole", [node("Gather", ["x", "i"], ["y"], axis=0)], {"i": ints(0)}),
    "first token": ("apart", [node("Gather", ["x", "i"], ["y"], axis=1)], {"i": np.array(0)}),
    "sliced rows": (
        "whole",
        [node("Slice", ["x", "a", "b", "c"], ["y"])],
        {"a": ints(1), "b": ints(9), "c": ints(0)},
    ),
    "reversed rows": (
        "whole",
        [node("Slice", ["x", "a", "b", "c", "d"], ["y"])],
        {"a": ints(-1), "b": ints(-99), "c": ints(0), "d": ints(-1)},
    ),
    "sliced features": (
        "apart",
        [node("Slice", ["x", "a", "b", "c"], ["y"])],
        {"a": ints(1), "b": ints(3), "c": ints(2)},
    ),
    "stacked rows": ("whole", [node("Concat", ["x", "x"], ["y"], axis=0)], {}),
    "stacked features": ("apart", [node("Concat", ["x", "x"], ["y"], axis=-1)], {}),
    "padded rows": ("whole", [node("Pad", ["x", "p"], ["y"])], {"p": ints(1, 0, 0, 0, 0, 0)}),
    "shifted rows": ("whole", [node("Pad", ["x", "p"], ["y"])], {"p": ints(1, 0, 0, -1, 0, 0)}),
    "padded features": ("apart", [node("Pad", ["x", "p"], ["y"])], {"p": ints(0, 0, 1, 0, 0, 1)}),
    "time-major recurrence": ("whole", lstm(), LSTM),
    "recurrence over the second axis": (
        "apart",
        [
            node("Transpose", ["x"], ["x1"], perm=[1, 0, 2]),
            node("LSTM", ["x1", "w", "r"], ["y"], hidden_size=2),
        ],
        LSTM,
    ),
    "class token": (
        "apart",
        [
            *SHAPED,
            node("Concat", ["n", "one", "six"], ["e"], axis=0),
            node("Expand", ["t", "e"], ["c"]),
            node("Concat", ["c", "x"], ["y"], axis=1),
        ],
        {"zero": ints(0), "one": ints(1), "six": ints(6), "t": weights(1, 1, 6)},
    ),
    "reshape by shape": (
        "apart",
        [*SHAPED, node("Concat", ["n", "minus"], ["e"], axis=0), node("Reshape", ["x", "e"], ["y"])],
        {"zero": ints(0), "minus": ints(-1)},
    ),
    "divided by the count": (
        "whole",
        [*SHAPED, node("Cast", ["n"], ["f"], to=1), node("Div", ["x", "f"], ["y"])],
        {"zero": ints(0)},
    ),
    "divided by the width": (
        "apart",
        [*SHAPED, node("Cast", ["n"], ["f"], to=1), node("Div", ["x", "f"], ["y"])],
        {"zero": ints(2)},
    ),
    "the count itself": ("whole", [*SHAPED, node("Identity", ["n"], ["y"])], {"zero": ints(0)}),
    "nothing of it": (
        "apart",
        [node("Identity", ["c"], ["y"]), node("Relu", ["x"], ["z"])],
        {"c": weights(3)},
    ),
    "einsum": ("apart", [node("Einsum", ["x", "w"], ["y"], equation="nij,jk->kni")], {"w": weights(6, 3)}),
    "einsum over rows": ("whole", [node("Einsum", ["x"], ["y"], equation="nij->ij")], {}),
    "masked": ("apart", [node("Trilu", ["x"], ["y"])], {}),
    "masked rows": (
        "whole",
        [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("Trilu", ["t"], ["y"])],
        {},
    ),
    "random": ("unknown", [node("RandomNormalLike", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])], {}),
    "scattered": (
        "unknown",
        [node("ScatterElements", ["x", "i", "u"], ["y"], axis=2)],
        {"i": np.zeros((1, 1, 1), I64), "u": weights(1, 1, 1)},
    ),
    "dynamic scale": (
        "single",
        [
            node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        {},
    ),
}


def built(nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    kind: Any = I64 if nodes[-1].op_type == "Identity" and "n" in nodes[-1].input else F
    return model(nodes, {"x": (F, ["n", 4, 6])}, {"y": kind}, constants)


@pytest.mark.parametrize("case", CASES)
def test_rules(case: str) -> None:
    kind, nodes, constants = CASES[case]
    proto = built(nodes, constants)
    x = weights(2 if case == "positions" else 7, 4, 6)
    found = SampleAxis(proto).dealing({"x": x}, {}, (2, 3))
    assert found.kind == kind, found.why
    assert bool(found.why) == (kind != "apart")
    if case == "random":
        return
    (whole,) = open_session(proto).run(["y"], {"x": x})
    if kind in ("apart", "whole"):
        np.testing.assert_allclose(HostSession(proto).run({"x": x})["y"], whole, rtol=1e-4, atol=1e-5)
    if kind == "apart":
        np.testing.assert_allclose(
            HostSession(proto).run({"x": x}, batch=3)["y"], whole, rtol=1e-4, atol=1e-5
        )


STEPS = [
    "unary",
    "softmax",
    "reduce",
    "transpose",
    "flatten",
    "merge",
    "matmul",
    "add",
    "concat",
    "gather",
    "norm",
    "cum",
    "self",
    "topk",
    "unsqueeze",
    "tile",
    "count",
    "lstm",
]
Cut = tuple[list[onnx.NodeProto], dict[str, Any]]


def drawn_step(draw: Callable[..., Any], shape: tuple[int, ...], at: int) -> Cut:
    """One operator from ``v{at}`` of this shape to ``v{at + 1}``, with its constants."""
    rank = len(shape)
    axis = draw(st.integers(0, rank - 1))
    source, result, c = f"v{at}", f"v{at + 1}", f"c{at}"
    kind = draw(st.sampled_from(STEPS))
    if kind == "softmax":
        return [node("Softmax", [source], [result], axis=axis)], {}
    if kind == "reduce":
        return [
            node(
                "ReduceMean",
                [source],
                [result],
                axes=[axis],
                keepdims=draw(st.integers(0, 1)) if rank > 2 else 1,
            )
        ], {}
    if kind == "transpose":
        return [node("Transpose", [source], [result], perm=draw(st.permutations(range(rank))))], {}
    if kind == "flatten":
        return [node("Flatten", [source], [result], axis=axis)], {}
    if kind == "merge":
        return [node("Reshape", [source, c], [result])], {
            c: ints(*draw(st.sampled_from([(-1, shape[-1]), (shape[0], -1), (0, -1), (1, -1, shape[-1])])))
        }
    if kind == "matmul":
        left = draw(st.booleans()) and rank > 1
        w = weights(3, shape[-2]) if left else weights(shape[-1], 3)
        return [node("MatMul", [c, source] if left else [source, c], [result])], {c: w}
    if kind == "add":
        cut = draw(st.integers(0, rank - 1))
        return [node("Add", [source, c], [result])], {
            c: weights(*(d if draw(st.booleans()) else 1 for d in shape[cut:]))
        }
    if kind == "concat":
        return [node("Concat", [source, source], [result], axis=axis)], {}
    if kind == "gather":
        index = draw(st.sampled_from([ints(0), np.array(0), ints(0, 0)])) if rank > 2 else ints(0, 0)
        return [node("Gather", [source, c], [result], axis=axis)], {c: index}
    return other_step(draw, kind, shape, at, axis)


def other_step(draw: Callable[..., Any], kind: str, shape: tuple[int, ...], at: int, axis: int) -> Cut:
    """The other half of the operators."""
    rank = len(shape)
    source, result, c = f"v{at}", f"v{at + 1}", f"c{at}"
    if kind == "norm":
        return [node("LayerNormalization", [source, c], [result], axis=-1)], {c: weights(shape[-1])}
    if kind == "cum":
        return [node("CumSum", [source, c], [result])], {c: np.array(axis)}
    if kind == "self" and rank > 1:
        turned = [*range(rank - 2), rank - 1, rank - 2]
        return [
            node("Transpose", [source], [f"t{at}"], perm=turned),
            node("MatMul", [source, f"t{at}"], [result]),
        ], {}
    if kind == "topk":
        return [node("TopK", [source, c], [result, f"i{at}"], axis=axis)], {c: ints(1)}
    if kind == "unsqueeze" and rank < 5:
        return [node("Unsqueeze", [source, c], [result])], {c: ints(axis)}
    if kind == "tile":
        return [node("Tile", [source, c], [result])], {c: ints(*(2 if i == axis else 1 for i in range(rank)))}
    if kind == "count":
        nodes = [node("Shape", [source], [f"s{at}"]), node("Gather", [f"s{at}", c], [f"g{at}"])]
        nodes += [node("Cast", [f"g{at}"], [f"f{at}"], to=1), node("Div", [source, f"f{at}"], [result])]
        return nodes, {c: np.array(axis)}
    if kind == "lstm" and rank == 3:
        constants = {c: weights(1, 8, shape[-1]), f"r{at}": weights(1, 8, 2)}
        return [node("LSTM", [source, c, f"r{at}"], ["", result], hidden_size=2)], constants
    return [node("Tanh", [source], [result])], {}


@given(st.data())
def test_random_graphs_cut_at_random(data: st.DataObject) -> None:
    """Whenever the analysis says that rows are independent, cut runs give what one run gives."""
    x = np.random.default_rng(data.draw(st.integers(0, 2**31))).standard_normal((5, 4, 6)).astype(F)
    nodes: list[onnx.NodeProto] = [node("Identity", ["x"], ["v0"])]
    constants: dict[str, np.ndarray] = {}
    whole = x
    for at in range(data.draw(st.integers(1, 5))):
        more, held = drawn_step(data.draw, whole.shape, at)
        tried = [*nodes, *more, node("Identity", [f"v{at + 1}"], ["y"])]
        proto = model(tried, {"x": (F, ["n", 4, 6])}, {"y": F}, constants | held)
        (whole,) = open_session(proto, 1).run(["y"], {"x": x})
        nodes, constants = [*nodes, *more], constants | held
        if whole.size > 20000:
            break
    found = SampleAxis(proto).dealing({"x": x}, {}, (2, 3))
    if found.kind == "apart":
        cut = HostSession(proto).run({"x": x}, batch=data.draw(st.integers(1, 4)))["y"]
        np.testing.assert_allclose(cut, whole, rtol=1e-3, atol=1e-3)
    elif found.kind == "whole":
        np.testing.assert_allclose(HostSession(proto).run({"x": x})["y"], whole, rtol=1e-4, atol=1e-4)


def test_words_of_the_user() -> None:
    nodes, constants = CASES["time-major recurrence"][1:]
    proto = built(nodes, constants)
    x = weights(200, 4, 6)
    (whole,) = open_session(proto).run(["y"], {"x": x})
    session = HostSession(proto)
    np.testing.assert_allclose(session.run({"x": x})["y"], whole, rtol=1e-4, atol=1e-5)
    assert session.notes == (
        "the model runs all 200 rows at once, the first axis does not count samples: LSTM 'y' combines them",
    )
    parts = HostSession(proto).run({"x": x.reshape(2, 100, 4, 6)})["y"]
    assert parts.shape == (2, 100, 1, 4, 2)
    with pytest.raises(
        XbcError, match=r"--batch counts samples, but rows of 'x' are none: LSTM 'y' combines them"
    ):
        session.run({"x": x}, batch=8)
    with pytest.raises(XbcError, match=r"--limit counts samples"):
        HostSession(proto, axis=SampleAxis(proto, cut=True)).run({"x": x})
    cut = HostSession(proto, axis=SampleAxis(proto, "0"))
    assert np.abs(cut.run({"x": x})["y"] - whole).max() > 0.01
    assert "LSTM 'y' combines them" in cut.notes[0]
    nodes, constants = CASES["scattered"][1:]
    odd = built(nodes, constants)
    with pytest.raises(XbcError, match=r"nobody can tell .* ScatterElements 'y' .*--sample-axis 0"):
        HostSession(odd).run({"x": x})
    (wanted,) = open_session(odd).run(["y"], {"x": x})
    np.testing.assert_array_equal(HostSession(odd, axis=SampleAxis(odd, "none")).run({"x": x})["y"], wanted)
    np.testing.assert_array_equal(
        HostSession(odd, axis=SampleAxis(odd, "none")).run({"x": x[:5]})["y"], wanted[:5]
    )


def test_models_of_a_fixed_number_of_rows() -> None:
    mean = [node("ReduceMean", ["x"], ["y"], axes=[0])]
    proto = model(mean, {"x": (F, [4, 6])}, {"y": F})
    x = weights(4, 6)
    np.testing.assert_allclose(
        HostSession(proto).run({"x": x})["y"], x.mean(0, keepdims=True), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(
        XbcError, match=r"takes 4 rows at a time, the set has 6, and rows may depend on each other"
    ):
        HostSession(proto).run({"x": weights(6, 6)})
    plain = model([node("MatMul", ["x", "w"], ["y"])], {"x": (F, [4, 6])}, {"y": F}, {"w": weights(6, 2)})
    assert HostSession(plain).run({"x": weights(6, 6)})["y"].shape == (6, 2)


def test_nodes_of_a_graph() -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["a", "h"], ["y"])]
    proto = model(nodes, {"x": (F, ["n", 8]), "a": (F, ["n", "n"])}, {"y": F}, {"w": weights(8, 6)})
    x, a = weights(300, 8), weights(300, 300)
    (whole,) = open_session(proto).run(["y"], {"x": x, "a": a})
    np.testing.assert_allclose(HostSession(proto).run({"x": x, "a": a})["y"], whole, rtol=1e-4, atol=1e-4)


def test_evaluate_compares_whole_inputs() -> None:
    """Cut on both sides, a recurrence agreed with itself and with nothing else."""
    nodes = [*lstm(), node("Squeeze", ["h"], ["state"])]
    good = model(nodes, {"x": (F, ["time", 4, 6])}, {"y": F, "state": F}, LSTM)
    bad = model(nodes, {"x": (F, ["time", 4, 6])}, {"y": F, "state": F}, LSTM | {"r": 1.5 * LSTM["r"]})
    x = weights(150, 4, 6)
    facts = evaluate(good, bad, DataSet({"x": x}))
    (one, _), (other, _) = (open_session(m).run(["y", "state"], {"x": x}) for m in (good, bad))
    assert facts["max_abs_error"] == pytest.approx(np.abs(one - other).max(), rel=1e-3)
    assert facts["samples"] == 150
    assert len(facts["notes"]) == 2
    labels = np.zeros(3, I64)
    with pytest.raises(XbcError, match="labels"):
        evaluate(good, bad, DataSet({"x": x}, labels))
    reference = Reference.of(good, DataSet({"x": x}), axis=SampleAxis(good))
    assert reference.compare(reference.outputs)["outputs"]["state"]["max_abs_error"] == 0
    off = {name: array + 1 for name, array in reference.outputs.items()}
    facts = reference.compare(off)
    assert {name: round(error["max_abs_error"], 5) for name, error in facts["outputs"].items()} == {
        "y": 1,
        "state": 1,
    }
