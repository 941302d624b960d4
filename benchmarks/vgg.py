"""VGG-16 or VGG-19 on a chip of a few arrays: compiled, verified by replay, read by the C reader, simulated.

    python benchmarks/vgg.py [--depth 16] [--targets gather-128,isaac-128] [--crossbars 8] [--level 2] [--images 4]

The model is made here: the published shapes (138 M and 144 M weights), weights drawn from Student's t distribution with
4 degrees of freedom (heavy tails, as trained layers have) at He's scale, zero biases. ``--width 0.125`` makes a narrow
one for a quick look. Every step is a process of its own; its processor seconds and peak memory are printed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BLOCKS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)
DEGREES = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, choices=sorted(BLOCKS), default=16)
    parser.add_argument("--width", type=float, default=1.0, help="share of the published channels")
    parser.add_argument("--targets", default="gather-128,isaac-128")
    parser.add_argument("--crossbars", type=int, default=8)
    parser.add_argument("--level", type=int, default=2)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave everything there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.keep or Path(temporary)
        work.mkdir(exist_ok=True)
        model = work / f"vgg{arguments.depth}.onnx"
        weights = make(model, arguments.depth, arguments.width)
        print(f"{model.stem}: {weights / 1e6:.1f} M weights", flush=True)
        images = np.random.default_rng(1).standard_normal((arguments.images, 3, 224, 224), np.float32)
        np.savez(work / "images.npz", image=images)
        for target in arguments.targets.split(","):
            run(model, target, arguments.crossbars, arguments.level, work)


def make(path: Path, depth: int, width: float) -> int:
    """Writes the model; returns its weights."""
    draw = np.random.default_rng(depth)
    nodes, tensors = [], []
    at, channels, name = "image", 3, 0

    def layer(op: str, shape: tuple[int, ...], **attributes: object) -> None:
        nonlocal at, name
        name += 1
        fan_in = int(np.prod(shape[1:]))
        scale = np.sqrt(2 / fan_in / (DEGREES / (DEGREES - 2)))
        values = draw.standard_t(DEGREES, shape).astype(np.float32)
        values *= np.float32(scale)
        tensors.append(numpy_helper.from_array(values, f"w{name}"))
        tensors.append(numpy_helper.from_array(np.zeros(shape[0], np.float32), f"b{name}"))
        nodes.append(
            helper.make_node(
                op, [at, f"w{name}", f"b{name}"], [f"y{name}"], f"{op.lower()}{name}", **attributes
            )
        )
        at = f"y{name}"

    def plain(op: str, **attributes: object) -> None:
        nonlocal at
        nodes.append(helper.make_node(op, [at], [f"{at}_{op}"], f"{op.lower()}_{at}", **attributes))
        at = f"{at}_{op}"

    for block, count in enumerate(BLOCKS[depth]):
        for _ in range(count):
            out = max(1, round(CHANNELS[block] * width))
            layer("Conv", (out, channels, 3, 3), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            plain("Relu")
            channels = out
        plain("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    plain("Flatten")
    hidden = max(1, round(4096 * width))
    for outputs, inputs in ((hidden, channels * 49), (hidden, hidden), (1000, hidden)):
        layer("Gemm", (outputs, inputs), transB=1)
        if outputs != 1000:
            plain("Relu")
    ends = [
        helper.make_tensor_value_info(name_, TensorProto.FLOAT, shape)
        for name_, shape in (("image", ["batch", 3, 224, 224]), (at, ["batch", 1000]))
    ]
    graph = helper.make_graph(nodes, f"vgg{depth}", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return sum(int(np.prod(t.dims)) for t in tensors if t.name.startswith("w"))


def run(model: Path, target: str, crossbars: int, level: int, work: Path) -> None:
    program = work / f"{model.stem}-{target}.xbc"
    print(f"{target}, {crossbars} crossbars, -O{level}", flush=True)
    xbc = [sys.executable, "-m", "xbc"]
    chip = ["-t", target, "--set", f"crossbars={crossbars}", f"-O{level}"]
    data = work / "images.npz"
    step("compile", [*xbc, "compile", model, *chip, "-o", program, "--threads", "1", "-q"], 30)
    step("verify", [*xbc, "verify", program, "-q"], 3)
    step("emit binary", [*xbc, "emit", program, "-f", "binary", "-o", work / "stream"], 2)
    if compiler := shutil.which("cc"):
        subprocess.run([compiler, "-O2", "-o", work / "replay", work / "stream" / "xbc_replay.c"], check=True)
        step("C reader", [work / "replay", work / "stream" / "program.xbcs"], 3)
    step(
        "ideal",
        [*xbc, "evaluate", program, "--data", data, "--model", model, "--threads", "1", "--batch", "1", "-q"],
        6,
    )
    chip_ = ["--fidelity", "converters", "--limit", "1", "--threads", "1", "-q"]
    step("converters", [*xbc, "evaluate", program, "--data", data, "--model", model, *chip_], 7)


def step(name: str, command: list[object], lines: int) -> None:
    """Runs a command and prints the end of what it says, its processor seconds and its peak memory."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([str(word) for word in command], stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().strip().splitlines()
    seconds, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20
    print(f"  {name}: {seconds:.0f} CPU s, {peak:.2f} GB, exit code {process.returncode}")
    print("\n".join(f"    {line}" for line in text[-lines:]), flush=True)
    if process.returncode:
        raise SystemExit(process.returncode)


if __name__ == "__main__":
    main()
