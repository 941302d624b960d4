"""A delta program: the whole next version, and the cell writes and accumulators that lead to it."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Module
from ir.npy import open_mapped
from ir.progress import Progress, silent
from xbc.update.accumulator import FRACTION_BITS, check_threshold
from xbc.update.graph import check_same_graph
from xbc.update.plan import LayerUpdate, as_measured, check_same_network, update_module

ACCUMULATORS: Final = "accumulators"
WRITES: Final = "update.parquet"
SCHEMA: Final = pa.schema(
    [
        ("crossbar", pa.int32()),
        ("row", pa.int32()),
        ("column", pa.int32()),
        ("before", pa.uint8()),
        ("after", pa.uint8()),
    ]
)
"""The writes that take the chip from the end of an inference of the old version to that of the new one."""


@dataclass(frozen=True)
class Updated:
    """A delta program that has been written.

    Fields:
        directory: the program.
        facts: what ``xbc update --json`` prints.
    """

    directory: Path
    facts: dict[str, Any]


def update_program(
    deployed: str | os.PathLike[str],
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    threshold: float = 1.0,
    measured: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
) -> Updated:
    """Writes the delta program that turns ``deployed`` into the new version of its model.

    The delta program is a whole program (it verifies, replays and evaluates like any other) with three things
    more: ``update.parquet``, the cell writes that take the chip there; ``accumulators/``, per layer what was
    asked for and not written; and ``update`` in the manifest.

    Args:
        deployed: program directory of version n, itself a delta program or not.
        model: ONNX file of version n + 1: the same graph with other weights.
        output: directory to write, whole or not at all.
        measured: levels read back from the chip at the end of an inference (``.npy`` or Parquet, see ``xbc
            readback``); the update then starts from what really stands there.
        threshold: code steps (device levels of the lowest slice) a weight must be off before it is written.
    Raises: XbcError for a model of another graph or shape, a threshold of 0 or less, a damaged program.
    """
    from xbc.backend import Program, emit_program
    from xbc.chip.verify import sound_replay
    from xbc.driver.compile import check_output
    from xbc.driver.summary import count_all
    from xbc.frontend import import_model

    check_threshold(threshold)
    directory = check_output(Path(output))
    old = Program.open(Path(deployed))
    if directory.exists() and directory.resolve() == old.folder.resolve():
        raise XbcError(f"update: {directory} is the deployed program itself; give another name with -o")
    module = old.module()
    accumulated = read_accumulators(old, module)
    imported = import_model(Path(model), old.target)
    _check_scales(module, imported.module)
    check_same_network(module, imported.module)
    check_same_graph(old.host_model(), imported.host)
    before = np.asarray(sound_replay(old, progress).chip.levels)
    if measured is not None:
        from xbc.recovery.readback import read_levels

        levels, known = read_levels(Path(measured), old)
        before = np.where(known, levels, before)
        module = as_measured(module, levels, known)
    updates = update_module(module, imported.module, threshold=threshold)
    done = module.with_layers([updates[layer.name].layer for layer in module.layers])
    provenance = dict(old.manifest.get("provenance") or {})
    provenance["command"] = shlex.join(
        ["xbc", "update", old.folder.name, Path(model).name, "--threshold", f"{threshold:g}"]
        + ([] if measured is None else ["--measured", Path(measured).name])
    )
    facts: dict[str, Any] = {}

    def complete(whole: Program) -> dict[str, Any]:
        after = sound_replay(whole, progress).chip.levels
        changed = _write_cells(whole.folder / WRITES, before, after)
        _save_accumulators(whole.folder / ACCUMULATORS, module, updates)
        previous = old.manifest.get("update") or {}
        facts["version"] = int(previous.get("version", 1)) + 1
        facts.update(_facts(module, updates, accumulated, changed, threshold, old.manifest, whole.manifest))
        update = {
            "version": facts["version"],
            "from_manifest": old.manifest["self_sha256"],
            "from_model": module.host.model_sha256,
            "threshold": threshold,
            "fraction_bits": FRACTION_BITS,
            **{k: facts[k] for k in ("weights", "weights_written", "set", "reset", "cells_written")},
        }
        return {"update": update}

    done = _with_model(done, imported.module.host.model_sha256)
    emit_program(
        done, imported.host, directory, provenance=provenance, counts=count_all(done), progress=progress,
        complete=complete,
    )  # fmt: skip
    given = {"deployed": str(deployed), "model": Path(model).name, "output": str(directory)}
    return Updated(directory, {**given, **facts})


def _check_scales(module: Module, new: Module) -> None:
    """A layer whose host tensor holds integers takes its scale from the graph: the deployed one."""
    from ir.stages import Quantized
    from xbc.frontend.types import is_integer

    for layer in new.layers:
        body = layer.body
        if is_integer(layer.origin.dtype) and isinstance(body, Quantized):
            for other in module.layers:
                if other.name == layer.name and not np.array_equal(body.scale, other.at(Quantized).scale):
                    raise XbcError(
                        f"update: layer {layer.name!r} of the new model has another quantisation scale than "
                        f"the deployed one; quantise the new model with the old scales, or compile it anew"
                    )


def _with_model(module: Module, sha256: str) -> Module:
    return dataclasses.replace(module, host=dataclasses.replace(module.host, model_sha256=sha256))


def _write_cells(path: Path, before: Array, after: Array) -> tuple[int, int]:
    """Writes the changed cells; returns (raised, lowered)."""
    crossbar, row, column = np.nonzero(before != after)
    was, now = before[crossbar, row, column], after[crossbar, row, column]
    table = pa.table(
        {
            "crossbar": crossbar.astype(np.int32),
            "row": row.astype(np.int32),
            "column": column.astype(np.int32),
            "before": was,
            "after": now,
        },
        schema=SCHEMA,
    )
    pq.write_table(table, path, compression="zstd", store_schema=False)
    return int((now > was).sum()), int((now < was).sum())


def read_cells(folder: Path) -> dict[str, Array]:
    """Columns of a delta program's ``update.parquet``."""
    try:
        table = pq.read_table(folder / WRITES)
    except (OSError, pa.ArrowException) as error:
        raise XbcError(f"{folder / WRITES} cannot be read ({error}): not a delta program") from None
    if table.schema.names != SCHEMA.names or table.schema.types != SCHEMA.types:
        raise XbcError(f"{folder / WRITES} has not the columns of an update: not a delta program")
    return {name: table.column(name).to_numpy() for name in SCHEMA.names}


def _save_accumulators(folder: Path, module: Module, updates: Mapping[str, LayerUpdate]) -> None:
    folder.mkdir()
    for i, layer in enumerate(module.layers):
        values = updates[layer.name].accumulator
        small = np.iinfo(np.int32)
        fits = not values.size or (values.min() >= small.min and values.max() <= small.max)
        np.save(folder / f"{i}.npy", values.astype(np.int32 if fits else np.int64), allow_pickle=False)


def read_accumulators(program: Any, module: Module) -> dict[str, Array]:
    """Layer name -> int64 accumulator of a program; zeros where it has had no update.

    Raises: XbcError for a file of another shape or type, or an unknown resolution.
    """
    update = program.manifest.get("update")
    if update is None:
        return {layer.name: np.zeros(layer.body.shape, np.int64) for layer in module.layers}
    if update.get("fraction_bits") != FRACTION_BITS:
        raise XbcError(
            f"{program.folder}: its accumulators count 2**-{update.get('fraction_bits')} of a step, this xbc "
            f"2**-{FRACTION_BITS}: continue with the version of xbc that wrote it"
        )
    out = {}
    for i, layer in enumerate(module.layers):
        path = program.folder / ACCUMULATORS / f"{i}.npy"
        try:
            mapped = open_mapped(path)
        except (OSError, ValueError) as error:
            raise XbcError(f"{path} cannot be read ({error}): the delta program is damaged") from None
        if mapped.shape != layer.body.shape or mapped.dtype not in (np.int32, np.int64):
            raise XbcError(f"{path} does not fit layer {layer.name!r}: the delta program is damaged")
        out[layer.name] = np.asarray(mapped).astype(np.int64)
    return out


def _facts(
    module: Module,
    updates: Mapping[str, LayerUpdate],
    accumulated: Mapping[str, Array],
    changed: tuple[int, int],
    threshold: float,
    deployed: Mapping[str, Any],
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    unit = 2.0**-FRACTION_BITS
    layers = []
    for layer in module.layers:
        done = updates[layer.name]
        body, new = layer.body, done.layer.body
        written = (new.codes.astype(np.int64) - body.codes) << FRACTION_BITS  # type: ignore[attr-defined]
        asked = written + done.accumulator - accumulated[layer.name]
        layers.append(
            {
                "name": layer.name,
                "weights": layer.weights,
                "written": int(done.moved.sum()),
                "asked": int((asked != 0).sum()),
                "limited": done.limited,
                "accumulated_max": float(np.abs(done.accumulator).max(initial=0) * unit),
            }
        )
    return {
        "threshold": threshold,
        "weights": module.weights,
        "weights_asked": sum(x["asked"] for x in layers),
        "weights_written": sum(x["written"] for x in layers),
        "limited": sum(x["limited"] for x in layers),
        "set": changed[0],
        "reset": changed[1],
        "cells_written": sum(changed),
        "steady_writes": manifest["totals"]["steady"]["writes"],
        "steady_writes_deployed": deployed["totals"]["steady"]["writes"],
        "wear_max": manifest["totals"]["wear_max"],
        "wear_max_deployed": deployed["totals"]["wear_max"],
        "layers": layers,
    }
