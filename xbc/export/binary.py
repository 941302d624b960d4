"""Format ``binary``: program.xbcs, a compact bit stream; docs/exports.md describes every byte."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from ir.faulty import FaultyCells
from ir.target import Target
from xbc.backend.program import Program
from xbc.backend.stream import Loads, start_levels, stream_loads
from xbc.backend.walk import blank_chip
from xbc.export.binary_code import DAMAGED, decode, encode
from xbc.export.package import open_export, shipped

if TYPE_CHECKING:
    from xbc.export import Options

NAME: Final = "binary"
VERSION: Final = 1
SUMMARY: Final = "compact bit stream, with a C header and a C reader"
FILE: Final = "program.xbcs"
MAGIC: Final = b"XBCS"
HEADER: Final = struct.Struct("<4sHHIHHBBHIQ32sI")
_FAULTY: Final = np.dtype([("crossbar", "<u4"), ("row", "<u2"), ("column", "<u2"), ("level", "u1")])
_READ_LOADS: Final = 4096


def write(program: Program, folder: Path, options: Options) -> dict[str, Any]:
    """Writes the stream, the C header and the C reader."""
    for name in ("xbc_stream.h", "xbc_replay.c"):
        (folder / name).write_text(shipped(name))
    target, rows = program.target, 0
    ends = program.loads["write_start"] + program.loads["write_count"]
    head = HEADER.pack(
        MAGIC, VERSION, HEADER.size, target.crossbars, target.rows, target.columns, target.bits_per_cell,
        int(options.loads == program.total("loads")), 0, options.loads, int(ends[options.loads - 1]),
        bytes.fromhex(program.manifest["self_sha256"]), len(target.faulty),
    )  # fmt: skip
    with (folder / FILE).open("wb") as out:
        out.write(head)
        out.write(_faulty_bytes(target.faulty))
        out.write(_pack(start_levels(program, "steady"), target.bits_per_cell))
        step = 0
        for chunk in stream_loads(program, 0, options.loads):
            cell = chunk.row.astype(np.int64) * target.columns + chunk.column
            if len(chunk.section) and not np.array_equal(chunk.section, np.arange(chunk.start, chunk.stop)):
                raise XbcError(
                    "the binary format needs section ids that equal load ids: compile the model again"
                )
            steps = np.diff(chunk.step, prepend=step)
            step = int(chunk.step[-1])
            out.write(
                encode(
                    chunk.crossbar, steps, chunk.crc_first, chunk.crc_steady, chunk.write_at, cell,
                    chunk.after,
                    chunk.phase, chunk.verify, target.bits_per_cell,
                ).tobytes()
            )  # fmt: skip
            rows += len(cell)
            options.progress("binary", chunk.stop, options.loads)
    return {"writes": rows, "stream_bytes": (folder / FILE).stat().st_size}


def _faulty_bytes(faulty: FaultyCells) -> bytes:
    records = np.zeros(len(faulty), _FAULTY)
    for name, column in zip(_FAULTY.names or (), faulty.cells.T, strict=True):
        records[name] = column
    return records.tobytes()


def _pack(levels: Array, bits: int) -> bytes:
    """Levels of all crossbars, ``bits`` bits each, most significant first; a crossbar begins at a byte."""
    planes = (levels.reshape(len(levels), -1, 1) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(planes.reshape(len(levels), -1), axis=1).tobytes()


def _unpack(raw: Array, shape: tuple[int, int, int], bits: int) -> Array:
    cells = shape[1] * shape[2]
    flat = np.unpackbits(raw.reshape(shape[0], -1), axis=1)[:, : cells * bits].reshape(shape[0], cells, bits)
    return np.asarray((flat << np.arange(bits - 1, -1, -1)).sum(2), np.uint8).reshape(shape)


def read(folder: Path) -> Iterator[Loads]:
    """The loads of an export, in chunks; ``before`` comes from replaying the stream.

    Raises: XbcError for a damaged, truncated or foreign stream.
    """
    _, target = open_export(folder, NAME, VERSION)
    yield from read_stream(folder / FILE, target)


def read_stream(path: Path, target: Target) -> Iterator[Loads]:
    """The loads of a stream, checked against the chip it should be for."""
    raw = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)
    if len(raw) < HEADER.size:
        raise _damaged(path)
    (magic, version, size, crossbars, rows, columns, bits, _, _, loads, _, _, faulty) = HEADER.unpack(
        raw[: HEADER.size].tobytes()
    )
    if magic != MAGIC:
        raise XbcError(f"{path} is no xbc stream (it does not begin with {MAGIC.decode()})")
    if version != VERSION or size != HEADER.size:
        raise XbcError(
            f"{path} has version {version} of the stream format, this xbc reads {VERSION}: use newer xbc"
        )
    shape = (crossbars, rows, columns)
    if (*shape, bits, faulty) != (
        target.crossbars, target.rows, target.columns, target.bits_per_cell, len(target.faulty)
    ):  # fmt: skip
        raise XbcError(f"{path} is for another chip than export.json says")
    at = HEADER.size + faulty * _FAULTY.itemsize
    packed = crossbars * -(-rows * columns * bits // 8)
    if len(raw) < at + packed:
        raise _damaged(path)
    later = _unpack(np.asarray(raw[at : at + packed]), shape, bits)
    first = blank_chip(target)[0]
    at, step, done = at + packed, 0, 0
    while done < loads:
        n = min(_READ_LOADS, loads - done)
        used, head, owner, cell, before, after, phase, verify = decode(raw, at, n, first, later, bits)
        if used == DAMAGED:
            raise _damaged(path)
        at = used
        steps = step + np.cumsum(head[:, 1])
        step = int(steps[-1])
        yield Loads(
            done, steps, head[:, 0], np.arange(done, done + n), np.full(n, -1), head[:, 2], head[:, 3],
            np.searchsorted(owner, np.arange(n + 1)), cell // columns, cell % columns, before, after,
            phase, verify,
        )  # fmt: skip
        done += n
    if at != len(raw):
        raise _damaged(path)


def _damaged(path: Path) -> XbcError:
    return XbcError(f"{path} is damaged or cut off: export the program again")
