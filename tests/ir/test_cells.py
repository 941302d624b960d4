from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir import DIGITS, ENCODINGS, CellFormat, XbcError
from tests.ir.tiny import digit_formats, formats, supported

ALL = [
    (encoding, bits, per_cell)
    for encoding in ENCODINGS
    for bits in range(1, 18)
    for per_cell in range(1, 5)
    if supported(encoding, bits, per_cell)
]


def sample_codes(cells: CellFormat) -> np.ndarray:
    """All codes up to 9 bits, else the ends of the range and random ones."""
    low, high = cells.code_range()
    if high - low < 2048:
        return np.arange(low, high + 1)
    middle = np.random.default_rng(0).integers(low, high + 1, 500)
    return np.unique(np.concatenate([[low, low + 1, -1, 0, 1, high - 1, high], middle]).clip(low, high))


def digit_by_digit(cells: CellFormat, code: int, offset: int) -> list[int]:
    """Levels of a code from the definition of its encoding, in Python integers."""
    base = 2**cells.bits_per_cell

    def digits(number: int, count: int) -> list[int]:
        return [number // base**k % base for k in range(count - 1, -1, -1)]

    if cells.encoding in ("driver", "split"):
        return digits(abs(code), cells.slices)
    if cells.encoding == "differential":
        return digits(max(code, 0), cells.slices) + digits(max(-code, 0), cells.slices)
    if cells.encoding == "twos-complement":
        return [int(code < 0), *digits(code % 2 ** (cells.bits - 1), cells.slices - 1)]
    return digits(code + offset, cells.slices)


@pytest.mark.parametrize(("encoding", "bits", "per_cell"), ALL)
def test_encode_decode_levels(encoding: str, bits: int, per_cell: int) -> None:
    cells = CellFormat(encoding, bits, per_cell)
    offset = 2 ** (bits - 1) if encoding == "offset" else 0
    codes = sample_codes(cells) - offset
    for dtype in (np.int32, np.int64):
        words = cells.encode(codes.astype(dtype), offset)
        assert words.dtype == cells.dtype
        expected = abs(codes) if encoding in ("driver", "split") else codes
        np.testing.assert_array_equal(cells.decode(words, offset), expected)
    levels = cells.levels(words)
    assert levels.shape == (len(codes), cells.columns)
    for i in range(0, len(codes), max(1, len(codes) // 50)):
        assert levels[i].tolist() == digit_by_digit(cells, int(codes[i]), offset)
    np.testing.assert_array_equal(cells.words(levels), words)
    np.testing.assert_array_equal(levels @ cells.cell_weights - offset, expected)


@given(formats(), st.integers(0, 2**32 - 1))
def test_any_levels_decode_to_the_sum_over_cells(cells: CellFormat, seed: int) -> None:
    """Stale cells make words that no code has: they still mean the sum of level times weight."""
    levels = np.random.default_rng(seed).integers(
        0, 2**cells.bits_per_cell, (5, 3, cells.columns), dtype=np.uint8
    )
    words = cells.words(levels)
    np.testing.assert_array_equal(cells.levels(words), levels)
    np.testing.assert_array_equal(cells.decode(words), levels.astype(np.int64) @ cells.cell_weights)


def test_offset_is_taken_per_output() -> None:
    cells = CellFormat("offset", 4, 2)
    codes = np.array([[-3, 2], [0, 15]])
    offset = np.array([[3], [0]])
    np.testing.assert_array_equal(cells.encode(codes, offset), [[0, 5], [0, 15]])
    np.testing.assert_array_equal(cells.decode(cells.encode(codes, offset), offset), codes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("drivers", 8, 1), "unknown encoding 'drivers'"),
        (("driver", 0, 1), "bits = 0 is outside 1..17"),
        (("driver", 18, 1), "bits = 18 is outside 1..17"),
        (("driver", 8, 5), "bits_per_cell = 5 is outside 1..4"),
        (("differential", 17, 1), "words of 34 bits; at most 32"),
    ],
)
def test_unsupported_formats_say_why(arguments: tuple[str, int, int], message: str) -> None:
    with pytest.raises(XbcError, match=message):
        CellFormat(*arguments)


@given(digit_formats(), st.integers(0, 2**32 - 1))
def test_digits_spell_the_nearest_number(cells: CellFormat, seed: int) -> None:
    levels = np.stack(np.meshgrid(*[range(2**cells.bits_per_cell)] * cells.columns, indexing="ij"), -1)
    spelled = levels.reshape(-1, cells.columns) @ cells.cell_weights
    words = np.arange(1 << cells.word_bits)
    np.testing.assert_array_equal(cells.decode(words), spelled)
    low, high = cells.code_range()
    assert (low, high) == (spelled.min(), spelled.max())
    codes = np.random.default_rng(seed).integers(low - 20, high + 20, 40)
    held = cells.decode(cells.encode(codes))
    np.testing.assert_array_equal(np.abs(held - codes), np.abs(spelled[None, :] - codes[:, None]).min(axis=1))
    cost = np.count_nonzero(levels.reshape(-1, cells.columns), axis=1)
    for word, number in zip(cells.encode(codes), held, strict=True):
        assert cost[word] == cost[spelled == number].min()


def test_digits_that_no_adder_has() -> None:
    for digits in ((), (0, 1), (1 << 16,)):
        with pytest.raises(XbcError, match="digits"):
            CellFormat(DIGITS, max(1, len(digits)), 1, digits)
    with pytest.raises(XbcError, match="no words of 3 bits"):
        CellFormat(DIGITS, 3, 1, (1, 2))
    with pytest.raises(XbcError, match="belong to that encoding"):
        CellFormat("offset", 2, 1, (1, 2))
