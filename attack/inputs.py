"""Hostile sets and chip descriptions.

    python attack/inputs.py [--cases 2000] [--seed 0] [--first 0]

Sets: one thing is wrong in an ``.npz`` or ``.npy`` file (a header, a type, a shape, a name, a byte, a label), then
``evaluate``, ``simulate`` or ``sensitivity`` reads it.  Targets: lines of a shipped TOML file are changed, dropped,
doubled or replaced by noise, then ``targets`` or ``compile`` reads it.  Right: exit 0, 1 or 2 and one sentence.
"""

from __future__ import annotations

import argparse
import io
import struct
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT, Tally, campaign, exit_code, limited, small_program, xbc

MEMORY = 8 * 2**30
DTYPES = [
    "<f4", ">f4", "<f8", "<f2", "|u1", "|i1", "<i8", "<u8", "|b1", "<c8", "<c16", "|S4", "<U3", "<M8[s]",
    "<m8[ns]", "|O", "|V8", "<f16", "", "x", "<f3", "[('a', '<f4')]", "<i128",
]  # fmt: skip
SHAPES = [
    "(6, 1, 8, 8)", "()", "(0,)", "(6,)", "(6, 1, 8)", "(6, 8, 8, 1)", "(1, 6, 1, 8, 8)", "(-1, 1, 8, 8)",
    "(True, 1, 8, 8)",
    "(6.0, 1, 8, 8)", "(10**20, 1, 8, 8)", "(99999999999, 1, 8, 8)", "6", "None", "[6, 1, 8, 8]", "('6',)",
    "(0, 1, 8, 8)",
    "(6, 1, 8, 8", "(" * 3000, "(6," * 500, "f()", "(6, 1, 8, 8), 'x'",
]  # fmt: skip
WORDS = [
    "0", "-1", "1", "2", "3", "2.5", "1e308", "1e-320", "nan", "inf", "-inf", "true", "'x'", "''", "[]", "[1, 2]", "{}",
    "[[0, 0, 0, 1]]", "99999999999999999999", "2147483648", "1000000000", "9223372036854775807",
    "1979-05-27", "\"\\u202e\"",
    "'" + "a" * 5000 + "'", "{a = 1}", "[[[[[]]]]]", "0x7f", "1_000",
]  # fmt: skip


def npy(draw: np.random.Generator, array: np.ndarray) -> bytes:
    """An array's file with a header of one's own."""
    dtype = DTYPES[int(draw.integers(len(DTYPES)))] if draw.integers(2) else array.dtype.str
    shape = SHAPES[int(draw.integers(len(SHAPES)))] if draw.integers(2) else str(array.shape)
    order = ["False", "True", "1", "None", "'x'"][int(draw.integers(5))] if not draw.integers(4) else "False"
    descr = dtype if dtype.startswith("[") else repr(dtype)
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    if not draw.integers(8):
        text = text.replace(b"descr", b"d", 1)
    if not draw.integers(8):
        text = bytes(draw.integers(0, 256, int(draw.integers(1, 200)), dtype=np.uint8))
    version = [(1, 0), (2, 0), (3, 0), (9, 9), (0, 0)][int(draw.integers(5)) if not draw.integers(4) else 0]
    length = len(text) if draw.integers(8) else int(draw.integers(0, 2**16))
    size = struct.pack("<H", min(length, 65535)) if version[0] == 1 else struct.pack("<I", length)
    return (
        b"\x93NUMPY" + bytes(version) + size + text + array.tobytes()[: int(draw.integers(array.nbytes + 1))]
    )


def odd_array(draw: np.random.Generator, array: np.ndarray) -> Any:
    """Sound to numpy, not to a model."""
    kinds: list[Any] = [
        lambda a: a.astype(np.float64), lambda a: a.astype(np.int8), lambda a: a.astype(str),
        lambda a: a.astype(complex),
        lambda a: a.astype("M8[s]"), lambda a: a > 0, lambda a: a.astype(object), lambda a: a[:0], lambda a: a[0],
        lambda a: a[None], lambda a: a.reshape(-1), lambda a: a.T,
        lambda a: np.full_like(a, np.inf if a.dtype.kind == "f" else 9),
        lambda a: np.full_like(a, np.nan if a.dtype.kind == "f" else -1), lambda a: np.float32(1), lambda a: a * 10**9,
        lambda a: a.astype(np.float16), lambda a: np.zeros(len(a), [("a", "f4"), ("b", "i4")]), lambda a: a[:3],
        lambda a: np.asfortranarray(a), lambda a: a[..., None], lambda a: a.astype(np.uint64),
    ]  # fmt: skip
    with np.errstate(all="ignore"):
        return kinds[int(draw.integers(len(kinds)))](array)


def hostile_set(draw: np.random.Generator, path: Path) -> str:
    """Writes one; returns what it is."""
    x = draw.normal(size=(6, 1, 8, 8)).astype(np.float32)
    labels = draw.integers(0, 5, 6)
    kind = int(draw.integers(6))
    if kind == 0:
        path.write_bytes(npy(draw, x))
        return "npy"
    arrays: dict[str, Any] = {"x": x, "labels": labels}
    if kind == 1:
        with zipfile.ZipFile(
            path, "w", zipfile.ZIP_DEFLATED if draw.integers(2) else zipfile.ZIP_STORED
        ) as archive:
            archive.writestr("x.npy", npy(draw, x))
            if draw.integers(2):
                archive.writestr("labels.npy", npy(draw, labels))
        return "headers"
    if kind == 2:
        for name in list(arrays):
            if draw.integers(2):
                arrays[name] = odd_array(draw, arrays[name])
    if kind == 3:
        names = [
            "",
            "../x",
            "/etc/x",
            "x\u202e",
            "[red]x[/]",
            "y" * 300,
            "labels",
            "X",
            "x/y",
            "\ud7ff",
            "w",
            "arr_0",
        ]
        arrays = {names[int(draw.integers(len(names)))]: x, names[int(draw.integers(len(names)))]: labels}
        if draw.integers(2):
            arrays["x"] = x
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            inner = io.BytesIO()
            np.lib.format.write_array(inner, np.asanyarray(array), allow_pickle=True)
            archive.writestr(f"{name}.npy", inner.getvalue())
    content = bytearray(buffer.getvalue())
    if kind >= 4:
        for _ in range(int(draw.integers(1, 6))):
            content[int(draw.integers(len(content)))] = int(draw.integers(256))
        if not draw.integers(4):
            content = content[: int(draw.integers(len(content)))]
    path.write_bytes(content)
    return ("npy", "headers", "arrays", "names", "bytes", "bytes")[kind]


def hostile_target(draw: np.random.Generator, source: str) -> str:
    """A chip description with a few lines changed."""
    lines = source.splitlines()
    for _ in range(int(draw.integers(1, 4))):
        at = int(draw.integers(len(lines)))
        kind = int(draw.integers(8))
        key = lines[at].partition("=")[0].strip()
        if kind < 4 and key:
            lines[at] = f"{key} = {WORDS[int(draw.integers(len(WORDS)))]}"
        elif kind == 4:
            lines.insert(at, lines[int(draw.integers(len(lines)))])
        elif kind == 5:
            del lines[at]
            lines = lines or [""]
        elif kind == 6:
            noise = bytes(draw.integers(0, 256, int(draw.integers(1, 40)), dtype=np.uint8)).decode("latin1")
            lines.insert(at, noise.replace("\r", " "))
        else:
            lines.insert(
                at, f"{['x', 'rows', 'device', '[device', '[[area]]', '[x]'][int(draw.integers(6))]} = 1"
            )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Both campaigns; 1 when something was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=2000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    shipped = [path.read_text() for path in sorted((ROOT / "xbc" / "targets").glob("*.toml"))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program, model, data = small_program(folder)
        assert (
            xbc("evaluate", program, "--data", data, "--model", model, "-q").code == 0
        )  # before the workers fork
        assert xbc("sensitivity", model, "--data", data, "-q", "-o", folder / "s.npz").code == 0

        def sets(draw: np.random.Generator, work: Path, tally: Tally) -> None:
            path = work / ("set.npz" if draw.integers(4) else "set.npy")
            what = hostile_set(draw, path)
            commands: list[tuple[Any, ...]] = [
                ("evaluate", program, "--data", path, "--model", model, "-q"),
                ("evaluate", program, "--data", path, "-q", "--fidelity", "converters", "--no-adc"),
                ("simulate", program, "--inputs", path, "-q", "-o", work / "y.npz"),
                (
                    "simulate",
                    program,
                    "--inputs",
                    path,
                    "-q",
                    "--fidelity",
                    "converters",
                    "--calibration",
                    path,
                ),
                ("sensitivity", model, "--data", path, "-q", "-o", work / "s.npz"),
            ]
            with limited(AS=MEMORY):
                said = xbc(*commands[int(draw.integers(len(commands)))])
            tally.counts[f"{what} {said.code}"] += 1
            if fault := said.fault():
                tally.findings.append(f"{what}: xbc {said.words[0]}: {fault}")

        def targets(draw: np.random.Generator, work: Path, tally: Tally) -> None:
            path = work / "chip.toml"
            path.write_text(hostile_target(draw, shipped[int(draw.integers(len(shipped)))]), encoding="utf-8")
            with limited(AS=MEMORY):
                if draw.integers(3):
                    said = xbc("targets", path, *(["--json"] if draw.integers(2) else []))
                else:
                    said = xbc(
                        "compile", model, "-t", path, "-q", f"-O{draw.integers(3)}", "-o", work / "p.xbc"
                    )
            tally.counts[f"{said.words[0]} {said.code}"] += 1
            if fault := said.fault():
                tally.findings.append(
                    f"xbc {said.words[0]}: {fault}\n{path.read_text() if said.code == 70 else ''}"
                )

        tallies = [
            campaign("sets", sets, options.cases, options.seed, folder, options.first),
            campaign("targets", targets, options.cases, options.seed, folder, options.first),
        ]
    return exit_code(*tallies)


if __name__ == "__main__":
    sys.exit(main())
