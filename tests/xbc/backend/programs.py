"""Random programmed modules with several layers, and a replay of them in plain loops."""

from __future__ import annotations

import dataclasses
import zlib
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from ir.faulty import FaultyCells
from ir.layout import Layout
from ir.module import Host, Layer, Module, Origin
from ir.stages import Programmed
from ir.target import Target
from tests.ir.tiny import programmed

CROSSBARS, ROWS, COLUMNS, BITS = 3, 4, 64, 4
Cell = tuple[int, int, int]


def as_layer(name: str, body: Programmed, groups: int = 1) -> Layer:
    outputs, inputs = body.shape
    layout = Layout((inputs, outputs), (inputs, outputs), (1, 0), 1)
    return Layer(name, Origin(f"node {name}", "MatMul", 1, f"{name}.w", "float32", layout, groups), body)


def stick(layers: list[Layer], faulty: dict[Cell, int]) -> list[Layer]:
    """The layers with the level of every faulty cell in all words that stand there."""
    out = []
    for layer in layers:
        body = layer.at(Programmed)
        levels = body.cells.levels(body.stored)
        for (crossbar, row, column), level in faulty.items():
            group, digit = divmod(column, body.cells.columns)
            if row >= body.rows or group >= body.group_width:
                continue
            there = (body.crossbar == crossbar) & (body.inputs[:, row] >= 0) & (body.outputs[:, group] >= 0)
            levels[there, row, group, digit] = min(level, (1 << body.bits_per_cell) - 1)
        out.append(layer.with_body(dataclasses.replace(body, stored=body.cells.words(levels))))
    return out


@st.composite
def programs(draw: st.DrawFn, exact: bool | None = None) -> Module:
    """Modules at stage Programmed: one to three layers, one after the other or taking turns."""
    exact = draw(st.booleans()) if exact is None else exact
    turns = draw(st.booleans())
    layers: list[Layer] = []
    step = 0
    count = draw(st.integers(1, 3))
    for i in range(count):
        body, groups = draw(programmed(exact=exact, first_step=0 if turns else step, crossbars=CROSSBARS))
        if turns:
            body = dataclasses.replace(body, step=body.step * count + i)
        step = max(step, int(body.step.max()) + 1)
        layers.append(as_layer(f"layer{i}", body, groups))
    faulty: dict[Cell, int] = {}
    if not exact and draw(st.booleans()):
        places = st.tuples(st.integers(0, CROSSBARS - 1), st.integers(0, ROWS - 1), st.integers(0, 20))
        faulty = {place: draw(st.integers(0, 1)) for place in draw(st.lists(places, max_size=6, unique=True))}
        layers = stick(layers, faulty)
    target = Target(
        "tiny", ROWS, COLUMNS, BITS, CROSSBARS, encoding="split", adders="any", row_gating=True,
        faulty=FaultyCells([(*cell, level) for cell, level in faulty.items()]),
    )  # fmt: skip
    edges = () if turns else tuple((a.name, b.name) for a, b in pairwise(layers))
    return Module("tiny model", target, tuple(layers), edges, Host(model_sha256="0" * 64))


@dataclass
class Inference:
    """What one inference does: (load, row, column) -> (before, after), and per load its figures."""

    writes: dict[Cell, tuple[int, int]] = field(default_factory=dict)
    skipped: list[dict[str, int]] = field(default_factory=list)
    crcs: list[int] = field(default_factory=list)


def ordered_loads(module: Module) -> list[tuple[int, int, int, int]]:
    """(step, crossbar, layer, section) of all loads in order."""
    loads = []
    for i, layer in enumerate(module.layers):
        body = layer.at(Programmed)
        loads += [(int(body.step[s]), int(body.crossbar[s]), i, s) for s in range(body.sections)]
    return sorted(loads)


def walk(module: Module, state: dict[Cell, int]) -> Inference:
    """One inference in plain loops; ``state`` (missing: 0) is brought up to date."""
    target = module.target
    faulty = {cell[:3] for cell in target.faulty}
    done = Inference()
    all_wanted = [layer.at(Programmed).wanted_words() for layer in module.layers]
    for load, (_, crossbar, i, s) in enumerate(ordered_loads(module)):
        body = module.layers[i].at(Programmed)
        bits, per_weight = body.bits_per_cell, body.cells.columns
        wanted = all_wanted[i][s]
        skipped = {"unchanged": 0, "stuck": 0, "dont_care": target.rows * target.columns, "faulty": 0}
        for row in range(body.rows):
            for group in range(body.group_width):
                if body.inputs[s, row] < 0 or body.outputs[s, group] < 0:
                    continue
                word = int(body.stored[s, row, group])
                want = int(wanted[row, group]) ^ (0 if body.flip is None else int(body.flip[s, group]))
                for digit in range(per_weight):
                    shift = bits * (per_weight - 1 - digit)
                    level, wish = (word >> shift) % 2**bits, (want >> shift) % 2**bits
                    cell = (crossbar, row, group * per_weight + digit)
                    skipped["dont_care"] -= 1
                    held = state.get(cell, 0)
                    if cell in faulty:
                        assert held == level
                        skipped["faulty"] += 1
                    elif held != level:
                        done.writes[load, row, cell[2]] = (held, level)
                        state[cell] = level
                    else:
                        skipped["unchanged" if level == wish else "stuck"] += 1
        done.skipped.append(skipped)
        cells = [(crossbar, r, c) for r in range(target.rows) for c in range(target.columns)]
        done.crcs.append(zlib.crc32(bytes(state.get(cell, 0) for cell in cells)))
    return done


def verified(body: Programmed, s: int, row: int, column: int) -> bool:
    if body.verify is None:
        return True
    group, digit = divmod(column, body.cells.columns)
    shift = body.bits_per_cell * (body.cells.columns - 1 - digit)
    return (int(body.verify[s, row, group]) >> shift) % 2**body.bits_per_cell != 0


def three_inferences(module: Module) -> list[Inference]:
    """The first inference from blank cells and the two that follow it."""
    state = {cell[:3]: cell[3] for cell in module.target.faulty}
    return [walk(module, state) for _ in range(3)]


def phases(module: Module) -> list[tuple[int, int, int, int, int, int, bool]]:
    """Rows of the writes table: load, row, column, before, after, phase, verify."""
    first, second, third = three_inferences(module)
    assert second.writes == third.writes
    loads = [(module.layers[i].at(Programmed), s) for _, _, i, s in ordered_loads(module)]
    rows = []
    for place in first.writes.keys() | second.writes.keys():
        a, b = first.writes.get(place), second.writes.get(place)
        mark = verified(*loads[place[0]], *place[1:])
        if a == b:
            assert a is not None
            rows.append((*place, *a, 0, mark))
            continue
        rows += [(*place, *w, phase, mark) for phase, w in ((1, a), (2, b)) if w is not None]
    return sorted(rows, key=lambda r: (r[0], r[1], r[2], r[5]))


def small_program() -> Module:
    """A fixed module for tests that damage its files: two layers, two crossbars, inexact words."""
    rng = np.random.default_rng(5)
    layers, step = [], 0
    for name, (outputs, inputs) in {"first": (6, 9), "second": (4, 6)}.items():
        codes = rng.integers(-15, 16, (outputs, inputs)).astype(np.int16)
        blocks = -(-inputs // 4)
        padded = np.full((outputs, blocks * 4), -1, np.int32)
        padded[:, :inputs] = [rng.permutation(inputs) for _ in range(outputs)]
        sections = outputs * blocks
        crossbar = (np.arange(sections) % 2).astype(np.int32)
        body = Programmed(
            codes=codes,
            scale=rng.uniform(0.5, 1, outputs).astype(np.float32),
            zero_point=np.zeros(1, np.int32),
            limits=np.array([[-15, 15]], np.int32),
            bits=4,
            given=False,
            encoding="driver",
            stored_bits=4,
            offset=np.zeros(1, np.int32),
            bits_per_cell=1,
            outputs=np.repeat(np.arange(outputs, dtype=np.int32), blocks)[:, None],
            inputs=padded.reshape(sections, 4),
            rank=np.tile(np.arange(blocks, dtype=np.int32), outputs),
            polarity=np.zeros(sections, np.int8),
            crossbar=crossbar,
            step=step + np.arange(sections) // 2,
            stored=np.zeros((sections, 4, 1), np.uint8),
        )
        step += sections
        stored = body.wanted_words()
        stored[:, :, 0] ^= (rng.integers(0, 4, stored.shape[:2]) == 0).astype(np.uint8)
        stored[body.inputs < 0] = 0
        layers.append(as_layer(name, dataclasses.replace(body, stored=stored)))
    target = Target("small", rows=4, columns=5, crossbars=2)
    return Module("small", target, tuple(layers), (("first", "second"),), Host(model_sha256="ab" * 32))
