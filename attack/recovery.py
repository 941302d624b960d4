"""Power cuts through the command line alone, and hostile journals and read-backs.

    python attack/recovery.py [--cuts 200] [--cases 2000] [--seed 0]

A loader written here from the program format page (Parquet in, journal out, not a line of xbc's) loses its power at a
random write of a random inference, once or twice; ``xbc resume`` is asked for the rest by journal, number and read-back
in every combination that a team can have, and the rest is loaded. Right: the cells end as after an undisturbed
inference; what cannot be told is refused in one sentence; a read-back with further wrong cells is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import struct
import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import Tally, campaign, exit_code, small_program, xbc

WAYS = ("journal", "journal and number", "journal and read-back", "all three", "read-back")


@dataclass
class Chip:
    """A program's tables, walked in plain loops."""

    folder: Path

    def __post_init__(self) -> None:
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        target = self.manifest["target"]
        self.shape = tuple(target[k] for k in ("crossbars", "rows", "columns"))
        self.top = 2 ** target["bits_per_cell"] - 1
        self.loads = pq.read_table(self.folder / "loads.parquet").to_pylist()
        rows = pq.read_table(self.folder / "writes.parquet").to_pylist()
        self.writes = {
            name: [
                [(w["row"], w["column"], w["after"]) for w in rows[a : a + n] if w["phase"] != skip]
                for load in self.loads
                for a, n in [(load["write_start"], load["write_count"])]
            ]
            for name, skip in (("first", 2), ("steady", 1))
        }
        self.blank = np.zeros(self.shape, np.uint8)
        self.ends = {}
        state = self.blank.copy()
        for name in ("first", "steady"):
            for load in range(len(self.loads)):
                self.apply(state, name, load)
            self.ends[name] = state.copy()

    def apply(self, state: Any, name: str, load: int, first: int = 0, stop: int | None = None) -> None:
        bar = state[self.loads[load]["crossbar"]]
        for row, column, level in self.writes[name][load][first:stop]:
            bar[row, column] = level

    def journal(self, records: list[tuple[int, int]], torn: bytes = b"") -> bytes:
        digest = bytes.fromhex(self.manifest["self_sha256"])
        head = struct.pack("<4sHH32s", b"XBCJ", 1, 44, digest)
        out = head + struct.pack("<I", zlib.crc32(head))
        for n, (inference, load) in enumerate(records):
            out += struct.pack("<III", inference, load, zlib.crc32(struct.pack("<III", n, inference, load)))
        return out + torn


def cut(chip: Chip, draw: np.random.Generator, work: Path, tally: Tally) -> None:
    """One inference with one or two cuts, resumed by the command."""
    loads = len(chip.loads)
    number = int(draw.integers(3))
    name = "first" if number == 0 else "steady"
    state = chip.blank.copy() if number == 0 else chip.ends["first"].copy()
    records = [(i, load) for i in range(number) for load in range(loads)]
    todo: list[tuple[int, list[tuple[int, int, int]]]] = list(enumerate(chip.writes[name]))
    wanted = chip.ends[name]
    for again in range(int(draw.integers(1, 3))):
        total = sum(len(cells) for _, cells in todo)
        if not total:
            break
        # half of the cuts early: no record of this inference yet
        at = int(draw.integers(total if draw.integers(2) else max(1, len(todo[0][1]))))
        for load, cells in todo:
            bar = state[chip.loads[load]["crossbar"]]
            if at < len(cells):
                for row, column, level in cells[:at]:
                    bar[row, column] = level
                row, column, _ = cells[at]
                bar[row, column] = draw.integers(chip.top + 1)  # the pulse was cut
                break
            at -= len(cells)
            for row, column, level in cells:
                bar[row, column] = level
            records.append((number, load))
        way = str(draw.choice(WAYS)) if not again or records else "journal and number"
        torn = bytes(draw.integers(0, 256, int(draw.integers(12))).astype(np.uint8))
        (work / "j").write_bytes(chip.journal(records, torn))
        np.save(work / "l.npy", state)
        words: list[object] = ["resume", chip.folder, "-o", work / "rest", "--json"]
        words += (
            ["--journal", work / "j"] if "journal" in way or way == "all three" else ["--inference", name]
        )
        words += ["--number", number] if way in ("journal and number", "all three") else []
        words += ["--levels", work / "l.npy"] if "read-back" in way or way == "all three" else []
        if "--levels" in words and draw.integers(4) == 0 and number:
            wrong = state.copy()
            wrong[:, -1, -1] ^= 1  # no load of this program writes there
            np.save(work / "w.npy", wrong)
            said = xbc(*(work / "w.npy" if word == work / "l.npy" else word for word in words))
            tally.counts["wrong cells refused"] += said.code == 2
            if said.code != 2 or said.fault():
                tally.findings.append(
                    f"{way}, inference {number}: a read-back with wrong cells: {said.code} {said.err}"
                )
        said = xbc(*words)
        if fault := said.fault():
            tally.findings.append(f"{way}, inference {number}: {fault}")
            return
        none = not any(inference == number for inference, _ in records)
        if said.code == 2 and way == "journal" and none and number:
            tally.counts["asked for the number"] += 1
            said = xbc(*words, "--number", number)
        elif said.code == 2 and way == "read-back" and "several points" in said.err:
            tally.counts["asked for the journal"] += 1
            said = xbc(*words[:5], "--journal", work / "j", "--number", number, "--levels", work / "l.npy")
        tally.counts[f"{way} {said.code}"] += 1
        if said.code != 0:
            tally.findings.append(f"{way}, inference {number}, {len(records)} records: {said.err.strip()}")
            return
        rest = pq.read_table(work / "rest" / "writes.parquet").to_pylist()
        ids = pq.read_table(work / "rest" / "loads.parquet").column("load").to_pylist()
        cells_of: dict[int, list[tuple[int, int, int]]] = {load: [] for load in ids}
        for w in rest:
            cells_of[w["load"]].append((w["row"], w["column"], w["after"]))
        todo = list(cells_of.items())
        left = set(ids)
        records = [r for r in records if r[0] < number or r[1] not in left]
        known = {load for inference, load in records if inference == number}
        records += [(number, load) for load in range(loads) if load not in left and load not in known]
        shutil.rmtree(work / "rest")
    for load, cells in todo:
        bar = state[chip.loads[load]["crossbar"]]
        for row, column, level in cells:
            bar[row, column] = level
    wrong_cells = int(np.count_nonzero(state != wanted))
    tally.counts["cells wrong at the end"] += wrong_cells
    if wrong_cells:
        tally.findings.append(f"inference {number}: {wrong_cells} cells are wrong at the end")


def hostile(chip: Chip, draw: np.random.Generator, work: Path, tally: Tally) -> None:
    """A journal or a read-back that no loader and no test bench makes."""
    loads = len(chip.loads)
    words: list[object] = []
    if draw.integers(2):
        records = [(i, load) for i in range(int(draw.integers(3))) for load in range(loads)]
        records += [
            (records[-1][0] + 1 if records else 0, load) for load in range(int(draw.integers(loads + 1)))
        ]
        for _ in range(int(draw.integers(3))):
            if records:
                at = int(draw.integers(len(records)))
                records[at] = (
                    int(draw.choice([0, 1, 2, 2**32 - 1])),
                    int(draw.choice([0, loads - 1, loads, 2**32 - 1])),
                )
        raw = bytearray(chip.journal(records))
        for _ in range(int(draw.integers(3))):
            how = int(draw.integers(3))
            if how == 0 and raw:
                raw[int(draw.integers(len(raw)))] = int(draw.integers(256))
            elif how == 1:
                raw = raw[: int(draw.integers(len(raw) + 1))]
            else:
                raw += bytes(draw.integers(0, 256, int(draw.integers(40))).astype(np.uint8))
        (work / "j").write_bytes(bytes(raw))
        words += ["--journal", work / "j"]
        words += ["--number", int(draw.choice([0, 1, 2, 3, 2**32 - 1]))] if draw.integers(2) else []
    levels: Any = chip.ends["steady"].copy()
    if not words or draw.integers(2):
        for _ in range(int(draw.integers(4))):
            levels[tuple(int(draw.integers(n)) for n in chip.shape)] = draw.integers(
                256 if draw.integers(2) else 2
            )
        how = int(draw.integers(9))
        changed = [
            levels, levels.astype(np.float64), levels.astype(np.int64) - 1, levels[:1], levels.astype("U1"),
            levels.astype(np.float32) * np.nan, levels.astype(complex), np.asfortranarray(levels), levels > 0,
        ][how]  # fmt: skip
        path = work / "l.npy"
        if draw.integers(3):
            np.save(path, changed)
            if draw.integers(4) == 0:
                raw = bytearray(path.read_bytes())
                raw[int(draw.integers(min(len(raw), 200)))] = int(draw.integers(256))
                path.write_bytes(bytes(raw[: int(draw.integers(len(raw)))] if draw.integers(2) else raw))
        else:
            path = work / "l.parquet"
            place = np.indices(chip.shape).reshape(3, -1)
            kind = [pa.int64(), pa.int32(), pa.float64(), pa.string(), pa.uint8()][int(draw.integers(5))]
            columns = dict(
                zip(("crossbar", "row", "column", "level"), (*place, levels.reshape(-1)), strict=True)
            )
            keep = np.sort(draw.permutation(place.shape[1])[: int(draw.integers(place.shape[1] + 1))])
            table = pa.table({k: pa.array(np.asarray(v)[keep], pa.int64()) for k, v in columns.items()})
            if draw.integers(2) and len(keep):
                name = str(draw.choice(list(columns)))
                values = table.column(name).to_pylist()
                values[int(draw.integers(len(values)))] = [None, -1, 10**6, 2**62][int(draw.integers(4))]
                table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.int64()))
            if draw.integers(4) == 0:
                table = table.set_column(3, "level", table.column("level").cast(kind, safe=False))
            pq.write_table(table, path)
        words += ["--levels", path]
    if "--levels" in words and "--journal" not in words:
        inference = str(draw.choice(["first", "steady"]))
        if draw.integers(2):
            words = ["readback", chip.folder, *words, "--inference", inference, "-o", work / "repair.parquet"]
            words += (
                ["--load", int(draw.choice([-1, 0, loads - 1, loads, 10**9]))] if draw.integers(2) else []
            )
        else:
            words = ["resume", chip.folder, *words, "--inference", inference, "-o", work / "rest"]
    else:
        words = ["resume", chip.folder, *words, "-o", work / "rest"]
    said = xbc(*words)
    tally.counts[f"{words[0]} {said.code}"] += 1
    if fault := said.fault():
        tally.findings.append(f"xbc {' '.join(map(str, words))}: {fault}")
    if said.code and any((work / name).exists() for name in ("rest", "repair.parquet")):
        tally.findings.append(f"xbc {' '.join(map(str, words))}: exit {said.code} and an output")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="attack-") as temporary:
        folder = Path(temporary)
        settings = ("crossbars=3", "rows=16", "columns=17")  # the last column is never written
        program, _, _ = small_program(folder, "rram-64", *settings)
        assert hashlib.sha256((program / "manifest.json").read_bytes()).digest()
        chip = Chip(program)
        assert not any(column == 16 for cells in chip.writes["first"] for _, column, _ in (w for w in cells))
        np.save(folder / "l.npy", chip.ends["first"])
        for words in (("readback",), ("resume", "--inference", "steady", "-o", folder / "r")):
            xbc(words[0], program, "--levels", folder / "l.npy", *words[1:])
        found = [
            campaign(
                "power cuts", lambda *a: cut(chip, *a), options.cuts, options.seed, folder, options.first
            ),
            campaign(
                "journals and read-backs",
                lambda *a: hostile(chip, *a),
                options.cases,
                options.seed,
                folder,
                options.first,
            ),
        ]
        return exit_code(*found)


if __name__ == "__main__":
    sys.exit(main())
