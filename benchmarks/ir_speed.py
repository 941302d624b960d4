"""How long a module of ResNet-50's size takes to save, load, print and verify.

The module is synthetic: the 54 matrices of ResNet-50 (25.5 M weights) with random codes, every output's
inputs in random order, cut into about 200,000 sections of 128 rows on 64 crossbars.  Each time is also given
as a ratio to plain ``np.save`` / ``np.load`` of the same arrays in the same run.

    python benchmarks/ir_speed.py [--scale 1.0]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ir import (
    UNUSED,
    Layer,
    Layout,
    Module,
    Origin,
    Placed,
    Programmed,
    Sectioned,
    Sliced,
    Target,
    load_module,
    print_module,
    save_module,
    verify_module,
)
from ir.text import print_with_arrays

ROWS, CROSSBARS = 128, 64


def resnet50_shapes() -> list[tuple[int, int]]:
    """(outputs, inputs) of the convolutions and the classifier."""
    shapes = [(64, 147)]
    incoming = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, incoming), (width, 9 * width), (4 * width, width)]
            if block == 0:
                shapes.append((4 * width, incoming))
            incoming = 4 * width
    return [*shapes, (1000, 2048)]


def programmed(shape: tuple[int, int], first_step: int, bits: int, rng: np.random.Generator) -> Programmed:
    outputs, inputs = shape
    codes = rng.integers(-255, 256, shape, dtype=np.int16)
    cuts = -(-inputs // ROWS)
    order = np.full((outputs, cuts * ROWS), UNUSED, np.int32)
    order[:, :inputs] = rng.permuted(np.broadcast_to(np.arange(inputs, dtype=np.int32), shape), axis=1)
    sections = outputs * cuts
    sliced = Sliced(
        codes=codes,
        scale=np.full(1, 0.01, np.float32),
        zero_point=np.zeros(1, np.int32),
        limits=np.array([[-255, 255]], np.int32),
        bits=8,
        given=False,
        encoding="driver",
        stored_bits=bits,
        offset=np.zeros(1, np.int32),
        bits_per_cell=1,
    )
    load = np.arange(sections)
    placed = sliced.lower(
        Sectioned,
        outputs=np.repeat(np.arange(outputs, dtype=np.int32), cuts)[:, None],
        inputs=order.reshape(sections, ROWS),
        rank=np.tile(np.arange(cuts, dtype=np.int32), outputs),
        polarity=np.zeros(sections, np.int8),
    ).lower(Placed, crossbar=(load % CROSSBARS).astype(np.int32), step=first_step + load // CROSSBARS)
    return placed.lower(Programmed, stored=placed.wanted_words())


def synthetic(scale: float, bits: int = 8) -> Module:
    """The module; with stored bits to spare, every stored code has to be held against the limits."""
    rng = np.random.default_rng(0)
    layers: list[Layer] = []
    step = 0
    for index, (outputs, inputs) in enumerate(resnet50_shapes()):
        shape = (max(1, int(outputs * scale)), inputs)
        body = programmed(shape, step, bits, rng)
        step = int(body.step.max()) + 1
        origin = Origin(f"node{index}", "Conv", 1, f"w{index}", "float32", Layout(shape, shape, (0, 1), 1))
        layers.append(Layer(f"layer{index}", origin, body))
    edges = tuple((a.name, b.name) for a, b in pairwise(layers))
    target = Target("narrow", rows=ROWS, columns=bits, crossbars=CROSSBARS)
    return Module("resnet50-sized", target, tuple(layers), edges)


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the outputs of every layer")
    scale = parser.parse_args().scale
    module = synthetic(scale)
    arrays = print_with_arrays(module)[1]
    megabytes = sum(a.nbytes for a in arrays.values()) / 1e6
    sections = sum(layer.at(Programmed).sections for layer in module.layers)
    print(
        f"{len(module.layers)} layers, {module.weights:,} weights, {sections:,} sections, {megabytes:.0f} MB"
    )

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plain").mkdir()
        files = [folder / "plain" / f"{i}.npy" for i in range(len(arrays))]
        plain_save, _ = timed(lambda: [np.save(f, a) for f, a in zip(files, arrays.values(), strict=True)])
        plain_load, _ = timed(lambda: [np.load(f) for f in files])
        rows = [("save_module", timed(lambda: save_module(module, folder / "m.xir"))[0], plain_save)]
        seconds, _ = timed(lambda: load_module(folder / "m.xir", check=False))
        rows.append(("load_module, mapped, unchecked", seconds, plain_load))
        seconds, loaded = timed(lambda: load_module(folder / "m.xir"))
        rows.append(("load_module, mapped, checked", seconds, plain_load))
        seconds, _ = timed(lambda: load_module(folder / "m.xir", mmap=False))
        rows.append(("load_module, read, checked", seconds, plain_load))
        seconds, text = timed(lambda: print_module(loaded))
        rows.append(("print_module", seconds, plain_load))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds, problems = timed(lambda: verify_module(loaded))
        growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        rows.append(("verify_module", seconds, plain_load))
        assert not problems, problems[0]
        spare = synthetic(scale, bits=9)
        seconds, problems = timed(lambda: verify_module(spare))
        rows.append(("verify_module, 9th bit to spare", seconds, plain_load))
        assert not problems, problems[0]
        assert text == print_module(module)
    print(f"{'plain np.save':32} {plain_save:7.2f} s\n{'plain np.load':32} {plain_load:7.2f} s")
    for what, seconds, plain in rows:
        print(f"{what:32} {seconds:7.2f} s  {seconds / plain:6.1f} x plain")
    print(f"peak memory grew by {growth / 1e3:.0f} MB while verifying")


if __name__ == "__main__":
    main()
