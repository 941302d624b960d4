"""Random tiny modules, made by plain loops, independent of the passes."""

from __future__ import annotations

import string
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from ir import (
    DIGITS,
    ENCODINGS,
    UNUSED,
    CellFormat,
    Encoded,
    Float,
    Host,
    Layer,
    Layout,
    Module,
    Origin,
    Placed,
    Programmed,
    Quantized,
    Sectioned,
    Sliced,
    Target,
    Unmapped,
    XbcError,
)

MAGNITUDE = ("driver", "split", "differential")


def supported(encoding: str, bits: int, bits_per_cell: int) -> bool:
    try:
        CellFormat(encoding, bits, bits_per_cell)
    except XbcError:
        return False
    return True


@st.composite
def digit_formats(draw: st.DrawFn, most_bits: int = 12) -> CellFormat:
    """Columns of arbitrary signed weights."""
    per_cell = draw(st.integers(1, 4))
    magnitude = st.integers(1, 100)
    digit = st.tuples(magnitude, st.sampled_from([1, -1])).map(lambda pair: pair[0] * pair[1])
    digits = draw(st.lists(digit, min_size=1, max_size=max(1, most_bits // per_cell)))
    return CellFormat(DIGITS, len(digits) * per_cell, per_cell, tuple(digits))


@st.composite
def formats(
    draw: st.DrawFn, encodings: tuple[str, ...] = tuple(ENCODINGS), most_bits: int = 17
) -> CellFormat:
    if draw(st.integers(0, 3)) == 0 and set(encodings) == set(ENCODINGS):
        return draw(digit_formats(most_bits))
    choice = st.tuples(st.sampled_from(encodings), st.integers(1, most_bits), st.integers(1, 4))
    return CellFormat(*draw(choice.filter(lambda c: supported(*c))))


def cut(order: list[int], rows: int, rng: np.random.Generator) -> list[list[int]]:
    """Sections of a list of inputs, don't-care rows at random places of the last one."""
    sections = [order[at : at + rows] for at in range(0, len(order), rows)]
    for section in sections:
        while len(section) < rows:
            section.insert(int(rng.integers(len(section) + 1)), UNUSED)
    return sections


def section_table(
    codes: np.ndarray, encoding: str, groups: int, width: int, rows: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """A valid section table with shuffled inputs, of fields outputs, inputs, rank, polarity."""
    outputs, inputs = codes.shape
    per_group = outputs // groups
    table: list[tuple[list[int], list[int], int, int]] = []
    for group in range(groups):
        members = [int(o) for o in rng.permutation(per_group) + group * per_group]
        for at in range(0, per_group, width):
            block = members[at : at + width]
            block += [UNUSED] * (width - len(block))
            order = [int(i) for i in rng.permutation(inputs)]
            lists = [(order, 0)]
            if encoding == "split" and width == 1 and rng.integers(2):
                lists = [
                    ([i for i in order if codes[block[0], i] >= 0], 1),
                    ([i for i in order if codes[block[0], i] < 0], -1),
                ]
            elif encoding == "split":
                lists = [(order, 1), (order, -1)]
            for taken, polarity in lists:
                for rank, section in enumerate(cut(taken, rows, rng)):
                    table.append((block, section, rank, polarity))
    shuffled = [table[i] for i in rng.permutation(len(table))]
    return {
        "outputs": np.array([t[0] for t in shuffled], np.int32),
        "inputs": np.array([t[1] for t in shuffled], np.int32),
        "rank": np.array([t[2] for t in shuffled], np.int32),
        "polarity": np.array([t[3] for t in shuffled], np.int8),
    }


def gated_table(
    codes: np.ndarray, encoding: str, rows: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """As ``section_table``, from the shuffled weights of the whole layer: every row has an output of its own."""
    flat = [int(i) for i in rng.permutation(codes.size)]
    lists = [(flat, 0)]
    if encoding == "split":
        positive = [i for i in flat if codes.reshape(-1)[i] >= 0]
        lists = [(positive, 1), ([i for i in flat if i not in positive], -1)]
    table = [(s, rank, sign) for taken, sign in lists for rank, s in enumerate(cut(taken, rows, rng))]
    weights = np.array([t[0] for t in table], np.int32)
    of_rows = np.where(weights >= 0, weights // codes.shape[1], UNUSED).astype(np.int32)
    return {
        "outputs": np.array([[min(o for o in row if o >= 0)] for row in of_rows.tolist()], np.int32),
        "inputs": np.where(weights >= 0, weights % codes.shape[1], UNUSED).astype(np.int32),
        "rank": np.array([t[1] for t in table], np.int32),
        "polarity": np.array([t[2] for t in table], np.int8),
        "row_outputs": of_rows,
    }


@st.composite
def programmed(
    draw: st.DrawFn, exact: bool = False, first_step: int = 0, crossbars: int = 3
) -> tuple[Programmed, int]:
    """A valid programmed body and its number of groups; ``exact``: the stored words are the wanted ones."""
    cells = draw(formats(most_bits=9))
    groups = draw(st.integers(1, 2))
    outputs, inputs = groups * draw(st.integers(1, 3)), draw(st.integers(1, 7))
    width = 1 if cells.encoding == "driver" else draw(st.integers(1, 3))
    rows = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low, high = cells.code_range()
    own = draw(st.booleans())
    offset = np.zeros(1, np.int32)
    if cells.encoding == "offset":
        offset = rng.integers(0, high + 1, outputs if own else 1).astype(np.int32)
    codes = rng.integers(low, high + 1, (outputs, inputs)) - offset[:, None]
    if cells.digits:
        codes = cells.decode(rng.integers(0, 1 << cells.word_bits, (outputs, inputs)))
    sliced = Sliced(
        codes=codes.astype(np.int32 if draw(st.booleans()) else np.int16),
        scale=rng.uniform(0.1, 2, outputs if own else 1).astype(np.float32),
        zero_point=rng.integers(-5, 5, outputs if own else 1).astype(np.int32),
        limits=np.array([[-(2**20), 2**20]], np.int32),
        bits=cells.bits,
        given=draw(st.booleans()),
        encoding=cells.encoding,
        stored_bits=cells.bits,
        offset=offset,
        digits=cells.digits or None,
        bits_per_cell=cells.bits_per_cell,
    )
    if width == 1 and draw(st.booleans()):
        sectioned = sliced.lower(Sectioned, **gated_table(codes, cells.encoding, rows, rng))
    else:
        sectioned = sliced.lower(Sectioned, **section_table(codes, cells.encoding, groups, width, rows, rng))
    load = np.arange(sectioned.sections)
    placed = sectioned.lower(
        Placed, crossbar=(load % crossbars).astype(np.int32), step=first_step + load // crossbars
    )
    words = placed.wanted_words()
    used = (placed.inputs >= 0)[:, :, None] & (placed.outputs >= 0)[:, None, :]
    if not exact:
        words = np.where(used, rng.integers(0, 1 << cells.word_bits, words.shape), 0).astype(cells.dtype)
    flip = None
    if draw(st.booleans()):
        full = (1 << cells.bits_per_cell) - 1
        digits = rng.integers(0, 2, (*placed.outputs.shape, cells.columns)) * full
        flip = cells.words(digits.astype(np.uint8))
        words = np.where(used, words ^ flip[:, None, :], 0).astype(cells.dtype)
    verify = None
    if draw(st.booleans()):
        verify = rng.integers(0, 1 << cells.word_bits, words.shape).astype(cells.dtype)
    return placed.lower(Programmed, stored=words, flip=flip, verify=verify), groups


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=0, max_size=8) | st.text(
    string.ascii_letters, min_size=1, max_size=8
)


@st.composite
def modules(draw: st.DrawFn) -> Module:
    """Valid modules with layers at any stage."""
    layers: list[Layer] = []
    step = 0
    for name in draw(st.lists(names, max_size=3, unique=True)):
        body, groups = draw(programmed(first_step=step))
        step = max(step, int(body.step.max()) + 1)
        stage = draw(st.sampled_from([Float, Quantized, Encoded, Sliced, Sectioned, Placed, Programmed]))
        if stage is Float:
            shaped = Float(values=(body.codes * body.scale[:, None]).astype(np.float32))
        else:
            shaped = body.lower(stage)
        outputs, inputs = body.shape
        layout = Layout((inputs, outputs), (inputs, outputs), (1, 0), 1)
        origin = Origin(
            node=name, op_type="Conv", operand=1, tensor=f"w{len(layers)}", dtype="float32", layout=layout,
            groups=groups, kernel=draw(st.sampled_from([(), (3, 3)])),
            products=draw(st.none() | st.integers(1, 99)),
        )  # fmt: skip
        layers.append(Layer(name, origin, shaped))
    edges = tuple((a.name, b.name) for a, b in pairwise(layers))
    target = Target(
        draw(names), rows=4, columns=128, bits_per_cell=4, crossbars=3, encoding="split",
        adders="any", row_gating=True, endurance=draw(st.floats(1e-3, 1e30)), description=draw(names),
    )  # fmt: skip
    unmapped = tuple(Unmapped(f"n{i}", draw(names), i, draw(names)) for i in range(draw(st.integers(0, 2))))
    return Module(draw(names), target, tuple(layers), edges, Host(file=draw(names)), unmapped)
