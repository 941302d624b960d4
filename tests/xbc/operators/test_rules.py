"""Every operator rule against the squared Jacobian, by finite differences of onnx's reference evaluator."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from scipy import special

from xbc.operators import find, operators
from xbc.operators.step import Step
from xbc.sensitivity.diagonal import seed_curvature

EXACT = {  # the reference evaluator rounds these to float32
    "Erf": lambda x: special.erf(x),
    "Gelu": lambda x: 0.5 * x * (1 + special.erf(x / np.sqrt(2))),
}
RNG = np.random.default_rng(7)
OPSET = 20


def positive(*shape: Any) -> Any:
    return RNG.uniform(0.5, 2.0, shape)


def normal(*shape: Any) -> Any:
    return RNG.standard_normal(shape)


def case(op: Any, *inputs: Any, wanted: Any = None, outputs: Any = 1, **attributes: Any) -> Any:
    """``wanted``: which inputs are differentiated, default the first."""
    marks = "-".join([op, *(f"{k}{v}" for k, v in attributes.items() if not isinstance(v, float))])
    return pytest.param(op, inputs, wanted or (0,), outputs, attributes, id=marks.replace(" ", ""))


def ints(*values: Any) -> Any:
    return np.array(values, np.int64)


CASES = [
    *(case(op, normal(2, 5)) for op in ("Relu", "Sigmoid", "Tanh", "Erf", "Exp", "Softplus", "Abs")),
    *(case(op, normal(2, 5)) for op in ("Neg", "Identity")),
    *(case(op, positive(2, 5)) for op in ("Log", "Sqrt", "Reciprocal")),
    case("LeakyRelu", normal(2, 5), alpha=0.1),
    case("Elu", normal(2, 5), alpha=0.7),
    case("Gelu", normal(2, 5)),
    case("Gelu", normal(2, 5), approximate="tanh"),
    case("HardSigmoid", 2 * normal(2, 5), alpha=0.2, beta=0.5),
    case("HardSwish", 3 * normal(2, 7)),
    case("Clip", normal(2, 5), np.array(-0.5), np.array(0.5)),
    case("Add", normal(2, 3, 4), normal(3, 1), wanted=(0, 1)),
    case("Sub", normal(2, 3, 4), normal(4), wanted=(0, 1)),
    case("Mul", normal(2, 3, 4), normal(1, 3, 1), wanted=(0, 1)),
    case("Div", normal(2, 3), positive(2, 1), wanted=(0, 1)),
    case("Pow", positive(2, 3), np.array(2.5)),
    case("Pow", normal(2, 3), np.array(2.0)),
    case("Where", normal(2, 3) > 0, normal(2, 3), normal(3), wanted=(1, 2)),
    case("MatMul", normal(2, 3, 4), normal(4, 5), wanted=(0, 1)),
    case("MatMul", normal(2, 3, 4), normal(2, 4, 5), wanted=(0, 1)),
    case("MatMul", normal(2, 2, 3, 4), normal(1, 2, 4, 5), wanted=(0, 1)),
    case("MatMul", normal(4), normal(4, 5), wanted=(0, 1)),
    case("MatMul", normal(3, 4), normal(4), wanted=(0, 1)),
    case("Gemm", normal(4, 3), normal(5, 4), normal(5), wanted=(0, 1, 2), transA=1, transB=1, alpha=0.5,
         beta=2.0),
    case("Gemm", normal(3, 4), normal(4, 5), wanted=(0, 1)),
    case("Einsum", normal(2, 3, 4), normal(2, 5, 4), wanted=(0, 1), equation="bij,bkj->bik"),
    case("Conv", normal(2, 3, 6, 5), normal(4, 3, 3, 2), normal(4), wanted=(0, 1, 2), pads=[1, 0, 1, 1],
         strides=[2, 1]),
    case("Conv", normal(1, 4, 7), normal(6, 2, 3), wanted=(0, 1), group=2, dilations=[2]),
    case("Conv", normal(1, 3, 5, 5), normal(3, 1, 3, 3), wanted=(0, 1), group=3, auto_pad="SAME_UPPER",
         strides=[2, 2]),
    case("MaxPool", normal(1, 2, 5, 6), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]),
    case("AveragePool", normal(1, 2, 5, 6), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]),
    case("AveragePool", normal(1, 2, 5, 5), kernel_shape=[2, 2], strides=[1, 2], pads=[1, 1, 0, 0],
         count_include_pad=1),
    case("GlobalAveragePool", normal(2, 3, 4, 2)),
    case("GlobalMaxPool", normal(2, 3, 4, 2)),
    case("ReduceMean", normal(2, 3, 4), ints(1, 2), keepdims=0),
    case("ReduceSum", normal(2, 3, 4), ints(-1), keepdims=1),
    case("ReduceMean", normal(2, 3), keepdims=0),
    case("Softmax", normal(2, 3, 4), axis=-1),
    case("Softmax", normal(2, 3, 4), axis=1),
    case("LayerNormalization", normal(2, 3, 5), normal(5), normal(5), wanted=(0, 1, 2), axis=-1,
         epsilon=1e-3),
    case("LayerNormalization", normal(2, 3, 5), normal(3, 5), normal(3, 5), wanted=(0, 1, 2), axis=1),
    case("InstanceNormalization", normal(2, 3, 4), normal(3), normal(3)),
    case("BatchNormalization", normal(2, 3, 4), normal(3), normal(3), normal(3), positive(3)),
    case("Reshape", normal(2, 6), ints(3, 4)),
    case("Flatten", normal(2, 3, 4), axis=1),
    case("Squeeze", normal(2, 1, 4), ints(1)),
    case("Unsqueeze", normal(2, 4), ints(1)),
    case("Transpose", normal(2, 3, 4), perm=[2, 0, 1]),
    case("Concat", normal(2, 3), normal(2, 2), wanted=(0, 1), axis=1),
    case("Split", normal(2, 6), ints(2, 4), outputs=2, axis=1),
    case("Slice", normal(4, 6), ints(1, 0), ints(4, 6), ints(0, 1), ints(1, 2)),
    case("Slice", normal(4, 6), ints(-1), ints(-10), ints(1), ints(-2)),
    case("Gather", normal(4, 3), ints(0, 2, 2, -1), axis=0),
    case("Gather", normal(2, 4, 3), np.array(1), axis=1),
    case("Pad", normal(2, 3), ints(1, 0, 0, 2)),
    case("Expand", normal(3, 1), ints(2, 3, 4)),
    case("DepthToSpace", normal(1, 8, 2, 3), blocksize=2, mode="DCR"),
    case("DepthToSpace", normal(1, 8, 2, 3), blocksize=2, mode="CRD"),
]  # fmt: skip


def one_node(op: Any, inputs: Any, outputs: Any, attributes: Any) -> Any:
    names = [f"x{i}" for i in range(len(inputs))]
    outs = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, outs, name="node", **attributes)
    kinds = {"f": TensorProto.DOUBLE, "i": TensorProto.INT64, "b": TensorProto.BOOL}
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(n, kinds[v.dtype.kind], v.shape)
            for n, v in zip(names, inputs, strict=True)
        ],
        [helper.make_tensor_value_info(n, TensorProto.DOUBLE, None) for n in outs],
    )
    return node, ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)]))


def backward(step: Step) -> Any:
    operator = find("", step.node.op_type)
    assert operator is not None
    return operator.backward(step)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize(("op", "inputs", "wanted", "outputs", "attributes"), CASES)
def test_rule_is_the_squared_jacobian_or_the_gradient(
    op: Any, inputs: Any, wanted: Any, outputs: Any, attributes: Any, power: Any
) -> None:
    node, evaluator = one_node(op, inputs, outputs, attributes)

    def run(values: Any) -> Any:
        if op in EXACT and not attributes:
            return [EXACT[op](*values)]
        return evaluator.run(None, {f"x{i}": v for i, v in enumerate(values)})

    ys = run(inputs)
    curvature = [RNG.uniform(0.1, 1.0, y.shape) for y in ys]
    step = Step(node, inputs, ys, curvature, [i in wanted for i in range(len(inputs))], OPSET, power)
    found = backward(step)
    for i in wanted:
        expected = np.zeros(inputs[i].shape)
        for j in np.ndindex(inputs[i].shape):
            moved = []
            for sign in (1, -1):
                values = [v.copy() for v in inputs]
                values[i][j] += sign * 1e-5
                moved.append(run(values))
            for up, down, s in zip(*moved, curvature, strict=True):
                expected[j] += (((up - down) / 2e-5) ** power * s).sum()
        np.testing.assert_allclose(found[i], expected, rtol=2e-4, atol=1e-6, err_msg=f"{op} input {i}")


def test_every_differentiable_rule_has_a_case() -> None:
    covered = {c.values[0] for c in CASES}
    nothing = {"Shape", "ArgMax", "Equal", "Greater", "Less", "Not", "ConstantOfShape", "Size"}
    # quantisation is checked below; cast and dropout are the identity; Swish is newer than this opset
    known = {op.name for op in operators().values() if op.differentiable}
    assert known - covered - nothing == {
        "QuantizeLinear",
        "DequantizeLinear",
        "Cast",
        "Dropout",
        "Swish",
    }


def test_quantize_passes_straight_through_inside_the_range() -> None:
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    x, scale = np.array([0.5, 1.0, 40.0, -3.0], np.float32), np.array(0.1, np.float32)
    y = np.array([5, 10, 255, 0], np.uint8)
    s = np.ones(4, np.float32)
    found: Any = backward(Step(node, [x, scale, np.array(0, np.uint8)], [y], [s], [True, False, False], 13))[
        0
    ]
    np.testing.assert_allclose(found, [100, 100, 0, 0], rtol=1e-5)
    back = helper.make_node("DequantizeLinear", ["y", "s"], ["x"], axis=0)
    per_row = np.array([0.5, 2.0, 1.0, 1.0], np.float32)
    found = backward(Step(back, [y, per_row], [x], [s], [True, False], 13))[0]
    np.testing.assert_allclose(found, per_row**2)


def test_negative_pads_crop() -> None:
    node = helper.make_node("Pad", ["x", "pads"], ["y"])
    x, s = normal(2, 4), positive(3, 5)
    step = Step(node, [x, ints(0, -1, 1, 2)], [np.zeros((3, 5))], [s], [True, False], OPSET)
    expected = np.zeros((2, 4))
    expected[:, 1:] = s[:2, :3]
    np.testing.assert_allclose(np.asarray(backward(step)[0]), expected, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.integers(0, 2**32 - 1), st.floats(0.1, 20))
def test_seed_is_the_hessian_of_cross_entropy_and_the_mean_over_the_models_own_labels(
    classes: Any, seed: int, spread: Any
) -> None:
    rng = np.random.default_rng(seed)
    logits = spread * rng.standard_normal((1, classes))
    exact = seed_curvature(logits, None, "cross-entropy")
    q = np.exp(logits - logits.max())
    q /= q.sum()
    mean = sum(q[0, k] * seed_curvature(logits, np.array([k]), "empirical") for k in range(classes))
    np.testing.assert_allclose(exact, mean, rtol=1e-4, atol=1e-7)


def test_seed_matches_finite_differences() -> None:
    logits = np.array([[0.3, -1.0, 2.0]])

    def loss(z: Any) -> Any:
        return np.log(np.exp(z).sum()) - z[0, 1]

    step = 1e-4
    for i in range(3):
        e = np.zeros((1, 3))
        e[0, i] = step
        second = (loss(logits + e) - 2 * loss(logits) + loss(logits - e)) / step**2
        assert seed_curvature(logits, None, "cross-entropy")[0, i] == pytest.approx(second, rel=1e-4)


def test_onnx_is_new_enough() -> None:
    assert onnx.defs.onnx_opset_version() >= OPSET
