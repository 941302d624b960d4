"""Area and energy of one inference per sign encoding, with converters per layer or shared by all layers.

Energies come from the target (cell read, conversion).  Areas are not part of a target; the defaults are those of
ISAAC (Shafiee et al., ISCA 2016, Table I, 32 nm): 8 ADCs of 8 bits 0.0096 mm2, 8 x 128 one-bit DACs 0.00017 mm2,
8 arrays of 128 x 128 cells 0.0002 mm2, 4 shift-and-add units 0.00024 mm2.  How area and energy of an ADC grow with
its bits is an assumption: by ``adc_growth`` per bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ir.cells import CellFormat
from ir.target import Target

Sharing = Literal["layer", "network"]


@dataclass(frozen=True)
class Areas:
    """Areas in um2.

    Fields:
        cell: one memristor; dac: one row driver of one bit; adc: one converter of 8 bits; adder: one
            shift-and-add unit, of which every ADC has one.
        adc_growth: factor of an ADC's area and energy per further bit.
    """

    cell: float = 0.0002e6 / (8 * 128 * 128)
    dac: float = 0.00017e6 / (8 * 128)
    adc: float = 0.0096e6 / 8
    adder: float = 0.00024e6 / 4
    adc_growth: float = 2.0


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
        energy_pj: cell reads and conversions of one inference.
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
    areas: Areas | None = None,
) -> Cost:
    """Area and energy of a network whose every weight has its own cells.

    ``differential`` pairs are subtracted before the ADC: one conversion per pair, with one more bit for the
    sign.  ``split`` converts both signs.  ``offset`` adds one column per block of rows, the sum of the inputs.
    ``driver`` reads positive and negative rows in two phases.  A conversion happens per column, row block
    and input slice.

    Args:
        sharing: ``layer``: every layer has converters of its own (they are scaled to it); ``network``: layers
            run one after another through one set of row drivers and converters, which needs uniform scaling.
    """
    areas = areas or Areas()
    converters = target.converters
    cells_of = CellFormat(encoding, weight_bits, target.bits_per_cell)
    slices = -(-converters.input_bits // converters.dac_bits)
    bits = converters.adc_bits + (encoding == "differential")
    growth = areas.adc_growth ** (bits - 8)
    adc_pj = converters.adc_pj * areas.adc_growth ** (bits - converters.adc_bits)
    cells = conversions = reads = 0
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
        converters_at_once.append(-(-blocks * converted // converters.columns_per_adc))
        rows_at_once.append(min(layer.inputs, blocks * target.rows))
    pick = max if sharing == "network" else sum
    adcs = pick(converters_at_once)
    area = (
        cells * areas.cell
        + pick(rows_at_once) * areas.dac * converters.dac_bits
        + adcs * (areas.adc * growth + areas.adder)
    )
    energy = reads * target.read.cell_pj + conversions * adc_pj
    return Cost(cells, adcs, bits, conversions, area, energy)
