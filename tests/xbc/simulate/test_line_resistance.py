"""Wire resistance against Kirchhoff's laws written down node by node."""

from __future__ import annotations

import numpy as np
import pytest

from xbc.simulate.line_resistance import fast_transfer, nodal_transfer


def currents_of_full_circuit(conductance, line_ohm: float, volts):  # type: ignore[no-untyped-def]
    """Column currents for given row voltages: every node's balance in one dense system, solved directly."""
    rows, columns = conductance.shape
    wire = 1 / line_ohm
    size = 2 * rows * columns
    matrix, source = np.zeros((size, size)), np.zeros(size)

    def row_node(i: int, j: int) -> int:
        return i * columns + j

    def column_node(i: int, j: int) -> int:
        return rows * columns + i * columns + j

    def join(a: int, b: int, g: float) -> None:
        matrix[a, a] += g
        matrix[b, b] += g
        matrix[a, b] -= g
        matrix[b, a] -= g

    for i in range(rows):
        matrix[row_node(i, 0), row_node(i, 0)] += wire
        source[row_node(i, 0)] += wire * volts[i]
        for j in range(columns):
            join(row_node(i, j), column_node(i, j), conductance[i, j])
            if j + 1 < columns:
                join(row_node(i, j), row_node(i, j + 1), wire)
            if i + 1 < rows:
                join(column_node(i, j), column_node(i + 1, j), wire)
    for j in range(columns):
        matrix[column_node(rows - 1, j), column_node(rows - 1, j)] += wire
    voltage = np.linalg.solve(matrix, source)
    return np.array([voltage[column_node(rows - 1, j)] * wire for j in range(columns)])


@pytest.mark.parametrize(("rows", "columns", "line_ohm"), [(1, 1, 5.0), (7, 4, 20.0), (12, 9, 1.0)])
def test_transfer_equals_a_direct_solution_of_the_circuit(rows: int, columns: int, line_ohm: float) -> None:
    rng = np.random.default_rng(rows)
    conductance = rng.uniform(1e-6, 1e-3, (rows, columns))
    transfer = nodal_transfer(conductance, line_ohm)
    for _ in range(3):
        volts = rng.uniform(-1, 1, rows)
        wanted = currents_of_full_circuit(conductance, line_ohm, volts)
        assert np.allclose(volts @ transfer, wanted, rtol=1e-9, atol=1e-15)


def test_one_cell_is_three_resistors_in_series() -> None:
    assert nodal_transfer(np.array([[1e-3]]), 10.0)[0, 0] == pytest.approx(1 / (1000 + 20))
    assert fast_transfer(np.array([[1e-3]]), 10.0)[0, 0] == pytest.approx(1 / (1000 + 20))


@pytest.mark.parametrize("line_ohm", [0.2, 1.0, 2.0])
def test_the_fast_form_errs_by_less_than_a_fiftieth_of_the_loss(line_ohm: float) -> None:
    rng = np.random.default_rng(1)
    conductance = np.where(rng.random((64, 64)) < 0.5, 1e-4, 1e-6)
    exact, fast = nodal_transfer(conductance, line_ohm), fast_transfer(conductance, line_ohm)
    volts = rng.integers(0, 2, (40, 64)) * 0.2
    ideal, true, near = volts @ conductance, volts @ exact, volts @ fast
    loss = np.sqrt(np.mean((ideal - true) ** 2))
    assert 0.02 < loss / ideal.mean() < 0.5
    assert np.sqrt(np.mean((near - true) ** 2)) < loss / 50


def test_without_resistance_the_fast_form_changes_nothing_and_stacks() -> None:
    conductance = np.random.default_rng(0).uniform(1e-6, 1e-4, (3, 5, 4))
    assert np.array_equal(fast_transfer(conductance, 0.0), conductance)
    stacked = fast_transfer(conductance, 2.0)
    assert np.allclose(stacked[1], fast_transfer(conductance[1], 2.0), rtol=1e-14)
