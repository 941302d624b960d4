"""Differential pairs whose representation is free: what match-pairs, choose-pairs and hold-pairs share."""

from __future__ import annotations

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Layer, Module
from ir.stages import Encoded, Placed, Quantized
from ir.target import Target
from passes.encode_signs import encode
from passes.inputs import Grade
from passes.quantize import Quantize
from passes.solvers.pairs import MAX_PAIR_BITS, error_costs, pair_tables

Pairs = list[tuple[Layer, Placed]]


def free_pairs(module: Module) -> bool:
    """Whether a level may choose how the module's differential pairs represent their codes.

    All layers have to need the same number of bits: pairs of different widths cannot take each other's place.
    """
    target = module.target
    if target.encoding != "differential" or target.bits_per_cell != 1:
        return False
    bits = {_bits(layer) for layer in module.layers}
    return len(bits) == 1 and max(bits) <= MAX_PAIR_BITS


def _bits(layer: Layer) -> int:
    """Bits of a number under the differential encoding; float weights will get what a level quantises to."""
    if isinstance(layer.body, Encoded):
        return layer.body.stored_bits
    if isinstance(layer.body, Quantized):
        return encode(layer, "differential").stored_bits
    return Quantize().bits


def check_pairs(who: str, pairs: Pairs) -> None:
    """Raises XbcError unless every layer stores differential pairs whose representation can be chosen."""
    for layer, body in pairs:
        if body.encoding != "differential" or body.bits_per_cell != 1 or body.cells.slices > MAX_PAIR_BITS:
            raise XbcError(
                f"{who}: pairs can be chosen freely where weights are differential, of at most {MAX_PAIR_BITS} bits in "
                f"one-bit cells; layer {layer.name!r} is {body.encoding}, {body.stored_bits} bits in "
                f"{body.bits_per_cell}-bit cells: set encoding=differential, or leave the pass out"
            )
    if len({b.cells.slices for _, b in pairs}) > 1:
        raise XbcError(
            f"{who}: pairs of different bits cannot take each other's place: quantise all layers with the same bits"
        )


class PairCosts:
    """What ``passes.solvers.pairs`` needs to know of each layer; ``lambda_`` as in hold-pairs, 0: exact codes."""

    def __init__(self, pairs: Pairs, lambda_: float, graded: dict[str, Grade]) -> None:
        """``graded``: by layer name, needed where ``lambda_`` is above 0."""
        self.pairs, self.lambda_, self.graded = pairs, lambda_, graded
        self.cost, self.best = pair_tables(pairs[0][1].cells.slices if pairs else 1)

    def of(self, index: int) -> tuple[Array, Array]:
        """(errors, limits) of a layer."""
        layer, body = self.pairs[index]
        bits = body.cells.slices
        limits = np.array([body.limits[:, 0].max(), body.limits[:, 1].min()], np.int64) + ((1 << bits) - 1)
        if not self.lambda_:
            return np.zeros(0, np.int64), limits
        return error_costs(bits, self.lambda_ * self.graded[layer.name].mean), limits


def empty_pairs(target: Target, pairs: Pairs) -> Array:
    """``[crossbars, rows, groups]`` uint16 pairs of a blank chip, for the widest layer's groups."""
    return np.zeros(
        (target.crossbars, target.rows, max((b.group_width for _, b in pairs), default=1)), np.uint16
    )


def shifted_codes(body: Placed) -> Array:
    """``[sections, rows, G]`` uint16 codes plus ``2**bits - 1``: columns of ``pair_tables``."""
    return np.asarray((body.section_codes() + ((1 << body.cells.slices) - 1)).astype(np.uint16))
