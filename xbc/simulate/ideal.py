"""Ideal fidelity: the weights that stand in the cells, put back into the ONNX graph, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import onnx

from ir.arrays import Array
from ir.errors import XbcError
from ir.layout import Layout
from ir.progress import Progress
from xbc.frontend.host import host_with_weights
from xbc.frontend.weights import codes_tensor
from xbc.simulate.data import DataSet
from xbc.simulate.host import HostSession, Model
from xbc.simulate.memory import Batch, Budget
from xbc.simulate.metrics import Comparison, check_labels
from xbc.simulate.samples import SampleAxis


class StoredLayer(Protocol):
    """What the host graph's tensor is made of: a row of the emitted layers table has it."""

    @property
    def name(self) -> str:
        """Layer name."""

    @property
    def tensor(self) -> str:
        """Host input."""

    @property
    def dtype(self) -> str:
        """As ``Origin.dtype``."""

    @property
    def layout(self) -> Layout:
        """Where the matrix lies."""

    @property
    def scale(self) -> Array:
        """``[1]`` or ``[outputs]``."""

    @property
    def zero_point(self) -> Array:
        """``[1]`` or ``[outputs]``."""


def compiled_model(
    host: onnx.ModelProto, layers: Iterable[StoredLayer], codes: Mapping[str, Array]
) -> onnx.ModelProto:
    """The model as the chip computes it.

    Args:
        host: host graph of the program.
        layers: its layers.
        codes: layer name -> ``[outputs, inputs]`` effective codes, as replayed from the cells.
    Raises: XbcError when codes are missing or the host graph is of another program.
    """
    tensors = {}
    for layer in layers:
        if layer.name not in codes:
            raise XbcError(f"layer {layer.name!r} has no replayed codes")
        tensors[layer.tensor] = codes_tensor(
            codes[layer.name], layer.scale, layer.zero_point, layer.dtype, layer.layout
        )
    return host_with_weights(host, tensors)


def simulate(
    model: Model,
    data: DataSet,
    *,
    threads: int = 2,
    batch: Batch = None,
    axis: SampleAxis | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Outputs of a model for every sample of a set, by output name, and the session's notes."""
    session = HostSession(model, threads=threads, name="the compiled model", axis=axis)
    return session.run(data.inputs, batch=batch, progress=progress), session.notes


def evaluate(
    reference: Model,
    compiled: Model,
    data: DataSet,
    *,
    output: str | None = None,
    threads: int = 2,
    batch: Batch = None,
    axis: SampleAxis | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare a compiled model with its reference over a set, streamed.

    Args:
        reference: the unmodified model (file or protobuf).
        compiled: see ``compiled_model``.
        data: inputs and, optionally, labels.
        output: name of the output that is classified; default the first.
        axis: of both models; default: the compiled one's graph decides.
    Returns: see ``Comparison.result``, plus ``notes``.
    Raises: XbcError.
    """
    axis = axis or SampleAxis(compiled)
    before = HostSession(reference, threads=threads, name="the reference model", axis=axis)
    after = HostSession(compiled, threads=threads, name="the compiled model", axis=axis)
    if [p.name for p in after.outputs] != [p.name for p in before.outputs]:
        raise XbcError(
            "the compiled model has other outputs than the reference: it was made from another model"
        )
    inputs = {p.name: data.inputs[p.name] for p in before.inputs if p.name in data.inputs}
    _, samples = before.feeds(inputs)
    whole = before.one_input(inputs)
    if not whole:
        check_labels(data.labels, samples)
    if output is not None and output not in [p.name for p in before.outputs]:
        known = ", ".join(repr(p.name) for p in before.outputs)
        raise XbcError(f"the model has no output {output!r}; its outputs: {known}")
    comparison = Comparison(data.labels, output)
    pace = batch.pace() if isinstance(batch, Budget) else batch  # both go through the set side by side
    pairs = zip(before.stream(inputs, batch=pace), after.stream(inputs, batch=pace), strict=True)
    for (start, first), (same, second) in pairs:
        if start != same or any(len(second[n]) != len(first[n]) for n in first if n in second):
            raise XbcError("the compiled model deals its samples differently from the reference: set a batch")
        comparison.add(first, second)
        if progress is not None:
            progress("evaluating", samples if whole else comparison.samples, samples)
    check_labels(data.labels, comparison.samples)
    return comparison.result() | {"notes": list(dict.fromkeys([*before.notes, *after.notes]))}
