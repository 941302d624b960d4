"""encode-signs: every encoding represents every code; refusals name the weight."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir import ENCODINGS, Encoded, Quantized, XbcError, check_module
from passes.base import Context
from passes.encode_signs import EncodeSigns
from passes.slice_bits import SliceBits
from tests.passes.small import codes_body, module, target

WIDE = {"columns": 64, "bits_per_cell": 4}


def sliced(body: Any, encoding: Any, bits_per_cell: Any = 1) -> Any:
    chip = target(**WIDE, encoding="differential")
    done = EncodeSigns(encoding=encoding).run(module([body], chip), Context()).module
    done = SliceBits(bits_per_cell=bits_per_cell).run(done, Context()).module
    check_module(done)
    return done.layers[0].body


@given(
    encoding=st.sampled_from(sorted(ENCODINGS)), bits=st.integers(2, 12), given_codes=st.booleans(),
    bits_per_cell=st.integers(1, 4), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_codes_come_back_from_their_words(
    encoding: Any, bits: int, given_codes: Any, bits_per_cell: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if encoding == "unipolar":
        low, high = 0, 2**bits - 1
    elif not given_codes:
        low = -high
    codes = rng.integers(low, high + 1, (3, 5))
    codes[0, :2] = low, high
    body = sliced(codes_body(codes, bits, given_codes, [[low, high]]), encoding, bits_per_cell)
    words = body.cells.encode(body.codes, body.offset.reshape(-1, 1))
    decoded = body.cells.decode(words, body.offset.reshape(-1, 1))
    if encoding in ("driver", "split"):
        decoded = decoded * np.where(codes < 0, -1, 1)
    np.testing.assert_array_equal(decoded, codes)
    assert body.stored_bits == bits
    assert words.max() < 1 << body.cells.word_bits


def test_magnitude_grid_gets_the_extra_bit_that_a_sign_needs() -> None:
    codes = codes_body(np.array([[-255, 255]]), 8, given=False)
    assert sliced(codes, "driver").stored_bits == 8
    assert sliced(codes, "twos-complement").stored_bits == 9
    offset = sliced(codes, "offset")
    assert (offset.stored_bits, offset.offset.tolist()) == (9, [256])


def test_lowest_code_of_a_given_integer_needs_no_extra_bit_as_magnitude() -> None:
    codes = codes_body(np.array([[-128, 127]]), 8, limits=[[-128, 127]])
    for encoding in ("driver", "split", "differential", "offset", "twos-complement"):
        assert sliced(codes, encoding).stored_bits == 8, encoding


def test_given_codes_are_offset_by_their_limits() -> None:
    codes = codes_body(np.array([[-3, 252], [-100, 155]]), 8, limits=[[-3, 252], [-100, 155]])
    body = sliced(codes, "offset")
    assert body.offset.tolist() == [3, 100]
    assert body.stored_bits == 8


def test_zero_matrix_under_every_encoding() -> None:
    for encoding in ENCODINGS:
        body = sliced(codes_body(np.zeros((2, 3)), 4, given=False), encoding)
        words = body.cells.encode(body.codes, body.offset.reshape(-1, 1))
        assert (body.cells.decode(words, body.offset.reshape(-1, 1)) == 0).all()


def test_unipolar_refuses_a_negative_code_by_place() -> None:
    chip = target()
    with pytest.raises(XbcError, match="'l1' is not unipolar: output 1, input 0 has code -4"):
        EncodeSigns(encoding="unipolar").run(module([[[1, 2]], [[1, 2], [-4, 3]]], chip), Context())


def test_keep_unipolar_only_where_no_code_is_negative() -> None:
    done = EncodeSigns(keep_unipolar=True).run(module([[[1, 2]], [[1, -2]]], target()), Context()).module
    assert [layer.at(Encoded).encoding for layer in done.layers] == ["unipolar", "driver"]


def test_auto_follows_the_target_and_driver_needs_rows_of_its_own() -> None:
    chip = target(encoding="split", outputs_per_section=2)
    given_module = module([[[1, -2]]], chip)
    assert EncodeSigns().run(given_module, Context()).module.layers[0].at(Encoded).encoding == "split"
    with pytest.raises(XbcError, match="outputs_per_section = 1"):
        EncodeSigns(encoding="driver").run(given_module, Context())
    assert type(given_module.layers[0].body) is Quantized
