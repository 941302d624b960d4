"""Small modules for the tests of passes, and the plain accounting they are held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ir import Body, Float, Layer, Layout, Module, Origin, Quantized, Sectioned, Target
from passes.base import Context
from passes.manager import run_pipeline
from passes.pipeline import parse_pipeline


def target(**fields: Any) -> Target:
    return Target(**{"name": "small", "rows": 4, "columns": 8, **fields})


def codes_body(codes: np.ndarray, bits: int = 8, given: bool = True, limits: Any = None) -> Quantized:
    top = (1 << bits) - 1
    return Quantized(
        codes=np.asarray(codes, np.int32), scale=np.ones(1, np.float32), zero_point=np.zeros(1, np.int32),
        limits=np.array([[-top, top]] if limits is None else limits, np.int32), bits=bits, given=given,
    )  # fmt: skip


def module(bodies: Sequence[Any], chip: Target, groups: int = 1, dtype: str = "float32") -> Module:
    """A chain of layers l0, l1, ...: from bodies, from float matrices or from integer codes."""
    layers = []
    for i, given in enumerate(bodies):
        body = given
        if not isinstance(given, Body):
            values = np.asarray(given)
            floats = values.dtype.kind == "f"
            body = Float(values=values.astype(np.float32)) if floats else codes_body(values)
        shape = body.shape
        layout = Layout(shape, shape, (0, 1), 1)
        layers.append(Layer(f"l{i}", Origin(f"n{i}", "MatMul", 1, f"w{i}", dtype, layout, groups), body))
    edges = tuple((f"l{i}", f"l{i + 1}") for i in range(len(layers) - 1))
    return Module("m", chip, tuple(layers), edges)


def compiled(text: str, given: Module, context: Context | None = None) -> Module:
    return run_pipeline(given, parse_pipeline(text), context).module


def random_codes(rng: np.random.Generator, shape: tuple[int, int], bits: int = 8) -> np.ndarray:
    top = (1 << bits) - 1
    return np.clip(np.rint(rng.laplace(0, top / 6, shape)), -top, top).astype(np.int32)


def visits(body: Sectioned) -> np.ndarray:
    """``[outputs, inputs, polarity + 1]`` how often each weight stands in a section."""
    seen = np.zeros((*body.shape, 3), int)
    for s in range(body.sections):
        for o in body.outputs[s]:
            for i in body.inputs[s]:
                if o >= 0 and i >= 0:
                    seen[o, i, body.polarity[s] + 1] += 1
    return seen


def assert_each_weight_once(body: Sectioned) -> None:
    seen = visits(body)
    if body.encoding != "split":
        assert (seen[:, :, 1] == 1).all()
        assert seen.sum() == seen[:, :, 1].sum()
        return
    assert (seen[:, :, 1] == 0).all()
    assert seen.max() <= 1
    assert (seen[:, :, 2][body.codes > 0] == 1).all()
    assert (seen[:, :, 0][body.codes < 0] == 1).all()
