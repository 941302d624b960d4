"""ONNX models that somebody has damaged, through ``xbc compile``.

    python attack/onnx_models.py [--cases 2000] [--seed 0] [--first 0]

A case takes one of twenty small models and changes it, at random, one to four times: bytes of the file (flipped, cut,
doubled, inserted), or its structure (a number of any field made hostile, a name swapped for another, a repeated
field emptied, doubled or turned round, a message copied to a place of its type, a tensor's type, dims or data, an
attribute of any type). The changed file is compiled at -O0. Right: exit 0 and a program, or exit 2 and one sentence;
never another code, a dead process, more than a minute, or more memory than docs/onnx.md states.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from harness import Tally, campaign, exit_code, xbc
from onnx import TensorProto, helper, numpy_helper

MEMORY_MB = 3584
F = np.float32
node = helper.make_node
NUMBERS: list[int] = [
    -1, 0, 1, 2, 3, 7, 8, 16, 64, 255, 256, 65536, 10**6, 10**9, 2**31 - 1, 2**31, -(2**31), 2**62, 2**63 - 1, -(2**63),
]  # fmt: skip
NAMES = [
    "",
    "x",
    "y",
    "w",
    "no such name",
    "[/red]",
    ":cat:",
    "n" * 5000,
    "\n",
    "../../x",
    "\u202e",
    "x" * 70,
    "%s{}",
]
DOMAINS = ["", "ai.onnx", "com.microsoft", "ai.onnx.ml", "nowhere"]


def base(
    nodes: list[onnx.NodeProto], shape: list[Any], constants: dict[str, Any], *, opset: int = 17,
    functions: list[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:  # fmt: skip
    """A sound model with input ``x`` and output ``y``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opsets = [
        helper.make_opsetid("", opset),
        helper.make_opsetid("com.microsoft", 1),
        helper.make_opsetid("f", 1),
    ]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions or [])


def bases() -> list[onnx.ModelProto]:
    """One of each kind of weights that the front end reads."""
    draw = np.random.default_rng(1)

    def w(*shape: int) -> Any:
        return draw.normal(size=shape).astype(F)

    def q(*shape: int) -> Any:
        return draw.integers(-127, 128, shape).astype(np.int8)

    one, zero = np.float32(0.1), np.int8(0)
    byte, image = np.uint8(3), ["n", 4, 6, 6]
    quantise = node("QuantizeLinear", ["x", "s", "z"], ["c"])
    x8 = {"s": one, "z": byte}
    call = helper.make_function(
        "f", "block", ["a", "b"], ["c"], [node("MatMul", ["a", "b"], ["t"]), node("Relu", ["t"], ["c"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    branch = [
        helper.make_graph([node("MatMul", ["x", m], [f"r{m}"])], m, [], [onnx.ValueInfoProto(name=f"r{m}")])
        for m in ("w", "v")
    ]
    return [
        base([node("MatMul", ["x", "w"], ["t"]), node("Add", ["t", "b"], ["y"])], ["n", 8], {"w": w(8, 4), "b": w(4)}),
        base([node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5)], ["n", 8], {"w": w(4, 8), "b": w(4)}),
        base([node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], strides=[2, 1])], image, {"w": w(6, 4, 3, 3)}),
        base([node("Conv", ["x", "w", "b"], ["y"], group=2, dilations=[2, 1])], image, {"w": w(6, 2, 3, 3), "b": w(6)}),
        base([node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], output_padding=[1, 1])], image,
             {"w": w(4, 3, 2, 2)}),
        base(
            [
                node("Conv", ["x", "w"], ["t"]),
                node("BatchNormalization", ["t", "g", "b", "m", "v"], ["y"], epsilon=1e-3),
            ],
            image, {"w": w(6, 4, 3, 3), "g": w(6), "b": w(6), "m": w(6), "v": abs(w(6))},
        ),
        base([node("LSTM", ["x", "w", "r"], ["y"], hidden_size=3)], [5, 2, 8], {"w": w(1, 12, 8), "r": w(1, 12, 3)}),
        base(
            [node("GRU", ["x", "w", "r", "b"], ["y"], hidden_size=3, direction="bidirectional")], [5, 2, 8],
            {"w": w(2, 9, 8), "r": w(2, 9, 3), "b": w(2, 18)},
        ),
        base(
            [node("RNN", ["x", "w", "r"], ["y"], hidden_size=3, layout=1)], [2, 5, 8],
            {"w": w(1, 3, 8), "r": w(1, 3, 3)},
        ),
        base(
            [node("DequantizeLinear", ["q", "k"], ["w"], axis=0), node("Gemm", ["x", "w"], ["y"], transB=1)], ["n", 8],
            {"q": q(4, 8), "k": abs(w(4))},
        ),
        base(
            [node("DequantizeLinear", ["q", "k"], ["w"], axis=0, block_size=4), node("MatMul", ["x", "w"], ["y"])],
            ["n", 8], {"q": q(8, 4), "k": abs(w(2, 4))}, opset=21,
        ),
        base(
            [quantise, node("QLinearConv", ["c", "s", "z", "w", "ws", "wz", "s", "z"], ["d"]),
             node("DequantizeLinear", ["d", "s", "z"], ["y"])],
            image, {**x8, "w": q(6, 4, 3, 3), "ws": abs(w(6)), "wz": np.zeros(6, np.int8)},
        ),
        base(
            [quantise, node("QLinearMatMul", ["c", "s", "z", "w", "ws", "wz", "s", "z"], ["d"]),
             node("DequantizeLinear", ["d", "s", "z"], ["y"])],
            ["n", 8], {**x8, "w": q(8, 4), "ws": one, "wz": zero},
        ),
        base(
            [node("DynamicQuantizeLinear", ["x"], ["c", "s", "z"]), node("MatMulInteger", ["c", "w", "z"], ["i"]),
             node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)],
            ["n", 8], {"w": q(8, 4)},
        ),
        base(
            [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("Reshape", ["t", "n"], ["u"]),
             node("Unsqueeze", ["u", "a"], ["v"]), node("Squeeze", ["v", "a"], ["o"]),
             node("MatMul", ["x", "o"], ["y"])],
            ["n", 8], {"w": w(4, 8), "n": np.array([8, -1]), "a": np.array([0])},
        ),
        base(
            [node("Expand", ["w", "n"], ["e"]), node("Mul", ["e", "k"], ["t"]),
             node("Concat", ["t", "t"], ["o"], axis=1),
             node("MatMul", ["x", "o"], ["y"])],
            ["n", 8], {"w": w(8, 1), "n": np.array([8, 3]), "k": w(8, 3)},
        ),
        base([node("block", ["x", "w"], ["t"], domain="f"), node("block", ["t", "v"], ["y"], domain="f")],
             ["n", 8], {"w": w(8, 4), "v": w(4, 3)}, functions=[call]),
        base([node("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1])],
             ["n", 8], {"c": np.array(True), "w": w(8, 4), "v": w(8, 4)}),
        base(
            [node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", transB=1, alpha=2.0)], ["n", 8],
            {"w": w(4, 8)},
        ),
        base([node("MatMul", ["w", "x"], ["t"]), node("Gather", ["t", "i"], ["y"], axis=1)],
             [2, 8, 3], {"w": w(2, 1, 5, 8), "i": np.array([0, 1])}),
    ]  # fmt: skip


def messages(message: Any) -> Iterator[Any]:
    """The message and all inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                yield from messages(inner)


def _pick(draw: np.random.Generator, items: list[Any]) -> Any:
    return items[int(draw.integers(len(items)))]


def _value(draw: np.random.Generator, field: Any, model: onnx.ModelProto) -> Any:
    """A hostile value of a plain field."""
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return _pick(draw, [0.0, -1.0, 1e30, float("inf"), float("nan"), 1e-40])
    if field.type == field.TYPE_BYTES:
        return draw.bytes(int(draw.integers(0, 40)))
    if field.type == field.TYPE_STRING:
        if field.name == "domain":
            return _pick(draw, DOMAINS)
        if field.name == "op_type" and draw.random() < 0.8:
            return _pick(draw, sorted({schema.name for schema in onnx.defs.get_all_schemas()}))
        return _pick(
            draw,
            NAMES
            + [t.name for t in model.graph.initializer]
            + [o for n in model.graph.node for o in n.output],
        )
    if field.type == field.TYPE_ENUM:
        return int(draw.integers(0, 30))
    number = _pick(draw, NUMBERS)
    if field.cpp_type in (field.CPPTYPE_INT32,):
        return max(-(2**31), min(number, 2**31 - 1))
    return abs(number) if field.cpp_type == field.CPPTYPE_UINT64 else number


def change_field(draw: np.random.Generator, model: onnx.ModelProto) -> str:
    """One field of any message."""
    message = _pick(draw, list(messages(model)))
    fields = list(message.DESCRIPTOR.fields) if draw.random() < 0.2 else [f for f, _ in message.ListFields()]
    if not fields:
        return "nothing"
    field = _pick(draw, fields)
    name = f"{message.DESCRIPTOR.name}.{field.name}"
    if field.is_repeated:
        values = list(getattr(message, field.name))
        how = str(draw.choice(["drop", "twice", "turn", "empty", "value"]))
        if how == "value" and field.type != field.TYPE_MESSAGE:
            at = int(draw.integers(len(values) + 1))
            values[at : at + 1] = [_value(draw, field, model)]
        elif values and how == "drop":
            del values[int(draw.integers(len(values)))]
        elif values and how == "twice":
            values.insert(0, _pick(draw, values))
        elif how == "turn":
            values.reverse()
        elif how == "empty":
            values = []
        kept = (
            [type(v).FromString(v.SerializeToString()) for v in values]
            if field.type == field.TYPE_MESSAGE
            else values
        )
        message.ClearField(field.name)
        getattr(message, field.name).extend(kept)
        return f"{name} {how}"
    if field.type == field.TYPE_MESSAGE:
        others = [m for m in messages(model) if m.DESCRIPTOR is field.message_type]
        if others and draw.random() < 0.6:
            twin = type(others[0]).FromString(_pick(draw, others).SerializeToString())
            getattr(message, field.name).CopyFrom(twin)
            return f"{name} copied"
        message.ClearField(field.name)
        return f"{name} gone"
    setattr(message, field.name, _value(draw, field, model))
    return f"{name} set"


def change_bytes(draw: np.random.Generator, data: bytes) -> tuple[str, bytes]:
    """One place of the file."""
    at, length = int(draw.integers(len(data))), int(draw.integers(1, 16))
    how = str(draw.choice(["flip", "set", "cut", "end", "twice", "insert"]))
    if how == "flip":
        return how, data[:at] + bytes([data[at] ^ (1 << int(draw.integers(8)))]) + data[at + 1 :]
    if how == "set":
        return how, data[:at] + draw.bytes(length) + data[at + length :]
    if how == "cut":
        return how, data[:at] + data[at + length :]
    if how == "end":
        return how, data[:at]
    if how == "twice":
        return how, data[: at + length] + data[at:]
    return how, data[:at] + draw.bytes(length) + data[at:]


def changed(draw: np.random.Generator, models: list[onnx.ModelProto]) -> tuple[str, bytes]:
    """(what was done, the file) of one case."""
    model = onnx.ModelProto()
    model.CopyFrom(_pick(draw, models))
    words = []
    in_bytes = draw.random() < 0.35
    if not in_bytes:
        for _ in range(int(draw.integers(1, 5)) if draw.random() < 0.5 else 1):
            try:
                words.append(change_field(draw, model))
            except (ValueError, TypeError, EncodeError, DecodeError) as error:
                words.append(f"not possible: {type(error).__name__}")
    try:
        data = model.SerializeToString()
    except EncodeError:
        return "no file", b""
    if in_bytes:
        for _ in range(int(draw.integers(1, 5))):
            if data:
                how, data = change_bytes(draw, data)
                words.append(how)
    return ", ".join(words), data


def case_of(models: list[onnx.ModelProto]) -> Callable[[np.random.Generator, Path, Tally], None]:
    """The case: change, compile."""

    def case(draw: np.random.Generator, folder: Path, tally: Tally) -> None:
        words, data = changed(draw, models)
        path, out = folder / "m.onnx", folder / "m.xbc"
        path.write_bytes(data)
        said = xbc("compile", path, "-O0", "-q", "-o", out)
        tally.counts[f"exit {said.code}"] += 1
        if fault := said.fault():
            tally.findings.append(f"[{words}] {fault}")
        elif (said.code == 0) != out.is_dir():
            tally.findings.append(
                f"[{words}] exit {said.code}, and a program is {'' if out.is_dir() else 'not '}there"
            )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        if peak > MEMORY_MB:
            tally.findings.append(f"[{words}] {peak} MB")

    return case


def main() -> int:
    parser = argparse.ArgumentParser(description="Damaged ONNX models through xbc compile.")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        case = case_of(bases())
        # once here: the workers, which are forked, find the kernels loaded
        case(np.random.default_rng(0), Path(folder), Tally())
        return exit_code(campaign("onnx models", case, given.cases, given.seed, Path(folder), given.first))


if __name__ == "__main__":
    sys.exit(main())
