"""What an error in a code costs: grades from sensitivities, values of words."""

from typing import Any

import numpy as np
import pytest

from ir import CellFormat, Quantized, XbcError
from passes.base import Context
from passes.inputs import Sensitivities
from passes.penalty import FLOOR, FORBIDDEN, grades, grades_of, state_values
from tests.passes.small import module, target


def coded(*shapes: Any, scales: Any = None) -> Any:
    rng = np.random.default_rng(0)
    given_module = module([rng.integers(-9, 10, s) for s in shapes], target())
    if scales is None:
        return given_module
    return given_module.with_layers([
        layer.with_body(layer.body.lower(Quantized, scale=np.asarray(scale, np.float32)))
        for layer, scale in zip(given_module.layers, scales, strict=True)
    ])  # fmt: skip


def value(grade: Any, shape: Any) -> Any:
    return np.broadcast_to(grade.outputs[:, None] * grade.inputs[None, :], shape)


def test_equal_without_sensitivities() -> None:
    graded = grades(coded((2, 3), (4, 2)), Context())
    assert set(graded) == {"l0", "l1"}
    assert all(g.mean == 1 and (value(g, (2, 3)) == 1).all() for g in graded.values())


def test_given_grades_win() -> None:
    context = Context(sensitivities=Sensitivities({}))
    graded = grades(coded((2, 3), (4, 2)), context, given=(3.0, 0.5))
    assert {name: grade.mean for name, grade in graded.items()} == {"l0": 3.0, "l1": 0.5}


def test_products_of_marginals_and_scales_by_hand() -> None:
    given_module = coded((2, 3), (1, 2), scales=[[0.5, 2.0], [0.1]])
    rank_one = np.outer([2.0, 3.0], [1.0, 2.0, 3.0]).astype(np.float32)
    s = {"l0": rank_one, "l1": np.array([[4.0, 8.0]], np.float32)}
    context = Context(sensitivities=Sensitivities(s))
    graded = grades(given_module, context, "weight")
    # a unit of code is scale wide: its squared error counts scale**2 times as much
    in_codes = rank_one * np.array([[0.25], [4.0]])
    other = s["l1"] * 0.01
    average = (in_codes.sum() + other.sum()) / 8
    np.testing.assert_allclose(value(graded["l0"], (2, 3)), in_codes / average, rtol=1e-5)
    np.testing.assert_allclose(value(graded["l1"], (1, 2)), other / average, rtol=1e-5)
    by_layer = grades(given_module, context)
    assert by_layer["l0"].mean == pytest.approx(in_codes.mean() / average)
    assert by_layer["l1"].mean == pytest.approx(other.mean() / average)
    total = sum(
        value(g, b.body.shape).sum() for g, b in zip(graded.values(), given_module.layers, strict=True)
    )
    assert total / 8 == pytest.approx(1, rel=1e-5)
    assert sum(g.mean * n for g, n in zip(graded.values(), (6, 2), strict=True)) / 8 == pytest.approx(
        1, rel=1e-5
    )


def test_marginals_are_lifted_to_the_floor() -> None:
    s = np.zeros((4, 5), np.float32)
    s[0, 0] = 20.0
    (grade,) = grades_of(coded((4, 5)), {"l0": s}, "weight").values()
    (mean,) = grades_of(coded((4, 5)), {"l0": s}).values()
    assert mean.outputs.shape == mean.inputs.shape == (1,)
    assert mean.mean == pytest.approx(1)
    assert grade.outputs.min() == pytest.approx(FLOOR)
    assert grade.inputs.min() == pytest.approx(FLOOR)
    assert grade.outputs[0] == pytest.approx(4)
    assert grade.inputs[0] == pytest.approx(5)


def test_layer_that_calibration_never_reached_keeps_a_penalty() -> None:
    graded = grades_of(coded((2, 2), (2, 2)), {"l0": np.ones((2, 2)), "l1": np.zeros((2, 2))})
    assert (value(graded["l1"], (2, 2)) > 0).all()


@pytest.mark.parametrize(
    ("sensitivities", "message"),
    [
        ({}, r"nothing for layer 'l0' of shape \(2, 3\)"),
        ({"l0": np.ones((3, 2))}, r"shape \(3, 2\) for layer 'l0' of shape \(2, 3\).*xbc sensitivity"),
        ({"l0": np.zeros((2, 3))}, "zero everywhere"),
        ({"l0": np.full((2, 3), np.nan)}, "zero everywhere"),
    ],
)
def test_refusals(sensitivities: Any, message: str) -> None:
    with pytest.raises(XbcError, match=message):
        grades_of(coded((2, 3)), sensitivities)


@pytest.mark.parametrize("encoding", ["driver", "offset", "twos-complement", "differential", "unipolar"])
def test_state_values_are_decoded_numbers_or_forbidden(encoding: Any) -> None:
    cells = CellFormat(encoding, 3, 2)
    values = state_values(cells)
    low, high = cells.code_range()
    assert len(values) == 1 << cells.word_bits
    for word, found in enumerate(values.tolist()):
        number = int(cells.levels(np.array([word], np.uint32))[0] @ cells.cell_weights)
        assert found == (number if low <= number <= high else np.float32(FORBIDDEN))
    # a driver word is a magnitude: the sign stays with the row
    assert set(range(0 if encoding == "driver" else low, high + 1)) <= set(values.tolist())
