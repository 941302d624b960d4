"""Costs by hand, and the timeline against a simulation of every pulse and every read."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ir.memory import Memory
from ir.stages import Programmed
from ir.target import Converters, Read, Target, Write
from tests.xbc.cases import CHIPS, Case
from xbc.schedule import Costs, batch_curve, program_costs, read_costs, schedule, write_costs

Cases = Callable[[str], Case]
CHIP = Target(
    name="t",
    rows=4,
    columns=8,
    crossbars=2,
    write=Write(2.0, 3.0, 50.0, 40.0, parallel_cells=3, trials_verified=4.0, trials_unverified=1.0),
    read=Read(cell_pj=0.5, array_ns=10.0, verify_pj=0.25, verify_ns=5.0),
    converters=Converters(dac_bits=3, adc_bits=8, input_bits=8, columns_per_adc=4, adc_pj=1.5, adc_ns=4.0),
)


def test_write_costs_by_hand() -> None:
    energy, time = write_costs(CHIP, *(np.array([n]) for n in (7, 2, 4, 0)))
    # 4 verified SETs: 4 trials of (2 + 0.25) pJ each; 3 others: 2 pJ; 2 RESETs: 3 pJ
    assert energy[0] == pytest.approx(4 * 4 * 2.25 + 3 * 2 + 2 * 3)
    # 2 turns of 3 cells, 4 trials, pulse and verify read; 1 turn; 1 turn
    assert time[0] == pytest.approx(2 * 4 * (50 + 5) + 50 + 40)


def test_read_costs_by_hand() -> None:
    energy, time = read_costs(CHIP, np.array([3, 3]), np.array([8, 2]))
    # 8 input bits, 3 per read: 3 reads; 4 of 8 columns share an ADC (16 ns > 10 ns), 2 columns: 8 ns < 10 ns
    np.testing.assert_allclose(energy, [3 * (3 * 8 * 0.5 + 8 * 1.5), 3 * (3 * 2 * 0.5 + 2 * 1.5)])
    np.testing.assert_allclose(time, [3 * 16, 3 * 10])


def test_rows_are_driven_once_per_read() -> None:
    chip = CHIP.override({"area.driver_pj": 0.25})
    plain, _ = read_costs(CHIP, np.array([3]), np.array([8]), np.array([2]))
    energy, _ = read_costs(chip, np.array([3]), np.array([8]), np.array([2]))
    np.testing.assert_allclose(energy - plain, [3 * 3 * 0.25])


def test_reads_of_several_outputs_by_hand() -> None:
    energy, time = read_costs(CHIP, np.array([3]), np.array([8]), np.array([2]))
    # every cell is driven once, every column converted once for each of the 2 outputs
    np.testing.assert_allclose(energy, [3 * (3 * 8 * 0.5 + 2 * 8 * 1.5)])
    np.testing.assert_allclose(time, [3 * 2 * 16])


def test_costs_of_gated_sections_count_their_outputs(case: Cases) -> None:
    program = case("gated").program
    body_of = {layer.name: layer.at(Programmed) for layer in program.module().layers}
    costs = program_costs(program)
    phases = np.concatenate([body_of[layer.name].read_phases() for layer in program.layers])
    layer = np.concatenate([np.full(row.sections, i) for i, row in enumerate(program.layers)])
    rows = np.concatenate([body_of[row.name].driven().sum(axis=1) for row in program.layers])
    order = np.argsort(costs.layer, kind="stable")
    energy, time = read_costs(program.target, rows, np.full(len(rows), 8), phases)
    np.testing.assert_array_equal(costs.layer[order], layer)
    np.testing.assert_allclose(costs.read_pj[order], energy)
    np.testing.assert_allclose(costs.read_ns[order], time)
    assert phases.max() > 1
    reads = program.manifest["counts"]["reads"]
    assert reads["phases"] == phases.sum()
    products = np.array([row.products or 1 for row in program.layers])[layer]
    assert reads["per_inference"] == (phases * products).sum()
    assert reads["energy_pj"] == pytest.approx((energy * products).sum())


def event_simulation(costs: Costs, crossbars: int, batch: int, runs: int) -> list[float]:
    """Ends of batches that follow each other, one event per fetch, write and product, in the order of time."""
    n = len(costs.layer)
    loads = [[i for i in range(n) if costs.crossbar[i] == c] for c in range(crossbars)]
    place_of = {i: (c, k) for c in range(crossbars) for k, i in enumerate(loads[c])}
    fetch_ns = costs.fetch_ns
    to_fetch = [
        (run, i) for run in range(runs) for i in range(n) if fetch_ns[i] > 0
    ]  # load order, over all runs
    unread = {
        (run, a): batch * int(costs.products[a]) * int(np.sum(costs.layer == a))
        for run in range(runs)
        for a in range(len(costs.products))
    }
    waiting: list[tuple[int, int, int]] = []  # run, crossbar, load
    queue: list[tuple[float, int, int, int, int, int]] = []
    ends = [0.0] * runs
    begun, read_to_end = (
        [0] * crossbars,
        [0] * crossbars,
    )  # loads of a crossbar that are or were written, were read
    fetched: set[tuple[int, int]] = set()
    tie = at = 0
    busy = False

    def push(time: float, bar: int, place: int, kind: int, left: int) -> None:
        nonlocal tie
        tie += 1
        heapq.heappush(queue, (time, tie, bar, place, kind, left))

    def advance(time: float) -> None:
        """Begins every write and the fetch that may begin now."""
        nonlocal busy, at
        for bar in range(crossbars):
            place = begun[bar]
            if place < len(loads[bar]) * runs and read_to_end[bar] == place:
                load = loads[bar][place % len(loads[bar])]
                if fetch_ns[load] == 0 or (bar, place) in fetched:
                    begun[bar] += 1
                    push(time + float(costs.write_ns[load]), bar, place, 0, 0)
        if not busy and at < len(to_fetch):
            run, load = to_fetch[at]
            bar, k = place_of[load]
            place = run * len(loads[bar]) + k
            if (begun if costs.memory.overlap else read_to_end)[bar] >= place:
                busy, at = True, at + 1
                push(time + float(fetch_ns[load]), bar, place, 2, 0)

    def may_read(run: int, load: int) -> bool:
        return all(unread[run, p] == 0 for p in costs.predecessors[int(costs.layer[load])])

    def read(time: float, bar: int, place: int, left: int) -> None:
        push(time + float(costs.read_ns[loads[bar][place % len(loads[bar])]]), bar, place, 1, left)

    advance(0.0)
    while queue:
        time, _, bar, place, kind, left = heapq.heappop(queue)
        run, load = divmod(place, len(loads[bar]))
        load = loads[bar][load]
        layer = int(costs.layer[load])
        if kind == 2:
            busy = False
            fetched.add((bar, place))
        elif kind == 0:
            if may_read(run, load):
                read(time, bar, place, batch * int(costs.products[layer]) - 1)
            else:
                waiting.append((run, bar, place))
        else:
            unread[run, layer] -= 1
            ends[run] = max(ends[run], time)
            if left:
                read(time, bar, place, left - 1)
            else:
                read_to_end[bar] += 1
            if unread[run, layer] == 0:
                for entry in list(waiting):
                    if may_read(entry[0], loads[entry[1]][entry[2] % len(loads[entry[1]])]):
                        waiting.remove(entry)
                        waiting_load = loads[entry[1]][entry[2] % len(loads[entry[1]])]
                        count = batch * int(costs.products[int(costs.layer[waiting_load])])
                        read(time, entry[1], entry[2], count - 1)
        advance(time)
    assert not waiting
    assert at == len(to_fetch)
    assert not any(unread.values())
    return ends


@st.composite
def programs(draw: st.DrawFn) -> tuple[Costs, int, int]:
    layers, crossbars = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    layer, crossbar, step, base = [], [], [], 0
    for a in range(layers):
        count = draw(st.integers(1, 6))
        for i in range(count):
            layer.append(a)
            crossbar.append(
                (i + int(rng.integers(2))) % crossbars
                if crossbars > 1 and i % crossbars == 0
                else i % crossbars
            )
            step.append(base + i)
        base += count
    n = len(layer)
    edges = tuple(tuple(p for p in range(a) if rng.integers(2)) for a in range(layers))
    write = rng.integers(0, 50, n).astype(float)
    return (
        Costs(
            np.array(layer),
            np.array(crossbar),
            np.array(step),
            np.ones(n),
            write,
            np.ones(n),
            write + 5,
            np.ones(n),
            rng.integers(1, 20, n).astype(float),
            rng.integers(1, 4, layers),
            (),
            edges,
            rng.integers(0, 4, n) * 64,
            rng.integers(0, 3, n) * 32,
            Memory(
                onchip_bytes=float(rng.integers(0, 40)),
                onchip_bits_per_ns=16.0,
                offchip_bits_per_ns=float(draw(st.sampled_from([2, 8, 64]))),
                overlap=draw(st.booleans()),
            ),
        ),
        crossbars,
        draw(st.integers(1, 3)),
    )


@given(programs())
def test_the_timeline_is_that_of_an_event_simulation(drawn: tuple[Costs, int, int]) -> None:
    costs, crossbars, batch = drawn
    found = schedule(costs, crossbars, batch)
    ends = event_simulation(costs, crossbars, batch, 6)
    assert found.latency_ns == pytest.approx(event_simulation(costs, crossbars, batch, 1)[0])
    assert found.period_ns == pytest.approx((max(ends) - max(ends[:3])) / 3)
    parts = (found.critical_fetch_ns, found.critical_write_ns, found.critical_read_ns)
    assert sum(parts) == pytest.approx(found.latency_ns)
    assert found.critical_layers.sum() == pytest.approx(found.latency_ns)
    assert found.period_ns <= found.latency_ns + 1e-9
    assert found.latency_ns <= found.lockstep_ns + 1e-9
    use = found.utilisation()
    assert sum(use.values()) == pytest.approx(1.0)
    assert use["write"] + use["read"] <= 1 + 1e-9


@pytest.mark.parametrize("chip", CHIPS)
def test_real_programs_against_the_event_simulation(chip: str, case: Cases) -> None:
    program = case(chip).program
    costs = program_costs(program)
    ends = event_simulation(costs, program.target.crossbars, 1, 1)
    found = schedule(costs, program.target.crossbars)
    assert found.latency_ns == pytest.approx(ends[0])
    totals = program.manifest["totals"]["steady"]
    write, read = program.target.write, program.target.read
    pulses = write.trials_verified * (totals["set"] * write.set_pj + totals["reset"] * write.reset_pj)
    checks = write.trials_verified * totals["writes"] * read.verify_pj
    assert found.write_pj == pytest.approx(pulses + checks)


def test_a_larger_batch_shares_the_writes(case: Cases) -> None:
    program = case("gather").program
    costs = program_costs(program)
    curve = batch_curve(costs, program.target.crossbars)
    assert [point["batch"] for point in curve] == [1, 2, 4, 8, 16, 32, 64]
    energies = [point["energy_pj"] for point in curve]
    assert energies == sorted(energies, reverse=True)
    for point in curve:
        assert point["write_pj"] == pytest.approx(curve[0]["write_pj"] / point["batch"])
        assert point["read_pj"] == curve[0]["read_pj"]
    rates = [point["throughput_per_s"] for point in curve]
    assert rates == sorted(rates)


def test_verified_writes_are_counted_one_by_one(case: Cases) -> None:
    one = case("pairs")
    costs = program_costs(one.program)
    target = one.program.target
    load = max(range(len(one.loads)), key=lambda i: one.loads[i]["write_count"])
    entry = one.loads[load]
    rows = one.writes[entry["write_start"] : entry["write_start"] + entry["write_count"]]
    steady = [w for w in rows if w["phase"] != 1]
    up = sum(w["after"] > w["before"] for w in steady)
    down = len(steady) - up
    trials, check = target.write.trials_verified, target.read.verify_ns
    cells = target.write.parallel_cells
    wanted = trials * (
        -(-up // cells) * (target.write.set_ns + check) + -(-down // cells) * (target.write.reset_ns + check)
    )
    assert costs.write_ns[load] == pytest.approx(wanted)
