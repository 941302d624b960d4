"""Running ONNX models with onnxruntime: one session, any number of samples, bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from ir.arrays import Array
from ir.errors import XbcError
from ir.progress import Progress
from xbc.frontend.read import one_line
from xbc.simulate.exact import exact, has_products
from xbc.simulate.feeds import Feed, Port, feed_of, whole_inputs
from xbc.simulate.memory import Batch, Budget, Pace, Store, release
from xbc.simulate.plan import Plan, plan
from xbc.simulate.samples import SampleAxis
from xbc.system.scratch import scratch_folder

Model = onnx.ModelProto | str | os.PathLike[str]

SIDE_FILE_BYTES = 2**28
"""Larger models reach onnxruntime through a file with external data: no second copy, no 2 GiB limit."""

_TYPES = {
    "float": "float32", "double": "float64", "float16": "float16", "int8": "int8", "uint8": "uint8",
    "int16": "int16", "uint16": "uint16", "int32": "int32", "uint32": "uint32", "int64": "int64",
    "uint64": "uint64", "bool": "bool",
}  # fmt: skip


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

    def __init__(
        self, model: Model, *, threads: int = 2, name: str = "the model", axis: SampleAxis | None = None
    ) -> None:
        """Load ``model``; ``axis`` says whether the first axis of its inputs counts samples.

        Raises: XbcError when onnxruntime cannot load it.
        """
        self.name, self.axis, self.plan = name, axis or SampleAxis(model), Plan(1)
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
            feeds.append(feed_of(port, inputs[port.name]))
        counts = {f.port.name: len(f.array) for f in feeds if f.kind != "shared"}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name!r} has {n}" for name, n in counts.items())
            raise XbcError(f"the arrays differ in their number of samples: {listed}{whole_inputs(feeds)}")
        samples = next(iter(counts.values()), 1)
        if samples == 0:
            raise XbcError(f"the arrays for {self.name} hold no samples")
        return feeds, samples

    def stream(
        self, inputs: Mapping[str, Array], *, batch: Batch = None, progress: Progress | None = None
    ) -> Iterator[tuple[int, dict[str, Array]]]:
        """Run all samples; yields (first sample, output name -> array with one entry per sample).

        Where the first axis does not count samples (``axis``) there is one run, with outputs as they are.

        Args:
            inputs: input name -> array, see ``feeds``.
            batch: samples per run where the model leaves it free; default by input size, up to which a
                ``Budget`` goes when memory allows.
            progress: called with ("running <name>", samples done, samples).
        Raises: XbcError for arrays that do not suit, when onnxruntime fails, or above the budget.
        """
        feeds, samples = self.feeds(inputs)
        pace = batch.pace() if isinstance(batch, Budget) else batch if isinstance(batch, Pace) else None
        chosen = plan(feeds, samples, batch if isinstance(batch, int) else None, self.axis, self.name)
        self.plan = chosen
        self.notes = tuple(dict.fromkeys((*self.notes, *chosen.notes)))
        names = [p.name for p in self.outputs]
        loose: set[str] = set()
        start, size = 0, chosen.size
        most = size
        while start < samples:
            if pace is not None and not chosen.padded and not chosen.whole:
                size = pace.samples(start, most)
            stop = min(start + size, samples)
            width = size if chosen.padded else stop - start
            results = self._run(names, {f.port.name: f.part(start, stop, width) for f in feeds})
            if chosen.places is None and not (chosen.whole or chosen.stacked):
                loose |= {n for n, r in results.items() if r.ndim == 0 or r.shape[0] != width}
                if loose and size > 1:
                    if chosen.padded:
                        raise XbcError(
                            f"output {min(loose)!r} of {self.name} has no batch axis, "
                            f"so its {size} samples per run cannot be told apart"
                        )
                    size = most = 1  # one sample per run tells them apart
                    continue
            if chosen.whole:
                out = {n: np.atleast_1d(r) for n, r in results.items()}
            elif chosen.stacked:
                out = {n: r[None] for n, r in results.items()}
            elif chosen.places is not None:
                out = {n: chosen.apart(n, r, stop - start, width) for n, r in results.items()}
            else:
                out = {n: r[None] if n in loose else r[: stop - start] for n, r in results.items()}
            yield start, out
            for feed in feeds:
                release(feed.array)
            if pace is not None:
                one = "one sample" if stop - start == 1 else f"{stop - start} samples"
                pace.budget.check(f"running {self.name} with {one} at a time")
            start = samples if chosen.whole else stop
            if progress is not None:
                progress(f"running {self.name}", start, samples)

    def _run(self, names: list[str], given: dict[str, Array]) -> dict[str, Array]:
        try:
            results = self._session.run(names, given)
        except XbcError:  # a simulated layer has said what is wrong
            raise
        except Exception as error:
            raise XbcError(f"onnxruntime fails to run {self.name}: {one_line(error)}") from None
        return {name: np.asarray(result) for name, result in zip(names, results, strict=True)}

    def collect(
        self, inputs: Mapping[str, Array], *, batch: Batch = None, progress: Progress | None = None
    ) -> dict[str, Array]:
        """All outputs for all samples, as ``stream`` gives them, concatenated."""
        store = Store(self.name)
        for _, out in self.stream(inputs, batch=batch, progress=progress):
            store.add(out)
        return store.arrays()

    def run(
        self, inputs: Mapping[str, Array], *, batch: Batch = None, progress: Progress | None = None
    ) -> dict[str, Array]:
        """All outputs for all samples, laid out as the model lays them out."""
        outputs = self.collect(inputs, batch=batch, progress=progress)
        return self.plan.together(outputs)

    def one_input(self, inputs: Mapping[str, Array]) -> bool:
        """Whether the arrays are one whole input, of which no part can be run alone."""
        feeds, samples = self.feeds(inputs)
        return plan(feeds, samples, None, self.axis, self.name).whole


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
