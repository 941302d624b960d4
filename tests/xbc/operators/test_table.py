"""The table of operators, and one of one's own that nothing else in xbc was told about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ir.arrays import Array
from ir.errors import XbcError
from tests.xbc.simulate.networks import (
    GATHER,
    compiled,
    effective_model,
    onnxruntime_outputs,
    simulated,
    value,
)
from xbc.frontend import import_model
from xbc.operators import Operator, find, operators, register, table
from xbc.operators.call import Call
from xbc.operators.definition import MICROSOFT
from xbc.operators.products import factor_weights, matrix_products
from xbc.operators.step import Result, Step
from xbc.sensitivity import model_sensitivities


@pytest.fixture
def own_table() -> Iterator[None]:
    """Whatever a test registers is gone behind it."""
    before = dict(table._table())
    yield
    table._table().clear()
    table._table().update(before)


def test_every_definition_is_found_under_its_own_name() -> None:
    for (domain, name), operator in operators().items():
        assert find(domain, name) is operator
        assert (operator.domain, operator.name) == (domain, name)
        assert operator.weights is None or not operator.refused, "mapped and refused"
        assert table.origin(operator) == "xbc"
    assert find("ai.onnx", "Conv") is find("", "Conv")
    assert find("", "NoSuchOperator") is None


def test_a_taken_name_is_refused_with_both_origins(own_table: None) -> None:
    mine = [Operator("Fresh", "of.mine"), Operator("Conv")]
    with pytest.raises(XbcError, match="operator Conv is defined by package-a and by xbc: remove one"):
        register(mine, "package-a")
    assert find("of.mine", "Fresh") is None, "half of a refused package was added"
    register(mine[:1], "package-a")
    with pytest.raises(XbcError, match=r"of\.mine\.Fresh is defined by package-b and by package-a"):
        register(mine[:1], "package-b")
    with pytest.raises(XbcError, match="is defined by twice and by twice"):
        register([Operator("A"), Operator("A")], "twice")


def _product(call: Call) -> list[Array]:
    return [matrix_products(call, call.need(0), call.layers[1], True, None)]


def _back(step: Step) -> Result:
    return [step.s @ step.raised(step.value(1)).T, step.raised(step.value(0)).T @ step.s]


def test_an_operator_of_ones_own_is_mapped_simulated_and_differentiated(
    own_table: None, tmp_path: Path
) -> None:
    """``FusedMatMul``, taken out of xbc, stands for an operator that onnxruntime runs and xbc does not know."""
    del table._table()[MICROSOFT, "FusedMatMul"]
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((6, 5)).astype(np.float32)
    node = helper.make_node("FusedMatMul", ["x", "w"], ["y"], "own", domain=MICROSOFT)
    proto = helper.make_model(
        helper.make_graph(
            [node],
            "g",
            [value("x", TensorProto.FLOAT, [3, 6])],
            [value("y", TensorProto.FLOAT, [3, 5])],
            [numpy_helper.from_array(weights, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)],
        ir_version=8,
    )
    path = tmp_path / "own.onnx"
    onnx.save(proto, path)
    (left,) = import_model(path, GATHER).module.unmapped
    assert left.reason == "no rule for the weights of operator com.microsoft.FusedMatMul"
    mine = Operator("FusedMatMul", MICROSOFT, weights=factor_weights(-1, 1), simulate=_product, rule=_back)
    register([mine], "mine")
    host, module = compiled(path, GATHER)
    (layer,) = module.layers
    assert layer.origin.op_type == "FusedMatMul"
    assert layer.origin.products == 3
    feeds = {"x": np.abs(rng.standard_normal((3, 6))).astype(np.float32)}
    (wanted,) = onnxruntime_outputs(effective_model(host, module), feeds)
    (got,) = simulated(host, module, feeds, input_bits=16)
    assert np.allclose(got, wanted, atol=1e-3)
    x = rng.standard_normal((2, 3, 6)).astype(np.float32)
    found = model_sensitivities(
        import_model(path, GATHER), x[:1].reshape(3, 6), loss="squared", method="recursion"
    )
    (sensitivity,) = found.layers.values()
    assert np.allclose(sensitivity, np.square(x[0]).sum(axis=0) / 3, rtol=1e-5)
