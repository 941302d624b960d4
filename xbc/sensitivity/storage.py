"""``sens.npz``: one array per layer, and which model they belong to."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from ir.arrays import F32
from ir.errors import XbcError
from ir.module import Module
from ir.npy import read_header
from passes.inputs import Sensitivities
from xbc.system.files import whole_file

SHA: Final = "__model_sha256__"
SAMPLES: Final = "__samples__"
LOSS: Final = "__loss__"
METHOD: Final = "__method__"
NOISE: Final = "__noise__"
META: Final = (SHA, SAMPLES, LOSS, METHOD, NOISE)


def save_sensitivities(sensitivities: Sensitivities, path: str | os.PathLike[str]) -> None:
    """Writes the file, whole or not at all."""
    path = Path(path)
    meta = {
        SHA: np.array(sensitivities.model_sha256),
        SAMPLES: np.array(sensitivities.samples),
        LOSS: np.array(sensitivities.loss),
        METHOD: np.array(sensitivities.method),
        NOISE: np.array(repr(float(sensitivities.noise))),
    }
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **meta, **sensitivities.layers)  # type: ignore[arg-type]


def load_sensitivities(path: str | os.PathLike[str], module: Module) -> Sensitivities:
    """Sensitivities for the layers of ``module``, checked.

    Raises: XbcError for a file of another kind or of another model, a missing layer, another shape, a value
        that is negative or not finite.
    """
    who = f"{path}: not a sensitivity file of this model"
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise XbcError(
            f"{path}: cannot be read as sens.npz ({error}); make one with xbc sensitivity"
        ) from None
    with archive:
        sha, samples, loss, method, noise = (_scalar(archive, name, str(path)) for name in META)
        if sha != module.host.model_sha256:
            raise XbcError(
                f"{who}: it was made for a model with SHA-256 {sha[:12]}..., this one has "
                f"{module.host.model_sha256[:12]}...; run xbc sensitivity on this model"
            )
        names = {name.removesuffix(".npy") for name in archive.namelist()} - set(META)
        wanted = {layer.name for layer in module.layers}
        if names != wanted:
            odd = sorted(names ^ wanted)[0]
            there = "has no" if odd in wanted else "has an unknown"
            raise XbcError(f"{who}: it {there} layer {odd!r}; run xbc sensitivity on this model")
        layers = {layer.name: _layer(archive, layer.name, layer.body.shape, who) for layer in module.layers}
    return Sensitivities(layers, loss, sha, int(samples), method, float(noise))


def _header(archive: zipfile.ZipFile, name: str, path: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and type as the array's header says, before anything of that size is read."""
    try:
        with archive.open(name + ".npy") as file:
            shape, _, dtype = read_header(file)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile):
        raise XbcError(f"{path}: holds no array {name!r}: not a file made by xbc sensitivity") from None
    return shape, dtype


def _scalar(archive: zipfile.ZipFile, name: str, path: str) -> str:
    shape, dtype = _header(archive, name, path)
    if shape != () or dtype.itemsize > 4096 or dtype.kind not in "Uiu":
        raise XbcError(f"{path}: {name!r} is no plain value: not a file made by xbc sensitivity")
    with archive.open(name + ".npy") as file:
        return str(np.lib.format.read_array(file, allow_pickle=False)[()])


def _layer(archive: zipfile.ZipFile, name: str, shape: tuple[int, int], who: str) -> F32:
    found, dtype = _header(archive, name, who)
    if found != shape or dtype != np.float32:
        raise XbcError(f"{who}: layer {name!r} has {dtype} {list(found)}, wanted float32 {list(shape)}")
    try:
        with archive.open(name + ".npy") as file:
            values: F32 = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise XbcError(f"{who}: layer {name!r} is damaged ({error})") from None
    if not np.isfinite(values).all() or (values < 0).any():
        raise XbcError(f"{who}: layer {name!r} has values that are negative or not finite")
    return values


def matching(layers: Mapping[str, F32], module: Module) -> dict[str, F32]:
    """Sensitivities for exactly the layers of a module.  Raises XbcError for a missing or misshapen one."""
    out = {}
    for layer in module.layers:
        if layer.name not in layers:
            raise XbcError(f"the sensitivities have no layer {layer.name!r}: they belong to another model")
        values = layers[layer.name]
        if values.shape != layer.body.shape:
            raise XbcError(
                f"the sensitivities of layer {layer.name!r} have shape {list(values.shape)}, its weights "
                f"{list(layer.body.shape)}: they belong to another model"
            )
        out[layer.name] = values
    return out
