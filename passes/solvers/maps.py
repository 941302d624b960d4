"""Row maps in their shortest form: rows that hold the same level take inputs in order, and the code that tells them.

A decoder that knows the words of a section's rows only has to be told which inputs have which word.  Of every output
it keeps the inputs that are told already and, for every word, the last of them; the next input of a word lies beyond,
so it is told as the number of inputs in between that are not told yet, in a Golomb-Rice code whose parameter follows
the mean of the layer and the word (as in JPEG-LS, ISO/IEC 14495-1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

HALVE = 64
"""Told inputs of a word after which what was seen before counts half."""
WHOLE = 24
"""Ones that say: the number follows in as many bits as the inputs of the layer take."""


@njit(cache=True, nogil=True)
def order_inputs(order: Any, owner: Any, words: Any, inputs: Any, held: Any, heads: Any) -> None:
    """Gives the inputs of each (output, word) to its rows in ascending order, load by load and row by row.

    Args:
        order: ``[sections]`` sections in load order.
        owner: ``[sections]`` what rows may exchange inputs with one another (an output, or an output and a polarity).
        words: ``[sections, rows]`` value that a row holds; rows of equal value are alike.
        inputs: ``[sections, rows]`` int32, changed in place; below 0: no weight.
        held: ``[owners, inputs]`` int32 scratch: word of every input, -1 where it has none.
        heads: ``[words]`` int64 scratch.
    """
    held[:] = -1
    for s in range(inputs.shape[0]):
        for r in range(inputs.shape[1]):
            if inputs[s, r] >= 0:
                held[owner[s], inputs[s, r]] = words[s, r]
    sections = np.argsort(owner[order], kind="mergesort")
    begin = 0
    while begin < sections.shape[0]:
        o = owner[order[sections[begin]]]
        end = begin
        while end < sections.shape[0] and owner[order[sections[end]]] == o:
            end += 1
        ranked = np.argsort(held[o], kind="mergesort")  # by word, inputs ascending
        at = 0
        while at < ranked.shape[0] and held[o, ranked[at]] < 0:
            at += 1
        for i in range(at, ranked.shape[0]):
            word = held[o, ranked[i]]
            if i == at or held[o, ranked[i - 1]] != word:
                heads[word] = i
        for k in range(begin, end):
            s = order[sections[k]]
            for r in range(inputs.shape[1]):
                if inputs[s, r] >= 0:
                    inputs[s, r] = ranked[heads[words[s, r]]]
                    heads[words[s, r]] += 1
        begin = end


@njit(cache=True, nogil=True)
def _parameter(seen: Any, total: Any, word: int, most: int) -> int:
    """Rice parameter of a word: the least k with seen * 2**k >= total, at most that of the inputs left."""
    k = 0
    while (seen[word] << k) < total[word] and k < 31:
        k += 1
    width = 0
    while (most >> width) > 0:
        width += 1
    return min(k, width)


@njit(cache=True, nogil=True)
def _learn(seen: Any, total: Any, word: int, gap: int) -> None:
    seen[word] += 1
    total[word] += gap
    if seen[word] >= HALVE:
        seen[word] >>= 1
        total[word] >>= 1


@njit(cache=True, nogil=True)
def _put(out: Any, bit: int, value: int, count: int) -> int:
    for i in range(count - 1, -1, -1):
        if (value >> i) & 1:
            out[bit >> 3] |= 128 >> (bit & 7)
        bit += 1
    return bit


@njit(cache=True, nogil=True)
def encode_maps(
    order: Any, owner: Any, words: Any, inputs: Any, width: int, told: Any, left: Any, last: Any, seen: Any, total: Any,
    sizes: Any, out: Any,
) -> int:  # fmt: skip
    """Codes the maps of one layer in load order.

    Args:
        width: bits that name an input.
        told: ``[owners, inputs]`` bool, false.
        left: ``[owners]`` int64, the number of inputs.
        last: ``[owners, words]`` int32, -1.
        seen, total: ``[words]`` int64, 1 and the distance to expect at first.
        sizes: ``[sections]`` int64, takes the bits of each map.
        out: bytes of zeros, or empty to count only.
    Returns: the bits; -1 when the maps are not in the order of ``order_inputs``.
    """
    bit = 0
    for k in range(order.shape[0]):
        s = order[k]
        o, begin = owner[s], bit
        for r in range(inputs.shape[1]):
            i = inputs[s, r]
            if i < 0:
                continue
            word = words[s, r]
            if i <= last[o, word]:
                return -1
            gap = 0
            for j in range(last[o, word] + 1, i):
                gap += not told[o, j]
            p = _parameter(seen, total, word, left[o] - 1)
            ones = gap >> p
            if left[o] > 1:
                if ones < WHOLE:
                    if out.shape[0]:
                        for _ in range(ones):
                            bit = _put(out, bit, 1, 1)
                        bit = _put(out, bit, 0, 1)
                        bit = _put(out, bit, gap & ((1 << p) - 1), p)
                    else:
                        bit += ones + 1 + p
                elif out.shape[0]:
                    for _ in range(WHOLE):
                        bit = _put(out, bit, 1, 1)
                    bit = _put(out, bit, gap, width)
                else:
                    bit += WHOLE + width
            _learn(seen, total, word, gap)
            told[o, i] = True
            left[o] -= 1
            last[o, word] = i
        sizes[s] = bit - begin
    return bit


@njit(cache=True, nogil=True)
def decode_maps(
    order: Any, owner: Any, words: Any, driven: Any, width: int, told: Any, left: Any, last: Any, seen: Any, total: Any,
    raw: Any, inputs: Any,
) -> int:  # fmt: skip
    """The inverse of ``encode_maps``: fills ``inputs [sections, rows]`` of the driven rows; returns the bits read, -1
    when the bits are no maps of such sections."""
    bit, end = 0, raw.shape[0] * 8
    for k in range(order.shape[0]):
        s = order[k]
        o = owner[s]
        for r in range(inputs.shape[1]):
            if not driven[s, r]:
                continue
            word = words[s, r]
            p = _parameter(seen, total, word, left[o] - 1)
            gap = ones = 0
            if left[o] > 1:
                while bit < end and ones < WHOLE and (raw[bit >> 3] >> (7 - (bit & 7))) & 1:
                    ones += 1
                    bit += 1
                bits = p
                if ones == WHOLE:
                    bits, ones = width, 0
                else:
                    bit += 1
                if bit + bits > end:
                    return -1
                for _ in range(bits):
                    gap = (gap << 1) | ((raw[bit >> 3] >> (7 - (bit & 7))) & 1)
                    bit += 1
                gap += ones << p
            i, skip = last[o, word], gap + 1
            while skip > 0:
                i += 1
                if i >= told.shape[1]:
                    return -1
                skip -= not told[o, i]
            _learn(seen, total, word, gap)
            inputs[s, r] = i
            told[o, i] = True
            left[o] -= 1
            last[o, word] = i
    return bit
