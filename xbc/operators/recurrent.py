"""LSTM, GRU and RNN with their two matrices on crossbars; gates and states are digital.

Equations and gate orders: ONNX operator specification.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import onnx

from ir.arrays import Array
from ir.layout import Layout
from xbc.operators.activations import RECURRENT, recurrent_activations
from xbc.operators.call import Call, Columns
from xbc.operators.definition import (
    Attributes,
    Found,
    Lookup,
    MisshapenError,
    Operator,
    Shapes,
    Weight,
    count,
)

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def _weights(attrs: Attributes, shapes: Shapes) -> Found:
    """``W [directions, gates * hidden, inputs]`` and ``R [directions, gates * hidden, hidden]``."""
    found: Found = []
    for operand, suffix in ((1, "W"), (2, "R")):
        shape = shapes[operand] if operand < len(shapes) else None
        if shape is not None:
            if len(shape) != 3:
                raise MisshapenError(f"{suffix} of shape {list(shape)} must have 3 dimensions")
            found.append(Weight(operand, Layout(shape, shape, (0, 1, 2), 2), shape[0], suffix=suffix))
    return found


def _products(node: onnx.NodeProto, weight: Weight, shape_of: Lookup) -> int | None:
    """One for every step of every sequence."""
    return count(shape_of(node.input[0]), 2)


def _not_simulated(op_type: str) -> Callable[[Attributes], str | None]:
    def check(attrs: Attributes) -> str | None:
        for name in attrs.get("activations", ()):
            text = name.decode() if isinstance(name, bytes) else str(name)
            if text.lower() not in RECURRENT:
                return f"activation {text} of {op_type} is not simulated"
        return None

    return check


def _run(call: Call) -> list[Array]:
    """Outputs Y, Y_h (and Y_c) of the node."""
    kind = call.node.op_type
    x = call.need(0)
    dtype = x.dtype
    batch_first = bool(call.attrs.get("layout", 0))
    if x.ndim != 3:
        raise call.bad(f"takes [steps, batch, features], its input has shape {list(x.shape)}")
    x = np.swapaxes(x, 0, 1) if batch_first else x
    x = x.astype(np.float32)
    steps, batch, _ = x.shape
    hidden = int(call.attrs["hidden_size"])
    directions = 2 if call.attrs.get("direction", b"forward") == b"bidirectional" else 1
    backwards = call.attrs.get("direction", b"forward") == b"reverse"
    lengths = call.given(4)
    lengths = np.full(batch, steps) if lengths is None else lengths.astype(np.int64)

    gates = GATES[kind]
    width = gates * hidden
    order = _time_order(steps, lengths, directions, backwards)
    bias = call.given(3)
    both = np.zeros((directions, 2 * width), np.float32) if bias is None else bias.astype(np.float32)
    inputs = _input_products(call, x, directions) + both[:, None, None, :width]
    # [directions, steps, batch, gates * hidden] in the order in which each direction meets them
    inputs = np.stack(
        [np.take_along_axis(inputs[d], order[d][:, :, None], axis=0) for d in range(directions)]
    )

    h = _state(call.given(5), directions, batch, hidden, batch_first)
    c = _state(call.given(6) if kind == "LSTM" else None, directions, batch, hidden, batch_first)
    cell = _Cell(call, kind, directions, hidden, both[:, width:])
    y = np.zeros((steps, directions, batch, hidden), np.float32)
    rows = np.arange(batch)
    for step in range(steps):
        alive = (step < lengths)[None, :, None]
        new_h, new_c = cell.step(inputs[:, step], h, c)
        h, c = np.where(alive, new_h, h), np.where(alive, new_c, c)
        for d in range(directions):
            live = step < lengths
            y[order[d][step][live], d, rows[live]] = h[d][live]
    if batch_first:
        y, h, c = y.transpose(2, 0, 1, 3), np.swapaxes(h, 0, 1), np.swapaxes(c, 0, 1)
    outputs = [y, h, c] if kind == "LSTM" else [y, h]
    return [value.astype(dtype) for value in outputs[: len(call.node.output)]]


def _time_order(steps: int, lengths: Array, directions: int, backwards: bool) -> list[Array]:
    """Per direction ``[steps, batch]``: the time met at each step (beyond a length: its own index)."""
    forward = np.broadcast_to(np.arange(steps)[:, None], (steps, len(lengths)))
    behind = np.where(forward < lengths, lengths - 1 - forward, forward)
    if directions == 2:
        return [forward, behind]
    return [behind if backwards else forward]


def _state(given: Array | None, directions: int, batch: int, hidden: int, batch_first: bool) -> Array:
    if given is None:
        return np.zeros((directions, batch, hidden), np.float32)
    return np.asarray((np.swapaxes(given, 0, 1) if batch_first else given).astype(np.float32))


def _input_products(call: Call, x: Array, directions: int) -> Array:
    """``[directions, steps, batch, gates * hidden]``: every step's input times W."""
    steps, batch, features = x.shape
    layer = call.layers.get(1)
    if layer is None:
        weights = call.need(1).astype(np.float32)
        return np.asarray(np.einsum("sbf,dgf->dsbg", x, weights))
    if features != layer.effective.shape[1]:
        raise call.bad(f"takes {layer.effective.shape[1]} features, its input has shape {list(x.shape)}")

    def arrange(values: Array, pad: Array, lines: slice) -> Array:
        return np.broadcast_to(values.T[None], (directions, features, len(values)))

    y = layer.real(x.reshape(-1, features), Columns(arrange, 1, 1))
    return np.asarray(y.reshape(directions, -1, steps, batch).transpose(0, 2, 3, 1))


class _Cell:
    """One step of all directions at once."""

    def __init__(self, call: Call, kind: str, directions: int, hidden: int, bias: Array) -> None:
        self.call, self.kind, self.hidden = call, kind, hidden
        self.bias = bias[:, None, :]
        names = [
            n.decode() if isinstance(n, bytes) else n
            for n in call.attrs.get("activations", DEFAULTS[kind] * directions)
        ]
        per = len(DEFAULTS[kind])
        acts = recurrent_activations(
            names, call.attrs.get("activation_alpha", ()), call.attrs.get("activation_beta", ())
        )
        self.acts = [acts[d * per : (d + 1) * per] for d in range(directions)]
        self.clip = float(call.attrs.get("clip", np.inf))
        peepholes = call.given(7) if kind == "LSTM" else None
        self.peepholes = None if peepholes is None else peepholes.astype(np.float32)

    def step(self, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        """New (h, c) from ``x [directions, batch, gates * hidden]`` and the states."""
        if self.kind == "LSTM":
            return self._lstm(x + self._state_products(h) + self.bias, c)
        if self.kind == "GRU":
            return self._gru(x, h), c
        return self._act(0, x + self._state_products(h) + self.bias), c

    def _act(self, which: int, values: Array, clip: bool = True) -> Array:
        clipped = np.clip(values, -self.clip, self.clip) if clip else values
        return np.stack([self.acts[d][which](clipped[d]) for d in range(len(clipped))])

    def _lstm(self, z: Array, c: Array) -> tuple[Array, Array]:
        i, o, f, g = np.split(z, 4, axis=2)
        if self.peepholes is not None:
            pi, po, pf = np.split(self.peepholes[:, None, :], 3, axis=2)
            i, f = i + pi * c, f + pf * c
        i = self._act(0, i)
        f = 1 - i if self.call.attrs.get("input_forget", 0) else self._act(0, f)
        new_c = f * c + i * self._act(1, g)
        if self.peepholes is not None:
            o = o + po * new_c
        # onnxruntime does not clip the state itself
        return self._act(0, o) * self._act(2, new_c, clip=False), new_c

    def _gru(self, x: Array, h: Array) -> Array:
        n = self.hidden
        products = self._state_products(h) + self.bias
        z = self._act(0, x[..., :n] + products[..., :n])
        r = self._act(0, x[..., n : 2 * n] + products[..., n : 2 * n])
        if self.call.attrs.get("linear_before_reset", 0):
            inner = r * products[..., 2 * n :]
        else:
            inner = self._state_products(r * h)[..., 2 * n :] + self.bias[..., 2 * n :]
        candidate = self._act(1, x[..., 2 * n :] + inner)
        return np.asarray((1 - z) * candidate + z * h)

    def _state_products(self, h: Array) -> Array:
        """``[directions, batch, gates * hidden]``: the states times R."""
        layer = self.call.layers.get(2)
        if layer is None:
            weights = self.call.need(2).astype(np.float32)
            return np.asarray(np.einsum("dbh,dgh->dbg", h, weights))

        def arrange(values: Array, pad: Array, lines: slice) -> Array:
            return values.transpose(1, 2, 0)

        y = layer.real(np.swapaxes(h, 0, 1), Columns(arrange, 1, 1))
        return np.asarray(y.reshape(len(h), -1, h.shape[1]).transpose(0, 2, 1))


OPERATORS: Final = tuple(
    Operator(name, weights=_weights, products=_products, simulate=_run, not_simulated=_not_simulated(name))
    for name in GATES
)
