"""select-write-verify: which weights are programmed with write-verify (SWIM, arXiv 2202.08395)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ir.arrays import Array
from ir.cells import CellFormat
from ir.errors import XbcError
from ir.module import Layer, Module
from ir.stages import Placed, Programmed
from passes.base import Context, Outcome, Pass, check

Method = Literal["swim", "second-moment", "magnitude", "random"]


@dataclass(frozen=True)
class SelectWriteVerify(Pass):
    """Flags the cells of the most sensitive weights for write-verify; all others get one unverified pulse.

    The ranking runs over all layers at once: exactly the ``fraction`` of all weights with the highest
    scores is taken, equal scores by magnitude, then by position.

    Options:
        method: ``swim``: the loss's second derivative (the sensitivities of ``xbc sensitivity``);
            ``second-moment``: that of the gradient (``xbc sensitivity --loss empirical``); ``magnitude`` of
            the weight; ``random``.
        fraction: of all weights, 0..1.
        variance: what a programming error does to a weight: ``layer``: it is a share of the largest weight
            that has the same scale (of the layer; of the output where scales are per output), so the score
            is S * max|W|**2; ``equal``: the same in every layer, the score is S alone.
        slices: verify only this many high-order cells of a selected weight (of each number of a differential
            pair); 0: all of them.
    """

    name: ClassVar[str] = "select-write-verify"
    requires = Placed
    ensures = Programmed

    method: Method = "swim"
    fraction: float = 0.1
    variance: Literal["layer", "equal"] = "layer"
    slices: int = 0

    def __post_init__(self) -> None:
        check(0 <= self.fraction <= 1, f"select-write-verify: fraction = {self.fraction} is outside 0..1")
        self.only_if(
            self.method in ("swim", "second-moment"), "with method=swim or second-moment", "variance"
        )
        check(self.slices >= 0, f"select-write-verify: slices = {self.slices} must be 0 (all) or more")

    def weighs(self) -> bool:
        """Where they rank."""
        return self.method in ("swim", "second-moment")

    def run(self, module: Module, context: Context) -> Outcome:
        """Marks every layer.  Raises XbcError when the sensitivities that the method needs are missing."""
        selected = select(module, self.scores(module, context), self.fraction)
        layers = []
        for i, layer in enumerate(module.layers):
            context.progress(self.name, i, len(module.layers))
            layers.append(layer.with_body(self._mark(layer, selected[layer.name])))
        facts = {
            "method": self.method,
            "selected": int(sum(s.sum() for s in selected.values())),
            "weights": module.weights,
            "by_layer": {name: round(float(s.mean()), 6) for name, s in selected.items()},
        }
        return Outcome(module.with_layers(layers), facts)

    def scores(self, module: Module, context: Context) -> dict[str, Array]:
        """Layer name -> float32 ``[outputs, inputs]``; the higher, the earlier it is verified."""
        if self.method == "random":
            rng = np.random.default_rng(context.seed)
            return {x.name: rng.random(x.body.shape, dtype=np.float32) for x in module.layers}
        if self.method == "magnitude":
            return {x.name: _magnitudes(x) for x in module.layers}
        given = self._sensitivities(context)
        out = {}
        for layer in module.layers:
            values = given.get(layer.name)
            if values is None or values.shape != layer.body.shape:
                found = "none" if values is None else f"shape {list(values.shape)}"
                raise XbcError(
                    f"select-write-verify: the sensitivities have {found} for layer {layer.name!r} of shape "
                    f"{list(layer.body.shape)}: they belong to another model"
                )
            weight = _full_scale(layer) ** 2 if self.variance == "layer" else np.float32(1)
            out[layer.name] = values * weight
        return out

    def _sensitivities(self, context: Context) -> dict[str, Array]:
        given = context.sensitivities
        wanted = "empirical" if self.method == "second-moment" else "cross-entropy"
        if given is None:
            raise XbcError(
                f"select-write-verify: method={self.method} needs sensitivities: run xbc sensitivity "
                f"--loss {wanted} and give its file with --sensitivities, or use method=magnitude"
            )
        if (given.loss == "empirical") != (self.method == "second-moment"):
            raise XbcError(
                f"select-write-verify: method={self.method} ranks by --loss {wanted}, the sensitivities "
                f"given were made with --loss {given.loss}: run xbc sensitivity again or change the method"
            )
        return given.layers

    def _mark(self, layer: Layer, selected: Array) -> Programmed:
        body = layer.at(Placed)
        stored = body.stored if isinstance(body, Programmed) else body.wanted_words()
        if self.fraction == 1 and not self.slices:
            return body.lower(Programmed, stored=stored, verify=None)
        mask = body.cells.dtype.type(verify_mask(body.cells, self.slices))
        verify = np.zeros(stored.shape, body.cells.dtype)
        chunk = max(1, 2**22 // max(1, body.rows * body.group_width))
        for start in range(0, body.sections, chunk):
            part = slice(start, start + chunk)
            outputs, inputs = body.outputs[part], body.inputs[part]
            hit = selected[np.maximum(body.weight_outputs(part), 0), np.maximum(inputs, 0)[:, :, None]]
            hit &= (inputs >= 0)[:, :, None] & (outputs >= 0)[:, None, :]
            verify[part] = hit * mask
        return body.lower(Programmed, stored=stored, verify=verify)


def verify_mask(cells: CellFormat, slices: int) -> int:
    """Word whose non-zero digits are the ``slices`` high-order cells of each stored number (0: all cells)."""
    digit = (1 << cells.bits_per_cell) - 1
    mask = 0
    for column in range(cells.columns):
        if not slices or column % cells.slices < slices:
            mask |= digit << (cells.bits_per_cell * (cells.columns - 1 - column))
    return mask


def select(module: Module, scores: dict[str, Array], fraction: float) -> dict[str, Array]:
    """The top ``round(fraction * weights)`` weights over all layers, as bool ``[outputs, inputs]`` by layer.

    Equal scores are taken by magnitude, then in the order of layers and positions.
    """
    flat = np.concatenate([np.asarray(scores[x.name], np.float32).ravel() for x in module.layers])
    count = round(fraction * len(flat))
    chosen = np.zeros(len(flat), bool)
    if count:
        least = np.partition(flat, len(flat) - count)[len(flat) - count]
        chosen = flat > least
        ties = np.flatnonzero(flat == least)
        missing = count - int(chosen.sum())
        if missing < len(ties):
            magnitudes = np.concatenate([_magnitudes(x).ravel() for x in module.layers])[ties]
            ties = ties[np.argsort(-magnitudes, kind="stable")[:missing]]
        chosen[ties] = True
    out, start = {}, 0
    for layer in module.layers:
        stop = start + layer.weights
        out[layer.name] = chosen[start:stop].reshape(layer.body.shape)
        start = stop
    return out


def _full_scale(layer: Layer) -> Array:
    """``[1, 1]`` or, where every output has a scale of its own, ``[outputs, 1]``: the largest weight of each scale."""
    axis = 1 if len(layer.at(Placed).scale) > 1 else None
    return np.asarray(_magnitudes(layer).max(axis=axis, keepdims=True, initial=0))


def _magnitudes(layer: Layer) -> Array:
    """``[outputs, inputs]`` float32: the size of each weight, in the model's units."""
    body = layer.at(Placed)
    return np.asarray(np.abs(body.codes).astype(np.float32) * body.scale.reshape(-1, 1))
