"""order-inputs: the same network and the same writes, maps in fewer bits, and back from their code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ir import Placed, Programmed, check_module
from passes.counting import count_module
from passes.manager import finish
from passes.row_maps import MapCoder
from tests.passes.small import assert_each_weight_once, compiled, module, random_codes, target

O2 = "encode-signs,slice-bits,form-sections,sort-sections,order-sections,deal-sections,match-rows"
HELD = ",hold-codes{lambda=0.3}"
shapes = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 23)), min_size=1, max_size=3)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1), shapes=shapes, crossbars=st.integers(1, 5), bits=st.integers(1, 6),
    encoding=st.sampled_from(["driver", "split"]), held=st.booleans(),
)  # fmt: skip
def test_same_network_and_writes(
    seed: int, shapes: list[tuple[int, int]], crossbars: int, bits: int, encoding: str, held: bool
) -> None:
    rng = np.random.default_rng(seed)
    chip = target(crossbars=crossbars, encoding=encoding)
    before = finish(compiled(O2 + HELD * held, module([random_codes(rng, s, bits) for s in shapes], chip)))
    after = compiled("order-inputs", before)
    check_module(after)
    assert count_module(after).steady == count_module(before).steady
    for one, other in zip(before.layers, after.layers, strict=True):
        was, body = one.at(Programmed), other.at(Programmed)
        np.testing.assert_array_equal(was.effective_codes(), body.effective_codes())
        np.testing.assert_array_equal(was.stored, body.stored)
        if not held:
            assert_each_weight_once(body)
        coder = MapCoder.of(body, np.lexsort((body.crossbar, body.step)))
        np.testing.assert_array_equal(coder.ordered(body.inputs), body.inputs)
        raw = coder.encode(body.inputs)
        np.testing.assert_array_equal(coder.decode(raw, body.driven()), body.inputs)
        if len(raw):
            with pytest.raises(ValueError, match="no row maps of this layer"):
                coder.decode(raw[: len(raw) // 2 - 1] if len(raw) > 2 else raw[:0], body.driven())


def test_bits_are_about_the_entropy_of_the_magnitudes() -> None:
    rng = np.random.default_rng(0)
    codes = random_codes(rng, (64, 1024), 6)
    chip = target(rows=128, crossbars=4)
    done = compiled(O2 + ",order-inputs", module([codes], chip))
    body = done.layers[0].at(Placed)
    sizes = MapCoder.of(body, np.lexsort((body.crossbar, body.step))).sizes(body.inputs)
    assert sizes is not None
    _, count = np.unique(np.abs(codes), return_counts=True)
    share = count / codes.size
    entropy = float(-(share * np.log2(share)).sum())
    assert entropy < sizes.sum() / codes.size < entropy + 1.0
    assert sizes.sum() / codes.size < 0.6 * 10  # ten bits name an input


def test_maps_out_of_order_are_not_coded() -> None:
    done = compiled(O2, module([np.ones((2, 8), np.int32)], target(rows=4)))
    body = done.layers[0].at(Placed)
    coder = MapCoder.of(body, np.arange(body.sections))
    backwards = np.array(body.inputs[:, ::-1])
    assert coder.sizes(coder.ordered(body.inputs)) is not None
    assert coder.sizes(backwards) is None
    with pytest.raises(ValueError, match="must be ordered"):
        coder.encode(backwards)


def test_routing_in_blocks_is_left_alone() -> None:
    given_module = compiled(
        O2, module([random_codes(np.random.default_rng(1), (3, 9), 3)], target(routing="block"))
    )
    assert compiled("order-inputs", given_module).layers == given_module.layers
