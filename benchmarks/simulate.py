"""Simulated crossbar products against plain numpy float32 products of the same shape, one thread.

Every ratio is (median time of the simulation) / (median time of the float product), taken in turns in one
process.  Times are processor times: with one thread that is the wall time of an idle machine, and a busy one
does not distort it.  The float product is the bare matrix product; the simulated convolution includes its im2col.

Cases: ``linear``: 768 -> 3072, batch 197; ``conv``: 3x3x256x256 at 14x14.  Random 8-bit codes (the worst case:
all slices are dense) and 8-bit unsigned inputs; 1-bit cells on 128 rows; ideal devices.

Configurations on the block-routed 128 x 128 target (the keys of --json):
  sliced            slices, no ADC
  bit-serial        1-bit DACs, 9-bit ADC
  bit-serial-7, -5  1-bit DACs, a narrower ADC over the full range: every read of every column is computed
and on the gather-routed target: gather-sliced, gather-bit-serial, gather-bit-serial-7, -5; ``devices``: block target,
programming error without ADC.  CrossSim, when it can be imported: see crosssim.py.

    python benchmarks/simulate.py [--json] [--repeat 7]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import crosssim
import numpy as np

from ir.layout import Layout
from ir.module import Layer, Module, Origin
from ir.stages import Programmed, Quantized, Sliced
from ir.target import Target
from passes.encode_signs import encode
from passes.place import contiguous
from passes.sections import natural_sections
from xbc.operators.window import window
from xbc.simulate.analog import AnalogEngine
from xbc.simulate.converters import Coding
from xbc.simulate.devices import ChipTrial
from xbc.simulate.engine import IntegerEngine
from xbc.targets import load_target

CODING = Coding(8, False)


def programmed(codes: Any, target: Target) -> Layer:
    """A layer on a chip, in natural order."""
    outputs, inputs = codes.shape
    body = Quantized(
        codes=codes.astype(np.int32), scale=np.ones(1, np.float32), zero_point=np.zeros(1, np.int32),
        limits=np.array([[-128, 127]], np.int32), bits=8, given=False,
    )  # fmt: skip
    layout = Layout((inputs, outputs), (inputs, outputs), (1, 0), 1)
    layer = Layer("layer", Origin("node", "MatMul", 1, "weight", "float32", layout), body)
    layer = layer.with_body(encode(layer, target.encoding).lower(Sliced, bits_per_cell=target.bits_per_cell))
    layer = layer.with_body(natural_sections(layer, target))
    layer = contiguous(Module("m", target, (layer,))).layers[0]
    sectioned = layer.body
    return layer.with_body(sectioned.lower(Programmed, stored=sectioned.wanted_words()))  # type: ignore[attr-defined]


def in_turns(functions: dict[str, Callable[[], Any]], repeat: int) -> dict[str, float]:
    """Median processor seconds of each function, all called once per round."""
    for function in functions.values():
        function()  # compiles and plans
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeat):
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def configurations(codes: Any) -> dict[str, Any]:
    """Configuration -> engine."""
    engines: dict[str, Any] = {}
    for prefix, name in (("", "isaac-128"), ("gather-", "gather-128")):
        target = load_target(name)
        layer = programmed(codes, target)
        engines[f"{prefix}sliced"] = IntegerEngine(layer, target, adc=False)
        for bits, label in ((9, "bit-serial"), (7, "bit-serial-7"), (5, "bit-serial-5")):
            converters = dataclasses.replace(target.converters, dac_bits=1, adc_bits=bits)
            engines[f"{prefix}{label}"] = IntegerEngine(layer, target, converters)
    target = load_target("isaac-128", {"device.sigma_verified": 0.03})
    layer = programmed(codes, target)
    (_, conductance) = next(ChipTrial(Module("m", target, (layer,)), 0, 0).conductances())
    engines["devices"] = AnalogEngine(layer, target, conductance, adc=False)
    return engines


def linear(rng: np.random.Generator) -> dict[str, Callable[[], Any]]:
    """768 -> 3072, batch 197; inputs come as ``[batch, features]``."""
    codes = rng.integers(-127, 128, (3072, 768))
    x = rng.integers(0, 256, (197, 768), dtype=np.uint8)
    a, b = x.astype(np.float32), np.ascontiguousarray(codes.T, np.float32)
    wanted = codes.astype(np.int64) @ x.T.astype(np.int64)
    calls: dict[str, Callable[[], Any]] = {"float": lambda: a @ b}
    for name, engine in configurations(codes).items():
        check(name, engine.product(x.T[None], CODING), wanted)
        calls[name] = lambda engine=engine: engine.product(x.T[None], CODING)
    for name, core in crosssim.cores(codes).items():
        calls[name] = lambda core=core: core(x.T.astype(np.float64))
    return calls


def conv(rng: np.random.Generator) -> dict[str, Callable[[], Any]]:
    """3x3x256x256 at 14x14, padding 1; inputs come as an image, im2col is timed."""
    codes = rng.integers(-127, 128, (256, 2304))
    x = rng.integers(0, 256, (1, 256, 14, 14), dtype=np.uint8)
    w = window({"pads": [1, 1, 1, 1]}, (3, 3), (14, 14), False, "layer")
    columns = w.columns(x, 1, np.array(0))[0]
    a, b = codes.astype(np.float32), columns.astype(np.float32)
    wanted = codes.astype(np.int64) @ columns.astype(np.int64)
    calls: dict[str, Callable[[], Any]] = {"float": lambda: a @ b}
    for name, engine in configurations(codes).items():
        check(name, engine.product(columns[None], CODING), wanted)
        calls[name] = lambda engine=engine: engine.product(w.columns(x, 1, np.array(0)), CODING)
    for name, core in crosssim.cores(codes).items():
        calls[name] = lambda core=core: core(w.columns(x, 1, np.array(0))[0].astype(np.float64))
    return calls


def check(name: str, got: Any, wanted: Any) -> None:
    """Configurations whose converters are ideal must be exact before they are timed."""
    if name.endswith(("sliced", "bit-serial")) and not np.array_equal(got, wanted):
        raise SystemExit(f"{name} is not the integer product")


def one_thread() -> None:
    """Starts over with a single BLAS thread, a number that BLAS libraries read when they are loaded."""
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    if any(os.environ.get(name) != "1" for name in names):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **dict.fromkeys(names, "1")})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object: {case: {configuration: ratio}}")
    parser.add_argument("--repeat", type=int, default=7, help="rounds (medians are taken)")
    options = parser.parse_args()
    one_thread()
    ratios: dict[str, dict[str, float]] = {}
    milliseconds = {}
    for name, case in (("linear", linear), ("conv", conv)):
        medians = in_turns(case(np.random.default_rng(0)), options.repeat)
        base = medians.pop("float")
        milliseconds[name] = 1000 * base
        ratios[name] = {key: seconds / base for key, seconds in medians.items()}
    if options.json:
        print(json.dumps(ratios, indent=2))
        return
    print(f"{'configuration':24s}" + "".join(f"{name:>10s}" for name in ratios))
    print(f"{'float32 product (ms)':24s}" + "".join(f"{ms:10.2f}" for ms in milliseconds.values()))
    for key in ratios["linear"]:
        print(f"{key:24s}" + "".join(f"{ratios[name][key]:9.1f}x" for name in ratios))
    if "crosssim-sliced" not in ratios["linear"]:
        print(crosssim.ABSENT)


if __name__ == "__main__":
    main()
