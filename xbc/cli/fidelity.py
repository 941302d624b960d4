"""What ``simulate``, ``evaluate`` and ``sweep`` share: options of the simulation and how its facts read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import click

from ir.errors import XbcError
from xbc.cli import console

F = TypeVar("F", bound=Callable[..., Any])
Fidelity = Literal["ideal", "converters", "devices"]
IDEAL: Final = "ideal"
CHOICES = (IDEAL, "converters", "devices")


def _settings(ctx: click.Context, param: click.Parameter, items: tuple[str, ...]) -> dict[str, Any]:
    from xbc.targets import parse_settings

    settings = parse_settings(items)
    if settings:
        from xbc.simulate.programs import check_settings

        check_settings(settings)
    return settings


_fidelity = click.option(
    "--fidelity", type=click.Choice(CHOICES), default=IDEAL, show_default=True,
    help="ideal: exact weights in onnxruntime; converters: integer inputs, column sums through ADCs; "
    "devices: the cells' conductances with their errors, then the converters.",
)  # fmt: skip
_options = [
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", callback=_settings,
        help="Replace a key of the target's converters or device table. May be repeated.",
    ),
    click.option(
        "--calibration", type=click.Path(path_type=Path),
        help="Inputs (.npz) that fix calibrated ranges of inputs and ADCs.",
    ),
    click.option(
        "--percentile", type=click.FloatRange(0, 100, min_open=True), default=99.99, show_default=True,
        help="Share of the calibration's column sums that a calibrated ADC covers.",
    ),
    click.option("--no-adc", is_flag=True, help="Column sums as they are, without an ADC."),
    click.option(
        "--trials", type=click.IntRange(1, 100_000), default=5, show_default=True,
        help="Chips to simulate at device fidelity.",
    ),
    click.option(
        "--narrow", type=click.FloatRange(0, min_open=True), metavar="X",
        help="Stop the trials when the 95 % interval of the metric is within +-X.",
    ),
]  # fmt: skip


def simulation_options(function: F) -> F:
    """The options of a simulation; they reach the command as keyword arguments."""
    for option in reversed(_options):
        function = option(function)
    return function


def fidelity_options(function: F) -> F:
    """``--fidelity`` and the options of a simulation."""
    return _fidelity(simulation_options(function))


def refuse_unused(fidelity: str, options: Mapping[str, Any]) -> None:
    """Raises XbcError for options that the ideal fidelity would silently ignore."""
    if fidelity == IDEAL:
        given = {
            "--set": options["settings"], "--calibration": options["calibration"],
            "--no-adc": options["no_adc"],
            "--blame": options.get("blame"), "--narrow": options["narrow"],
        }  # fmt: skip
        for name, value in given.items():
            if value:
                raise XbcError(
                    f"{name} has no meaning at ideal fidelity: add --fidelity converters or devices"
                )


def layer_lines(facts: Mapping[str, Any]) -> list[str]:
    """Per layer: signal-to-noise ratio and ADC clip rate, the worst first."""
    simulated = [layer for layer in facts["layers"] if "ideal" not in layer]
    ranked = sorted(simulated, key=lambda layer: layer["snr_db"])
    lines = ["layer                                    signal-to-noise   conversions clipped"]
    for layer in ranked:
        lines.append(
            f"{layer['layer'][:40]:40s} {layer['snr_db']:12.1f} dB {100 * layer['clip_rate']:19.4f} %"
        )
    lines += [f"{layer['layer']}: ideal ({layer['ideal']})" for layer in facts["layers"] if "ideal" in layer]
    return lines


def cost_line(facts: Mapping[str, Any]) -> str:
    """Seconds per sample and peak memory."""
    peak = console.quantity(facts["peak_rss_bytes"], "B")
    return f"{console.seconds(facts['seconds_per_sample'])} per sample, peak memory {peak}"
