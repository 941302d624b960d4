"""slice-bits: digits, defaults, refusals."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir import Sliced, XbcError, check_module
from passes.base import Context
from passes.slice_bits import SliceBits
from tests.passes.small import codes_body, module, target


@given(bits=st.integers(1, 12), per_cell=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_digits_are_the_base_digits_of_the_magnitude(bits: int, per_cell: Any, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-(2**bits) + 1, 2**bits, (3, 4))
    codes[0, 0] = 2**bits - 1
    chip = target(columns=12, bits_per_cell=4)
    done = SliceBits(bits_per_cell=per_cell).run(module([codes_body(codes, bits)], chip), Context()).module
    check_module(done)
    body = done.layers[0].at(Sliced)
    digits = body.cells.levels(body.cells.encode(body.codes))
    assert digits.shape[-1] == -(-bits // per_cell)
    for place in np.ndindex(codes.shape):
        rest = abs(int(codes[place]))
        for digit in digits[place][::-1]:
            assert digit == rest % 2**per_cell
            rest //= 2**per_cell
        assert rest == 0


def test_zero_takes_the_bits_of_the_target_and_its_encoding() -> None:
    done = SliceBits().run(module([[[3, -2]]], target(bits_per_cell=2, encoding="split")), Context()).module
    body = done.layers[0].at(Sliced)
    assert (body.bits_per_cell, body.encoding) == (2, "split")


def test_refusals() -> None:
    with pytest.raises(XbcError, match=r"bits-per-cell = 5 is outside 0\.\.4"):
        SliceBits(bits_per_cell=5)
    with pytest.raises(XbcError, match=r"cells of target 'small' hold 1 bit"):
        SliceBits(bits_per_cell=2).run(module([[[1]]], target()), Context())
    with pytest.raises(XbcError, match="one weight of layer 'l0' needs 8"):
        SliceBits().run(module([[[1]]], target(columns=7)), Context())
    wide = codes_body(np.array([[1]]), 17)
    with pytest.raises(XbcError, match="need words of 34 bits"):
        SliceBits().run(module([wide], target(columns=64, encoding="differential")), Context())
