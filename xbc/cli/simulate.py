"""``xbc simulate``: run the network with what the cells hold."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ir.progress import Progress
from xbc.cli import console
from xbc.cli.fidelity import IDEAL, fidelity_options, refuse_unused
from xbc.cli.options import (
    batch_option,
    json_option,
    limit_option,
    memory_option,
    program_argument,
    quiet_option,
    sample_axis_option,
    samples_per_run,
    seed_option,
    threads_option,
)
from xbc.cli.outputs import check_file
from xbc.system.files import whole_file

if TYPE_CHECKING:
    from ir.arrays import Array
    from xbc.backend import Program
    from xbc.simulate.memory import Batch


@click.command("simulate")
@program_argument
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    required=True,
    help="Inputs: an .npz file named after the model's.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the outputs to this .npz file.")
@fidelity_options
@seed_option
@limit_option
@batch_option
@sample_axis_option
@memory_option
@threads_option
@json_option
@quiet_option
def command(
    program: Path, inputs: Path, output: Path | None, fidelity: str, seed: int, limit: int | None,
    batch: int | None, sample_axis: str, memory: int | None, threads: int, as_json: bool, quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Run the network with the weights that the cells hold after a replay of the program.

    Ideal fidelity: exact arithmetic on the stored levels, in onnxruntime. The other two run the crossbar
    layers through the target's converters, and its devices (one chip, chosen by the seed).

    \b
    Examples:
      xbc simulate model.xbc --inputs x.npz -o y.npz
      xbc simulate model.xbc --inputs x.npz --fidelity converters --set converters.adc_bits=6
      xbc simulate model.xbc --inputs set.npz --limit 10 --json
    """
    from xbc.backend import Program
    from xbc.simulate.ideal import simulate
    from xbc.simulate.memory import peak_rss_bytes
    from xbc.simulate.replayed import host_axis, read_set, replayed_model

    if output is not None:
        check_file(output, "an .npz", inputs)
    refuse_unused(fidelity, options)
    opened = Program.open(program)
    runs = samples_per_run(batch, memory)
    with console.progress_bars(quiet) as progress:
        if fidelity == IDEAL:
            model = replayed_model(opened, progress)
            data = read_set(inputs, model, limit)
            axis = host_axis(opened, sample_axis, data)
            outputs, notes = simulate(
                model, data, threads=threads, batch=runs, axis=axis, progress=progress
            )  # fmt: skip
        else:
            outputs, notes = _simulated(
                opened, inputs, fidelity, options, seed, limit, runs, sample_axis, threads, progress
            )
    for sentence in notes:
        console.note(f"xbc: note: {sentence}", quiet)
    if output is not None:
        write_npz(output, outputs)
    facts = [describe(name, array) for name, array in outputs.items()]
    peak = peak_rss_bytes()
    if as_json:
        console.print_json(
            {
                "outputs": facts,
                "fidelity": fidelity,
                "peak_rss_bytes": peak,
                "output": None if output is None else str(output),
            }
        )
        return
    table = console.table("", "output", "type", "shape", "min", "max", "rms", text=2)
    for entry in facts:
        table.add_row(
            entry["name"],
            entry["dtype"],
            str(entry["shape"]),
            *(f"{entry[k]:.4g}" for k in ("min", "max", "rms")),
        )
    console.stdout().print(table)
    console.note(f"peak memory {console.quantity(peak, 'B')}", quiet)
    if output is not None:
        console.note(f"wrote {output}", quiet)


def _simulated(
    program: Program, inputs: Path, fidelity: str, options: dict[str, Any], seed: int, limit: int | None,
    batch: Batch, sample_axis: str, threads: int, progress: Progress,
) -> tuple[dict[str, Array], tuple[str, ...]]:  # fmt: skip
    """Outputs at converter or device fidelity, and notes."""
    from xbc.cli.fidelity import settings_of
    from xbc.simulate.data import load_data
    from xbc.simulate.fidelity import Simulation
    from xbc.simulate.replayed import cut_set, open_chip
    from xbc.simulate.samples import SampleAxis

    chip = open_chip(program, options["settings"], options["calibration"], progress)
    data = cut_set(load_data(inputs, chip.ports), limit)
    simulation = Simulation(
        chip.host, chip.module, settings_of(fidelity, options, seed), calibration=chip.calibration,
        threads=threads, batch=batch, axis=SampleAxis(chip.host, sample_axis, cut=data.cut), progress=progress,
    )  # fmt: skip
    if fidelity == "devices":
        simulation.new_chip(0)
    outputs = simulation.run(data, progress=progress)
    return simulation.session.plan.together(outputs), simulation.session.notes


def describe(name: str, array: Array) -> dict[str, Any]:
    """Shape and range of an output."""
    import numpy as np

    values = array.astype(np.float64) if array.size else np.zeros(1)
    return {
        "name": name,
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "min": float(values.min()),
        "max": float(values.max()),
        "rms": float(np.sqrt(np.mean(values**2))),
    }


def write_npz(path: Path, arrays: dict[str, Array]) -> None:
    """The arrays as an .npz file that appears whole or not at all."""
    import numpy as np

    with whole_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            entry = zipfile.ZipInfo(f"{key}.npy")  # without a time: the same arrays give the same bytes
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
