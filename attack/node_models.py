"""Every node test of the onnx package whose operator can carry weights, with its weights frozen.

    python attack/node_models.py [--only NAME] [--first 0] [--cases 0]

Each test of ``onnx.backend.test`` with such an operator is compiled once for every choice of frozen operands, at 8 and
16 bits, and simulated at ideal fidelity and with converters (no ADC) on the test's own inputs. Right: the expected
outputs within what the bits explain, or one sentence that says why not. The table counts mapped, refused and wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from harness import Said, Tally, campaign, exit_code, xbc
from onnx import numpy_helper

CARRIERS = {
    "Conv", "ConvTranspose", "ConvInteger", "DeformConv", "Gemm", "MatMul", "MatMulInteger", "QLinearConv",
    "QLinearMatMul", "LSTM", "GRU", "RNN", "Einsum", "CausalConvWithState", "LinearAttention",
}  # fmt: skip
PASSES = "quantize{{bits={bits}}},encode-signs,slice-bits,form-sections"
TOLERANCE = {("ideal", 8): 0.03, ("ideal", 16): 1e-3, ("converters", 8): 0.06, ("converters", 16): 0.06}
"""Root-mean-square error over that of the expected output; the inputs of the converters have 8 bits."""


@dataclass(frozen=True)
class Frozen:
    """A test with some of its inputs made constant."""

    name: str
    op: str
    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    coarse: bool


@cache
def tests() -> list[Any]:
    """The node tests at stake."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        found = load_model_tests(kind="node")
    return [
        t for t in found if t.model is not None and any(n.op_type in CARRIERS for n in t.model.graph.node)
    ]


def frozen(test: Any) -> Iterator[Frozen]:
    """All choices: every operand but one, and for each of the first three operands that one alone."""
    graph = test.model.graph
    node = next(n for n in graph.node if n.op_type in CARRIERS)
    names = [i.name for i in graph.input]
    given, wanted = test.data_sets[0]
    values = {n: np.asarray(v) for n, v in zip(names, given, strict=False)}
    expected = {o.name: np.asarray(v) for o, v in zip(graph.output, wanted, strict=False)}
    choices = {tuple(n for n in names if n != free) for free in names[:2]}
    choices |= {(name,) for name in names[:3]}
    for choice in sorted(choices):
        if not choice or len(choice) == len(names):
            continue
        model = onnx.ModelProto()
        model.CopyFrom(test.model)
        del model.graph.input[:]
        model.graph.input.extend(i for i in graph.input if i.name not in choice)
        model.graph.initializer.extend(numpy_helper.from_array(values[n], n) for n in choice)
        inputs = {n: v for n, v in values.items() if n not in choice}
        coarse = node.op_type.startswith("QLinear")
        yield Frozen(f"{test.name} [{', '.join(choice)}]", node.op_type, model, inputs, expected, coarse)


def differs(item: Frozen, got: dict[str, np.ndarray], limit: float) -> str:
    """Which output is too far from the expected one, or nothing."""
    for name, wanted in item.expected.items():
        if name not in got:
            return f"no output {name!r}"
        value = got[name][0]
        if value.shape != wanted.shape:
            return f"{name!r} has shape {list(value.shape)}, expected {list(wanted.shape)}"
        a, b = wanted.astype(np.float64), value.astype(np.float64)
        if item.coarse and wanted.dtype.kind in "iu":
            if np.abs(a - b).max(initial=0) > 1:
                return f"{name!r} is off by {np.abs(a - b).max():g} codes"
            continue
        if wanted.dtype.kind in "iu" and not np.array_equal(a, b):
            return f"integers of {name!r} differ by up to {np.abs(a - b).max():g}"
        error = np.sqrt(np.mean((a - b) ** 2)) if a.size else 0.0
        scale = np.sqrt(np.mean(a**2)) if a.size else 0.0
        if not error <= limit * scale + 1e-6:
            return f"{name!r} is off by {error / max(scale, 1e-30):.2g} of its rms"
    return ""


def outcome(item: Frozen, said: Said, tally: Tally, what: str) -> bool:
    """Counts what a command did; True when it did it."""
    if said.code == 0:
        return True
    key = "refused" if said.code == 2 else "error"
    tally.counts[f"{item.op}|{key}"] += 1
    if said.fault():
        tally.findings.append(f"{item.name} {what}: {said.fault()}")
    elif key == "refused":
        tally.counts[f"why|{item.op}: {said.err.strip().partition('xbc: error: ')[2][:150]}"] += 1
    return False


def try_one(item: Frozen, work: Path, tally: Tally) -> None:
    """All bits and fidelities of one choice."""
    path, data = work / "m.onnx", work / "x.npz"
    onnx.save(item.model, path)
    np.savez(data, **{n: v[None] for n, v in item.inputs.items()})
    for bits in (8, 16):
        program = work / f"p{bits}.xbc"
        words = (
            "compile",
            path,
            "-t",
            "isaac-128",
            "--passes",
            PASSES.format(bits=bits),
            "-q",
            "-o",
            program,
        )
        if not outcome(item, xbc(*words), tally, f"compile {bits}"):
            return
        for fidelity in ("ideal", "converters"):
            extra = () if fidelity == "ideal" else ("--fidelity", "converters", "--no-adc")
            out = work / "y.npz"
            said = xbc("simulate", program, "--inputs", data, "-q", "-o", out, "--threads", 1, *extra)
            if not outcome(item, said, tally, f"{fidelity} {bits}"):
                continue
            with np.load(out) as file:
                wrong = differs(item, dict(file), TOLERANCE[fidelity, bits])
            tally.counts[f"{item.op}|{'wrong' if wrong else 'right'}"] += 1
            if wrong:
                tally.findings.append(f"{item.name} {fidelity} {bits} bits: {wrong}")


def main() -> int:
    """The campaign; 1 when something is wrong or crashes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="tests whose name holds this")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, default=0, help="0: all")
    options = parser.parse_args()
    chosen = [t for t in tests() if options.only in t.name]

    def case(draw: np.random.Generator, work: Path, tally: Tally) -> None:
        number = int(work.name.removeprefix("case"))
        for index, item in enumerate(frozen(chosen[number])):
            inner = work / str(index)
            inner.mkdir()
            try_one(item, inner, tally)

    with tempfile.TemporaryDirectory() as name:
        count = min(options.cases or len(chosen), len(chosen) - options.first)
        total = campaign("node models", case, count, 0, Path(name), options.first)
    for key in ("right", "refused", "error", "wrong"):
        print(key, sum(n for k, n in total.counts.items() if k.endswith(f"|{key}")))
    for op in sorted(CARRIERS):
        row = {key: total.counts[f"{op}|{key}"] for key in ("right", "refused", "error", "wrong")}
        if any(row.values()):
            print(f"{op:20s} " + "  ".join(f"{key} {number:4d}" for key, number in row.items()))
    return exit_code(total)


if __name__ == "__main__":
    sys.exit(main())
