"""order-inputs: rows that hold the same level take their inputs in ascending order."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ir.module import Module
from ir.stages import Placed
from passes.base import Context, Outcome, Pass
from passes.row_maps import MOST_WORDS, MapCoder, codable


@dataclass(frozen=True)
class OrderInputs(Pass):
    """Makes row maps cheap to tell, at no write.

    Two rows of an output that hold the same word may exchange their inputs: the same weight meets each input as before.
    So the inputs of a word are given to its rows in ascending order, load after load.  A decoder that knows the words
    then needs the distance from one input to the next only, and row maps take about the entropy of the codes in the
    place of log2(inputs) bits.  Layers whose rows hold several weights, and targets whose rows take no free inputs, are
    left as they are.
    """

    name: ClassVar[str] = "order-inputs"
    requires = Placed
    ensures = Placed

    def run(self, module: Module, context: Context) -> Outcome:
        """Exchanges inputs inside every layer."""
        if module.target.routing != "gather":
            return Outcome(module)
        layers = []
        for i, layer in enumerate(module.layers):
            context.progress(self.name, i, len(module.layers))
            body = layer.at(Placed)
            if codable(body):
                coder = MapCoder.of(body, np.lexsort((body.crossbar, body.step)))
                if coder.distinct <= MOST_WORDS:
                    body = dataclasses.replace(body, inputs=coder.ordered(body.inputs))
            layers.append(layer.with_body(body))
        return Outcome(module.with_layers(layers))
