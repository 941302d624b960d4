"""Area and energy of one inference per sign encoding, with converters per layer or shared by all layers.

Every constant is the target's: areas, row drives and the growth of an ADC per bit from its ``[area]`` table, cell
reads and conversions from ``[read]`` and ``[converters]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ir.cells import CellFormat
from ir.errors import XbcError
from ir.target import Target

Sharing = Literal["layer", "network"]


@dataclass(frozen=True)
class LayerShape:
    """A layer as the cost model sees it: matrix size and matrix-vector products per inference."""

    outputs: int
    inputs: int
    products: int


@dataclass(frozen=True)
class Cost:
    """Sums over a network.

    Fields:
        cells: memristors.
        adcs: converters on the chip.
        adc_bits: of each.
        conversions: per inference.
        area_um2: cells, drivers, converters and adders.
        energy_pj: row drives, cell reads and conversions of one inference.
    """

    cells: int
    adcs: int
    adc_bits: int
    conversions: int
    area_um2: float
    energy_pj: float


def network_cost(
    layers: Sequence[LayerShape],
    encoding: str,
    weight_bits: int,
    target: Target,
    *,
    sharing: Sharing = "layer",
) -> Cost:
    """Area and energy of a network whose every weight has its own cells.

    ``differential`` pairs are subtracted before the ADC: one conversion per pair, with one more bit for the
    sign.  ``split`` converts both signs.  ``offset`` adds one column per block of rows, the sum of the inputs.
    ``driver`` reads positive and negative rows in two phases.  A conversion happens per column, row block
    and input slice.

    Args:
        sharing: ``layer``: every layer has converters of its own (they are scaled to it); ``network``: layers
            run one after another through one set of row drivers and converters, which needs uniform scaling.
    Raises: XbcError for a target without areas.
    """
    part, converters = target.area, target.converters
    if not (part.cell_um2 and part.adc_um2):
        raise XbcError(
            f"target {target.name!r} has no areas: give cell_um2, driver_um2, adc_um2 and adder_um2 in [area]"
        )
    cells_of = CellFormat(encoding, weight_bits, target.bits_per_cell)
    slices = -(-converters.input_bits // converters.dac_bits)
    bits = converters.adc_bits + (encoding == "differential")
    extra_bits = bits - converters.adc_bits
    adc_pj = converters.adc_pj * part.adc_energy_growth**extra_bits
    cells = conversions = reads = drives = 0
    converters_at_once: list[int] = []
    rows_at_once: list[int] = []
    for layer in layers:
        blocks = -(-layer.inputs // target.rows)
        both = 2 if encoding == "split" else 1
        columns = both * layer.outputs * cells_of.columns + (encoding == "offset")
        converted = columns // 2 if encoding == "differential" else columns
        phases = 2 if encoding == "driver" else 1
        cells += layer.inputs * columns
        conversions += layer.products * blocks * converted * slices * phases
        reads += layer.products * layer.inputs * columns * slices
        drives += layer.products * layer.inputs * slices
        converters_at_once.append(-(-blocks * converted // converters.columns_per_adc))
        rows_at_once.append(min(layer.inputs, blocks * target.rows))
    pick = max if sharing == "network" else sum
    adcs = pick(converters_at_once)
    area = (
        cells * part.cell_um2
        + pick(rows_at_once) * part.driver_um2 * converters.dac_bits
        + adcs * (part.adc_um2 * part.adc_area_growth**extra_bits + part.adder_um2)
    )
    energy = drives * part.driver_pj + reads * target.read.cell_pj + conversions * adc_pj
    return Cost(cells, adcs, bits, conversions, area, energy)
