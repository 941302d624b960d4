"""Whether the first axis of a model's inputs counts samples that do not depend on each other, and what follows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort
from onnx import external_data_helper, helper, inliner, numpy_helper

from ir.arrays import Array
from xbc.frontend.read import one_line
from xbc.frontend.statics import reads
from xbc.simulate.axes import Along, Fixed, Lost, Shape, Site, State
from xbc.simulate.axis_table import COUPLED, MS, outputs

AUTO, FIRST, NONE = "auto", "0", "none"
WORDS = (AUTO, FIRST, NONE)
SMALL = 4096
"""Constants with more values only lend their shape to the runs that tell the shapes."""


@dataclass(frozen=True)
class Dealing:
    """How rows of the inputs may be dealt to runs.

    Fields:
        kind: ``apart`` (any number of rows per run), ``single`` (one row per run: what they share is each one's
            own then), ``whole`` (all rows in one run) or ``unknown``.
        why: what decided, for a sentence.
        places: output name -> where its samples lie; None: the output does not depend on them.
    """

    kind: str
    why: str = ""
    places: Mapping[str, Along | None] = field(default_factory=dict)


class SampleAxis:
    """The question, for one model.

    Args:
        model: a graph, or the path of one; inputs that nobody gives stand for weights.
        word: ``auto`` (the graph decides), ``0`` (the first axis counts samples) or ``none`` (it does not).
        cut: the set was cut along its first axis (``--limit``).
    """

    def __init__(
        self, model: onnx.ModelProto | str | os.PathLike[str], word: str = AUTO, *, cut: bool = False
    ) -> None:
        """See the class."""
        self.model, self.word, self.cut = model, word, cut
        self._known: dict[object, Dealing] = {}

    def dealing(
        self, rows: Mapping[str, Array], others: Mapping[str, Array], samples: Sequence[int]
    ) -> Dealing:
        """For inputs of these shapes.

        Args:
            rows: input name -> array whose first axis is in question.
            others: inputs that every run gets as they are.
            samples: numbers of rows for which the graph is run to learn its shapes.
        """
        if self.word == NONE:
            return Dealing("whole", "--sample-axis none")
        key = (tuple((n, a.shape[1:]) for n, a in rows.items()), tuple(samples))
        if key not in self._known:
            self._known[key] = _decide(self.model, rows, others, samples)
        return self._known[key]


def _decide(
    model: onnx.ModelProto | str | os.PathLike[str], rows: Mapping[str, Array], others: Mapping[str, Array],
    samples: Sequence[int],
) -> Dealing:  # fmt: skip
    try:
        graph = _Graph(model, {**rows, **others})
    except Exception as error:
        return Dealing("unknown", f"the graph cannot be read: {one_line(error, 100)}")
    try:
        runs = [graph.run({n: _rows(a, k) for n, a in rows.items()} | dict(others)) for k in samples]
    except Exception:  # onnxruntime raises many kinds, none of them documented
        try:
            graph.run({n: _rows(a, 1) for n, a in rows.items()} | dict(others))
        except Exception:
            return Dealing("whole", "the graph does not run with fewer of them")
        return Dealing(
            "unknown", f"the graph runs with one row but not with {' or '.join(map(str, samples))}"
        )
    states = graph.states(rows, samples, runs)
    places: dict[str, Along | None] = {}
    unknown = ""
    for output in graph.model.graph.output[: graph.outputs]:
        state = states.get(output.name, Fixed())
        if isinstance(state, Lost) and state.known:
            return Dealing("whole", state.why)
        if isinstance(state, Fixed) and state.counts:
            return Dealing("whole", f"output {output.name!r} depends on their number")
        if isinstance(state, Along) and state.outer > 1:
            return Dealing("whole", f"output {output.name!r} interleaves them")
        if isinstance(state, Lost):
            unknown = unknown or state.why
        else:
            places[output.name] = state if isinstance(state, Along) else None
    if unknown:
        return Dealing("unknown", unknown)
    return Dealing("single" if graph.coupled else "apart", graph.coupled, places)


def _rows(array: Array, count: int) -> Array:
    return np.ascontiguousarray(np.resize(array[: min(count, len(array))], (count, *array.shape[1:])))


@dataclass(frozen=True)
class _Run:
    """Shapes of all values, and the values of those that no sample reaches."""

    shapes: Mapping[str, Shape]
    values: Mapping[str, Array]


class _Graph:
    """A graph that is run for its shapes: large constants are zeros of their shape."""

    def __init__(self, model: onnx.ModelProto | str | os.PathLike[str], given: Mapping[str, Array]) -> None:
        folder = None
        if not isinstance(model, onnx.ModelProto):
            folder = os.path.dirname(os.path.abspath(model))
            model = onnx.load(model, load_external_data=False)
        if model.functions:
            model = inliner.inline_local_functions(model)
        self.model = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
        graph, source = self.model.graph, model.graph
        graph.name = "shapes"
        graph.node.extend(source.node)
        graph.output.extend(source.output)
        self.outputs = len(source.output)
        graph.sparse_initializer.extend(source.sparse_initializer)
        self.feeds: dict[str, Array] = {}
        held = {t.name for t in source.initializer}
        for value in source.input:
            if value.name in given:
                free = graph.input.add(name=value.name)
                free.type.tensor_type.elem_type = value.type.tensor_type.elem_type
            elif value.name not in held:
                graph.input.append(value)
                kind = value.type.tensor_type
                dims = [d.dim_value for d in kind.shape.dim]
                self.feeds[value.name] = np.zeros(dims, helper.tensor_dtype_to_np_dtype(kind.elem_type))
        for tensor in source.initializer:
            self._constant(tensor, folder)
        self.types = {v.name: v.type.tensor_type.elem_type for v in graph.input}
        self._fixed = self._untouched(set(given))
        for name in [n for node in graph.node for n in node.output if n] + list(given):
            shape = f"{name}/shape"
            graph.node.append(helper.make_node("Shape", [name], [shape]))
            graph.output.append(onnx.ValueInfoProto(name=shape))
        named = {o.name for o in source.output}
        graph.output.extend(onnx.ValueInfoProto(name=n) for n in self._fixed if n not in named)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 2
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(
            self.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.kinds = {p.name: p.type for p in self.session.get_inputs()}
        self.coupled = ""

    def _constant(self, tensor: onnx.TensorProto, folder: str | None) -> None:
        graph = self.model.graph
        size = int(np.prod(tensor.dims, dtype=np.int64))
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if size > SMALL and dtype.isbuiltin == 1:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
            self.feeds[tensor.name] = np.zeros(tuple(tensor.dims), dtype)
            return
        copy = graph.initializer.add()
        copy.CopyFrom(tensor)
        if folder is not None and external_data_helper.uses_external_data(copy):
            external_data_helper.load_external_data_for_tensor(copy, folder)

    def _untouched(self, given: set[str]) -> list[str]:
        """Values that depend on the shapes of the inputs at most, of the types that shapes have."""
        reached, counted = set(given), set[str]()
        found: list[str] = []
        for node in self.model.graph.node:
            names = [n for n in reads(node) if n]
            measures = node.op_type in ("Shape", "Size") and not node.domain
            if not measures and any(n in reached for n in names):
                reached.update(node.output)
            elif (measures and names[0] in reached) or any(n in counted for n in names):
                counted.update(node.output)
                found.extend(n for n in node.output if n)
            elif node.op_type in ("Constant", "Identity", "Cast", "Concat", "Unsqueeze", "Squeeze"):
                small = all(n not in self.feeds for n in names)
                found.extend(n for n in node.output if n and small)
        return found

    def run(self, inputs: Mapping[str, Array]) -> _Run:
        """One run."""
        given = {n: np.asarray(a, _numpy(self.kinds[n])) for n, a in inputs.items() if n in self.kinds}
        names = [o.name for o in self.model.graph.output[self.outputs :]]
        got = dict(zip(names, self.session.run(names, given | self.feeds), strict=True))
        shapes = {
            n.removesuffix("/shape"): tuple(map(int, v)) for n, v in got.items() if n.endswith("/shape")
        }
        values = {n: np.asarray(v) for n, v in got.items() if not n.endswith("/shape")}
        shapes |= {n: v.shape for n, v in self.feeds.items()}
        for tensor in self.model.graph.initializer:
            shapes[tensor.name] = tuple(tensor.dims)
        return _Run(shapes, values)

    def states(
        self, rows: Mapping[str, Array], samples: Sequence[int], runs: Sequence[_Run]
    ) -> dict[str, State]:
        """Where every value has its samples."""
        opsets = {o.domain: o.version for o in self.model.opset_import}
        constants = {t.name: t for t in self.model.graph.initializer}
        states: dict[str, State] = {name: Along(0) for name in rows}
        known: dict[str, Array | None] = {}

        def value(name: str) -> Array | None:
            if name not in known:
                tensor = constants.get(name)
                known[name] = runs[0].values.get(name) if tensor is None else numpy_helper.to_array(tensor)
            return known[name]

        for node in self.model.graph.node:
            if node.output[0].endswith("/shape") and node.output[0] not in runs[0].shapes:
                continue
            names = list(node.input) + [n for n in reads(node) if n not in node.input]
            listed = node.domain in ("", "ai.onnx", MS)
            if node.op_type in ("Shape", "Size") and listed:
                made: list[State] = [Fixed()]
            else:
                site = Site(
                    node, samples, [states.get(n, Fixed()) if n else None for n in names],
                    [[run.shapes.get(n, ()) for n in names] for run in runs],
                    [[run.shapes.get(n, ()) for n in node.output] for run in runs],
                    [value(n) if n else None for n in names], opsets.get(node.domain, 1),
                )  # fmt: skip
                made = outputs(site, _name(node))
                if node.op_type in COUPLED and site.along() and not self.coupled:
                    self.coupled = f"{_name(node)} takes one scale for all of them"
            for name, state in zip(node.output, made, strict=False):
                if isinstance(state, Fixed) and name in runs[0].values:
                    state = _counted(state, samples, [run.values[name] for run in runs])
                states[name] = state
        return states


def _counted(state: Fixed, samples: Sequence[int], values: Sequence[Array]) -> State:
    """What a value that no sample reaches is: always the same, the same for every sample, or a count."""
    first = values[0]
    if all(np.array_equal(first, other) for other in values[1:]):
        return Fixed(state.shared)
    if {v.ndim for v in values} == {first.ndim}:
        for axis in range(first.ndim):
            ones = [v.take([0], axis) if v.shape[axis] else v for v in values]
            alike = all(np.array_equal(ones[0], one) for one in ones)
            sizes = [v.shape[axis] for v in values]
            spread = all(
                np.array_equal(v, np.broadcast_to(o, v.shape)) for v, o in zip(values, ones, strict=True)
            )
            each = sizes[0] // samples[0]
            if alike and spread and sizes == [each * n for n in samples]:
                return Along(axis, 1, each)
    return Fixed(state.shared, counts=True)


def _numpy(kind: str) -> str:
    inner = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(inner, inner)


def _name(node: onnx.NodeProto) -> str:
    label = node.name or (node.output[0] if node.output else "")
    return (
        f"{node.op_type} {label!r}" if len(label) <= 60 else f"{node.op_type} '{label[:28]}...{label[-28:]}'"
    )
