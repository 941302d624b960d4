"""A loader as a hardware engineer would write it from docs/program-format.md: tables and plain loops only."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def read(folder: Path, table: str) -> list[dict[str, Any]]:
    return list(pq.read_table(folder / f"{table}.parquet").to_pylist())


@dataclass
class Outcome:
    """One inference: levels of every cell at its end, codes by (layer, output, input), writes by cell."""

    levels: dict[tuple[int, int, int], int]
    codes: dict[tuple[int, int, int], int]
    wear: dict[tuple[int, int, int], int]


def load_program(folder: Path, target: dict[str, Any], inferences: int) -> list[Outcome]:
    """Loads the program ``inferences`` times, beginning with a blank chip."""
    rows, columns = target["rows"], target["columns"]
    layers, sections, loads, writes = (read(folder, t) for t in ("layers", "sections", "loads", "writes"))
    levels = {(c, r, k): level for c, r, k, level in target["faulty"]}
    outcomes = []
    for inference in range(inferences):
        phases = (0, 1) if inference == 0 else (0, 2)
        codes: dict[tuple[int, int, int], int] = {}
        wear: dict[tuple[int, int, int], int] = {}
        for load in loads:
            crossbar = load["crossbar"]
            for write in writes[load["write_start"] : load["write_start"] + load["write_count"]]:
                if write["phase"] not in phases:
                    continue
                cell = (crossbar, write["row"], write["column"])
                assert levels.get(cell, 0) == write["before"]
                levels[cell] = write["after"]
                wear[cell] = wear.get(cell, 0) + 1
            image = bytes(levels.get((crossbar, r, k), 0) for r in range(rows) for k in range(columns))
            assert zlib.crc32(image) == load["post_crc_first" if inference == 0 else "post_crc_steady"]
            section = sections[load["section"]]
            for place, code in section_codes(section, layers[section["layer"]], crossbar, levels).items():
                codes[place] = codes.get(place, 0) + code
        outcomes.append(Outcome(dict(levels), codes, wear))
    return outcomes


def section_codes(
    section: dict[str, Any], layer: dict[str, Any], crossbar: int, levels: dict[tuple[int, int, int], int]
) -> dict[tuple[int, int, int], int]:
    """(layer, output, input) -> code of every weight of a loaded section."""
    per_weight, bits = layer["columns_per_weight"], layer["bits_per_cell"]
    codes = {}
    for row, source in enumerate(section["inputs"]):
        places = [(0, row)] if layer["scope"] == "layer" else [(g, g) for g in range(len(section["outputs"]))]
        for group, listed in places:
            sink = section["outputs"][listed]
            if source < 0 or sink < 0:
                continue
            flip = section["flip"][group] if section["flip"] else 0
            code = -section["offset"][listed]
            for digit, weight in enumerate(layer["cell_weights"]):
                level = levels.get((crossbar, row, group * per_weight + digit), 0)
                if flip >> (bits * (per_weight - 1 - digit)) & 1:
                    level = 2**bits - 1 - level
                code += weight * level
            if section["signs"]:
                code *= section["signs"][row]
            codes[section["layer"], sink, source] = code * (section["polarity"] or 1)
    return codes
