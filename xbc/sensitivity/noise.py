"""Monte-Carlo of programming errors (the experiment of arXiv 2202.08395).

The error of a programmed weight is

    max|W| * sum_i N(0, sigma_i) * 2**(-i * m)

over its devices ``i = 0 .. devices - 1`` of ``m`` bits each, most significant first, with ``sigma_i`` the
programming error of a device with or without write-verify.  A sum of Gaussians is one Gaussian, so one
standard normal number per weight and programming is drawn; all selections that are compared share these
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ir.arrays import Array
from ir.errors import XbcError
from ir.module import Layer
from ir.stages import Float, Quantized
from ir.target import Device
from xbc.frontend import Imported, module_tensors
from xbc.sensitivity.diagonal import data_port
from xbc.simulate.host import open_session


@dataclass(frozen=True)
class Noise:
    """Programming errors of the devices of a weight.

    Fields:
        sigma_programmed, sigma_verified: standard deviation of a device over its conductance window, without
            and with write-verify.
        bits: of one device; devices: per weight.
    """

    sigma_programmed: float = 0.1
    sigma_verified: float = 0.03
    bits: int = 4
    devices: int = 2

    @classmethod
    def of_target(cls, device: Device, bits_per_cell: int, devices: int) -> Noise:
        """With the target's errors, or the defaults where it has none."""
        programmed, verified = device.sigma_programmed, device.sigma_verified
        if not programmed and not verified:
            programmed, verified = cls.sigma_programmed, cls.sigma_verified
        return cls(programmed, verified, bits_per_cell, devices)

    def deviation(self, verified_devices: int) -> float:
        """Standard deviation of a weight over max|W| when its first devices are verified and the rest not."""
        share = 4.0 ** (-self.bits * np.arange(self.devices))
        sigma = np.where(
            np.arange(self.devices) < verified_devices, self.sigma_verified, self.sigma_programmed
        )
        return float(np.sqrt((share * sigma**2).sum()))


@dataclass(frozen=True)
class Outcome:
    """Top-1 over many programmings, or its differences to another selection.

    Fields:
        accuracies: ``[programmings]``.
    """

    accuracies: Array

    @property
    def mean(self) -> float:
        """Over programmings."""
        return float(self.accuracies.mean())

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval of the mean (Student's t over programmings)."""
        n = len(self.accuracies)
        if n < 2:
            return float("inf")
        return float(stats.t.ppf(0.975, n - 1) * self.accuracies.std(ddof=1) / np.sqrt(n))

    def against(self, other: Outcome) -> Outcome:
        """The differences to another selection of the same run, programming by programming.

        Both saw the same errors on the same samples, so these differences vary less than either accuracy.
        Raises: XbcError when the programmings are not as many.
        """
        if len(self.accuracies) != len(other.accuracies):
            raise XbcError(
                f"cannot pair {len(self.accuracies)} programmings with {len(other.accuracies)}: "
                "compare selections of one run"
            )
        return Outcome(self.accuracies - other.accuracies)


class ProgrammingTrial:
    """A model that is programmed again and again with random errors."""

    def __init__(self, model: Imported, x: Array, labels: Array, noise: Noise, *, threads: int = 1) -> None:
        """``x [samples, ...]``, ``labels [samples]``; layers at stage quantized count as their codes say."""
        if labels is None or len(labels) != len(x):
            raise XbcError("a Monte-Carlo of accuracies needs one label for each sample")
        self.layers = model.module.layers
        self.tensors = module_tensors(model.module)
        self.noise = noise
        self.x, self.labels = x, labels
        port = data_port(model)
        self.input, self.batch = port.name, port.shape[0] or 250
        self.session = open_session(model.host, threads)
        self.full_scale = {layer.name: _full_scale(layer) for layer in self.layers}

    def accuracy(self, tensors: Mapping[str, Array] | None = None, pick: Array | None = None) -> float:
        """Top-1 with these weights (default: exact) on the samples ``pick`` (default: all)."""
        x, labels = (self.x, self.labels) if pick is None else (self.x[pick], self.labels[pick])
        feeds = {**self.tensors, **(tensors or {})}
        hits = 0
        for start in range(0, len(x), self.batch):
            part = slice(start, start + self.batch)
            logits = self.session.run(None, {**feeds, self.input: x[part]})[0]
            hits += int((logits.reshape(len(logits), -1).argmax(1) == labels[part]).sum())
        return hits / len(x)

    def errors(self, seed: int) -> dict[str, Array]:
        """Layer name -> ``[outputs, inputs]`` standard normal numbers of one programming."""
        out = {}
        for i, layer in enumerate(self.layers):
            rng = np.random.default_rng([seed, i])
            out[layer.name] = rng.standard_normal(layer.body.shape, dtype=np.float32)
        return out

    def program(
        self, errors: Mapping[str, Array], verified: Mapping[str, Array], devices: int
    ) -> dict[str, Array]:
        """Host tensors after one programming; the first ``devices`` of ``verified`` weights are verified."""
        plain, checked = self.noise.deviation(0), self.noise.deviation(devices)
        out = {}
        for layer in self.layers:
            deviation = np.where(verified[layer.name], np.float32(checked), np.float32(plain))
            matrix = errors[layer.name] * deviation * self.full_scale[layer.name]
            tensor = self.tensors[layer.origin.tensor]
            out[layer.origin.tensor] = (tensor + layer.origin.layout.to_tensor(matrix)).astype(tensor.dtype)
        return out

    def run(
        self,
        selections: Mapping[str, Mapping[str, Array]],
        programmings: int = 100,
        *,
        seed: int = 0,
        images: int | None = None,
        devices: Mapping[str, int] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> dict[str, Outcome]:
        """Accuracies of several selections over the same programmings.

        Args:
            selections: name -> (layer name -> bool ``[outputs, inputs]``: verified weights).
            seed: of the first programming; the others follow it one by one, so that a run can be continued
                with ``seed`` + the programmings done.
            images: score each programming on this many samples, drawn anew for each and the same for all
                selections; default all samples.
            devices: name -> how many high-order devices of a selected weight are verified; default all.
        """
        found: dict[str, list[float]] = {name: [] for name in selections}
        for draw in range(programmings):
            errors = self.errors(seed + draw)
            pick = None
            if images is not None and images < len(self.x):
                pick = np.random.default_rng([seed + draw, 1 << 20]).choice(
                    len(self.x), images, replace=False
                )
            for name, verified in selections.items():
                count = (devices or {}).get(name, self.noise.devices)
                found[name].append(self.accuracy(self.program(errors, verified, count), pick))
            if progress:
                progress("programming", draw + 1, programmings)
        return {name: Outcome(np.array(values)) for name, values in found.items()}


def _full_scale(layer: Layer) -> Array:
    """max|W| of a layer, ``[1, 1]``, or of each output where scales are per output."""
    body = layer.body
    if isinstance(body, Float):
        return np.asarray(np.abs(body.values).max(keepdims=True))
    sizes = np.abs(layer.at(Quantized).codes) * layer.at(Quantized).scale.reshape(-1, 1)
    axis = 1 if len(layer.at(Quantized).scale) > 1 else None
    return np.asarray(sizes.max(axis=axis, keepdims=True).astype(np.float32))


def write_cycles(
    fraction: float, devices: int, total: int, trials_verified: float, trials_unverified: float
) -> float:
    """Normalised write cycles: pulses over those of verifying everything.

    Args:
        fraction: of the weights that are verified, in ``devices`` of their ``total`` devices.
    """
    share = fraction * devices / total
    return (share * trials_verified + (1 - share) * trials_unverified) / trials_verified
