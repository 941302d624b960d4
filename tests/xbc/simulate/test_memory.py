"""A limit on memory: sets stay in their files, runs grow only while there is room, and the peak stays below."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ir.errors import XbcError
from xbc.simulate import memory
from xbc.simulate.data import load_data
from xbc.simulate.feeds import Port
from xbc.simulate.memory import Budget, Store, parse_size

LARGE = np.random.default_rng(0).standard_normal((7, 200, 251)).astype(np.float32)


@pytest.mark.parametrize("how", ["stored", "packed", "npy", "fortran"])
def test_large_arrays_stay_in_their_file(how: str, tmp_path: Path) -> None:
    path = tmp_path / ("set.npy" if how == "npy" else "set.npz")
    array = np.asfortranarray(LARGE) if how == "fortran" else LARGE
    with path.open("wb") as file:
        if how == "npy":
            np.save(file, array)
        else:
            (np.savez_compressed if how == "packed" else np.savez)(file, first=np.arange(3), x=array)
    ports = (Port("x", "float32", (None, 200, 251)),)
    inputs = load_data(path, ports).inputs["x"]
    assert isinstance(inputs, np.memmap)
    assert not inputs.flags.writeable
    np.testing.assert_array_equal(inputs, LARGE)
    memory.release(inputs[:3])
    np.testing.assert_array_equal(inputs[2:5], LARGE[2:5])


def test_a_damaged_large_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, x=LARGE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(XbcError, match="CRC"):
        load_data(path, (Port("x", "float32", (None, 200, 251)),))


def test_a_store_spills_to_files_and_gives_the_same() -> None:
    draw = np.random.default_rng(1)
    batches = [{"y": draw.normal(size=(n, 3, 5)), "z": draw.integers(0, 9, (n,))} for n in (4, 1, 0, 6)]
    for limit in (10**9, 500, 0):
        store = Store("the chip", limit)
        for batch in batches:
            store.add(batch)
        arrays = store.arrays()
        assert isinstance(arrays["y"], np.memmap) == (limit < 10**9)
        for name in ("y", "z"):
            np.testing.assert_array_equal(arrays[name], np.concatenate([b[name] for b in batches]))
    store = Store("the chip")
    store.add(batches[0])
    with pytest.raises(XbcError, match="outputs of the chip change their shape"):
        store.add({"y": np.zeros((2, 3, 6))})


def test_runs_grow_while_the_measured_growth_leaves_room(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"peak": 100}
    monkeypatch.setattr(memory, "peak_rss_bytes", lambda: held["peak"])
    monkeypatch.setattr(memory, "resident_bytes", lambda: 100)

    def sizes(limit: int, most: int) -> list[int]:
        held["peak"] = 100
        pace, start, out = Budget(limit).pace(), 0, []
        for _ in range(6):
            out.append(pace.samples(start, most))
            assert pace.samples(start, most) == out[-1]  # the same for who goes along
            held["peak"] = max(held["peak"], 100 + 10 * out[-1])  # 10 bytes per sample
            assert held["peak"] <= limit
            start += out[-1]
        return out

    assert sizes(10**6, 64) == [1, 2, 4, 8, 16, 32]
    assert sizes(10**6, 5) == [1, 2, 4, 5, 5, 5]
    assert sizes(145, 64) == [1, 2, 4, 4, 4, 4]
    assert sizes(110, 64) == [1] * 6


def test_above_the_limit_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "peak_rss_bytes", lambda: 2 * 10**9)
    Budget(2 * 10**9).check("reading")
    with pytest.raises(
        XbcError, match=r"reading took 2.00 GB of memory, more than --memory 1.90 GB: raise it to 2.50 GB"
    ):
        Budget(1_900_000_000).check("reading")


def test_sizes_are_read() -> None:
    assert [parse_size(t) for t in ("800MB", " 1.5 gb", "2GiB", "64 KiB")] == [
        8 * 10**8,
        15 * 10**8,
        2**31,
        2**16,
    ]
    for text in ("8", "GB", "-1GB", "0MB", "nanGB", "1e99GB", "2TB"):
        with pytest.raises(ValueError):  # noqa: PT011 (the option words it)
            parse_size(text)


def large_images(folder: Path) -> tuple[Path, Path]:
    """A model whose values and unfolded convolutions take far more than its images; 64 of them."""
    draw = np.random.default_rng(2)
    kernels = {"k1": draw.normal(size=(64, 1, 3, 3)), "k2": draw.normal(size=(16, 64, 3, 3)) / 24}
    nodes = [
        helper.make_node("Conv", ["x", "k1"], ["a"], name="c1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="r"),
        helper.make_node("Conv", ["b", "k2"], ["c"], name="c2", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], name="p"),
        helper.make_node("Flatten", ["d"], ["y"], name="f"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(k.astype(np.float32), name) for name, k in kernels.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "set.npz", x=draw.normal(size=(64, 1, 64, 64)).astype(np.float32))
    return folder / "model.onnx", folder / "set.npz"


def test_the_peak_of_a_simulation_stays_below_the_limit(tmp_path: Path) -> None:
    """In processes of their own: what this one holds must not count."""
    model, data = large_images(tmp_path)

    def xbc(*arguments: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "xbc", *map(str, arguments)], capture_output=True, text=True, check=False
        )  # fmt: skip

    program = tmp_path / "p.xbc"
    assert xbc("compile", model, "-O0", "-o", program, "-q").returncode == 0
    arguments = ("evaluate", program, "--data", data, "--fidelity", "converters", "--threads", 1, "--json")
    free = json.loads(xbc(*arguments).stdout)
    limit = 500_000_000
    assert free["peak_rss_bytes"] > 1.2 * limit
    done = xbc(*arguments, "--memory", "500MB")
    assert done.returncode == 0, done.stderr
    bound = json.loads(done.stdout)
    assert bound["peak_rss_bytes"] <= limit
    assert bound["rms_error"] == pytest.approx(free["rms_error"], rel=1e-5)
    assert [a["snr_db"] for a in bound["layers"]] == pytest.approx(
        [a["snr_db"] for a in free["layers"]], rel=1e-4
    )
    short = xbc(*arguments, "--memory", "100MB")
    assert short.returncode == 2
    assert "more than --memory 100 MB: raise it to" in short.stderr
    for extra, sentence in (
        (("--memory", "12"), "is no size like"),
        (("--batch", 2, "--memory", "1GB"), "leave --batch out"),
    ):
        refused = xbc(*arguments, *extra)
        assert refused.returncode == 2
        assert sentence in refused.stderr
