"""Invariants of a layer's section table: shape, routing, and every weight placed once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ir.arrays import Array
from ir.invariants import Findings, chunks, first_hit
from ir.stages import Sectioned, lowest_outputs
from ir.target import Target


def check_sections(body: Sectioned, groups: int, target: Target, found: Findings) -> None:
    """All invariants of the ``sectioned`` stage."""
    if body.rows > target.rows:
        found.add("rows", f"sections have {body.rows} rows, the target has {target.rows}")
    if body.encoding == "driver" and body.group_width != 1:
        found.add(
            "driver-width", f"driver signs need one output per section, the sections have {body.group_width}"
        )
    bad = np.flatnonzero(body.rank < 0)
    if bad.size:
        found.add("rank", f"section {bad[0]} has rank {body.rank[bad[0]]}")
    sound = _check_polarity(body, found)
    sound = _check_outputs(body, groups, found) and sound
    sound = _check_inputs(body, found) and sound
    if body.row_outputs is not None:
        sound = _check_row_outputs(body, body.row_outputs, target, found) and sound
    if not sound:
        return
    if target.routing == "block":
        _check_block(body, found)
    elif target.routing == "fixed":
        _check_fixed(body, target, found)
    _check_placement(body, found)


def _check_polarity(body: Sectioned, found: Findings) -> bool:
    split = body.encoding == "split"
    bad = np.flatnonzero(np.abs(body.polarity.astype(np.int16)) != int(split))
    if bad.size:
        wanted = "+1 or -1" if split else "0"
        found.add(
            "polarity",
            f"section {bad[0]} has polarity {body.polarity[bad[0]]}, {body.encoding} sections have {wanted}",
        )
    return not bad.size


def _check_outputs(body: Sectioned, groups: int, found: Findings) -> bool:
    """Whether outputs are in range; also that those of a section are distinct and of one group."""
    outputs, limit, width = body.outputs, body.shape[0], body.group_width
    hit = first_hit(body.sections, width, lambda part: (outputs[part] < -1) | (outputs[part] >= limit))
    if hit:
        s, g = hit.index
        found.add("output-range", f"section {s}, group {g} is output {outputs[s, g]} of {limit}{hit.more}")
        return False
    if width <= 1:
        return True

    def repeated(part: slice) -> Array:
        ordered = np.sort(outputs[part], axis=1)
        return np.asarray(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1))

    hit = first_hit(body.sections, width, repeated)
    if hit:
        s = hit.index[0]
        values, counts = np.unique(outputs[s][outputs[s] >= 0], return_counts=True)
        found.add("output-twice", f"section {s} holds output {values[counts > 1][0]} twice{hit.more}")
    if groups > 1 and limit % groups == 0:
        size = limit // groups

        def mixed(part: slice) -> Array:
            group = outputs[part] // size
            used = outputs[part] >= 0
            return np.asarray(
                np.where(used, group, -1).max(axis=1)
                > np.where(used, group, groups).min(axis=1, initial=groups)
            )

        hit = first_hit(body.sections, width, mixed)
        if hit:
            s = hit.index[0]
            used = outputs[s][outputs[s] >= 0]
            other = used[used // size != used[0] // size][0]
            found.add(
                "output-group",
                f"section {s} holds outputs {used[0]} (group {used[0] // size}) and {other} "
                f"(group {other // size}), which share no inputs{hit.more}",
            )
    return True


def _check_inputs(body: Sectioned, found: Findings) -> bool:
    """Whether inputs are in range."""
    inputs, limit = body.inputs, body.shape[1]
    if not inputs.size or (inputs.min() >= -1 and inputs.max() < limit):
        return True
    hit = first_hit(body.sections, body.rows, lambda part: (inputs[part] < -1) | (inputs[part] >= limit))
    assert hit is not None
    s, r = hit.index
    found.add("input-range", f"section {s}, row {r} takes input {inputs[s, r]} of {limit}{hit.more}")
    return False


def _check_row_outputs(body: Sectioned, outputs: Array, target: Target, found: Findings) -> bool:
    """Whether the outputs of single rows are in range; also that the target can read such sections."""
    needs = {
        "row_gating = true": target.row_gating,
        "routing = 'gather'": target.routing == "gather",
        "sections of one column group": body.group_width == 1,
    }
    for need, met in needs.items():
        if not met:
            found.add("row-gating", f"sections with an output for each row need {need}")
            return False
    limit = body.shape[0]
    hit = first_hit(
        body.sections,
        body.rows,
        lambda part: (outputs[part] >= limit) | ((outputs[part] >= 0) != (body.inputs[part] >= 0)),
    )
    if hit:
        s, r = hit.index
        what = f"takes input {body.inputs[s, r]} for output {outputs[s, r]} of {limit}"
        found.add("row-output", f"section {s}, row {r} {what}{hit.more}")
        return False

    hit = first_hit(
        body.sections, body.rows, lambda part: body.outputs[part] != lowest_outputs(outputs[part])
    )
    if hit:
        s = hit.index[0]
        found.add(
            "row-output",
            f"section {s} names output {body.outputs[s, 0]}, the lowest of its rows is another{hit.more}",
        )
        return False
    return True


def _check_block(body: Sectioned, found: Findings) -> None:
    beyond = body.shape[1]

    def broken(part: slice) -> Array:
        inputs = body.inputs[part]
        driven = inputs >= 0
        low = np.where(driven, inputs, beyond).min(axis=1, initial=beyond)
        run = inputs.max(axis=1, initial=-1) - low + 1
        return np.asarray(driven.any(axis=1) & (run != driven.sum(axis=1)))

    hit = first_hit(body.sections, body.rows, broken)
    if hit:
        s = hit.index[0]
        used = np.sort(body.inputs[s][body.inputs[s] >= 0])
        found.add(
            "block-routing",
            f"section {s} takes {used.size} inputs between {used[0]} and {used[-1]}, no run of consecutive "
            f"ones{hit.more}",
        )


def _check_fixed(body: Sectioned, target: Target, found: Findings) -> None:
    row = np.arange(body.rows, dtype=np.int32)

    def broken(part: slice) -> Array:
        inputs = body.inputs[part]
        driven = inputs >= 0
        first = np.take_along_axis(inputs, driven.argmax(axis=1)[:, None], axis=1)
        return np.asarray(driven & (inputs != first // target.rows * target.rows + row))

    if not body.rows:
        return
    hit = first_hit(body.sections, body.rows, broken)
    if hit:
        s, r = hit.index
        inputs = body.inputs[s]
        block = inputs[inputs >= 0][0] // target.rows
        found.add(
            "fixed-routing",
            f"section {s}, row {r} takes input {inputs[r]}; row {r} of block {block} is wired to input "
            f"{block * target.rows + r}{hit.more}",
        )


def _check_placement(body: Sectioned, found: Findings) -> None:
    """Every weight exactly once; split: at most once per sign, and in a section of its own sign."""
    if body.encoding != "split":
        seen = _check_once(body, 0, found)
        missing = ~seen if not seen.all() else None
    else:
        positive, negative = _check_once(body, 1, found), _check_once(body, -1, found)
        codes = body.codes.reshape(-1)
        missing = ((codes > 0) & ~positive) | ((codes < 0) & ~negative) | ~(positive | negative)
    if missing is not None and missing.any():
        at = [int(i) for i in np.unravel_index(int(missing.argmax()), body.shape)]
        where = "no section of its sign" if body.encoding == "split" else "no section"
        count = int(np.count_nonzero(missing))
        found.add("weight-missing", f"weight {at} is in {where}" + (f" ({count} such)" if count > 1 else ""))


def _check_once(body: Sectioned, sign: int, found: Findings) -> Array:
    """Which weights the sections of one sign (0: all) place: ``[outputs * inputs]`` bool.

    A weight placed twice shows as more placements than places.
    """
    nowhere = body.codes.size
    seen = np.zeros(nowhere + 1, np.bool_)
    placed = 0
    for flat, count in _places(body, sign):
        seen[flat] = True
        placed += count
    seen = seen[:nowhere]
    if int(np.count_nonzero(seen)) != placed and not {"input-twice", "output-twice"} & found.codes():
        _find_twice(body, sign, found)
    return seen


def _places(body: Sectioned, sign: int) -> Iterator[tuple[Array, int]]:
    """Flat weight indices of a chunk of sections, one column group at a time, and how many weights they are.

    Cells without a weight have the index one behind the last weight.
    """
    width, nowhere = body.shape[1], body.codes.size
    for part in chunks(body.sections, body.rows):
        inputs, outputs, of_rows = body.inputs[part], body.outputs[part], body.weight_outputs(part)
        if sign:
            chosen = body.polarity[part] == sign
            inputs, outputs, of_rows = inputs[chosen], outputs[chosen], of_rows[chosen]
        idle = inputs < 0
        driven = body.rows - np.count_nonzero(idle, axis=1)
        any_idle = bool(idle.any())
        for g in range(body.group_width):
            flat = of_rows[:, :, g].astype(np.intp) * width + inputs
            if any_idle:
                flat[idle] = nowhere
            empty = outputs[:, g] < 0
            flat[empty] = nowhere
            yield flat, int(driven[~empty].sum())


def _find_twice(body: Sectioned, sign: int, found: Findings) -> None:
    """Names an input that stands twice in one section, else a weight that stands in two."""

    def repeated(part: slice) -> Array:
        ordered = np.sort(body.inputs[part], axis=1)
        return np.asarray(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1))

    hit = first_hit(body.sections, body.rows, repeated) if body.row_outputs is None else None
    if hit:
        s = hit.index[0]
        values, counts = np.unique(body.inputs[s][body.inputs[s] >= 0], return_counts=True)
        value = values[counts > 1][0]
        rows = np.flatnonzero(body.inputs[s] == value)
        found.add("input-twice", f"section {s} takes input {value} in rows {rows[0]} and {rows[1]}{hit.more}")
        return
    counts = np.zeros(body.codes.size + 1, np.uint32)
    for flat, _ in _places(body, sign):
        np.add.at(counts, flat, 1)
    twice = counts[:-1] > 1
    output, value = (int(i) for i in np.unravel_index(int(twice.argmax()), body.shape))
    if body.row_outputs is None:
        holding = ((body.outputs == output).any(axis=1) & (body.inputs == value).any(axis=1)).astype(np.int64)
    else:
        holding = ((body.row_outputs == output) & (body.inputs == value)).sum(axis=1)
    if sign:
        holding *= body.polarity == sign
    first, second = np.repeat(np.arange(body.sections), holding)[:2]
    count = int(np.count_nonzero(twice))
    found.add(
        "weight-twice",
        f"weight [{output}, {value}] is in sections {first} and {second}"
        + (f" of polarity {sign:+d}" if sign else "")
        + (f" ({count} such)" if count > 1 else ""),
    )
