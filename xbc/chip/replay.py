"""Replaying a program from its files, load by load, as the chip would do it.

Two chips run side by side: a blank one (first inference) and one that holds what a whole first inference left
behind (every later inference).  When the second one ends as it began, a third inference equals the second.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from ir.arrays import Array
from ir.progress import Progress, silent
from ir.target import Target
from xbc.backend.encodings import cell_weights
from xbc.backend.problems import MOST_KEPT, Broken, Findings, Problem
from xbc.backend.program import Block, Program
from xbc.backend.structure import check_layers, check_loads, check_order, check_sections
from xbc.backend.tables import SCHEMAS, file_of
from xbc.chip.chip import Chip
from xbc.chip.kernels import (
    BEFORE_FIRST,
    BEFORE_LATER,
    COUNTS,
    FAULTY,
    FINDING_COLUMNS,
    NO_CHANGE,
    OUTSIDE,
    STORED_FIRST,
    STORED_LATER,
    TWICE,
    UNORDERED,
    UNUSED_CELL,
    Chips,
    LayerRows,
    Notes,
    SectionRows,
    WriteRows,
    run_loads,
    settle,
)

_IMAGE_BYTES = 1 << 24
_CHUNK_WRITES = 1 << 21
_LOADS, _SECTIONS, _WRITES, _LAYERS = (file_of(name) for name in ("loads", "sections", "writes", "layers"))

_WORDING = {
    OUTSIDE: (_WRITES, "the cell, its levels (highest {a}) or the phase do not exist on this chip"),
    UNORDERED: (
        _WRITES,
        "writes of a load must ascend by row, column and phase, each cell once per inference",
    ),
    BEFORE_FIRST: (_WRITES, "level before is given as {a}, in the first inference the cell holds {b}"),
    BEFORE_LATER: (_WRITES, "level before is given as {a}, in later inferences the cell holds {b}"),
    NO_CHANGE: (_WRITES, "writes level {b} where {a} stands already"),
    FAULTY: (_WRITES, "writes level {b} to a faulty cell that holds {a} for ever"),
    UNUSED_CELL: (_WRITES, "writes a cell that the section does not use"),
    STORED_FIRST: (
        _SECTIONS,
        "the section promises level {a}, after the load in the first inference the cell holds {b}",
    ),
    STORED_LATER: (
        _SECTIONS,
        "the section promises level {a}, after the load in later inferences the cell holds {b}",
    ),
    TWICE: (_SECTIONS, "weight of output {a} and input {b} has been placed before"),
}


@dataclass(frozen=True)
class Replay:
    """What a replay found.

    Fields:
        codes: layer name -> ``[outputs, inputs]`` int32, the codes that the cells stand for, from the levels
            after each load of a later inference.
        chip: state at the end of an inference.
        wear: ``[crossbars, rows, columns]`` uint32, writes per cell and steady inference.
        counts: ``[loads, len(kernels.COUNTS)]`` int64.
        findings: broken promises.
    """

    codes: dict[str, Array]
    chip: Chip
    wear: Array = field(repr=False)
    counts: Array = field(repr=False)
    findings: Findings = field(repr=False)


def replay(program: Program, progress: Progress = silent) -> Replay:
    """Replays the first inference and a steady one.

    Raises: Broken when the tables contradict their own structure so that a replay is impossible.
    """
    check_layers(program)
    check_loads(program)
    return _Run(program, progress).run()


class _Writes:
    """The rows of the writes table in order, taken by number."""

    def __init__(self, program: Program) -> None:
        self._blocks = program.writes()
        self._held: dict[str, Array] | None = None

    def take(self, rows: int) -> dict[str, Array]:
        parts: list[dict[str, Array]] = []
        missing = rows
        while missing:
            if self._held is None:
                block = next(self._blocks, None)
                if block is None:
                    break
                self._held = cast(dict[str, Array], block)
            here = min(missing, len(self._held["load"]))
            parts.append({name: column[:here] for name, column in self._held.items()})
            rest = {name: column[here:] for name, column in self._held.items()}
            self._held = rest if len(rest["load"]) else None
            missing -= here
        if missing:
            raise Broken(Problem(_WRITES, "it ends before the writes of the last load"))
        if not parts:
            return {f.name: np.zeros(0, f.type.to_pandas_dtype()) for f in SCHEMAS["writes"]}
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def layer_facts(program: Program) -> LayerRows:
    """What a walk of the sections has to know of their layers, which ``check_layers`` has found sound."""
    layers = program.layers
    weights_of = np.zeros((len(layers), 32), np.int64)
    for i, layer in enumerate(layers):
        weights = cell_weights(layer.encoding, layer.bits, layer.bits_per_cell, layer.cell_weights)
        weights_of[i, : len(weights)] = weights
    sizes = [layer.outputs * layer.inputs for layer in layers]
    return LayerRows(
        np.array([layer.columns_per_weight for layer in layers], np.int64),
        np.array([layer.bits_per_cell for layer in layers], np.int64),
        weights_of,
        np.array([layer.inputs for layer in layers], np.int64),
        np.concatenate([[0], np.cumsum(np.array(sizes, np.int64))]).astype(np.int64),
        np.array([layer.gated for layer in layers], np.bool_),
    )


def section_rows(block: Block, start: int, stop: int) -> SectionRows:
    """Sections ``start .. stop`` of a block."""
    part, at = slice(start, stop), slice(start, stop + 1)
    lists: dict[str, Array] = {}
    for name in ("inputs", "outputs", "signs", "stored", "wanted", "flip"):
        lists |= {name: block[name].values, f"{name}_at": block[name].offsets[at]}
    return SectionRows(
        layer=block["layer"][part], polarity=block["polarity"][part], offset=block["offset"].values, **lists
    )


class _Run:
    def __init__(self, program: Program, progress: Progress) -> None:
        target: Target = program.target
        self.program, self.target, self.progress = program, target, progress
        self.first, self.later = Chip.of(target), Chip.of(target)
        self.wear = np.zeros(self.first.levels.shape, np.uint32)
        self.layers = layer_facts(program)
        self.base_of = self.layers.base
        self.codes = np.zeros(int(self.base_of[-1]), np.int32)
        self.placed = np.zeros(int(self.base_of[-1]), np.uint8)
        stamp = np.full((target.rows, target.columns), -1, np.int32)
        self.chips = Chips(
            self.first.faulty, self.first.levels, self.later.levels, self.wear, stamp, self.codes, self.placed
        )
        count = len(program.loads["load"])
        self.counts = np.zeros((count, len(COUNTS)), np.int64)
        self.layer_of = np.zeros(count, np.int32)
        self.index_of = np.zeros(count, np.int32)
        self.findings = Findings()

    def run(self) -> Replay:
        self._settle()
        start = self.later.levels.copy()
        writes = _Writes(self.program)
        load = 0
        for block in self.program.sections():
            check_sections(self.program, block, load)
            n = len(block["section"])
            self.layer_of[load : load + n] = block["layer"]
            self.index_of[load : load + n] = block["index"]
            for a, b in self._chunks(load, load + n):
                self._loads(a, b, block, load, writes)
                self.progress("replay", b, len(self.counts))
            load += n
        if load != len(self.counts):
            raise Broken(Problem(_SECTIONS, f"it holds {load} sections for {len(self.counts)} loads"))
        self.program.sound = True
        self._check_wrap(start)
        self._check_counts()
        self.findings.extend(check_order(self.program, self.layer_of, self.index_of))
        self._check_placed()
        codes = {
            layer.name: self.codes[self.base_of[i] : self.base_of[i + 1]].reshape(layer.outputs, layer.inputs)
            for i, layer in enumerate(self.program.layers)
        }
        return Replay(codes, self.later, self.wear, self.counts, self.findings)

    def _settle(self) -> None:
        """Leaves ``later`` as the first inference leaves a blank chip; checks whose load each write is."""
        loads = self.program.loads
        base = 0
        ends = loads["write_start"] + loads["write_count"]
        for block in self.program.writes():
            n = len(block["load"])
            owner = np.searchsorted(ends, np.arange(base, base + n), side="right")
            for at in np.flatnonzero(block["load"] != owner)[:1]:
                raise Broken(
                    Problem(
                        _WRITES,
                        f"row {base + int(at)} names load {int(block['load'][at])}",
                        load=int(owner[at]),
                    )
                )
            settle(
                self.later.levels, self.later.faulty, loads["crossbar"][owner], block["row"], block["column"],
                block["after"], block["phase"],
            )  # fmt: skip
            base += n

    def _chunks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Runs of loads whose images and writes fit in bounded memory."""
        most = max(1, _IMAGE_BYTES // (self.target.rows * self.target.columns))
        rows = self.program.loads["write_start"]
        ends = rows + self.program.loads["write_count"]
        while start < stop:
            reach = int(np.searchsorted(ends, rows[start] + _CHUNK_WRITES, side="right"))
            end = min(stop, start + most, max(reach, start + 1))
            yield start, end
            start = end

    def _loads(self, a: int, b: int, block: Block, base: int, writes: _Writes) -> None:
        loads, n = self.program.loads, b - a
        start, count = loads["write_start"][a:b], loads["write_count"][a:b]
        rows = writes.take(int(count.sum()))
        write_at = np.append(start - start[0], start[-1] + count[-1] - start[0])
        part = slice(a - base, b - base)
        images: list[Array] = [
            np.empty((n, self.target.rows, self.target.columns), np.uint8) for _ in range(2)
        ]
        notes = np.zeros((MOST_KEPT, FINDING_COLUMNS), np.int64)
        used = np.zeros(1, np.int64)
        run_loads(
            a,
            2**self.target.bits_per_cell - 1,
            loads["crossbar"][a:b],
            WriteRows(write_at, *(rows[name] for name in WriteRows._fields[1:])),
            section_rows(block, part.start, part.stop),
            self.layers,
            self.chips,
            Notes(self.counts[a:b], images[0], images[1], notes, used),
        )
        for kind, load, crossbar, row, column, x, y in notes[: min(int(used[0]), MOST_KEPT)].tolist():
            file, text = _WORDING[kind]
            self.findings.add(Problem(file, text.format(a=x, b=y), load, crossbar, row, column))
        self.findings.count += max(0, int(used[0]) - MOST_KEPT)
        for name, image in (("post_crc_first", images[0]), ("post_crc_steady", images[1])):
            crc = np.array([zlib.crc32(one) for one in image], np.uint32)
            for i in np.flatnonzero(crc != loads[name][a:b]).tolist():
                said, found = int(loads[name][a + i]), int(crc[i])
                self._wrong_load(a + i, f"{name} is given as {said:#010x}, the crossbar has {found:#010x}")

    def _wrong_load(self, load: int, message: str) -> None:
        self.findings.add(Problem(_LOADS, message, load, int(self.program.loads["crossbar"][load])))

    def _check_wrap(self, start: Array) -> None:
        """A third inference equals the second when the second ends as it began."""
        if not np.array_equal(self.first.levels, start):
            raise Broken(Problem(_WRITES, "two replays of the first inference disagree"))
        for c, r, k in np.argwhere(self.later.levels != start):
            was, now = int(start[c, r, k]), int(self.later.levels[c, r, k])
            message = f"the cell holds {was} when a later inference begins and {now} at its end"
            self.findings.add(Problem(_WRITES, message, None, int(c), int(r), int(k)))

    def _check_counts(self) -> None:
        loads = self.program.loads
        for i, name in enumerate(COUNTS):
            said = loads["write_verify"] if name == "verified" else loads[name]
            found = self.counts[:, i] > 0 if name == "verified" else self.counts[:, i]
            what = "write_verify" if name == "verified" else name
            for at in np.flatnonzero(said != found):
                self._wrong_load(
                    int(at), f"{what} is given as {int(said[at])}, the replay has {int(found[at])}"
                )

    def _check_placed(self) -> None:
        for i, layer in enumerate(self.program.layers):
            placed = self.placed[self.base_of[i] : self.base_of[i + 1]]
            gaps = len(placed) - np.count_nonzero(placed)
            if gaps:
                output, source = divmod(int(np.argmin(placed)), layer.inputs)
                more = f" and {gaps - 1} more" if gaps > 1 else ""
                self.findings.add(
                    Problem(
                        _SECTIONS,
                        f"layer {layer.name!r}: the weight of output {output} and input {source}{more} "
                        f"is in no section",
                    )
                )


def steady_totals(run: Replay) -> dict[str, Any]:
    """The manifest's totals that follow from a replay."""
    total = dict(zip(COUNTS, (int(x) for x in run.counts.sum(axis=0)), strict=True))
    cells = int(run.chip.levels[0].size) * len(run.counts)
    return {
        "full": cells - total["dont_care"],
        "steady": {"set": total["set"], "reset": total["reset"], "writes": total["set"] + total["reset"]},
        "first": {
            "set": total["set_first"],
            "reset": total["reset_first"],
            "writes": total["set_first"] + total["reset_first"],
        },
        "skipped": {name: total[name] for name in ("unchanged", "stuck", "dont_care", "faulty")},
        "wear_max": int(run.wear.max(initial=0)),
    }
