"""Format ``pimcomp``: instructions per core (= crossbar), as PIMCOMP writes them, and a ``write`` operation.

PIMCOMP places all weights once, so its instruction set has no way to change them; ``write`` adds it.
Instruction ids are unique in the program and ``wait`` lists what has to be finished: a write waits for the
last use of what it overwrites, an ``mvm`` for its write and, through ``wait_nodes``, for every instruction
of the nodes that feed it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ir.errors import XbcError
from xbc.backend.program import Program
from xbc.backend.stream import Loads, stream_loads
from xbc.export.package import CrossbarFiles, by_crossbar, open_export, shipped

if TYPE_CHECKING:
    from xbc.export import Options

NAME: Final = "pimcomp"
VERSION: Final = 1
SUMMARY: Final = "JSON instruction list per core with a write operation, and its JSON Schema"
FILE: Final = "instructions.json"
SCHEMA: Final = "instructions.schema.json"
CELL: Final = ("row", "column", "after", "phase")
_LOADS: Final = 4096


def write(program: Program, folder: Path, options: Options) -> dict[str, Any]:
    """Writes instructions.json and its schema."""
    (folder / SCHEMA).write_text(shipped(SCHEMA))
    parts = folder / "parts"
    parts.mkdir()
    files = CrossbarFiles(parts)
    last_use = np.full(program.target.crossbars, -1, np.int64)
    done = 0
    blocks = program.sections(0, options.loads)
    for block in blocks:
        n = len(block["section"])
        for chunk in stream_loads(program, done, done + n, _LOADS):
            for i in range(len(chunk)):
                bar = int(chunk.crossbar[i])
                lines = list(
                    _instructions(program, block, chunk.start - done + i, chunk, i, int(last_use[bar]))
                )
                last_use[bar] = 3 * (chunk.start + i) + 1
                text = ",\n".join(json.dumps(line, separators=(",", ":")) for line in lines)
                files.add(f"{bar}", (",\n" + text).encode())
            options.progress("pimcomp", chunk.stop, options.loads)
        done += n
    files.flush()
    bars = [bar for bar, _ in by_crossbar(program.loads["crossbar"][: options.loads])]
    with (folder / FILE).open("wb") as out:
        out.write(b'{"format_version":1,\n"config":' + json.dumps(_config(program)).encode())
        out.write(b',\n"nodes":' + json.dumps(_nodes(program)).encode() + b',\n"core_list":{')
        for position, bar in enumerate(bars):
            out.write((",\n" if position else "\n").encode() + f'"core{bar}":['.encode())
            with (parts / str(bar)).open("rb") as part:
                part.seek(1)  # the comma before the first instruction
                shutil.copyfileobj(part, out)
            out.write(b"]")
        out.write(b"}}\n")
    shutil.rmtree(parts)
    return {"cores": len(bars)}


def _config(program: Program) -> dict[str, Any]:
    target = program.target
    return {
        "xbar_size": [target.rows, target.columns],
        "cell_precision": target.bits_per_cell,
        "adc_resolution": target.converters.adc_bits,
        "core_cnt": target.crossbars,
        "xbar_array_count": 1,
    }


def _nodes(program: Program) -> list[dict[str, Any]]:
    return [
        {
            "index": layer.layer, "name": layer.name, "op": layer.op_type, "outputs": layer.outputs,
            "inputs": layer.inputs, "products": layer.products, "providers": list(layer.predecessors),
            "encoding": layer.encoding, "cell_weights": list(layer.cell_weights),
        }
        for layer in program.layers
    ]  # fmt: skip


def _instructions(
    program: Program, block: Any, s: int, chunk: Loads, i: int, last_use: int
) -> Iterator[dict[str, Any]]:
    load = chunk.start + i
    layer = program.layers[int(block["layer"][s])]
    if layer.gated:
        raise XbcError(
            f"layer {layer.name!r} has an output for each row (scope=layer), which a MVM of {NAME} cannot say: "
            f"export another format, or compile with form-sections{{scope=output}}"
        )
    part = slice(int(chunk.write_at[i]), int(chunk.write_at[i + 1]))
    cells = np.stack([getattr(chunk, name)[part].astype(np.int32) for name in CELL], axis=1)
    yield {"op": "write", "id": 3 * load, "wait": [last_use] if last_use >= 0 else [], "load": load,
           "step": int(chunk.step[i]), "cells": cells.tolist()}  # fmt: skip
    outputs = block["outputs"].row(s).tolist()
    mvm: dict[str, Any] = {
        "op": "mvm", "id": 3 * load + 1, "wait": [3 * load], "wait_nodes": list(layer.predecessors),
        "node": layer.layer,
        "inputs": block["inputs"].row(s).tolist(), "outputs": outputs,
    }  # fmt: skip
    if len(block["signs"].row(s)):
        mvm["signs"] = block["signs"].row(s).tolist()
    if len(block["flip"].row(s)):
        mvm["flip"] = block["flip"].row(s).tolist()
    yield mvm
    yield {"op": "vvadd" if int(block["polarity"][s]) >= 0 else "vvsub", "id": 3 * load + 2,
           "wait": [3 * load + 1],
           "node": layer.layer, "outputs": outputs}  # fmt: skip


def read(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(crossbar, instruction) of an export, core by core.

    Raises: XbcError for a damaged export, an id that stands twice or a wait for an instruction that does not
    exist.
    """
    open_export(folder, NAME, VERSION)
    try:
        cores = json.loads((folder / FILE).read_bytes())["core_list"]
    except (ValueError, KeyError) as error:
        raise XbcError(f"{folder / FILE} cannot be read: {error}") from None
    known = [instruction["id"] for core in cores.values() for instruction in core]
    ids = set(known)
    if len(ids) != len(known):
        raise XbcError(f"{folder / FILE} has two instructions of one id: export the program again")
    for name, core in cores.items():
        for instruction in core:
            for wait in instruction["wait"]:
                if wait not in ids:
                    raise XbcError(
                        f"{folder / FILE}: {instruction['id']} waits for {wait}, which does not exist"
                    )
            yield int(name.removeprefix("core")), instruction
