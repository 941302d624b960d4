"""What changes in the cells when the weights of a program change: arithmetic on the IR, no files."""

from __future__ import annotations

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


def update_layer(layer: Layer, weights: F32, *, threshold: float) -> LayerUpdate:
    """A layer's update to new weights.

    The full-precision request is ``weights / scale``, on the scale of the deployed program; a weight is
    written when it is at least ``threshold`` code steps away from the code it holds, and then goes to the
    nearest code.  What partial reprogramming left stale in the deployed program stays as it is.

    Args:
        layer: Programmed.
        weights: ``[outputs, inputs]`` float32 of the new model.
    """
    body = layer.at(Programmed)
    held = body.codes.astype(np.int32)
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
    return _placed(body, np.flatnonzero(body.polarity == 1)), _placed(
        body, np.flatnonzero(body.polarity == -1)
    )


def _store(body: Programmed, codes: Array, moved: Array) -> Programmed:
    """The body with new codes, and new words where the code moved."""
    fresh = body.lower(Programmed, codes=codes.astype(body.codes.dtype))
    stored = body.stored.copy()
    chunk = max(1, 2**22 // max(1, body.rows * body.group_width))
    for start in range(0, body.sections, chunk):
        part = slice(start, start + chunk)
        outputs, inputs = body.outputs[part], body.inputs[part]
        hit = moved[np.maximum(body.weight_outputs(part), 0), np.maximum(inputs, 0)[:, :, None]]
        hit &= (inputs >= 0)[:, :, None] & (outputs >= 0)[:, None, :]
        words = fresh.wanted_words(part)
        if body.flip is not None:
            words = words ^ body.flip[part][:, None, :]
        stored[part] = np.where(hit, words, stored[part])
    return fresh.lower(Programmed, stored=stored)


def as_measured(module: Module, levels: Array, measured: Array) -> Module:
    """The program with the levels that were read back, where they stay.

    Sections that have a crossbar to themselves are never rewritten: what was measured there is what the network
    computes with.  In crossbars that are reloaded the next inference writes the program's levels again.  A
    weight with a cell that was not measured, or with a code that the host cannot take back, counts as
    promised.

    Args:
        levels, measured: ``[crossbars, rows, columns]`` level of each cell, and whether it was measured.
    """
    bodies = [layer.at(Programmed) for layer in module.layers]
    loads = np.bincount(np.concatenate([body.crossbar for body in bodies]), minlength=module.target.crossbars)
    layers = []
    for layer, body in zip(module.layers, bodies, strict=True):
        still = np.flatnonzero(loads[body.crossbar] == 1)
        shape = (len(still), body.rows, body.group_width, body.cells.columns)
        width = body.group_width * body.cells.columns
        known = measured[body.crossbar[still], : body.rows, :width].reshape(shape).all(axis=3)
        words = body.cells.words(levels[body.crossbar[still], : body.rows, :width].reshape(shape))
        driven = (body.inputs[still] >= 0)[:, :, None] & (body.outputs[still] >= 0)[:, None, :]
        stored = body.stored.copy()
        stored[still] = np.where(known & driven, words, stored[still])
        found = body.lower(Programmed, stored=stored)
        codes = np.where(_placed(body, still), found.effective_codes(), body.codes)
        fits = (codes >= body.limits[:, :1]) & (codes <= body.limits[:, 1:])
        if not fits.all():
            stored = np.where(_of_weights(body, fits), stored, body.stored)
            codes = np.where(fits, codes, body.codes)
        layers.append(
            layer.with_body(body.lower(Programmed, stored=stored, codes=codes.astype(body.codes.dtype)))
        )
    return module.with_layers(layers)


def _placed(body: Programmed, sections: Array) -> Array:
    """``[outputs, inputs]`` bool: weights that stand in one of these sections."""
    out = np.zeros(body.shape, bool)
    for s in sections:
        outputs, inputs = body.outputs[s], body.inputs[s]
        if body.row_outputs is not None:
            out[body.row_outputs[s][inputs >= 0], inputs[inputs >= 0]] = True
        else:
            out[np.ix_(outputs[outputs >= 0], inputs[inputs >= 0])] = True
    return out


def _of_weights(body: Programmed, weights: Array) -> Array:
    """``[sections, rows, G]``: ``weights [outputs, inputs]`` where they stand."""
    return np.asarray(weights[np.maximum(body.weight_outputs(), 0), np.maximum(body.inputs, 0)[:, :, None]])


def update_module(module: Module, new: Module, *, threshold: float) -> dict[str, LayerUpdate]:
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
        layer.name: update_layer(layer, weights[layer.name], threshold=threshold) for layer in module.layers
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
