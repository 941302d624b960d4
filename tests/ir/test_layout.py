from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir import Layout


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    split = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    perm = tuple(draw(st.permutations(range(len(split)))))
    joints = sorted(
        draw(st.sets(st.integers(1, max(1, len(split) - 1)), max_size=len(split) - 1)) | {0, len(split)}
    )
    shape = tuple(math.prod(split[a:b]) for a, b in pairwise(joints))
    return Layout(shape, split, perm, draw(st.integers(0, len(split))))


@given(layouts())
def test_matrix_and_back(layout: Layout) -> None:
    tensor = np.arange(math.prod(layout.shape)).reshape(layout.shape)
    matrix = layout.to_matrix(tensor)
    assert matrix.shape == layout.matrix_shape
    assert sorted(matrix.ravel()) == list(range(tensor.size))
    np.testing.assert_array_equal(layout.to_tensor(matrix), tensor)


def test_entry_by_entry() -> None:
    """ConvTranspose: [inputs, groups * outputs / groups, kernel] to [outputs, inputs / groups * kernel]."""
    inputs, outputs, kernel, groups = 4, 6, 5, 2
    tensor = np.random.default_rng(0).normal(size=(inputs, outputs // groups, kernel))
    layout = Layout(tensor.shape, (groups, inputs // groups, outputs // groups, kernel), (0, 2, 1, 3), 2)
    matrix = layout.to_matrix(tensor)
    for g in range(groups):
        for o in range(outputs // groups):
            for i in range(inputs // groups):
                for k in range(kernel):
                    expected = tensor[g * (inputs // groups) + i, o, k]
                    assert matrix[g * (outputs // groups) + o, i * kernel + k] == expected


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="expects"):
        Layout((2, 3), (2, 3), (0, 1), 1).to_matrix(np.zeros((3, 2)))
