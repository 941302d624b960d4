"""The journal of a loader: which loads are finished, so that programming goes on after a power cut.

A file of 44 + 12 n bytes, little-endian: magic ``XBCJ``, version (u16), header size (u16), SHA-256 of the
program's manifest, CRC-32 of these 40 bytes; then per finished load its inference (u32, 0 = the first one),
its id (u32) and the CRC-32 of both and the record's number.  A record is written after the last write of
its load. What a power cut leaves of the last record is recognised and ignored.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

import numpy as np

from ir.arrays import Array
from ir.errors import XbcError
from xbc.backend.program import Program
from xbc.backend.structure import check_tables

MAGIC: Final = b"XBCJ"
VERSION: Final = 1
HEADER: Final = struct.Struct("<4sHH32sI")
RECORD: Final = struct.Struct("<III")
_MAX_BYTES: Final = 1 << 32


def _header(program: Program) -> bytes:
    digest = bytes.fromhex(program.manifest["self_sha256"])
    body = struct.pack("<4sHH32s", MAGIC, VERSION, HEADER.size, digest)
    return body + struct.pack("<I", zlib.crc32(body))


def _record(number: int, inference: int, load: int) -> bytes:
    return RECORD.pack(inference, load, zlib.crc32(struct.pack("<III", number, inference, load)))


@dataclass(frozen=True)
class State:
    """What a journal says.

    Fields:
        inference: the one that was going on or ended last, 0 = the first from blank cells.
        done: ``[loads]`` bool, its finished loads.
        records: whole records of the file.
        torn: bytes of an unfinished record at its end.
    """

    inference: int
    done: Array
    records: int
    torn: int


def read_journal(path: Path, program: Program) -> State:
    """State of a journal.

    Raises: XbcError when it is of another program, of a newer version, damaged before its end, or when it
        finishes a load before the one that stands under it in the same crossbar.
    """
    check_tables(program)
    try:
        size = path.stat().st_size
        raw = path.read_bytes() if size <= _MAX_BYTES else b""
    except OSError as error:
        raise XbcError(f"cannot read the journal {path}: {error.strerror or error}") from None
    loads = program.total("loads")
    if len(raw) < HEADER.size or size > _MAX_BYTES:
        if raw == _header(program)[: len(raw)] and size <= _MAX_BYTES:  # cut while the journal was begun
            return State(0, np.zeros(loads, np.bool_), 0, len(raw))
        raise XbcError(f"{path} is no journal of xbc")
    magic, version, header_size, digest, crc = HEADER.unpack_from(raw)
    if magic != MAGIC:
        raise XbcError(f"{path} is no journal of xbc")
    if version > VERSION:
        raise XbcError(
            f"{path} has version {version} of the journal format, this xbc reads {VERSION}: use newer xbc"
        )
    if crc != zlib.crc32(raw[: HEADER.size - 4]) or header_size != HEADER.size:
        raise XbcError(
            f"the header of the journal {path} is damaged: locate the program with a read-back (--levels)"
        )
    if digest.hex() != program.manifest["self_sha256"]:
        raise XbcError(f"the journal {path} belongs to another program than {program.folder}")
    whole = (len(raw) - HEADER.size) // RECORD.size
    records = np.frombuffer(raw, "<u4", 3 * whole, HEADER.size).reshape(-1, 3)
    good = _good_records(records)
    if good < whole - 1:  # a power cut tears the last record only
        raise XbcError(f"record {good} of the journal {path} is damaged: give a read-back (--levels) instead")
    return _state(path, program, records[:good], len(raw) - HEADER.size - good * RECORD.size)


def _good_records(records: Array) -> int:
    for number, (inference, load, crc) in enumerate(records.tolist()):
        if crc != zlib.crc32(struct.pack("<III", number, inference, load)):
            return number
    return len(records)


def _state(path: Path, program: Program, records: Array, torn: int) -> State:
    loads = program.total("loads")
    done = np.zeros(loads, np.bool_)
    if not len(records):
        return State(0, done, 0, torn)
    inferences = records[:, 0].astype(np.int64)
    if np.any(np.diff(inferences) < 0) or np.any(records[:, 1] >= loads):
        raise XbcError(
            f"the journal {path} names inferences or loads that the program does not have in that order"
        )
    parts = np.split(records[:, 1].astype(np.int64), np.flatnonzero(np.diff(inferences)) + 1)
    twice = any(len(np.unique(part)) != len(part) for part in parts)
    if twice or any(len(part) != loads for part in parts[:-1]):
        raise XbcError(f"the journal {path} finishes a load twice or leaves an inference before its end")
    done[parts[-1]] = True
    before = program.loads["previous"]
    early = np.flatnonzero(done & (before >= 0) & ~done[np.maximum(before, 0)])
    if len(early):
        raise XbcError(
            f"the journal {path} finishes load {int(early[0])} before load {int(before[early[0]])}, which "
            f"stands before it in the same crossbar"
        )
    return State(int(inferences[-1]), done, len(records), torn)


class Journal:
    """Appends finished loads to a journal file; an existing one is continued after its last whole record."""

    def __init__(self, path: Path, program: Program, durable: bool = True) -> None:
        """Opens or begins the journal.

        Args:
            durable: a record is on the disk when ``finish`` returns.
        Raises: XbcError as ``read_journal``.
        """
        self._durable = durable
        state = read_journal(path, program) if path.exists() else None
        self._number = state.records if state else 0
        self._stream: BinaryIO = path.open("r+b" if state else "w+b")
        if state is None or self._number == 0:
            self._stream.seek(0)
            self._stream.write(_header(program))
        end = HEADER.size + self._number * RECORD.size
        self._stream.truncate(end)
        self._stream.seek(end)
        self._sync()

    def finish(self, inference: int, load: int) -> None:
        """A load's last write is done."""
        self._stream.write(_record(self._number, inference, load))
        self._number += 1
        self._sync()

    def _sync(self) -> None:
        self._stream.flush()
        if self._durable:
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def __enter__(self) -> Journal:
        """The journal."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file."""
        self.close()
