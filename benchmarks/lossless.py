"""Is a program lossless?  Its replayed weights and outputs against the model quantised without any xbc code.

The oracle knows onnx, onnxruntime and numpy only: onnxruntime folds the model and writes its graph, and there the
weight operand of every linear operator becomes ``rint(w / s) * s``, ``s = max|w| / top`` (one scale per tensor,
float32).  Quantised models (any QuantizeLinear or DequantizeLinear) have codes of their own: there the weights
have to be those of the unmodified model.  The program is replayed from its files; then

- ``weights_differ`` counts weights that are not bit-identical at the same operator (found by its output's name),
- ``max_abs_error`` compares the outputs of the two networks in onnxruntime, without optimisation, on the same inputs,
- ``moved`` is the largest change of an output by quantisation: 0 would mean that the comparison sees nothing
  (as it must be for quantised models).

    python benchmarks/lossless.py [MODEL.onnx [PROGRAM.xbc]] [--inputs x.npz] [--json]

Without a program the model is compiled first (-O2, default target); without a model it is models/digits_vit.onnx.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from ir.arrays import Array
from xbc.backend import Program
from xbc.chip import effective_codes
from xbc.driver.compile import compile_model
from xbc.simulate.ideal import compiled_model

HERE = Path(__file__).parent
OPERANDS = {
    "Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1), "FusedMatMul": (0, 1), "LSTM": (1, 2),
    "GRU": (1, 2), "RNN": (1, 2),
}  # fmt: skip
"""Weight operands of the linear operators."""
QUANTISERS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
OWN_CODES_KEPT = ["WeightBiasQuantization", "QDQPropagationTransformer", "EnsureUniqueDQForNodeUnit"]


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the bodies inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def folded(model: Path, folder: Path) -> onnx.ModelProto:
    """The model as onnxruntime's basic optimisations leave it."""
    proto = onnx.load(model)
    constants = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in constants]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.ir_version = max(4, proto.ir_version)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "folded.onnx")
    ort.InferenceSession(
        proto.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=OWN_CODES_KEPT,
    )
    return onnx.load(folder / "folded.onnx")


def weights(proto: onnx.ModelProto) -> Iterator[tuple[tuple[str, int], str, Array, onnx.TensorProto | None]]:
    """((first output of the operator, operand), name, values, tensor) of every static weight.

    ``tensor`` is the initializer; None where the values come out of a DequantizeLinear of initializers.
    """
    known: dict[str, onnx.TensorProto] = {}
    made: dict[str, onnx.NodeProto] = {}
    for graph in graphs(proto.graph):
        known |= {t.name: t for t in graph.initializer}
        made |= {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear"}
        for node in graph.node:
            for operand in OPERANDS.get(node.op_type, ()):
                name = node.input[operand] if operand < len(node.input) else ""
                where = next(o for o in node.output if o), operand
                if name in known:
                    yield where, name, numpy_helper.to_array(known[name]), known[name]
                elif name in made and all(i in known for i in made[name].input):
                    yield where, name, dequantised(made[name], known), None


def dequantised(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> Array:
    """``(q - zero_point) * scale`` in float32."""
    codes, scale, *zero = (numpy_helper.to_array(known[i]) for i in node.input)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    along = (
        [-1 if i == axis % codes.ndim else 1 for i in range(codes.ndim)]
        if scale.size > 1
        else [1] * codes.ndim
    )
    offset = zero[0].reshape(along).astype(np.int32) if zero else 0
    return np.asarray((codes.astype(np.int32) - offset).astype(np.float32) * scale.reshape(along))


def quantise(proto: onnx.ModelProto, top: int) -> None:
    """Rounds every float weight in place."""
    done: set[str] = set()
    for _, name, values, tensor in weights(proto):
        if tensor is not None and values.dtype == np.float32 and name not in done:
            done.add(name)
            scale = np.float32(np.abs(values).max() / np.float32(top)) or np.float32(1)
            rounded = np.rint(values / scale).astype(np.float32) * scale
            tensor.CopyFrom(numpy_helper.from_array(rounded, name))


def run(proto: onnx.ModelProto, folder: Path, feeds: dict[str, Array]) -> list[Array]:
    """Outputs of onnxruntime by the letter; uses ``proto`` up (its tensors go to a file: no limit of 2 GiB)."""
    path = folder / "run.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="run.bin")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs = [np.asarray(output) for output in session.run(None, feeds)]
    for file in folder.glob("run.*"):
        file.unlink()
    return outputs


def random_inputs(proto: onnx.ModelProto, free: int = 1) -> dict[str, Array]:
    """Normal random inputs (integers 0..99); free dims become ``free``."""
    draw = np.random.default_rng(0)
    constants = {t.name for t in proto.graph.initializer}
    inputs = {}
    for value in proto.graph.input:
        if value.name in constants:
            continue
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [d.dim_value or free for d in value.type.tensor_type.shape.dim]
        made = draw.standard_normal(shape) if dtype.kind == "f" else draw.integers(0, 100, shape)
        inputs[value.name] = np.asarray(made).astype(dtype)
    return inputs


def first_sample(file: Path, model: Path) -> dict[str, Array]:
    """What one run of the model takes: arrays with one more axis than the input count samples there."""
    stored = np.load(file)
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in onnx.load(model, load_external_data=False).graph.input
    }
    return {
        name: np.asarray(stored[name][0] if stored[name].ndim > ranks[name] else stored[name])
        for name in stored.files
    }


def compare(model: Path, program: Path, inputs: dict[str, Array] | None) -> dict[str, Any]:
    """The facts, see the top of this file."""
    opened = Program.open(program)
    replayed = compiled_model(
        onnx.load_from_string(opened.host_bytes()), opened.layers, effective_codes(opened)
    )
    bits = 8 if opened.target.encoding in ("driver", "split", "differential", "unipolar") else 7
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = onnx.load(model)
        own_codes = any(n.op_type in QUANTISERS for g in graphs(plain.graph) for n in g.node)
        feeds = random_inputs(plain) if inputs is None else inputs
        del plain
        before = run(folded(model, folder), folder, feeds)
        oracle = folded(model, folder)
        if not own_codes:
            quantise(oracle, 2**bits - 1)
        wanted = {where: values for where, _, values, _ in weights(oracle)}
        differ = compared = 0
        tensors = {layer.tensor for layer in opened.layers}
        for where, name, values, _ in weights(replayed):
            if name in tensors and where in wanted:
                compared += values.size
                differ += int((values != wanted[where]).sum())
        del wanted
        expected, actual = run(oracle, folder, feeds), run(replayed, folder, feeds)
    return {
        "model": model.name,
        "target": opened.target.name,
        "own_codes": own_codes,
        "weights": sum(math.prod(layer.layout.shape) for layer in opened.layers),
        "weights_compared": compared,
        "weights_differ": differ,
        "outputs": sum(e.size for e in expected),
        "outputs_identical": all(np.array_equal(a, b) for a, b in zip(expected, actual, strict=True)),
        "max_abs_error": _largest(expected, actual),
        "max_abs_output": max(float(np.abs(e.astype(np.float64)).max(initial=0)) for e in expected),
        "moved": _largest(before, expected),
    }


def _largest(first: list[Array], second: list[Array]) -> float:
    pairs = zip(first, second, strict=True)
    return max(float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0)) for a, b in pairs)


def main() -> None:
    """Command line; exit code 1 when the program is not lossless."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", default=HERE.parent / "models" / "digits_vit.onnx")
    parser.add_argument("program", type=Path, nargs="?")
    parser.add_argument("--inputs", type=Path, help="samples as xbc simulate takes them")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    inputs = None if options.inputs is None else first_sample(options.inputs, options.model)
    with tempfile.TemporaryDirectory() as folder:
        program = options.program or compile_model(options.model, Path(folder) / "program").directory
        facts = compare(options.model, program, inputs)
    if options.json:
        print(json.dumps(facts))
    else:
        print("\n".join(f"{name:20s} {value}" for name, value in facts.items()))
    same = facts["weights_differ"] == 0 and facts["max_abs_error"] <= 1e-5 * (facts["max_abs_output"] or 1)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
