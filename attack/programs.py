"""Programs that somebody has changed, through every command.

    python attack/programs.py [--cases 2000] [--seed 0] [--first 0]

A case changes one thing in a sound program (a cell, row, column or type of a table; bytes of a file; a word of the IR;
a value of the manifest) and makes all digests fit again, or leaves them. ``verify`` and one other command then run on
it. Right: exit 0, 1 or 2, one sentence; a program without fitting digests is refused; and when ``verify`` finds a
program sound, it says the same as the original in every table, in the IR and in every figure that is checked.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import Tally, campaign, exit_code, small_program, xbc

from ir.storage import load_module
from ir.text import print_module
from xbc.backend.manifest import seal
from xbc.backend.tables import FORMAT, MANIFEST, SCHEMAS, file_of

HOSTILE: list[Any] = [
    -1, 0, 1, 2, 3, 7, 8, 255, 256, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, 2**64, 10**30, 0.5, -0.0, 1e308, 1e-320,
    True, False, None, "", "x", "../../x", "\u202e", "a" * 5000, "\n", [], {}, [1], {"a": 1}, [[0, 0, 0, 9]],
]  # fmt: skip
FREE = ("provenance", "tool", "self_sha256", "files")
"""What no replay can tell: the words of the compiler about its own work."""


def reseal(folder: Path, manifest: dict[str, Any] | None = None) -> None:
    old = json.loads((folder / MANIFEST).read_text()) if manifest is None else manifest
    (folder / MANIFEST).unlink()
    seal(folder, old)


def change_table(draw: np.random.Generator, folder: Path) -> str:
    name = str(draw.choice(list(SCHEMAS)))
    path = folder / file_of(name)
    table = pq.read_table(path)
    column = str(draw.choice(table.column_names))
    at, kind = table.column_names.index(column), table.schema.field(column).type
    rows = table.num_rows
    row, how = (
        int(draw.integers(rows)),
        str(draw.choice(["value", "value", "value", "null", "type", "drop", "twice", "swap"])),
    )
    if how in ("drop", "twice", "swap"):
        order = list(range(rows))
        if how == "drop":
            order.pop(row)
        elif how == "twice":
            order.insert(row, row)
        else:
            other = int(draw.integers(rows))
            order[row], order[other] = order[other], order[row]
        table = table.take(order)
    elif how == "type":
        other = draw.choice([pa.string(), pa.float64(), pa.int8(), pa.bool_()])
        table = table.set_column(at, column, pa.array([None] * rows, other))
    else:
        values = table.column(column).to_pylist()
        values[row] = None if how == "null" else other_value(draw, values[row], kind)
        try:
            table = table.set_column(at, table.schema.field(column), pa.array(values, kind))
        except (pa.ArrowException, OverflowError, ValueError, TypeError):
            return ""
    pq.write_table(table, path, store_schema=False)
    return f"{name}.{column}, row {row}: {how}"


def other_value(draw: np.random.Generator, value: Any, kind: Any) -> Any:
    if pa.types.is_list(kind):
        items = list(value or [])
        what = int(draw.integers(4))
        if items and what == 0:
            at = int(draw.integers(len(items)))
            items[at] = other_value(draw, items[at], kind.value_type)
        elif items and what == 1:
            items.pop()
        elif what == 2:
            items.append(items[-1] if items else other_value(draw, 0, kind.value_type))
        else:
            items = []
        return items
    if pa.types.is_boolean(kind):
        return not value
    if pa.types.is_string(kind):
        return str(
            draw.choice(
                ["", "x", "offset", "driver", "layer", "\u202e", "a" * 3000, f"{value}\n", f"{value} "]
            )
        )
    if pa.types.is_floating(kind):
        return float(draw.choice([0.0, -1.0, float("nan"), float("inf"), 1e-45, (value or 0) * 2]))
    small = [(value or 0) + 1, (value or 0) - 1, (value or 0) ^ 1, -1, 0, 1]
    return int(draw.choice(np.array([*small, 2**31 - 1, -(2**31), 127, 255, 2**40], object)))


def change_bytes(draw: np.random.Generator, folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    path = files[int(draw.integers(len(files)))]
    raw = bytearray(path.read_bytes())
    how = int(draw.integers(4))
    if how == 0:
        raw = raw[: int(draw.integers(len(raw)))]
    elif how == 1:
        raw += bytes(draw.integers(0, 256, int(draw.integers(1, 100))).astype(np.uint8))
    else:
        for _ in range(1 if how == 2 else 20):
            raw[int(draw.integers(len(raw)))] = int(draw.integers(256))
    path.write_bytes(bytes(raw))
    return f"bytes of {path.name}"


def change_text(draw: np.random.Generator, folder: Path) -> str:
    path = folder / "program.xir"
    body = path.read_text().partition("\n")[2]
    words = list(re.finditer(r"-?\d+(\.\d+)?|\w+", body))
    how = str(draw.choice(["number", "number", "word", "line", "char"]))
    if how == "number":
        numbers = [w for w in words if w.group()[-1].isdigit()]
        word = numbers[int(draw.integers(len(numbers)))]
        new = str(
            draw.choice(
                [
                    "-1",
                    "0",
                    "1",
                    "2",
                    "5",
                    "64",
                    "127",
                    "255",
                    "1000000",
                    "2147483648",
                    "9" * 30,
                    "1e9",
                    "nan",
                ]
            )
        )
        body = body[: word.start()] + new + body[word.end() :]
    elif how == "word":
        word, other = (words[int(i)] for i in draw.integers(len(words), size=2))
        body = body[: word.start()] + other.group() + body[word.end() :]
    elif how == "line":
        lines = body.splitlines()
        a, b = (int(i) for i in draw.integers(len(lines), size=2))
        if draw.integers(2):
            lines[a], lines[b] = lines[b], lines[a]
        else:
            lines.pop(a)
        body = "\n".join(lines) + "\n"
    else:
        at = int(draw.integers(len(body)))
        body = body[:at] + str(draw.choice(list("{}[]()=,:\"'-\n x0\u00e9"))) + body[at + 1 :]
    old = path.read_text().partition("\n")[2]
    path.write_text("xir 1\n" + body)
    at = next((i for i, (a, b) in enumerate(zip(old, body, strict=False)) if a != b), 0)
    return f"IR, {how}: {old[at - 30 : at + 30]!r} -> {body[at - 5 : at + 30]!r}"


def change_manifest(draw: np.random.Generator, folder: Path) -> str:
    manifest = json.loads((folder / MANIFEST).read_text())
    places: list[tuple[Any, Any, str]] = []

    def walk(value: Any, where: str) -> None:
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, inner in items:
            places.append((value, key, f"{where}.{key}"))
            walk(inner, f"{where}.{key}")

    walk({key: value for key, value in manifest.items() if key != "files"}, "")
    table, key, where = places[int(draw.integers(len(places)))]
    new = HOSTILE[int(draw.integers(len(HOSTILE)))]
    if type(table[key]) in (int, float) and draw.integers(2):
        new = table[key] * 10 or 10
    if where.count(".") == 1:
        table = manifest
    try:
        table[key] = new
        reseal(folder, manifest)
    except (ValueError, TypeError, OverflowError, AttributeError):
        return ""
    return f"manifest{where} = {str(new)[:40]!r}"


CHANGES = (change_table, change_table, change_table, change_bytes, change_text, change_text, change_manifest)


def other_commands(program: Path, model: Path, data: Path, out: Path) -> list[list[object]]:
    levels = program.parent / "levels.npy"
    return [
        ["inspect", program], ["inspect", program, "--layer", "conv", "--json"], ["wear", program],
        ["opt", program, "-q"], ["opt", program, "-q", "--passes", "sort-sections", "-o", out.with_suffix(".xir")],
        ["report", program, "-q", "-o", out.with_suffix(".html")],
        *(["emit", program, "-q", "-f", kind, "-o", out] for kind in
          ("csv", "jsonl", "memh", "npy", "neurosim", "aihwkit", "pimcomp", "binary")),
        ["readback", program, "--levels", levels], ["readback", program, "--levels", levels, "--load", "0", "--stuck"],
        ["resume", program, "--levels", levels, "--inference", "first", "-o", out],
        ["resume", program, "--journal", levels, "-o", out],
        ["update", program, model, "-q", "-o", out], ["evaluate", program, "-q", "--data", data],
        ["evaluate", program, "-q", "--data", data, "--model", model],
        ["simulate", program, "-q", "--inputs", data, "-o", out.with_suffix(".npz")],
        ["simulate", program, "-q", "--inputs", data, "--fidelity", "converters"],
        ["sweep", program, "-q", "--data", data, "--over", "converters.adc_bits=6,8"],
    ]  # fmt: skip


def facts(folder: Path) -> dict[str, Any]:
    """What a sound program says, as far as it is checked."""
    said: dict[str, Any] = {name: pq.read_table(folder / file_of(name)).to_pydict() for name in SCHEMAS}
    said["module"] = print_module(load_module(folder / "program.xir"))
    manifest = json.loads((folder / MANIFEST).read_text())
    said["manifest"] = {key: value for key, value in manifest.items() if key not in FREE}
    said["host"] = (folder / "host.onnx").read_bytes()
    return said


def differs(a: Any, b: Any) -> bool:
    return repr(a) != repr(b)  # nan is nan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="attack-") as temporary:
        folder = Path(temporary)
        program, model, data = small_program(folder, "rram-64", "crossbars=3", "rows=16", "columns=16")
        original = facts(program)
        target = json.loads((program / MANIFEST).read_text())["target"]
        np.save(
            folder / "levels.npy", np.zeros([target[k] for k in ("crossbars", "rows", "columns")], np.uint8)
        )
        for words in other_commands(
            program, model, data, folder / "warm"
        ):  # kernels, before the workers fork
            said = xbc(*words)
            assert said.code in (0, 2), said.err
            shutil.rmtree(folder / "warm", ignore_errors=True)
        assert xbc("verify", program, "-q").code == 0

        def case(draw: np.random.Generator, work: Path, tally: Tally) -> None:
            copy = work / "p.xbc"
            shutil.copytree(program, copy)
            shutil.copy(folder / "levels.npy", work)
            change = CHANGES[int(draw.integers(len(CHANGES)))]
            what = change(draw, copy)
            sealed = change is change_manifest or bool(draw.integers(8))
            if not what:
                tally.counts["not possible"] += 1
                return
            if sealed and change is not change_manifest:
                reseal(copy)
            commands = other_commands(copy, model, data, work / "out")
            verified = xbc("verify", copy, "-q")
            other = xbc(*commands[int(draw.integers(len(commands)))])
            for said in (verified, other):
                if fault := said.fault():
                    tally.findings.append(f"{what}: xbc {' '.join(said.words)}: {fault}")
            same = json.loads((copy / MANIFEST).read_text()).get("format") == FORMAT and sealed
            tally.counts[f"verify {verified.code}"] += 1
            tally.counts[f"{other.words[0]} {other.code}"] += 1
            if verified.code == 0:
                if not same:
                    if differs(facts(copy), original):
                        tally.findings.append(f"{what}: digests do not fit, verify says sound")
                elif changed := [key for key, value in facts(copy).items() if differs(value, original[key])]:
                    tally.findings.append(f"{what}: verify says sound, other {changed}")

        return exit_code(campaign("programs", case, options.cases, options.seed, folder, options.first))


if __name__ == "__main__":
    sys.exit(main())
