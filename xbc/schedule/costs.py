"""Energy and time of one load: of its cell writes and of the products that are read from it.

All constants are the target's; its TOML file says where each comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ir.arrays import Array
from ir.target import Target
from passes.residency import product_ns
from xbc.backend.program import Lists, Program
from xbc.backend.stream import skipped_phase, stream_loads


def write_costs(
    target: Target, set_: Array, reset: Array, set_verified: Array, reset_verified: Array
) -> tuple[Array, Array]:
    """(energy pJ, time ns) of the writes of each load, ``[loads]`` float64.

    A write of ``n`` trials (``write.trials_*``, an average) costs n pulses, each followed by a verify read
    when it is verified.  ``write.parallel_cells`` cells are written at once; SET and RESET, verified and
    other cells take turns.

    Args:
        set_, reset: ``[loads]`` cells raised, cells lowered.
        set_verified, reset_verified: ``[loads]`` how many of these get write-verify.
    """
    write, read = target.write, target.read
    energy, duration = np.zeros(len(set_)), np.zeros(len(set_))
    for cells, pulse_pj, pulse_ns, verified in (
        (set_verified, write.set_pj, write.set_ns, True),
        (reset_verified, write.reset_pj, write.reset_ns, True),
        (set_ - set_verified, write.set_pj, write.set_ns, False),
        (reset - reset_verified, write.reset_pj, write.reset_ns, False),
    ):
        trials = write.trials_verified if verified else write.trials_unverified
        check_pj, check_ns = (read.verify_pj, read.verify_ns) if verified else (0.0, 0.0)
        energy += trials * cells * (pulse_pj + check_pj)
        duration += trials * -(-cells // write.parallel_cells) * (pulse_ns + check_ns)
    return energy, duration


def read_costs(
    target: Target, driven_rows: Array, used_columns: Array, phases: Array | int = 1
) -> tuple[Array, Array]:
    """(energy pJ, time ns) of one matrix-vector product of each section, ``[sections]`` float64.

    An input of ``converters.input_bits`` bits is applied in ceil(input_bits / dac_bits) reads.  A read drives the
    rows once, whatever the number of columns.  Its time is that of ``passes.residency.product_ns``.

    Args:
        driven_rows, used_columns: ``[sections]`` cells of a section that take part.
        phases: ``[sections]`` outputs that are read one after the other, each with its own rows driven.
    """
    converters, read = target.converters, target.read
    reads = -(-converters.input_bits // converters.dac_bits)
    per_column = driven_rows * read.cell_pj + phases * converters.adc_pj
    energy = reads * (driven_rows * target.area.driver_pj + used_columns * per_column)
    return energy, phases * product_ns(target, used_columns)


@dataclass(frozen=True)
class Costs:
    """What every load of a program costs; arrays ``[loads]``.

    Fields:
        layer: index of the load's layer.
        crossbar, step: from the loads table.
        write_pj, write_ns, first_pj, first_ns: writes in a steady and in the first inference.
        read_pj, read_ns: one product.
        products: ``[layers]`` products per inference (1 where the model does not say: ``unknown``).
        unknown: names of layers whose number of products depends on the input.
        predecessors: per layer, layers that feed it.
    """

    layer: Array
    crossbar: Array
    step: Array
    write_pj: Array
    write_ns: Array
    first_pj: Array
    first_ns: Array
    read_pj: Array
    read_ns: Array
    products: Array
    unknown: tuple[str, ...]
    predecessors: tuple[tuple[int, ...], ...]


def program_costs(program: Program) -> Costs:
    """Costs of every load, from the emitted tables."""
    loads, target = program.loads, program.target
    n = program.total("loads")
    verified = np.zeros((2, 2, n), np.int64)  # inference, direction
    for part in stream_loads(program):
        owner = part.owner() + part.start
        up = part.after > part.before
        for i, name in enumerate(("first", "steady")):
            acts = part.verify & (part.phase != skipped_phase(name))
            for j, direction in enumerate((up, ~up)):
                verified[i, j] += np.bincount(owner[acts & direction], minlength=n)
    first = write_costs(target, loads["set_first"], loads["reset_first"], verified[0, 0], verified[0, 1])
    steady = write_costs(target, loads["set"], loads["reset"], verified[1, 0], verified[1, 1])
    layers = program.layers
    width = np.array([layer.columns_per_weight for layer in layers], np.int64)
    gated = np.array([layer.gated for layer in layers], np.bool_)
    layer_of, rows, columns, phases = (np.zeros(n, np.int64) for _ in range(4))
    at = 0
    for block in program.sections():
        part_of = slice(at, at + len(block["section"]))
        layer_of[part_of] = block["layer"]
        rows[part_of] = _used(block["inputs"])
        apart = gated[block["layer"]]
        columns[part_of] = np.where(apart, 1, _used(block["outputs"])) * width[block["layer"]]
        phases[part_of] = np.where(apart, _distinct(block["outputs"]), 1)
        at = part_of.stop
    read = read_costs(target, rows, columns, phases)
    return Costs(
        layer=layer_of,
        crossbar=loads["crossbar"].astype(np.int64),
        step=loads["step"],
        write_pj=steady[0],
        write_ns=steady[1],
        first_pj=first[0],
        first_ns=first[1],
        read_pj=read[0],
        read_ns=read[1],
        products=np.array([layer.products or 1 for layer in layers], np.int64),
        unknown=tuple(layer.name for layer in layers if layer.products is None),
        predecessors=tuple(layer.predecessors for layer in layers),
    )


def _distinct(lists: Lists) -> Array:
    """Different entries of every list, -1 not counted."""
    owner = np.repeat(np.arange(len(lists)), lists.lengths)
    order = np.lexsort((lists.values, owner))
    owner, values = owner[order], lists.values[order]
    fresh = (np.diff(owner, prepend=-1) != 0) | (np.diff(values, prepend=-2) != 0)
    return np.bincount(owner[fresh & (values >= 0)], minlength=len(lists))


def _used(lists: Lists) -> Array:
    """Entries that are not -1 of every list."""
    sums = np.concatenate([[0], np.cumsum(lists.values >= 0)])
    return np.diff(sums[lists.offsets])
