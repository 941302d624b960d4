"""quantize: grids, scales, clipping, codes of the model's own."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir import Quantized, XbcError, check_module
from passes.base import Context
from passes.quantize import Quantize
from tests.passes.small import codes_body, module, target


def quantized(values: Any, chip: Any = None, **options: Any) -> Any:
    done = Quantize(**options).run(module(values, chip or target()), Context()).module
    check_module(done)
    return [layer.at(Quantized) for layer in done.layers]


@given(
    bits=st.integers(2, 16), granularity=st.sampled_from(["tensor", "channel"]),
    encoding=st.sampled_from(["driver", "split", "differential", "offset", "twos-complement"]),
    seed=st.integers(0, 2**32 - 1), exponent=st.integers(-20, 20),
)  # fmt: skip
def test_largest_weight_has_the_top_code_and_the_error_is_half_a_step(
    bits: int, granularity: Any, encoding: Any, seed: int, exponent: Any
) -> None:
    values = np.random.default_rng(seed).standard_normal((5, 7)).astype(np.float32) * np.float32(
        2.0**exponent
    )
    (body,) = quantized([values], target(encoding=encoding), bits=bits, granularity=granularity)
    signed = encoding in ("offset", "twos-complement")
    top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    assert body.bits == bits
    assert not body.given
    assert (body.zero_point == 0).all()
    assert body.scale.shape == ((5,) if granularity == "channel" else (1,))
    peaks = np.abs(body.codes).max(axis=1)
    assert (peaks == top).all() if granularity == "channel" else peaks.max() == top
    error = np.abs(body.codes * body.scale.reshape(-1, 1).astype(np.float64) - values)
    rounding = top * 2.0**-23  # of the float32 quotient, in steps
    assert (error <= body.scale.reshape(-1, 1) * (0.5 + 1e-6 + rounding)).all()
    assert body.limits.tolist() == [[-top - 1 if signed else -top, top]]


def test_percentile_clips_what_lies_above() -> None:
    values = np.linspace(-1, 1, 201, dtype=np.float32).reshape(1, -1)
    values[0, 0] = -100.0
    (body,) = quantized([values], bits=4, range="percentile", percentile=99.0)
    full = float(np.percentile(np.abs(values), 99.0))
    assert body.scale[0] == pytest.approx(full / 15)
    assert body.codes[0, 0] == -15
    assert body.codes[0, -1] == 15


@given(bits=st.integers(2, 8), seed=st.integers(0, 2**32 - 1))
def test_mse_is_never_worse_than_max(bits: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_t(2, (4, 60)).astype(np.float32)

    def error(range_: Any) -> Any:
        (body,) = quantized([values], bits=bits, granularity="channel", range=range_)
        return ((body.codes * body.scale.reshape(-1, 1) - values) ** 2).sum(1)

    assert (error("mse") <= error("max") * 1.0001).all()


def test_mse_clips_an_outlier() -> None:
    values = np.random.default_rng(0).standard_normal((1, 1000)).astype(np.float32)
    values[0, 0] = 12.0
    (mse,) = quantized([values], bits=2, range="mse")
    assert mse.scale[0] < 0.8 * 12 / 3


@pytest.mark.parametrize("range_", ["max", "percentile", "mse"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_zero_matrix_has_zero_codes_and_scale_one(range_: Any, granularity: Any) -> None:
    (body,) = quantized([np.zeros((3, 4), np.float32)], range=range_, granularity=granularity)
    assert (body.codes == 0).all()
    assert (body.scale == 1).all()


@pytest.mark.parametrize("range_", ["max", "mse"])
def test_zero_output_among_others(range_: Any) -> None:
    values = np.array([[0.0, 0.0, 0.0], [1.0, -0.5, 0.25]], np.float32)
    (body,) = quantized([values], granularity="channel", range=range_)
    assert (body.codes[0] == 0).all()
    assert body.scale[0] == 1
    np.testing.assert_allclose(body.codes[1] * body.scale[1], values[1], atol=body.scale[1] / 2)


def test_percentile_of_a_mostly_zero_layer_is_refused() -> None:
    values = np.zeros((2, 100), np.float32)
    values[0, 3] = 0.5
    with pytest.raises(XbcError, match=r"'l0'.*range=max"):
        quantized([values], range="percentile", percentile=90.0)


def test_given_codes_are_untouched() -> None:
    own = codes_body(np.array([[3, -7], [5, 0]]))
    given_module = module([own, np.ones((1, 2), np.float32)], target())
    done = Quantize(bits=3).run(given_module, Context()).module
    assert done.layers[0] is given_module.layers[0]
    assert done.layers[1].at(Quantized).codes.tolist() == [[7, 7]]


def test_uniform_scale_is_that_of_the_largest_layer() -> None:
    small, large = quantized(
        [np.array([[0.5, -0.25]], np.float32), np.array([[4.0, 1.0]], np.float32)], scale="uniform"
    )
    assert small.scale.tolist() == large.scale.tolist() == [np.float32(4.0) / np.float32(255)]
    assert large.codes.max() == 255
    assert small.codes.max() == 32
    with pytest.raises(XbcError, match="'l0' has codes of its own"):
        quantized([codes_body(np.array([[1]]))], scale="uniform")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 1}, "bits = 1 is outside 2..16"),
        ({"bits": 17}, "bits = 17 is outside 2..16"),
        ({"range": "percentile", "percentile": 50.0}, "percentile = 50.0 is outside"),
        ({"scale": "uniform", "granularity": "channel"}, "excludes granularity=channel"),
    ],
)
def test_options_out_of_range(options: Any, message: str) -> None:
    with pytest.raises(XbcError, match=message):
        Quantize(**options)
