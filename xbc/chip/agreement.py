"""Whether the tables and the IR of a program (program.xir) say the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ir.arrays import Array
from ir.module import Module
from ir.stages import Programmed
from xbc.backend.problems import Problem
from xbc.backend.program import Block, Lists, Program
from xbc.backend.rows import layer_rows
from xbc.backend.stream import stream_loads
from xbc.backend.tables import HOST, MANIFEST, MODULE, file_of
from xbc.chip.kernels import COUNTS
from xbc.chip.replay import Replay

_SECTIONS, _LOADS, _WRITES = file_of("sections"), file_of("loads"), file_of("writes")


def compare_with_module(program: Program, module: Module, run: Replay) -> Iterator[Problem]:
    """Differences between the (valid) module and the tables, which ``run`` has found sound.

    This is what ties the tables to the weights that were compiled: signs, row maps, wanted words, places and
    write-verify marks stand in both.
    """
    if module.layers and module.stage() is not Programmed:
        yield Problem(MODULE, f"it is at stage {module.stage().stage()!r}, a program is programmed")
        return
    bodies = [layer.at(Programmed) for layer in module.layers]
    if module.target != program.target:
        yield Problem(MANIFEST, f"the target is not the one of {MODULE}")
    if module.host.file != HOST or module.host.sha256 != program.manifest["files"][HOST]["sha256"]:
        yield Problem(MODULE, f"it names another {HOST}")
    different = list(_layer_differences(program, module))
    yield from different
    if different:
        return
    start = np.zeros(len(bodies), np.int64)
    for block in program.sections():
        for layer in np.unique(block["layer"]).tolist():
            mine = np.flatnonzero(block["layer"] == layer)
            part = slice(int(start[layer]), int(start[layer]) + len(mine))
            start[layer] = part.stop
            body, loads = bodies[layer], block["section"][mine]
            yield from _section_differences(body, part, block, mine)
            for name in ("crossbar", "step"):
                wrong = program.loads[name][loads] != getattr(body, name)[part]
                yield from _first(_LOADS, name, block, mine, wrong)
        yield from _verify_differences(program, bodies, block, run.counts[:, COUNTS.index("verified")])


def _layer_differences(program: Program, module: Module) -> Iterator[Problem]:
    file = file_of("layers")
    rows = layer_rows(module)
    if len(program.layers) != len(module.layers):
        yield Problem(file, f"it has {len(program.layers)} layers, {MODULE} has {len(module.layers)}")
        return
    for i, row in enumerate(program.layers):
        for name, values in rows.items():
            said = getattr(row, name)
            if isinstance(values[i], list):
                said = list(said)
            if said != values[i]:
                yield Problem(file, f"layer {row.name!r} has another {name} than in {MODULE}")


def _section_differences(body: Programmed, part: slice, block: Block, mine: Array) -> Iterator[Problem]:
    outputs, inputs = body.outputs[part], body.inputs[part]
    flip = np.zeros_like(outputs, np.uint32) if body.flip is None else body.flip[part]
    driven = (inputs >= 0)[:, :, None] & (outputs >= 0)[:, None, :]
    stored = _rows(block["stored"], mine, body.rows * body.group_width).reshape(driven.shape)
    held = (stored ^ flip[:, None, :]) * driven
    expected = {
        "outputs": outputs if body.row_outputs is None else body.row_outputs[part],
        "inputs": inputs,
        "stored": body.stored[part],
        "wanted": body.wanted_words(part),
        "flip": flip,
    }
    if body.encoding == "driver":
        expected["signs"] = body.row_signs(part)
    for name, values in expected.items():
        values = values.reshape(len(mine), -1)
        said = _rows(block[name], mine, values.shape[1])
        if name in ("wanted", "flip"):
            absent = held.reshape(len(mine), -1) if name == "wanted" else np.zeros_like(values)
            said = np.where(block[name].missing[mine][:, None], absent, said)
        yield from _first(_SECTIONS, name, block, mine, np.asarray((said != values).any(axis=1)))
    for name in ("rank", "polarity"):
        yield from _first(_SECTIONS, name, block, mine, block[name][mine] != getattr(body, name)[part])


def _verify_differences(
    program: Program, bodies: list[Programmed], block: Block, verified: Array
) -> Iterator[Problem]:
    """Whether just those writes are to be verified whose cells the IR marks (all, where it marks none).

    Args:
        verified: ``[loads]`` writes to be verified.
    """
    ids, all_marked = block["section"], np.array([body.verify is None for body in bodies])[block["layer"]]
    short = all_marked & (verified[ids] != program.loads["write_count"][ids])
    yield from _first(_WRITES, "verify", block, np.arange(len(ids)), short)
    if all_marked.all():
        return
    for part in stream_loads(program, int(ids[0]), int(ids[-1]) + 1):
        owner = part.owner() + part.start - int(ids[0])
        marked = np.asarray(part.verify).copy()
        for layer in np.unique(block["layer"][owner]).tolist():
            body = bodies[layer]
            if body.verify is None:
                continue
            of = np.flatnonzero(block["layer"][owner] == layer)
            group, digit = np.divmod(part.column[of], body.cells.columns)
            words = body.verify[block["index"][owner[of]], part.row[of], group].astype(np.int64)
            shift = body.bits_per_cell * (body.cells.columns - 1 - digit)
            marked[of] = (words >> shift) & ((1 << body.bits_per_cell) - 1) != 0
        wrong = np.unique(owner[part.verify != marked])
        yield from _first(_WRITES, "verify", block, np.arange(len(ids)), np.isin(np.arange(len(ids)), wrong))


def _first(file: str, name: str, block: Block, mine: Array, wrong: Array) -> Iterator[Problem]:
    at = np.flatnonzero(wrong)
    if len(at):
        section = int(block["section"][mine[at[0]]])
        more = f" (and {len(at) - 1} more)" if len(at) > 1 else ""
        yield Problem(file, f"section {section} has another {name} than in {MODULE}{more}", load=section)


def _rows(lists: Lists, mine: Array, width: int) -> Array:
    """``[len(mine), width]``: the lists of some sections; 0 in missing and shorter ones."""
    if len(lists.values) == len(lists) * width and len(mine) == len(lists):
        return lists.values.reshape(len(lists), width)
    out = np.zeros((len(mine), width), lists.values.dtype)
    whole = np.flatnonzero(lists.lengths[mine] == width)
    out[whole] = lists.values[lists.offsets[:-1][mine[whole]][:, None] + np.arange(width)]
    return out
