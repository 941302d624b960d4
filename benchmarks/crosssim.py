"""CrossSim (Sandia National Laboratories, 3.2) on the codes of ``simulate.py``, when it is installed.

No package registry has a distribution of it; its repository's folder on PYTHONPATH is enough.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

ROWS = 128
ABSENT = (
    "CrossSim is not in the table: it is not installed (package registries have no distribution of it; "
    "put its repository on PYTHONPATH)."
)


def cores(codes: Any) -> dict[str, Callable[[Any], Any]]:
    """Configuration -> product with float64 columns; nothing when CrossSim is absent.

    8-bit weights in eight 1-bit slices with a digital offset, 128 rows per array; ``crosssim-sliced`` without
    ADC and ``crosssim-bit-serial`` with 8-bit inputs bit by bit and a 9-bit ADC per read.
    """
    try:
        simulator = importlib.import_module("simulator")
    except ImportError:
        return {}
    made: dict[str, Callable[[Any], Any]] = {}
    for name, serial in (("crosssim-sliced", False), ("crosssim-bit-serial", True)):
        p = simulator.CrossSimParameters()
        p.core.style, p.core.bit_sliced.style, p.core.bit_sliced.num_slices = "BITSLICED", "OFFSET", 8
        p.core.weight_bits, p.core.rows_max, p.core.cols_max = 8, ROWS, len(codes)
        p.core.mapping.weights.min, p.core.mapping.weights.max = -128.0, 128.0
        p.core.mapping.inputs.mvm.min, p.core.mapping.inputs.mvm.max = 0.0, 255.0
        p.xbar.device.cell_bits, p.xbar.device.infinite_on_off_ratio = 1, True
        if serial:
            dac, adc = p.xbar.dac.mvm, p.xbar.adc.mvm
            dac.model, dac.bits, dac.signed = "QuantizerDAC", 8, False
            dac.input_bitslicing, dac.slice_size = True, 1
            adc.model, adc.bits, adc.signed = "QuantizerADC", 9, False
            adc.adc_range_option, adc.adc_per_ibit = "MAX", True
        core = simulator.AnalogCore(codes.astype(np.float64), p)
        made[name] = lambda columns, core=core: core @ columns
        probe = np.random.default_rng(0).integers(0, 256, (codes.shape[1], 4)).astype(np.float64)
        wanted = codes @ probe
        if np.abs(made[name](probe) - wanted).max() > (0.1 if serial else 1e-9) * np.abs(wanted).max():
            raise SystemExit(f"{name} does not compute the product: its parameters are not understood")
    return made
