"""Models of a few bytes that ask for much: what reading each takes, against what docs/onnx.md promises.

python attack/bombs.py            every bomb in a process of its own: outcome, seconds, peak memory
python attack/bombs.py NAME ...   some of them
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE: Final = Path(__file__).resolve().parent
SECONDS: Final = 60.0
"""Processor time that reading any of these may take, Python and onnxruntime loaded: docs/onnx.md states it."""
MEMORY_MB: Final = 3584
node = helper.make_node
Bomb = Callable[[], onnx.ModelProto]
_HUGE: Final = 2**62


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, Any] | None = None, *, shape: list[Any] | None = None,
    functions: list[onnx.FunctionProto] | None = None, domains: tuple[str, ...] = (), opset: int = 21,
) -> onnx.ModelProto:  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape or [1, 8])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions or [])


def _weight(*before: onnx.NodeProto, shape: list[Any] | None = None, **constants: Any) -> onnx.ModelProto:
    """A product whose weight ``w`` is what ``before`` makes."""
    return _model([*before, node("MatMul", ["x", "w"], ["y"])], constants, shape=shape)


def _dims(*dims: int) -> Any:
    return np.array(dims, np.int64)


def blocks(size: int) -> onnx.ModelProto:
    """Weights behind a DequantizeLinear with blocks of that size."""
    dequantise = node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=size)
    return _weight(dequantise, q=np.ones((8, 4), np.int8), s=np.ones((1, 4), np.float32))


def convolution(**attrs: Any) -> onnx.ModelProto:
    """One convolution with odd attributes."""
    weights = np.ones((2, 1, 3, 3), np.float32)
    return _model([node("Conv", ["x", "w"], ["y"], **attrs)], {"w": weights}, shape=[1, 1, 8, 8])


def many_constants() -> onnx.ModelProto:
    """Six constants of 1 GB, each far below half of a machine."""
    nodes = [node("ConstantOfShape", ["n"], [f"c{i}"]) for i in range(6)]
    return _weight(*nodes, node("Concat", [f"c{i}" for i in range(6)], ["w"], axis=0), n=_dims(8, 2**25))


def doubled(op: str, times: int) -> onnx.ModelProto:
    """A constant joined to itself again and again."""
    nodes, name = [], "c"
    for i in range(times):
        attrs = {"axis": 1} if op == "Concat" else {}
        nodes.append(node(op, [name, name], [to := "w" if i == times - 1 else f"d{i}"], **attrs))
        name = to
    return _weight(*nodes, c=np.ones((8, 4), np.float32))


def declared_small() -> onnx.ModelProto:
    """A constant of 3.2 GB that is also an output, with a shape of one number declared."""
    bomb = _weight(node("ConstantOfShape", ["n"], ["w"]), n=_dims(8, 10**8))
    bomb.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]))
    return bomb


def behind_a_search() -> onnx.ModelProto:
    """A shape that inference cannot see, because a search made it."""
    nodes = [
        node("NonZero", ["mask"], ["found"]),
        node("ReduceSum", ["found"], ["total"], keepdims=0),
        node("Mul", ["total", "big"], ["length"]),
        node("Unsqueeze", ["length", "zero"], ["n1"]),
        node("Concat", ["eight", "n1"], ["n"], axis=0),
        node("ConstantOfShape", ["n"], ["w"]),
    ]
    return _weight(
        *nodes,
        mask=np.ones(3, np.int64),
        big=np.array(10**9, np.int64),
        zero=_dims(0),
        eight=_dims(8),
    )


def functions(levels: int, *, circle: bool = False) -> onnx.ModelProto:
    """Functions that call the next one twice."""
    made = []
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    for i in range(levels):
        last = i == levels - 1 and not circle
        name = f"f{(i + 1) % levels}"
        calls = [
            node("Identity" if last else name, ["a"], ["b"], domain="" if last else "f"),
            node("Identity" if last else name, ["b"], ["c"], domain="" if last else "f"),
        ]
        made.append(helper.make_function("f", f"f{i}", ["a"], ["c"], calls, opsets))
    nodes = [node("f0", ["x"], ["t"], domain="f"), node("MatMul", ["t", "w"], ["y"])]
    return _model(nodes, {"w": np.ones((8, 4), np.float32)}, functions=made, domains=("f",))


def arity() -> onnx.ModelProto:
    """A call with more operands than its function has."""
    bomb = functions(1)
    bomb.graph.node[0].input.append("x")
    return bomb


def chain(length: int, *, name: str = "") -> onnx.ModelProto:
    """Nodes one behind the other, perhaps all of one name."""
    names = ["x", *(f"t{i}" for i in range(length))]
    nodes = [node("Relu", [a], [b], name=name) for a, b in pairwise(names)]
    return _model([*nodes, node("MatMul", [names[-1], "w"], ["y"])], {"w": np.ones((8, 4), np.float32)})


def crowd(layers: int) -> onnx.ModelProto:
    """Layers that all feed as many others."""
    nodes = [node("MatMul", ["x", f"v{i}"], [f"a{i}"]) for i in range(layers)]
    nodes.append(node("Sum", [f"a{i}" for i in range(layers)], ["t"]))
    nodes += [node("MatMul", ["t", f"w{i}"], [f"b{i}"]) for i in range(layers)]
    nodes.append(node("Sum", [f"b{i}" for i in range(layers)], ["y"]))
    # weights of their own: onnxruntime would compute equal products once
    weights = {f"{c}{i}": np.full((8, 8), i, np.float32) for c in "vw" for i in range(layers)}
    return _model(nodes, weights)


def heavy_product() -> onnx.ModelProto:
    """Constants of 400 MB in all whose product takes 10**12 multiplications."""
    nodes = [node("ConstantOfShape", ["n"], ["c"]), node("MatMul", ["c", "c"], ["d"])]
    return _weight(
        *nodes,
        node("Slice", ["d", "zero", "eight"], ["w"]),
        n=_dims(10**4, 10**4),
        zero=_dims(0),
        eight=_dims(8),
    )


def odd_type(kind: int) -> onnx.ModelProto:
    """An input of an element type that is none."""
    bomb = chain(1)
    bomb.graph.input[0].type.tensor_type.elem_type = kind
    return bomb


def sparse(size: int) -> onnx.ModelProto:
    """A sparse weight of claimed dims."""
    bomb = _weight()
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    bomb.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [8, size]))
    return bomb


def nested(depth: int) -> onnx.ModelProto:
    """Branches within branches."""
    inner: list[onnx.NodeProto] = [node("MatMul", ["x", "w"], ["r0"])]
    for i in range(depth):
        out = [onnx.ValueInfoProto(name=f"r{i}")]
        body = helper.make_graph(inner, f"b{i}", [], out)
        other = helper.make_graph(
            [node("Identity", ["x"], [f"e{i}"])], f"o{i}", [], [onnx.ValueInfoProto(name=f"e{i}")]
        )
        inner = [node("If", ["c"], [f"r{i + 1}"], then_branch=body, else_branch=other)]
    inner.append(node("Identity", [f"r{depth}"], ["y"]))
    return _model(inner, {"w": np.ones((8, 4), np.float32), "c": np.array(True)})


BOMBS: Final[dict[str, Bomb]] = {
    "block_minus_1": lambda: blocks(-1),
    "block_1e9": lambda: blocks(10**9),
    "block_2e62": lambda: blocks(_HUGE),
    "conv_dilations_2e62": lambda: convolution(dilations=[_HUGE, 1]),
    "conv_pads_2e62": lambda: convolution(pads=[_HUGE, 0, 0, 0]),
    "conv_strides_0": lambda: convolution(strides=[0, 1]),
    "input_dim_2e62": lambda: _model(
        [node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((8, 4), np.float32)}, shape=[_HUGE, 8]
    ),
    "constants_6_of_1GB": many_constants,
    "constant_1GB": lambda: _weight(node("ConstantOfShape", ["n"], ["w"]), n=_dims(8, 2**25)),  # just allowed
    "constant_3.2GB": lambda: _weight(node("ConstantOfShape", ["n"], ["w"]), n=_dims(8, 10**8)),
    "constant_declared_small": declared_small,
    "constant_behind_a_search": behind_a_search,
    "constant_negative": lambda: _weight(node("ConstantOfShape", ["n"], ["w"]), n=_dims(8, -4)),
    "expand_3GB": lambda: _weight(node("Expand", ["c", "n"], ["w"]), c=np.ones((1, 1), np.float32), n=_dims(8, 10**8)),
    "tile_3GB": lambda: _weight(node("Tile", ["c", "n"], ["w"]), c=np.ones((1, 1), np.float32), n=_dims(8, 10**8)),
    "pad_3GB": lambda: _weight(node("Pad", ["c", "n"], ["w"]), c=np.ones((8, 1), np.float32), n=_dims(0, 0, 0, 10**8)),
    "range_8GB": lambda: _weight(
        node("Range", ["a", "b", "d"], ["r"]), node("Reshape", ["r", "n"], ["w"]),
        a=np.float32(0), b=np.float32(2e9), d=np.float32(1), n=_dims(8, -1),
    ),
    "concat_25_times": lambda: doubled("Concat", 25),
    "concat_60_times": lambda: doubled("Concat", 60),
    "add_150_times": lambda: doubled("Add", 150),
    "product_1e12": heavy_product,
    "outer_product": lambda: _weight(
        node("Einsum", ["c", "c"], ["w"], equation="i,j->ij"), c=np.ones(10**5, np.float32)
    ),
    "sparse_3GB": lambda: sparse(10**8),
    "functions_30_levels": lambda: functions(30),
    "functions_1000_levels": lambda: functions(1000),
    "functions_in_a_circle": lambda: functions(3, circle=True),
    "function_arity": arity,
    "nodes_100000": lambda: chain(100_000),
    "nodes_100000_of_one_name": lambda: chain(100_000, name="same"),
    "nodes_300000": lambda: chain(300_000),
    "edges_2250000": lambda: crowd(1500),
    "nested_20": lambda: nested(20),
    "elem_type_64": lambda: odd_type(64),
    "elem_type_65536": lambda: odd_type(65536),
    "name_of_100000": lambda: chain(1, name="n" * 100_000),
    "markup_name": lambda: _model(
        [node("Einsum", ["x", "w"], ["y"], name="[/nope] :cat:", equation="bi,io->bo")],
        {"w": np.ones((8, 4), np.float32)},
    ),
}  # fmt: skip
"""Name -> model."""


def read(path: Path) -> str:
    """``compiled``, or the sentence."""
    from ir.errors import XbcError
    from xbc.frontend import import_model
    from xbc.targets import load_target

    try:
        module = import_model(path, load_target("gather-128")).module
    except XbcError as error:
        return str(error).replace(str(path), "MODEL")
    return f"read: {len(module.layers)} layers"


def measure(path: Path) -> tuple[str, float, float]:
    """(outcome, processor seconds, peak MB) of reading one file in a process of its own."""
    code = f"import bombs; from pathlib import Path; print(bombs.read(Path({str(path)!r})))"
    environment = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdout=out, stderr=subprocess.STDOUT, env=environment
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        lines = out.read().strip().splitlines()
    text = (
        lines[-1] if child.returncode == 0 and len(lines) == 1 else f"CRASH {child.returncode}: {lines[-1:]}"
    )
    return text, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> int:
    """Print the table; 1 when a bomb crashes or takes more than is promised."""
    wanted = sys.argv[1:] or list(BOMBS)
    faults = 0
    print(f"{'bomb':<26} {'bytes':>9} {'CPU s':>6} {'MB':>6}  outcome")
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(BOMBS[name]().SerializeToString())
            text, seconds, megabytes = measure(path)
            size = path.stat().st_size
        bad = text.startswith("CRASH") or seconds > SECONDS or megabytes > MEMORY_MB or len(text) > 300
        faults += bad
        mark = " **" if bad else ""
        print(f"{name:<26} {size:>9,} {seconds:>6.1f} {megabytes:>6.0f}  {text}{mark}", flush=True)
    print(f"{len(wanted)} bombs, {faults} beyond {SECONDS:.0f} CPU s or {MEMORY_MB} MB, or crashed")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
