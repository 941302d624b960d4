"""Running ONNX models with onnxruntime: one session, any number of samples, bounded memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from ir.arrays import Array
from ir.errors import XbcError
from ir.progress import Progress
from xbc.frontend.read import one_line
from xbc.simulate.exact import exact, has_products
from xbc.simulate.memory import Batch, Budget, Pace, Store, release
from xbc.system.scratch import scratch_folder

Model = onnx.ModelProto | str | os.PathLike[str]

VALUES_PER_RUN = 2**20
"""Input values that one run takes at most, where the batch is free (at least one sample)."""
LARGEST_BATCH = 64
SIDE_FILE_BYTES = 2**28
"""Larger models reach onnxruntime through a file with external data: no second copy, no 2 GiB limit."""

_TYPES = {
    "float": "float32", "double": "float64", "float16": "float16", "int8": "int8", "uint8": "uint8",
    "int16": "int16", "uint16": "uint16", "int32": "int32", "uint32": "uint32", "int64": "int64",
    "uint64": "uint64", "bool": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class Port:
    """An input or output of a model: its name, numpy type name and dims (None where free)."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        """For messages: ``'input' float32 [free, 3, 224, 224]``."""
        dims = ", ".join("free" if d is None else str(d) for d in self.shape)
        return f"{self.name!r} {self.dtype} [{dims}]"


@dataclass(frozen=True)
class Feed:
    """How a set's array is dealt to runs.

    Fields:
        array: the samples.
        kind: ``batch`` (the first axis is the model's batch), ``sample`` (the first axis counts samples, each
            a whole input) or ``shared`` (the same for every run).
    """

    port: Port
    array: Array
    kind: str

    def part(self, start: int, stop: int, padded: int) -> Array:
        """Input for samples ``start..stop``, repeated at its end up to ``padded`` samples."""
        if self.kind == "shared":
            piece = self.array
        elif self.kind == "sample":
            piece = self.array[start]
        else:
            piece = self.array[start:stop]
            if padded > stop - start:
                piece = np.concatenate([piece, np.repeat(piece[-1:], padded - (stop - start), axis=0)])
        return np.asarray(piece, dtype=self.port.dtype, order="C")


class HostSession:
    """An onnxruntime session with fixed, reproducible settings.

    The model runs by the letter of ONNX: Q/DQ pairs are computed as written and not replaced by
    onnxruntime's integer kernels, so a model and its compiled form stay comparable.  Products of 8-bit
    integers are exact on every processor (``exact``).

    Fields:
        inputs, outputs: the model's ports.
        notes: sentences a user should see (integer products that onnxruntime would clip, graph optimisation
            given up).
    """

    def __init__(self, model: Model, *, threads: int = 2, name: str = "the model") -> None:
        """Load ``model``.

        Raises: XbcError when onnxruntime cannot load it.
        """
        self.name = name
        model, folder, self.notes = _with_exact_products(model)
        try:
            self._session = _open(model, threads, ort.GraphOptimizationLevel.ORT_ENABLE_ALL, folder)
        except Exception as first:  # onnxruntime raises many kinds, none of them documented
            try:
                self._session = _open(model, threads, ort.GraphOptimizationLevel.ORT_DISABLE_ALL, folder)
            except Exception:
                raise XbcError(f"onnxruntime cannot load {name}: {one_line(first)}") from None
            self.notes += (
                f"onnxruntime cannot optimise {name}, it runs unoptimised and slower: {one_line(first)}",
            )
        self.inputs = tuple(_port(p) for p in self._session.get_inputs())
        self.outputs = tuple(_port(p) for p in self._session.get_outputs())

    def feeds(self, inputs: Mapping[str, Array]) -> tuple[list[Feed], int]:
        """How to deal arrays to runs, and the number of samples.

        Raises: XbcError for a missing array, a wrong shape or type, or differing numbers of samples.
        """
        feeds = []
        for port in self.inputs:
            if port.name not in inputs:
                raise XbcError(f"{self.name} needs an array for its input {port}")
            feeds.append(_feed(port, inputs[port.name]))
        counts = {f.port.name: len(f.array) for f in feeds if f.kind != "shared"}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name!r} has {n}" for name, n in counts.items())
            raise XbcError(f"the arrays differ in their number of samples: {listed}{_whole_inputs(feeds)}")
        samples = next(iter(counts.values()), 1)
        if samples == 0:
            raise XbcError(f"the arrays for {self.name} hold no samples")
        return feeds, samples

    def stream(
        self, inputs: Mapping[str, Array], *, batch: Batch = None, progress: Progress | None = None
    ) -> Iterator[tuple[int, dict[str, Array]]]:
        """Run all samples; yields (first sample, output name -> array with one entry per sample).

        Args:
            inputs: input name -> array, see ``feeds``.
            batch: samples per run where the model leaves it free; default by input size, up to which a
                ``Budget`` goes when memory allows.
            progress: called with ("running <name>", samples done, samples).
        Raises: XbcError for arrays that do not suit, when onnxruntime fails, or above the budget.
        """
        feeds, samples = self.feeds(inputs)
        pace = batch.pace() if isinstance(batch, Budget) else batch if isinstance(batch, Pace) else None
        size, padded = self._batch(feeds, batch if isinstance(batch, int) else None)
        names = [p.name for p in self.outputs]
        stacked: set[str] = set()
        if not padded and any(not p.shape or p.shape[0] is not None for p in self.outputs):
            stacked = {p.name for p in self.outputs if not p.shape or p.shape[0] is not None}
            size = 1
        start, most = 0, size
        while start < samples:
            if pace is not None and not padded:
                size = pace.samples(start, most)
            stop = min(start + size, samples)
            width = size if padded else stop - start
            try:
                results = self._session.run(names, {f.port.name: f.part(start, stop, width) for f in feeds})
            except XbcError:  # a simulated layer has said what is wrong
                raise
            except Exception as error:
                raise XbcError(f"onnxruntime fails to run {self.name}: {one_line(error)}") from None
            results = [np.asarray(r) for r in results]
            if any(f.kind == "sample" for f in feeds):
                stacked = set(names)
            loose = {n for n, r in zip(names, results, strict=True) if r.ndim == 0 or r.shape[0] != width}
            if loose - stacked:
                if padded and size > 1:
                    raise XbcError(
                        f"output {min(loose)!r} of {self.name} has no batch axis, "
                        f"so its {size} samples per run cannot be told apart"
                    )
                stacked |= loose
                if size > 1:  # one sample per run tells them apart
                    size = most = 1
                    continue
            out = {
                n: r[None] if n in stacked else r[: stop - start] for n, r in zip(names, results, strict=True)
            }
            yield start, out
            for feed in feeds:
                release(feed.array)
            if pace is not None:
                one = "one sample" if stop - start == 1 else f"{stop - start} samples"
                pace.budget.check(f"running {self.name} with {one} at a time")
            start = stop
            if progress is not None:
                progress(f"running {self.name}", start, samples)

    def run(
        self, inputs: Mapping[str, Array], *, batch: Batch = None, progress: Progress | None = None
    ) -> dict[str, Array]:
        """All outputs for all samples, as ``stream`` gives them, concatenated."""
        store = Store(self.name)
        for _, out in self.stream(inputs, batch=batch, progress=progress):
            store.add(out)
        return store.arrays()

    def _batch(self, feeds: Sequence[Feed], wanted: int | None) -> tuple[int, bool]:
        """(samples per run, whether the model fixes that number)."""
        if wanted is not None and wanted < 1:
            raise XbcError(f"a batch of {wanted} samples is too small")
        fixed = {f.port.shape[0] for f in feeds if f.kind == "batch"} - {None}
        whole = any(f.kind == "sample" for f in feeds)
        if len(fixed) > 1 or (whole and fixed - {1}):
            raise XbcError(
                f"the inputs of {self.name} fix different batch sizes: give whole inputs per sample"
            )
        if whole:
            return 1, True
        if fixed:
            size = fixed.pop()
            assert size is not None
            return size, True
        if wanted is not None:
            return wanted, False
        values = max((math.prod(f.array.shape[1:]) for f in feeds if f.kind == "batch"), default=1)
        return max(1, min(LARGEST_BATCH, VALUES_PER_RUN // max(1, values))), False


def _feed(port: Port, array: Array) -> Feed:
    if array.dtype.hasobject or not np.can_cast(array.dtype, port.dtype, "same_kind"):
        raise XbcError(f"array {port.name!r} is {array.dtype}, the model's input is {port}: convert it first")
    if array.ndim == len(port.shape) + 1 and _fits(array.shape[1:], port.shape):
        return Feed(port, array, "sample")
    if array.ndim == len(port.shape) >= 1 and _fits(array.shape[1:], port.shape[1:]):
        return Feed(port, array, "batch")
    if array.ndim == 0 and not port.shape:
        return Feed(port, array, "shared")
    raise XbcError(f"array {port.name!r} has shape {list(array.shape)}, which does not suit the input {port}")


def _whole_inputs(feeds: Sequence[Feed]) -> str:
    """What to do for a model whose batch is not the first axis of an input (a recurrent state has layers there)."""
    for feed in feeds:
        shape = feed.port.shape
        if feed.kind == "batch" and shape[0] is not None and None in shape:
            return (
                f"; the first axis of {feed.port} is not the samples', so give every input whole, with one more "
                f"axis in front that counts the samples"
            )
    return ""


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return all(w is None or s == w for s, w in zip(shape, wanted, strict=True))


def _port(arg: ort.NodeArg) -> Port:
    kind = str(arg.type)
    inner = kind.removeprefix("tensor(").removesuffix(")")
    if not kind.startswith("tensor(") or inner not in _TYPES:
        raise XbcError(
            f"{arg.name!r} is of type {kind}, which cannot be read from or written to numpy arrays"
        )
    return Port(arg.name, _TYPES[inner], tuple(d if isinstance(d, int) else None for d in arg.shape))


def open_session(model: onnx.ModelProto, threads: int = 0) -> ort.InferenceSession:
    """The model by the letter of ONNX, for callers that deal the samples themselves (0 threads: all cores)."""
    return _open(exact(model).model, threads, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)


def _with_exact_products(model: Model) -> tuple[Model, str | None, tuple[str, ...]]:
    """(the model to run, folder of its external data, notes): a file is read only where it may need a change."""
    folder = None
    if not isinstance(model, onnx.ModelProto):
        if not has_products(model):
            return model, None, ()
        folder = os.path.dirname(os.path.abspath(model))
        try:
            read = onnx.load(model, load_external_data=False)
        except Exception:  # onnxruntime says what is wrong with the file
            return model, None, ()
        rewritten = exact(read)
        return (rewritten.model if rewritten.changed else model), folder, rewritten.notes()
    rewritten = exact(model)
    return rewritten.model, None, rewritten.notes()


def _open(
    model: Model, threads: int, level: ort.GraphOptimizationLevel, folder: str | None = None
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    options.log_severity_level = 4
    options.graph_optimization_level = level
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if not isinstance(model, onnx.ModelProto):
        return ort.InferenceSession(os.fspath(model), options, providers=providers)
    if sum(len(t.raw_data) for t in model.graph.initializer) < SIDE_FILE_BYTES:
        return ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    with scratch_folder() as folder:
        path = Path(folder) / "model.onnx"
        _save_split(model, path)
        return ort.InferenceSession(str(path), options, providers=providers)


def _save_split(model: onnx.ModelProto, path: Path) -> None:
    """Write a model with its large tensors in a side file, without changing or copying it."""
    light = onnx.ModelProto()
    light.graph.CopyFrom(
        onnx.GraphProto(
            node=model.graph.node, name=model.graph.name, input=model.graph.input, output=model.graph.output,
            sparse_initializer=model.graph.sparse_initializer,
        )
    )  # fmt: skip
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    offset = 0
    with path.with_name("weights.bin").open("wb") as side:
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) < 1024:
                light.graph.initializer.append(tensor)
                continue
            entry = light.graph.initializer.add(
                name=tensor.name, data_type=tensor.data_type, dims=tensor.dims,
                data_location=onnx.TensorProto.EXTERNAL,
            )  # fmt: skip
            pieces = {"location": "weights.bin", "offset": offset, "length": len(tensor.raw_data)}
            for key, value in pieces.items():
                entry.external_data.add(key=key, value=str(value))
            offset += side.write(tensor.raw_data)
    path.write_bytes(light.SerializeToString())
