"""What every load of an inference moves: cell writes, products that are read, bits that are fetched.

All constants are the target's; its TOML file says where each comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ir.arrays import Array
from ir.memory import Memory
from ir.module import Module
from ir.stages import Programmed
from ir.target import Target
from passes.residency import product_ns
from xbc.backend.order import in_load_order, load_order
from xbc.backend.program import Lists, Program
from xbc.backend.stream import skipped_phase, stream_loads
from xbc.backend.walk import COUNTS, walk_module
from xbc.export.binary_code import steady_bytes
from xbc.schedule.maps import alone, module_map_bits


def write_costs(
    target: Target, set_: Array, reset: Array, set_verified: Array, reset_verified: Array
) -> tuple[Array, Array]:
    """(energy pJ, time ns) of the writes of each load, ``[loads]`` float64.

    A write of ``n`` trials (``write.trials_*``, an average) costs n pulses, each followed by a verify read
    when it is verified.  ``write.parallel_cells`` cells are written at once; SET and RESET, verified and other
    cells take turns.

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
        map_bits: row map, driver signs and complemented columns of a load, 0 for the only load of its crossbar.
        program_bits: its record in the compact stream as a steady inference needs it, 0 for the only load of its
            crossbar.
        memory: where both come from.
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
    map_bits: Array
    program_bits: Array
    memory: Memory

    @property
    def fetched_bits(self) -> int:
        """Bits of row maps and program that an inference fetches."""
        return int(self.map_bits.sum() + self.program_bits.sum())

    @property
    def fetch_ns(self) -> Array:
        """``[loads]`` time of fetching what a load needs."""
        return (self.map_bits + self.program_bits) * self.memory.ns_per_bit(self.fetched_bits)

    @property
    def fetch_pj(self) -> tuple[float, float]:
        """(row maps, program) energy of fetching them in one inference."""
        each = self.memory.pj_per_bit(self.fetched_bits)
        return float(self.map_bits.sum()) * each, float(self.program_bits.sum()) * each

    @property
    def offchip_bytes(self) -> int:
        """Bytes that an inference fetches from outside the chip."""
        bits = self.fetched_bits
        return max(0, -(-bits // 8) - int(self.memory.onchip_bytes)) if bits else 0


def module_costs(module: Module) -> Costs:
    """Costs of every load of a programmed module, before it is emitted; ``program_costs`` of the files is the same."""
    module = in_load_order(module)
    order, target = load_order(module), module.target
    bodies = [layer.at(Programmed) for layer in module.layers]
    n = order.loads
    acts, verified = np.zeros((n, len(COUNTS)), np.int64), np.zeros((2, 2, n), np.int64)
    program_bits = np.zeros(n, np.int64)
    wear = np.zeros((target.crossbars, target.rows, target.columns), np.uint32)
    for chunk in walk_module(module, order, wear):
        part = slice(chunk.load, chunk.load + len(chunk.counts))
        acts[part] = chunk.counts
        writes = chunk.writes
        owner = writes["load"] - chunk.load
        _add_verified(verified[:, :, part], owner, writes)
        program_bits[part] = 8 * steady_bytes(
            order.crossbar[part], np.diff(order.step[part], prepend=order.step[part.start - 1] if part.start else 0),
            np.searchsorted(owner, np.arange(len(chunk.counts) + 1)),
            writes["row"].astype(np.int64) * target.columns + writes["column"], writes["phase"], writes["verify"],
            target.bits_per_cell,
        )  # fmt: skip
    count = dict(zip(COUNTS, acts.T, strict=True))
    per_layer = [
        (
            body.driven().sum(axis=1),
            (body.outputs >= 0).sum(axis=1) * body.cells.columns,
            body.read_phases(),
        )
        for body in bodies
    ]
    rows, columns, phases = (
        _in_order(order.layer, order.index, column) for column in zip(*per_layer, strict=True)
    )
    number = {layer.name: i for i, layer in enumerate(module.layers)}
    before: list[set[int]] = [set() for _ in module.layers]
    for source, sink in module.edges:
        before[number[sink]].add(number[source])
    maps, fetched = module_map_bits(module, order), ~alone(order.crossbar)
    return _costs(
        target, order.layer, order.crossbar, order.step, count, verified, (rows, columns, phases),
        [layer.origin.products for layer in module.layers], [layer.name for layer in module.layers],
        tuple(tuple(sorted(found)) for found in before), maps, fetched * program_bits,
    )  # fmt: skip


def _in_order(layer: Array, index: Array, columns: tuple[Array, ...]) -> Array:
    """Per-layer arrays ``[sections]`` as one ``[loads]`` array in load order."""
    at = np.concatenate([[0], np.cumsum([len(column) for column in columns])])
    return np.asarray(np.concatenate([np.zeros(0, np.int64), *columns])[at[layer] + index])


def _add_verified(verified: Array, owner: Array, writes: dict[str, Array]) -> None:
    """Adds verified writes to ``verified [inference, direction, loads]``."""
    n = verified.shape[2]
    up = writes["after"] > writes["before"]
    for i, name in enumerate(("first", "steady")):
        acts = writes["verify"] & (writes["phase"] != skipped_phase(name))
        for j, direction in enumerate((up, ~up)):
            verified[i, j] += np.bincount(owner[acts & direction], minlength=n)


def _costs(
    target: Target, layer: Array, crossbar: Array, step: Array, count: dict[str, Array], verified: Array,
    used: tuple[Array, Array, Array], products: list[int | None], names: list[str],
    predecessors: tuple[tuple[int, ...], ...], map_bits: Array, program_bits: Array,
) -> Costs:  # fmt: skip
    first = write_costs(target, count["set_first"], count["reset_first"], verified[0, 0], verified[0, 1])
    steady = write_costs(target, count["set"], count["reset"], verified[1, 0], verified[1, 1])
    read = read_costs(target, *used)
    return Costs(
        layer=layer.astype(np.int64),
        crossbar=crossbar.astype(np.int64),
        step=step,
        write_pj=steady[0],
        write_ns=steady[1],
        first_pj=first[0],
        first_ns=first[1],
        read_pj=read[0],
        read_ns=read[1],
        products=np.array([known or 1 for known in products], np.int64),
        unknown=tuple(name for name, known in zip(names, products, strict=True) if known is None),
        predecessors=predecessors,
        map_bits=map_bits,
        program_bits=program_bits,
        memory=target.memory,
    )


def program_costs(program: Program) -> Costs:
    """Costs of every load, from the emitted tables; row maps from the IR, which verify compares with the tables."""
    loads, target = program.loads, program.target
    n = program.total("loads")
    verified = np.zeros((2, 2, n), np.int64)  # inference, direction
    program_bits = np.zeros(n, np.int64)
    last = 0
    for part in stream_loads(program):
        owner = part.owner()
        here = slice(part.start, part.stop)
        _add_verified(verified[:, :, here], owner, vars(part))
        cells = part.row.astype(np.int64) * target.columns + part.column
        program_bits[here] = 8 * steady_bytes(
            part.crossbar, np.diff(part.step, prepend=last), part.write_at, cells, part.phase, part.verify,
            target.bits_per_cell,
        )  # fmt: skip
        last = int(part.step[-1])
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
    module = in_load_order(program.module())
    maps, fetched = module_map_bits(module, load_order(module)), ~alone(loads["crossbar"])
    return _costs(
        target, layer_of, loads["crossbar"], loads["step"], loads, verified, (rows, columns, phases),
        [layer.products for layer in layers], [layer.name for layer in layers],
        tuple(layer.predecessors for layer in layers), maps, fetched * program_bits,
    )  # fmt: skip


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
