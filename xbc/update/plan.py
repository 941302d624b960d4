"""What changes in the cells when the weights of a program change: arithmetic on the IR, no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ir.arrays import F32, Array
from ir.errors import XbcError
from ir.module import Layer, Module
from ir.stages import Programmed
from xbc.update.accumulator import FRACTION_BITS, settle, to_fixed


@dataclass(frozen=True)
class LayerUpdate:
    """One layer's update.

    Fields:
        layer: with the new codes and stored words, sections and places untouched.
        accumulator: ``[outputs, inputs]`` int64 in ``2**-FRACTION_BITS`` of a code step: what was asked for
            and is not written.
        moved: ``[outputs, inputs]`` bool: weights whose cells change.
        limited: weights that stay off by the threshold or more: they stand at the end of their range.
    """

    layer: Layer
    accumulator: Array
    moved: Array
    limited: int


def update_layer(
    layer: Layer, weights: F32, *, threshold: float, measured: Array | None = None
) -> LayerUpdate:
    """A layer's update to new weights.

    The full-precision request is ``weights / scale``, on the scale of the deployed program; a weight is
    written when it is at least ``threshold`` code steps away from the code it holds, and then goes to the
    nearest code.  What partial reprogramming left stale in the deployed program stays as it is.

    Args:
        layer: Programmed.
        weights: ``[outputs, inputs]`` float32 of the new model.
        measured: ``[outputs, inputs]`` int32 codes read back from the chip instead of the program's.
    """
    body = layer.at(Programmed)
    held = (body.codes if measured is None else measured).astype(np.int32)
    target = to_fixed(weights.astype(np.float64) / body.scale.astype(np.float64).reshape(-1, 1))
    pending = target - (held.astype(np.int64) << FRACTION_BITS)
    low, high = representable(layer)
    codes, accumulator = settle(held, pending, threshold=threshold, low=low, high=high)
    moved = codes != body.codes
    limited = int((np.abs(accumulator) >= round(threshold * (1 << FRACTION_BITS))).sum())
    return LayerUpdate(layer.with_body(_store(body, codes, moved)), accumulator, moved, limited)


def representable(layer: Layer) -> tuple[Array, Array]:
    """Lowest and highest code that each weight can take where it stands, broadcastable to the matrix.

    The range of the encoding, within what the host can take back; where a section holds one sign only and
    every weight stands in one section, not beyond zero.
    """
    body = layer.at(Programmed)
    low, high = body.cells.code_range()
    if body.encoding == "offset":
        lows, highs = low - body.offset.reshape(-1, 1), high - body.offset.reshape(-1, 1)
    else:
        lows, highs = np.full((1, 1), low), np.full((1, 1), high)
    lows = np.maximum(lows, body.limits[:, :1])
    highs = np.minimum(highs, body.limits[:, 1:])
    if body.encoding == "split":
        positive, negative = _signs_at_hand(body)
        lows = np.where(negative, lows, 0)
        highs = np.where(positive, highs, 0)
    return lows, highs


def _signs_at_hand(body: Programmed) -> tuple[Array, Array]:
    """``[outputs, inputs]`` bool each: whether a section of that sign has a place for the weight."""
    found = [np.zeros(body.shape, bool), np.zeros(body.shape, bool)]
    for sign, places in zip((1, -1), found, strict=True):
        of_sign = np.flatnonzero(body.polarity == sign)
        for s in of_sign:
            outputs, inputs = body.outputs[s], body.inputs[s]
            places[np.ix_(outputs[outputs >= 0], inputs[inputs >= 0])] = True
    return found[0], found[1]


def _store(body: Programmed, codes: Array, moved: Array) -> Programmed:
    """The body with new codes, and new words where the code moved."""
    fresh = body.lower(Programmed, codes=codes.astype(body.codes.dtype))
    stored = body.stored.copy()
    chunk = max(1, 2**22 // max(1, body.rows * body.group_width))
    for start in range(0, body.sections, chunk):
        part = slice(start, start + chunk)
        outputs, inputs = body.outputs[part], body.inputs[part]
        hit = moved[np.maximum(outputs, 0)[:, None, :], np.maximum(inputs, 0)[:, :, None]]
        hit &= (inputs >= 0)[:, :, None] & (outputs >= 0)[:, None, :]
        words = fresh.wanted_words(part)
        if body.flip is not None:
            words = words ^ body.flip[part][:, None, :]
        stored[part] = np.where(hit, words, stored[part])
    return fresh.lower(Programmed, stored=stored)


def update_module(
    module: Module,
    new: Module,
    *,
    threshold: float,
    measured: Mapping[str, Array] | None = None,
) -> dict[str, LayerUpdate]:
    """Layer name -> update, for every layer of a deployed program.

    Args:
        module: of the deployed program.
        new: freshly imported new model.
    Raises: XbcError when the models differ in more than their weights.
    """
    check_same_network(module, new)
    from xbc.frontend import original_weights

    weights = original_weights(new)
    return {
        layer.name: update_layer(
            layer, weights[layer.name], threshold=threshold, measured=(measured or {}).get(layer.name)
        )
        for layer in module.layers
    }


def check_same_network(module: Module, new: Module) -> None:
    """Raises XbcError unless both have the same layers, of the same shapes, wired alike."""
    who = "update: the new model is another network"
    names, others = [x.name for x in module.layers], [x.name for x in new.layers]
    for name in (*names, *others):
        if (name in names) != (name in others):
            has = "has no layer" if name in names else "has a further layer"
            raise XbcError(f"{who}: it {has} {name!r}; compile it as a program of its own")
    for layer in module.layers:
        other = new.layer(layer.name)
        if layer.body.shape != other.body.shape:
            raise XbcError(
                f"{who}: layer {layer.name!r} has weights {list(other.body.shape)}, the deployed one "
                f"{list(layer.body.shape)}; compile it as a program of its own"
            )
        a, b = layer.origin, other.origin
        if (a.op_type, a.layout, a.groups, a.dtype, a.tensor) != (
            b.op_type,
            b.layout,
            b.groups,
            b.dtype,
            b.tensor,
        ):
            raise XbcError(
                f"{who}: layer {layer.name!r} is a {b.op_type} of {b.dtype} laid out differently; compile it "
                f"as a program of its own"
            )
    if set(module.edges) != set(new.edges):
        raise XbcError(f"{who}: its layers are wired differently; compile it as a program of its own")
