"""Wire resistance of a crossbar: what share of each cell's current reaches the column's end.

A crossbar with resistive wires is a linear network, so its columns still compute a weighted sum of the row
voltages, with other weights: the *transfer* ``T``, current of column j per volt on row i.  Row i is driven
at column 0 and floats at its far end; column j is sensed (virtual ground) behind the last row.  Neighbouring
cells, driver and first cell, last cell and sense amplifier are one wire segment apart.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from ir.arrays import Array


def nodal_transfer(conductance: Array, line_ohm: float) -> Array:
    """Reference: Kirchhoff's equations of all ``2 * rows * columns`` nodes, solved directly.

    The current of column j is the last node's voltage over one segment; by reciprocity one solution per
    column (a unit current drawn at its end) gives its transfer from every row.

    Args:
        conductance: ``[rows, columns]`` siemens.
        line_ohm: of one segment, positive.
    Returns: ``[rows, columns]`` siemens.
    """
    rows, columns = conductance.shape
    wire = 1.0 / line_ohm
    count = rows * columns
    node = np.arange(count).reshape(rows, columns)
    g = conductance.astype(np.float64).reshape(-1)
    # word-line nodes 0 .. count-1, bit-line nodes count .. 2 count - 1
    ends_a = [node.reshape(-1), node[:, :-1].reshape(-1), count + node[:-1].reshape(-1)]
    ends_b = [count + node.reshape(-1), node[:, 1:].reshape(-1), count + node[1:].reshape(-1)]
    values = [g, np.full(rows * (columns - 1), wire), np.full((rows - 1) * columns, wire)]
    a, b, y = np.concatenate(ends_a), np.concatenate(ends_b), np.concatenate(values)
    diagonal = np.zeros(2 * count)
    np.add.at(diagonal, a, y)
    np.add.at(diagonal, b, y)
    diagonal[node[:, 0]] += wire  # to the row driver
    diagonal[count + node[-1]] += wire  # to the sense amplifier
    every = np.arange(2 * count)
    at = (np.concatenate([a, b, every]), np.concatenate([b, a, every]))
    matrix = sp.coo_matrix((np.concatenate([-y, -y, diagonal]), at), shape=(2 * count, 2 * count)).tocsc()
    right = np.zeros((2 * count, columns))
    right[count + node[-1], np.arange(columns)] = wire
    voltages = splu(matrix, permc_spec="MMD_AT_PLUS_A").solve(right)
    return np.asarray(voltages[node[:, 0]] * wire)


def fast_transfer(conductance: Array, line_ohm: float) -> Array:
    """First order in the wire resistance, kept finite for long lines: ``G / (1 + drop)``.

    The drop of cell (k, j), per volt on row k, has two parts: what row k's own currents take from its wire
    before column j, ``r * sum_c min(j, c) G[k, c]`` (segments shared with cell c, counted from the driver),
    and what the current that enters column j at row k lifts the other cells of that column by,
    ``r * sum_i min(rows - k, rows - i) G[i, j]`` (segments shared with cell i, counted from the amplifier).
    Measured error (docs/simulation.md): below a fiftieth of the loss that the wires cause, up to half the
    current.

    Args:
        conductance: ``[..., rows, columns]`` siemens.
    Returns: the same shape.
    """
    g = conductance.astype(np.float64)
    drop = _shared(g, axis=-1) + _shared(g[..., ::-1, :], axis=-2)[..., ::-1, :]
    return np.asarray(g / (1.0 + line_ohm * drop))


def _shared(g: Array, axis: int) -> Array:
    """``out[j] = sum_k min(j + 1, k + 1) g[k]`` along an axis."""
    # sum over segments m = 1 .. j + 1 of everything at or beyond segment m
    beyond = np.flip(np.cumsum(np.flip(g, axis), axis=axis), axis)
    return np.asarray(np.cumsum(beyond, axis=axis))
