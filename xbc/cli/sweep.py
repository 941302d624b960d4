"""``xbc sweep``: accuracy over settings of converters and devices."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ir.errors import XbcError
from xbc.cli import console
from xbc.cli.fidelity import simulation_options
from xbc.cli.options import (
    SampleAxisWord,
    batch_option,
    json_option,
    limit_option,
    memory_option,
    program_argument,
    quiet_option,
    sample_axis_option,
    seed_option,
    threads_option,
)
from xbc.system.files import whole_file
from xbc.system.outputs import check_file

if TYPE_CHECKING:
    from xbc.simulate.sweep import Point


@click.command("sweep")
@program_argument
@click.option(
    "--over",
    "over",
    multiple=True,
    required=True,
    metavar="KEY=VALUES",
    help="Key of the target and its values: 4..10 or 0.01,0.02. Twice: one line per value of the first.",
)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Set, as for evaluate.")
@click.option("--model", type=click.Path(path_type=Path), help="The model that was compiled: the reference.")
@click.option(
    "--output", "output_name", metavar="NAME", help="Output that is classified  [default: the first]"
)
@click.option(
    "-o",
    "--to",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the result: .csv, .png, .svg or .html. May be repeated.",
)
@simulation_options
@seed_option
@limit_option
@batch_option
@sample_axis_option
@memory_option
@threads_option
@json_option
@quiet_option
def command(
    program: Path, over: tuple[str, ...], data: Path, model: Path | None, output_name: str | None,
    files: tuple[Path, ...], seed: int, limit: int | None, batch: int | None, sample_axis: SampleAxisWord,
    memory: int | None, threads: int, as_json: bool, quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Measure the accuracy over settings of the converters or devices and draw the curve.

    Keys of the converters table are swept at converter fidelity; as soon as a key of the device table is
    among them, at device fidelity (mean and 95 % interval over --trials chips).

    \b
    Examples:
      xbc sweep model.xbc --over converters.adc_bits=4..10 --data set.npz -o adc.csv -o adc.png
      xbc sweep model.xbc --over device.sigma_verified=0,0.02,0.05 --data set.npz --trials 10 -o noise.html
    """
    from xbc.simulate.memory import peak_rss_bytes
    from xbc.simulate.plots import FORMATS, draw
    from xbc.simulate.programs import fidelity_of, sweep_program
    from xbc.simulate.sweep import parse_axis, to_csv

    axes = [parse_axis(text) for text in over]
    for path in files:
        if path.suffix.lower() not in (".csv", *FORMATS):
            raise XbcError(f"{path}: a sweep is written as .csv, {', '.join(FORMATS)}")
        check_file(path, "an HTML" if path.suffix.lower() == ".html" else None, data, model)
    with console.progress_bars(quiet) as progress:
        points, notes = sweep_program(
            program, over, data, model=model, output=output_name, settings=options["settings"],
            calibration=options["calibration"], adc=not options["no_adc"], percentile=options["percentile"],
            trials=options["trials"], narrow=options["narrow"], seed=seed, limit=limit, batch=batch,
            sample_axis=sample_axis, memory=memory,
            threads=threads, progress=progress,
        )  # fmt: skip
    for sentence in notes:
        console.note(f"xbc: note: {sentence}", quiet)
    made = [
        (path, to_csv(points).encode() if path.suffix.lower() == ".csv" else draw(points, path, program.stem))
        for path in files
    ]
    for path, content in made:
        with whole_file(path) as partial:
            partial.write_bytes(content)
        console.note(f"wrote {path}", quiet)
    peak = peak_rss_bytes()
    if as_json:
        listed = [dataclasses.asdict(p) for p in points]
        console.print_json({"fidelity": fidelity_of(axes), "points": listed, "peak_rss_bytes": peak})
        return
    keys = [axis.key for axis in axes]
    table = console.table(
        "", *keys, points[0].metric, _interval_name(points[0]), "worst layer", "clipped", text=len(keys)
    )  # fmt: skip
    for p in points:
        bounds = p.interval or p.drop_interval
        interval = "-" if bounds is None else f"{100 * bounds[0]:.2f} .. {100 * bounds[1]:.2f} %"
        table.add_row(
            *(str(v) for v in p.settings.values()), f"{100 * p.score:.2f} %", interval, f"{p.snr_db:.1f} dB",
            f"{100 * p.clip_rate:.3g} %",
        )  # fmt: skip
    console.stdout().print(table)
    console.note(f"peak memory {console.quantity(peak, 'B')}", quiet)


def _interval_name(point: Point) -> str:
    """What the interval of a sweep's table is of."""
    return "95 % interval of the drop" if point.drop_interval is not None else "95 % interval"
