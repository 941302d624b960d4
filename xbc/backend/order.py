"""The order of loads over all layers of a module: ascending step, then crossbar."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Module
from ir.stages import Programmed
from ir.verify_cells import check_fits

_PER_SECTION = (
    "outputs", "inputs", "rank", "polarity", "row_outputs", "crossbar", "step", "stored", "flip", "verify",
)  # fmt: skip


def in_load_order(module: Module) -> Module:
    """The module with every layer's section table sorted by (step, crossbar); itself when it already is."""
    layers = []
    for layer in module.layers:
        body = layer.at(Programmed)
        order = np.lexsort((body.crossbar, body.step))
        if not np.array_equal(order, np.arange(len(order))):
            arrays = {name: getattr(body, name) for name in _PER_SECTION}
            body = dataclasses.replace(body, **{k: a[order] for k, a in arrays.items() if a is not None})
        layers.append(layer if body is layer.body else layer.with_body(body))
    same = all(a is b for a, b in zip(layers, module.layers, strict=True))
    return module if same else module.with_layers(layers)


@dataclass(frozen=True)
class LoadOrder:
    """Load ``i`` (= section ``i`` of the program) loads row ``index[i]`` of layer ``layer[i]``.

    Fields:
        layer: ``[loads]`` int32.
        index: ``[loads]`` int32, row of the layer's section table.
        step: ``[loads]`` int64.
        crossbar: ``[loads]`` int32.
    """

    layer: Array
    index: Array
    step: Array
    crossbar: Array

    @property
    def loads(self) -> int:
        """Number of loads of one inference."""
        return len(self.layer)

    def previous(self) -> Array:
        """``[loads]`` int32: the load before each one on its crossbar, -1 for the first."""
        order = np.argsort(self.crossbar, kind="stable").astype(np.int32)
        previous = np.full(self.loads, -1, np.int32)
        same = np.diff(self.crossbar[order]) == 0
        previous[order[1:][same]] = order[:-1][same]
        return previous

    def runs(self, longest: int) -> Iterator[tuple[int, int, slice]]:
        """(first load, layer, rows of its section table) of at most ``longest`` consecutive loads."""
        cuts = np.flatnonzero(np.diff(self.layer)) + 1
        starts = np.concatenate([[0], cuts]).tolist() if self.loads else []
        for start, stop in zip(starts, [*starts[1:], self.loads], strict=False):
            for a in range(start, stop, longest):
                n = min(longest, stop - a)
                first = int(self.index[a])
                yield a, int(self.layer[a]), slice(first, first + n)


def load_order(module: Module) -> LoadOrder:
    """Order of the loads of a module whose layers are all programmed and in load order.

    Raises: XbcError when two sections are loaded into one crossbar in the same step, or a section does not
        fit the target.
    """
    bodies = [layer.at(Programmed) for layer in module.layers]
    check_fits(module)
    sizes = [b.sections for b in bodies]
    which = np.repeat(np.arange(len(bodies), dtype=np.int32), sizes)
    index = np.concatenate([np.zeros(0, np.int32), *(np.arange(n, dtype=np.int32) for n in sizes)])
    step = np.concatenate([np.zeros(0, np.int64), *(b.step for b in bodies)])
    crossbar = np.concatenate([np.zeros(0, np.int32), *(b.crossbar for b in bodies)])
    order = np.lexsort((crossbar, step))
    found = LoadOrder(which[order], index[order], step[order], crossbar[order])
    clash = np.flatnonzero((np.diff(found.step) == 0) & (np.diff(found.crossbar) == 0))
    if len(clash):
        at = int(clash[0])
        names = {module.layers[int(found.layer[i])].name for i in (at, at + 1)}
        raise XbcError(
            f"crossbar {int(found.crossbar[at])} gets two sections in step {int(found.step[at])} "
            f"(layer {' and '.join(sorted(names))}): deal the sections again"
        )
    return found
