"""Format ``jsonl``: one JSON object per line and load; its JSON Schema stands beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from xbc.backend.program import Program
from xbc.backend.stream import WRITE_COLUMNS, Loads, stream_loads
from xbc.export.package import open_export, shipped

if TYPE_CHECKING:
    from xbc.export import Options

NAME: Final = "jsonl"
VERSION: Final = 1
SUMMARY: Final = "one JSON line per load with its writes, and its JSON Schema"
SCHEMA: Final = "loads.schema.json"
_LINES: Final = 4096


def write(program: Program, folder: Path, options: Options) -> dict[str, Any]:
    """Writes loads.jsonl and the schema of its lines."""
    (folder / SCHEMA).write_text(shipped(SCHEMA))
    rows = 0
    with (folder / "loads.jsonl").open("w", encoding="ascii", newline="\n") as stream:
        for chunk in stream_loads(program, 0, options.loads):
            writes = np.stack([getattr(chunk, name).astype(np.int32) for name in WRITE_COLUMNS], axis=1)
            for i in range(len(chunk)):
                line = {
                    "load": chunk.start + i,
                    "step": int(chunk.step[i]),
                    "crossbar": int(chunk.crossbar[i]),
                    "section": int(chunk.section[i]),
                    "previous": int(chunk.previous[i]),
                    "post_crc_first": int(chunk.crc_first[i]),
                    "post_crc_steady": int(chunk.crc_steady[i]),
                    "writes": writes[chunk.write_at[i] : chunk.write_at[i + 1]].tolist(),
                }
                stream.write(json.dumps(line, separators=(",", ":")) + "\n")
            rows += len(chunk.row)
            options.progress("jsonl", chunk.stop, options.loads)
    return {"writes": rows}


def read(folder: Path) -> Iterator[Loads]:
    """The loads of an export, in chunks.  Raises XbcError for a damaged one."""
    description, _ = open_export(folder, NAME, VERSION)
    path, start = folder / "loads.jsonl", 0
    lines: list[dict[str, Any]] = []
    with path.open(encoding="ascii") as stream:
        for number, text in enumerate(stream):
            try:
                line = json.loads(text)
                whole = line["load"] == number and all(
                    len(write) == len(WRITE_COLUMNS) for write in line["writes"]
                )
            except (ValueError, KeyError, TypeError):
                whole = False
            if not whole:
                raise XbcError(f"{path}, line {number + 1} is no load {number}: export the program again")
            lines.append(line)
            if len(lines) == _LINES:
                yield _chunk(start, lines)
                start, lines = start + len(lines), []
    if start + len(lines) != description["loads"]:
        raise XbcError(f"{path} has {start + len(lines)} loads instead of {description['loads']}")
    if lines:
        yield _chunk(start, lines)


def _chunk(start: int, lines: list[dict[str, Any]]) -> Loads:
    writes = [np.array(line["writes"], np.int32).reshape(-1, len(WRITE_COLUMNS)) for line in lines]
    columns = np.concatenate(writes).T
    at = np.concatenate([[0], np.cumsum([len(w) for w in writes])]).astype(np.int64)
    row, column, before, after, phase, verify = columns

    def head(name: str) -> Array:
        return np.array([line[name] for line in lines], np.int64)

    return Loads(
        start, head("step"), head("crossbar"), head("section"), head("previous"), head("post_crc_first"),
        head("post_crc_steady"), at, row, column, before, after, phase, verify.astype(np.bool_),
    )  # fmt: skip
