"""The area and energy model against counts by hand."""

import pytest

from ir.errors import XbcError
from xbc.rescale.area import LayerShape, network_cost
from xbc.targets import load_target

LAYERS = [LayerShape(10, 200, 5), LayerShape(4, 30, 1)]
TARGET = load_target("isaac-128").override(
    {"rows": 128, "bits_per_cell": 2, "converters.dac_bits": 1, "converters.input_bits": 8,
     "converters.adc_bits": 8, "converters.columns_per_adc": 4, "converters.adc_pj": 2.0, "read.cell_pj": 0.01}
)  # fmt: skip


def test_counts_by_hand() -> None:
    cost = network_cost(LAYERS, "unipolar", 4, TARGET)  # two cells per weight; two row blocks, then one
    assert cost.cells == 200 * 20 + 30 * 8
    assert cost.conversions == 5 * 2 * 20 * 8 + 1 * 8 * 8
    assert cost.adcs == (2 * 20 + 8) // 4
    drives = (5 * 200 + 30) * 8
    assert cost.energy_pj == pytest.approx(
        cost.conversions * 2.0 + (5 * 200 * 20 + 30 * 8) * 8 * 0.01 + drives * 0.39
    )
    expected = cost.cells * 0.001526 + (200 + 30) * 0.166 + cost.adcs * (1200 + 60)
    assert cost.area_um2 == pytest.approx(expected)


def test_encodings_compare_as_they_should() -> None:
    cost = {
        e: network_cost(LAYERS, e, 4, TARGET)
        for e in ("unipolar", "offset", "split", "differential", "driver")
    }
    assert cost["differential"].cells == cost["split"].cells == 2 * cost["unipolar"].cells
    assert cost["split"].conversions == 2 * cost["unipolar"].conversions == cost["driver"].conversions
    assert cost["differential"].conversions == cost["unipolar"].conversions
    assert cost["differential"].adc_bits == cost["unipolar"].adc_bits + 1
    assert cost["offset"].cells == cost["unipolar"].cells + 200 + 30
    assert all(cost["unipolar"].area_um2 <= c.area_um2 for c in cost.values())
    assert all(cost["unipolar"].energy_pj <= c.energy_pj for c in cost.values())


def test_shared_converters_are_those_of_the_largest_layer() -> None:
    own, shared = (network_cost(LAYERS, "unipolar", 4, TARGET, sharing=s) for s in ("layer", "network"))
    assert (own.adcs, shared.adcs) == (12, 10)
    assert shared.area_um2 < own.area_um2
    assert shared.energy_pj == own.energy_pj


def test_a_bit_more_costs_what_the_target_says() -> None:
    target = TARGET.override({"area.adc_area_growth": 1.5, "area.adc_energy_growth": 1.25})
    plain, signed = (network_cost(LAYERS, e, 4, target) for e in ("unipolar", "differential"))
    parts = (230 * 0.166, 0.001526)
    assert plain.area_um2 == pytest.approx(parts[0] + plain.cells * parts[1] + plain.adcs * (1200 + 60))
    assert signed.area_um2 == pytest.approx(parts[0] + signed.cells * parts[1] + signed.adcs * (1800 + 60))
    reads = 0.01 * 8 * (5 * 200 * 20 + 30 * 8)
    assert signed.energy_pj - plain.energy_pj == pytest.approx(reads + plain.conversions * 2.0 * 0.25)


def test_a_target_without_areas_is_refused() -> None:
    with pytest.raises(XbcError, match=r"'gather-128' has no areas: give cell_um2"):
        network_cost(LAYERS, "unipolar", 4, load_target("gather-128"))
