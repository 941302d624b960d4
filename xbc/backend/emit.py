"""Writing the program that a hardware team receives: the directory of docs/program-format.md."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Host, Module
from ir.progress import Progress, silent
from ir.stages import Programmed
from xbc.backend.manifest import files_in, read_manifest, seal
from xbc.backend.order import LoadOrder, in_load_order, load_order
from xbc.backend.program import Program
from xbc.backend.rows import TableWriter, layer_rows, section_piece
from xbc.backend.tables import GROUP_VALUES, HOST, MANIFEST, MODULE, file_of, open_table, table_of
from xbc.backend.walk import COUNTS, Chunk, walk_module
from xbc.system.directory import whole_directory


def emit_program(
    module: Module,
    host: bytes | onnx.ModelProto,
    directory: str | Path,
    *,
    provenance: Mapping[str, Any],
    counts: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    overwrite: bool = True,
    complete: Callable[[Program], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Writes a program directory, whole or not at all, and returns its manifest.

    The same arguments give the same bytes: neither time nor machine nor path is written (what
    ``provenance`` and ``counts`` say is the caller's business).

    Args:
        module: all layers Programmed.
        host: the host graph, serialised or not.
        directory: appears, or replaces an earlier program, only when every file is complete.
        provenance: pipeline, seed, command, ... for the manifest; JSON values.
        counts: what the compiler counted, for the manifest; JSON values.  The manifest's ``totals`` hold
            what the emitted tables add up to.
        overwrite: whether an earlier program there may be replaced; anything else never is.
        complete: called with the program before it is sealed; may add files to its folder, and what it returns
            is added to the manifest.
    Raises: XbcError when the module does not fit its target or the directory cannot be written.
    """
    directory = Path(directory)
    module = in_load_order(module)
    order = load_order(module)
    host_bytes = host if isinstance(host, bytes) else _serialise(host)
    module = dataclasses.replace(
        module,
        host=Host(HOST, hashlib.sha256(host_bytes).hexdigest(), module.host.model_sha256),
    )
    with whole_directory(directory, lambda there: _check_replaceable(there, overwrite)) as folder:
        (folder / HOST).write_bytes(host_bytes)
        _save_module(module, folder)
        with open_table(folder / file_of("layers"), "layers") as writer:
            writer.write_table(table_of("layers", layer_rows(module)))
        totals = _write_tables(module, order, folder, progress)
        described = _describe(module, totals, provenance, counts)
        if complete is not None:
            described |= complete(Program(folder, described, module.target, {}))
        return seal(folder, described)


def _save_module(module: Module, folder: Path) -> None:
    from ir.storage import save_module

    try:
        save_module(module, folder / MODULE)
    except XbcError as error:
        if isinstance(error.__cause__, OSError):  # whole_directory names the destination and the cure
            raise error.__cause__ from None
        raise


def _serialise(host: onnx.ModelProto) -> bytes:
    try:
        return bytes(host.SerializeToString(deterministic=True))
    except Exception as error:
        raise XbcError(f"the host graph cannot be serialised ({error}): it must stay below 2 GiB") from error


def _check_replaceable(there: Path, overwrite: bool) -> None:
    """Raises XbcError unless ``there`` is an empty directory or an earlier program and nothing else."""
    if not there.is_dir():
        raise XbcError(f"{there} exists and is not a directory: choose another destination")
    names = list(files_in(there))
    if not names:
        return
    if not overwrite:
        raise XbcError(f"{there} exists: remove it or choose another destination")
    if MANIFEST not in names:
        raise XbcError(f"{there} exists and is not a program of xbc: choose another destination")
    try:
        known = {*read_manifest(there)["files"], MANIFEST}
    except XbcError as error:
        raise XbcError(f"{there} exists and is no whole program ({error}): remove it") from error
    foreign = [name for name in names if name not in known]
    if foreign:
        raise XbcError(
            f"{there} holds {foreign[0]!r}, which is not part of the program there: "
            f"move it or choose another destination"
        )


def _write_tables(module: Module, order: LoadOrder, folder: Path, progress: Progress) -> dict[str, Any]:
    """Writes sections, loads and writes; returns the totals for the manifest."""
    target = module.target
    wear = np.zeros((target.crossbars, target.rows, target.columns), np.uint32)
    bodies = [layer.at(Programmed) for layer in module.layers]
    previous = order.previous()
    sums = np.zeros(len(COUNTS), np.int64)
    driven = 0
    with (
        TableWriter(folder, "sections") as sections,
        TableWriter(folder, "loads") as loads,
        TableWriter(folder, "writes") as writes,
    ):
        for chunk in walk_module(module, order, wear):
            n = len(chunk.counts)
            body = bodies[chunk.layer]
            words = n * body.rows * body.group_width
            sections.add(n, words, section_piece(body, chunk.layer, chunk.load, chunk.part, chunk.wanted))
            loads.add(n, n, _load_piece(chunk, order, previous, writes.rows))
            rows = len(chunk.writes["load"])
            writes.add(rows, rows, {name: column.copy() for name, column in chunk.writes.items()})
            sums += chunk.counts.sum(axis=0)
            driven += int(n * target.rows * target.columns - chunk.counts[:, COUNTS.index("dont_care")].sum())
            progress("emit", chunk.load + n, order.loads)
    total = dict(zip(COUNTS, (int(x) for x in sums), strict=True))
    return {
        "layers": len(module.layers),
        "sections": order.loads,
        "loads": order.loads,
        "steps": len(np.unique(order.step)),
        "write_rows": total["rows"],
        "full": driven,
        "steady": {"set": total["set"], "reset": total["reset"], "writes": total["set"] + total["reset"]},
        "first": {
            "set": total["set_first"],
            "reset": total["reset_first"],
            "writes": total["set_first"] + total["reset_first"],
        },
        "skipped": {name: total[name] for name in ("unchanged", "stuck", "dont_care", "faulty")},
        "wear_max": int(wear.max(initial=0)),
    }


def _load_piece(chunk: Chunk, order: LoadOrder, previous: Array, write_start: int) -> dict[str, Array | None]:
    part = slice(chunk.load, chunk.load + len(chunk.counts))
    ids = np.arange(part.start, part.stop, dtype=np.int32)
    count = dict(zip(COUNTS, chunk.counts.T, strict=True))
    ends = np.cumsum(count["rows"])
    return {
        "load": ids,
        "step": order.step[part],
        "crossbar": order.crossbar[part],
        "section": ids,
        "previous": previous[part],
        **{name: count[name] for name in COUNTS[:8]},
        "post_crc_first": chunk.crc_first,
        "post_crc_steady": chunk.crc_steady,
        "write_verify": count["verified"] > 0,
        "write_start": write_start + ends - count["rows"],
        "write_count": count["rows"],
    }


def _describe(
    module: Module, totals: dict[str, Any], provenance: Mapping[str, Any], counts: Mapping[str, Any] | None
) -> dict[str, Any]:
    manifest = {
        "tool": {"name": "xbc", "version": importlib.metadata.version("xbc")},
        "model": {"name": module.name, "sha256": module.host.model_sha256, "weights": module.weights},
        "target": module.target.to_dict(),
        "unmapped": [dataclasses.asdict(node) for node in module.unmapped],
        "provenance": dict(provenance),
        "counts": None if counts is None else dict(counts),
        "totals": totals,
        "tables": {"row_group_values": GROUP_VALUES},
    }
    try:
        return dict(json.loads(json.dumps(manifest, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"provenance and counts must be JSON values: {error}") from error
