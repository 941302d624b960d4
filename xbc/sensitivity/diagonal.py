"""The diagonal second derivative of the loss in every crossbar weight.

One forward pass by onnxruntime with its intermediate values kept, one backward pass with the rules of
``xbc.operators``: of the curvature (``recursion``: SWIM, arXiv 2202.08395) or of the gradient, squared sample by
sample (``gradient``).  The mean square of the gradient of labels drawn from the model's own output is the
Gauss-Newton diagonal, without the recursion's assumption that positions, branches and outputs are independent.

Sensitivities are averages over samples, of ``d2 loss / d weight2`` with the weight in the model's own units (not
codes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from scipy import special

from ir.arrays import Array
from ir.errors import XbcError
from passes.inputs import Sensitivities
from xbc.frontend import Imported, module_tensors
from xbc.operators import Operator, find
from xbc.operators.step import Step, unbroadcast
from xbc.sensitivity.graph import Plan, Region, make_plan
from xbc.simulate.feeds import Port
from xbc.simulate.plan import TOLD_BY
from xbc.simulate.samples import SampleAxis

Loss = Literal["cross-entropy", "empirical", "squared"]
Method = Literal["recursion", "gradient"]
BUDGET_BYTES = 512 << 20
"""Intermediate values of one batch that are kept at a time (at least one sample is)."""


def seed_curvature(logits: Array, labels: Array | None, loss: Loss) -> Array:
    """``S`` of the loss in the logits ``[batch, classes]``.

    ``cross-entropy``: q (1 - q) with q = softmax(logits), the exact diagonal of the Hessian; it does not
    depend on the label, and is the mean of (q - onehot(label))**2 over labels drawn from the model's own q.
    ``empirical``: (q - onehot(label))**2 with the given labels.  ``squared``: 1, of half the squared error.
    """
    if loss == "squared":
        return np.ones(logits.shape, np.float32)
    q = special.softmax(logits.astype(np.float64), axis=1)
    if loss == "cross-entropy":
        return np.asarray((q * (1 - q)).astype(np.float32))
    assert labels is not None
    q[np.arange(len(q)), labels] -= 1
    return np.asarray((q * q).astype(np.float32))


def seed_gradient(logits: Array, labels: Array | None, loss: Loss, rng: np.random.Generator) -> Array:
    """A gradient in the logits ``[batch, classes]`` whose mean square is the curvature of the loss.

    ``cross-entropy``: q - onehot(label) with a label drawn from q; ``empirical``: with the given one;
    ``squared``: random signs.
    """
    if loss == "squared":
        return rng.choice(np.array([-1, 1], np.float32), logits.shape)
    q = special.softmax(logits.astype(np.float64), axis=1)
    if loss == "cross-entropy":
        labels = (np.cumsum(q, axis=1) < rng.random((len(q), 1))).sum(axis=1).clip(max=q.shape[1] - 1)
    q[np.arange(len(q)), labels] -= 1
    return np.asarray(q.astype(np.float32))


def model_sensitivities(
    model: Imported,
    x: Array,
    labels: Array | None = None,
    *,
    loss: Loss = "cross-entropy",
    method: Method = "gradient",
    seed: int = 0,
    noise: float = 0.0,
    progress: Callable[[str, int, int], None] | None = None,
    threads: int = 0,
) -> Sensitivities:
    """Sensitivities of every layer of an imported model.

    Args:
        x: ``[samples, ...]`` inputs of the model's one data input.
        labels: ``[samples]`` class indices; needed by ``empirical``, checked whenever given.
        method: ``recursion`` carries the curvature back, ``gradient`` squares the gradient of each sample.
        seed: of the labels that ``gradient`` draws, and of the noise.
        noise: standard deviation of a programming error that every weight has, over the largest weight of its
            tensor, drawn anew for every batch (``gradient``: every sample).  The second derivative at the exact
            weights says what small errors do; this is the one where the programmed weights will be.
        threads: of onnxruntime, 0: its own choice.
    Memory: the sensitivities, the weights, and the intermediate values of one batch (``BUDGET_BYTES``).
    Raises: XbcError for inputs or labels that do not fit the model, or an operator without a rule.
    """
    if not 0 <= noise < np.inf:
        raise XbcError(
            f"sensitivity: noise = {noise:g} must be 0 or more (0.1 is a tenth of the largest weight)"
        )
    engine = _Engine(model, loss, threads, method, seed, noise)
    engine.check_inputs(x, labels)
    totals = {layer.name: np.zeros(layer.origin.layout.shape, np.float64) for layer in model.module.layers}
    done = 0
    for part in engine.batches(x):
        found = engine.run(x[part], None if labels is None else labels[part])
        for layer in model.module.layers:
            values = found[layer.origin.tensor]
            totals[layer.name] += np.square(values) if method == "gradient" else values
        done = part.stop
        if progress:
            progress("sensitivity", done, len(x))
    layers = {
        layer.name: layer.origin.layout.to_matrix((totals.pop(layer.name) / len(x)).astype(np.float32))
        for layer in model.module.layers
    }
    return Sensitivities(layers, loss, model.module.host.model_sha256, len(x), method, noise)


def data_port(model: Imported) -> Port:
    """The model's one data input.  Raises XbcError when there are more."""
    held = {t.name for t in model.host.graph.initializer} | {x.origin.tensor for x in model.module.layers}
    found = [value for value in model.host.graph.input if value.name not in held]
    if len(found) != 1:
        raise XbcError(
            f"the model has {len(found)} data inputs: sensitivities, rescaling and programming trials need exactly one"
        )
    kind = found[0].type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return Port(found[0].name, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name, dims)


class _Engine:
    """A host graph with the values that the backward pass reads as extra outputs."""

    def __init__(
        self, model: Imported, loss: Loss, threads: int, method: Method, seed: int, noise: float
    ) -> None:
        self.loss = loss
        self.power = 1 if method == "gradient" else 2
        self.rng = np.random.default_rng(seed)
        self.noise_rng = np.random.default_rng([seed, 1])
        self.graph = model.host.graph
        self.exact = self.weights = module_tensors(model.module)
        self.deviation = {name: noise * np.abs(w).max(initial=0) for name, w in self.exact.items() if noise}
        self.opset = max(
            (o.version for o in model.host.opset_import if o.domain in ("", "ai.onnx")), default=17
        )
        self.plan: Plan = make_plan(self.graph, set(self.weights), strip_softmax=loss != "squared")
        self.constants = {
            t.name: numpy_helper.to_array(t)
            for t in self.graph.initializer
            if t.name in set(self.plan.tensors)
        }
        self.input, self.host = data_port(model), model.host
        self.computed = [
            name
            for name in self.plan.tensors
            if name not in self.weights and name not in self.constants and name != self.input.name
        ]
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # the backward pass is numpy's
        tapped = onnx.ModelProto()
        tapped.CopyFrom(model.host)
        present = {o.name for o in tapped.graph.output}
        for name in self.computed:
            if name not in present:
                tapped.graph.output.append(onnx.ValueInfoProto(name=name))
        self.session = ort.InferenceSession(
            tapped.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def check_inputs(self, x: Array, labels: Array | None) -> None:
        """Raises XbcError for data that does not fit."""
        shape = self.input.shape
        if x.dtype.hasobject or not np.can_cast(x.dtype, self.input.dtype, "same_kind"):
            raise XbcError(
                f"sensitivity: the data is {x.dtype}, the model's input is {self.input}: convert it first"
            )
        if x.ndim != len(shape) or any(s and s != n for s, n in zip(shape[1:], x.shape[1:], strict=True)):
            raise XbcError(
                f"sensitivity: the data has shape {list(x.shape)}, the model's input is {self.input}"
            )
        if not len(x):
            raise XbcError("sensitivity: the data holds no samples")
        if not shape[0] and len(x) > 1:
            dealing = SampleAxis(self.host).dealing({self.input.name: x}, {}, TOLD_BY)
            if dealing.kind not in ("apart", "single"):
                raise XbcError(
                    f"sensitivity: rows of the data are not known to be samples: {dealing.why}; fix the first axis of "
                    f"the model's input to the length of one whole input"
                )
        if self.power == 1 and shape[0] and shape[0] > 1:
            raise XbcError(
                f"sensitivity: method=gradient needs one sample at a time, the model takes {shape[0]}: give it a free "
                f"batch axis or use method=recursion"
            )
        if shape[0] and len(x) % shape[0]:
            raise XbcError(
                f"sensitivity: the model takes batches of {shape[0]}, the data holds {len(x)} samples"
            )
        if labels is None:
            if self.loss == "empirical":
                raise XbcError("sensitivity: loss=empirical needs labels: add an array 'labels' to the data")
            return
        if labels.shape != (len(x),) or labels.dtype.kind not in "iu":
            raise XbcError(
                f"sensitivity: the labels are {labels.dtype} of shape {list(labels.shape)}; wanted: one "
                f"integer class for each of the {len(x)} samples"
            )

    def batches(self, x: Array) -> Iterator[slice]:
        """Parts of the data whose intermediate values fit the budget."""
        size = self.input.shape[0] or (1 if self.power == 1 else 0)  # gradients are squared one by one
        if not size:
            once = self.forward(x[:1])
            size = max(1, min(64, BUDGET_BYTES // max(1, sum(v.nbytes for v in once.values()))))
        for start in range(0, len(x), size):
            yield slice(start, min(start + size, len(x)))

    def forward(self, x: Array) -> dict[str, Array]:
        """Values of the plan's computed tensors."""
        feeds = {**self.weights, self.input.name: x.astype(self.input.dtype)}
        try:
            values = self.session.run(self.computed, feeds)
        except Exception as error:  # onnxruntime has no narrower base class
            first = str(error).strip().splitlines()[-1]
            raise XbcError(f"sensitivity: onnxruntime cannot run the model on this data: {first}") from None
        return dict(zip(self.computed, values, strict=True))

    def run(self, x: Array, labels: Array | None) -> dict[str, Array]:
        """``S`` of every weight tensor, summed over the batch."""
        if self.deviation:
            self.weights = {name: self._programmed(name) for name in self.exact}
        values = {**self.constants, **self.weights, self.input.name: x, **self.forward(x)}
        logits = values[self.plan.logits]
        if logits.ndim != 2 and self.loss != "squared":
            raise XbcError(
                f"sensitivity: the loss {self.loss!r} needs logits [batch, classes]; {self.plan.logits!r} "
                f"has shape {list(logits.shape)}: use loss=squared"
            )
        if labels is not None and self.loss != "squared":
            classes = logits.shape[1]
            bad = (labels < 0) | (labels >= classes)
            if bad.any():
                raise XbcError(
                    f"sensitivity: label {labels[bad][0]} is out of range, the model has {classes} classes"
                )
        if self.power == 1:
            seed = seed_gradient(logits, labels, self.loss, self.rng)
        else:
            seed = seed_curvature(logits, labels, self.loss)
        curvature: dict[str, Array] = {self.plan.logits: seed}
        for step in self.plan.steps:
            if isinstance(step, Region):
                self._region(step, values, curvature)
            else:
                self._node(step, values, curvature)
        return {name: curvature.get(name, np.zeros((), np.float32)) for name in self.weights}

    def _programmed(self, name: str) -> Array:
        """A weight tensor after programming with errors."""
        exact = self.exact[name]
        error = self.noise_rng.standard_normal(exact.shape, dtype=np.float32) * self.deviation[name]
        return np.asarray((exact + error).astype(exact.dtype))

    def _step(self, at: int, values: dict[str, Array], curvature: dict[str, Array]) -> Step:
        node = self.graph.node[at]
        return Step(
            node=node,
            inputs=[values[name] if name else None for name in node.input],
            outputs=[values[name] for name in node.output if name],
            curvature=[curvature.get(name) for name in node.output if name],
            wanted=[name in self.plan.active for name in node.input],
            opset=self.opset,
            power=self.power,
        )

    def _node(self, at: int, values: dict[str, Array], curvature: dict[str, Array]) -> None:
        step = self._step(at, values, curvature)
        if all(s is None for s in step.curvature):
            return
        for name, found in zip(step.node.input, _operator(step.node).backward(step), strict=False):
            if found is not None and name in self.plan.active:
                _add(curvature, name, found)
        for name in step.node.output:
            curvature.pop(name, None)

    def _region(self, region: Region, values: dict[str, Array], curvature: dict[str, Array]) -> None:
        """Forward-mode slope of the whole region, squared."""
        s = curvature.pop(region.result, None)
        if s is None:
            return
        slopes: dict[str, Array] = {region.source: np.ones((), np.float32)}
        for at in region.nodes:
            step = self._step(at, values, {})
            slopes_of = _operator(step.node).slopes
            assert slopes_of is not None  # what makes a region
            parts = slopes_of(step)
            total: Array | float = 0.0
            for name, part in zip(step.node.input, parts, strict=False):
                if name in slopes:
                    total = total + part * slopes[name]
            slopes[step.node.output[0]] = np.asarray(total, np.float32)
        slope = slopes[region.result]
        found = s * (np.square(slope) if self.power == 2 else slope)
        _add(curvature, region.source, unbroadcast(np.asarray(found), values[region.source].shape))


def _operator(node: onnx.NodeProto) -> Operator:
    found = find(node.domain, node.op_type)
    assert found is not None  # make_plan looked
    return found


def _add(curvature: dict[str, Array], name: str, found: Array) -> None:
    curvature[name] = curvature[name] + found if name in curvature else found
