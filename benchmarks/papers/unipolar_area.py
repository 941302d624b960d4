"""Area and energy of the HAR network per encoding and sharing of converters (arXiv 1910.13850).

python benchmarks/papers/unipolar_area.py [--growth 2.0 2.0]
"""

from __future__ import annotations

import argparse

from xbc.rescale.area import LayerShape, network_cost
from xbc.targets import load_target

BIPOLAR = [LayerShape(24, 24, 61), LayerShape(32, 120, 29), LayerShape(48, 96, 27), LayerShape(6, 48, 1)]
ONE_SIGNED = [LayerShape(24, 48, 61), *BIPOLAR[1:]]
"""HarNet of unipolar_har.py; with one sign the first layer sees every input and its complement."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--growth",
        type=float,
        nargs=2,
        help="factors of an ADC's area and energy per bit (default: the target's)",
    )
    options = parser.parse_args()
    target = load_target("isaac-128").override(
        {"bits_per_cell": 2, "converters.input_bits": 4, "converters.adc_bits": 8, "outputs_per_section": 1}
    )
    if options.growth:
        area, energy = options.growth
        target = target.override({"area.adc_area_growth": area, "area.adc_energy_growth": energy})
    base = network_cost(BIPOLAR, "differential", 2, target, sharing="layer")
    print("encoding       converters   cells  ADCs bits       um2        pJ    area  energy")
    for encoding in ("differential", "split", "offset", "driver", "unipolar"):
        for sharing in ("layer", "network"):
            layers = ONE_SIGNED if encoding == "unipolar" else BIPOLAR
            cost = network_cost(layers, encoding, 3 if encoding == "offset" else 2, target, sharing=sharing)
            print(
                f"{encoding:14s} {sharing:10s} {cost.cells:7d} {cost.adcs:5d} {cost.adc_bits:4d} {cost.area_um2:9.0f} "
                f"{cost.energy_pj:9.0f}  {100 * (cost.area_um2 / base.area_um2 - 1):+4.0f} % "
                f"{100 * (cost.energy_pj / base.energy_pj - 1):+4.0f} %"
            )


if __name__ == "__main__":
    main()
