"""Everything a load moves: from the module and from the files, and against the exported stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ir.errors import XbcError
from ir.memory import Memory
from tests.xbc.cases import CHIPS, Case
from xbc.backend.stream import stream_loads
from xbc.export.binary_code import encode, steady_bytes
from xbc.schedule import cost_facts, module_costs, program_costs
from xbc.schedule.maps import plain_bits

Cases = Callable[[str], Case]


@pytest.mark.parametrize("chip", CHIPS)
def test_costs_of_the_module_are_those_of_its_files(chip: str, case: Cases) -> None:
    program = case(chip).program
    from_files, from_module = program_costs(program), module_costs(program.module())
    for field in dataclasses.fields(from_files):
        a, b = getattr(from_files, field.name), getattr(from_module, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        else:
            assert a == b, field.name


@pytest.mark.parametrize("chip", CHIPS)
def test_a_steady_inference_reads_the_stream_without_the_writes_of_the_first(chip: str, case: Cases) -> None:
    program = case(chip).program
    target = program.target
    step = total = 0
    raw = b""
    for part in stream_loads(program):
        kept = part.phase != 1
        at = np.concatenate([[0], np.cumsum(kept)])[part.write_at]
        cell = part.row.astype(np.int64) * target.columns + part.column
        steps = np.diff(part.step, prepend=step)
        step = int(part.step[-1])
        raw += encode(
            part.crossbar, steps, part.crc_steady, part.crc_steady, at, cell[kept], part.after[kept],
            part.phase[kept], part.verify[kept], target.bits_per_cell,
        ).tobytes()  # fmt: skip
        total += int(
            steady_bytes(
                part.crossbar, steps, part.write_at, cell, part.phase, part.verify, target.bits_per_cell
            ).sum()
        )
    assert total == len(raw)
    costs = program_costs(program)
    if (np.bincount(costs.crossbar) != 1).all():
        assert costs.program_bits.sum() == 8 * len(raw)


@pytest.mark.parametrize("chip", CHIPS)
def test_the_manifest_holds_the_whole_cost(chip: str, case: Cases) -> None:
    program = case(chip).program
    counts = program.manifest["counts"]
    emitted, natural = counts["cost"]["emitted"], counts["cost"]["natural"]
    found = cost_facts(
        program_costs(program), program.target.crossbars, program.module().weights, program.total("wear_max")
    )
    assert emitted == found
    assert set(natural) == set(emitted)
    for cost in (natural, emitted):
        energy, time = cost["energy_pj"], cost["time_ns"]
        assert set(energy) == set(time) == {"writes", "reads", "row_maps", "program", "total"}
        assert energy["total"] == pytest.approx(sum(v for k, v in energy.items() if k != "total"))
        assert time["total"] <= sum(v for k, v in time.items() if k != "total") * (1 + 1e-12)
    assert emitted["energy_pj"]["reads"] == pytest.approx(counts["reads"]["energy_pj"])
    assert emitted["time_ns"]["reads"] == pytest.approx(counts["reads"]["time_ns"])
    assert natural["wear_max"] >= 1


def test_maps_by_hand() -> None:
    rows = np.array([[3, 4, 5, -1], [3, 5, 4, -1], [-1, 4, 5, 6], [0, -1, 2, 3]])
    # 20 inputs: 5 bits each; a run needs its first input only, also with don't-care rows inside it
    np.testing.assert_array_equal(plain_bits(rows, 20, "gather"), [5, 15, 15, 5])
    # 5 blocks of 4 rows: 3 bits name the block, 2 bits each a row
    np.testing.assert_array_equal(plain_bits(rows, 20, "block"), [3, 9, 9, 3])


def test_the_part_that_fits_stays_on_the_chip() -> None:
    memory = Memory(
        onchip_bytes=100,
        onchip_pj_per_bit=1,
        offchip_pj_per_bit=11,
        onchip_bits_per_ns=4,
        offchip_bits_per_ns=2,
    )
    assert memory.offchip_share(800) == 0
    assert memory.offchip_share(1600) == 0.5
    assert memory.pj_per_bit(1600) == pytest.approx(6)
    assert memory.ns_per_bit(1600) == pytest.approx(
        0.25
    )  # half of the bits at 2 bits per ns is the longer part
    assert memory.ns_per_bit(800) == pytest.approx(0.25)
    with pytest.raises(XbcError, match=r"memory\.offchip_bits_per_ns = 0 must be above 0"):
        Memory(offchip_bits_per_ns=0)


def test_a_resident_section_is_fetched_once(tmp_path: Path) -> None:
    from tests.xbc.cases import MODELS
    from xbc.backend import Program
    from xbc.driver.compile import compile_model

    done = compile_model(MODELS / "digits_cnn.onnx", tmp_path / "p.xbc", settings={"crossbars": 4096})
    costs = program_costs(Program.open(done.directory))
    assert done.summary["writes"]["emitted"] == 0
    assert costs.fetched_bits == 0
    assert done.summary["cost"]["emitted"]["offchip_bytes"] == 0
