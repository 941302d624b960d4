"""A trained model as ONNX, with the weights that the devices hold."""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ir.arrays import Array
from ir.errors import XbcError
from ir.target import Target
from xbc.training.layers import CrossbarConv2d, CrossbarLayer, CrossbarLinear
from xbc.training.quantized import UniformConv1d, UniformConv2d, UniformLayer, UniformLinear
from xbc.training.torch_extra import Tensor, torch

OPSET = 18


class _Grid(torch.nn.Module):
    """A converter with a fixed scale, as plain operators."""

    def __init__(self, bits: int, full_scale: float, signed: bool) -> None:
        super().__init__()
        self.top = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1
        self.low = -self.top if signed else 0
        self.step = full_scale / self.top

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, on the grid."""
        return torch.round(torch.clamp(x / self.step, self.low, self.top)) * self.step


class _Signs(torch.nn.Module):
    """The digital sign of each output."""

    def __init__(self, signs: Tensor, rank: int) -> None:
        super().__init__()
        self.signs: Tensor
        self.register_buffer("signs", signs.reshape(1, -1, *([1] * rank)).clone())

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x * self.signs


def plain_model(model: torch.nn.Module) -> torch.nn.Module:
    """A copy for inference in which every crossbar or uniform layer is converters around an ordinary layer.

    Crossbar layers keep the levels that a read of the devices gives (not their analog errors) and no converters;
    uniform layers keep their grids, signs and converters.
    """
    out = copy.deepcopy(model).eval()
    for name, module in list(out.named_modules()):
        if isinstance(module, (CrossbarLayer, UniformLayer)):
            replacement = _crossbar(module) if isinstance(module, CrossbarLayer) else _uniform(module)
            parent, _, child = name.rpartition(".")
            if not name:
                return replacement
            setattr(out.get_submodule(parent), child, replacement)
    return out


def _crossbar(layer: CrossbarLayer) -> torch.nn.Module:
    held = torch.from_numpy((layer.array.codes * np.float32(layer.scale)).astype(np.float32))
    weight = held.reshape(layer.weight.shape)
    plain: torch.nn.Module
    if isinstance(layer, CrossbarLinear):
        plain = torch.nn.Linear(weight.shape[1], weight.shape[0])
    elif isinstance(layer, CrossbarConv2d):
        plain = torch.nn.Conv2d(
            weight.shape[1], weight.shape[0], weight.shape[2], stride=layer.stride, padding=layer.padding
        )
    else:
        raise XbcError(
            f"export: layers of type {type(layer).__name__} are not known; use CrossbarLinear or Conv2d"
        )
    _fill(plain, weight, layer.bias)
    return plain


def _uniform(layer: UniformLayer) -> torch.nn.Module:
    weight = layer.stored_weight().detach()
    scale = layer.scale
    plain: torch.nn.Module
    if isinstance(layer, UniformLinear):
        plain, rank = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False), 0
    elif isinstance(layer, UniformConv1d):
        plain = torch.nn.Conv1d(
            weight.shape[1], weight.shape[0], weight.shape[2], stride=layer.stride, bias=False
        )
        rank = 1
    elif isinstance(layer, UniformConv2d):
        plain = torch.nn.Conv2d(
            weight.shape[1],
            weight.shape[0],
            weight.shape[2],
            stride=layer.stride,
            padding=layer.padding,
            bias=False,
        )
        rank = 2
    else:
        raise XbcError(f"export: layers of type {type(layer).__name__} are not known")
    _fill(plain, weight, None)
    bipolar = layer.polarity == "bipolar"
    parts: list[torch.nn.Module] = []
    if scale.dac_bits:
        parts.append(_Grid(scale.dac_bits, 1.0, signed=False))
    parts.append(plain)
    if scale.adc_bits:
        parts.append(_Grid(scale.adc_bits, scale.adc_full_scale, signed=bipolar))
    if not bipolar and bool((layer.signs < 0).any()):
        parts.append(_Signs(layer.signs, rank))
    return torch.nn.Sequential(*parts)


def _fill(plain: Any, weight: Tensor, bias: Tensor | None) -> None:
    with torch.no_grad():
        plain.weight.copy_(weight)
        if bias is not None:
            plain.bias.copy_(bias)


def export_onnx(model: torch.nn.Module, sample: Tensor, path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Writes ``model`` as ONNX: input ``input`` ``[batch, ...]`` shaped as ``sample``, output ``logits``.

    The weights of a crossbar layer are its device codes times its scale.  The file appears whole or not at all.
    """
    path = Path(path)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            plain_model(model),
            (sample,),
            str(Path(folder) / "model.onnx"),
            dynamo=False,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        )
        proto = onnx.load(Path(folder) / "model.onnx")
    half = path.with_name(path.name + ".part")
    try:
        onnx.save(proto, half)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
    return proto


def compile_trained(
    model: torch.nn.Module,
    sample: Tensor,
    output: str | os.PathLike[str],
    *,
    target: str | Target = "rram-64",
    passes: str = "slice-bits,form-sections,deal-sections",
) -> Any:
    """``xbc compile`` of a model trained on devices: the program holds exactly the codes of the devices.

    Args:
        sample: one input ``[1, ...]``.
        passes: what follows quantisation and the encoding of signs, which the devices fix.
    Returns: as ``xbc.compile_model``.
    Raises: XbcError when the layers have devices of different formats, or no layer holds its largest code (its
        scale would be lost in the float weights).
    """
    from xbc.driver.compile import compile_model
    from xbc.training.layers import crossbar_layers

    formats = {layer.array.cells for _, layer in crossbar_layers(model)}
    if len(formats) != 1:
        raise XbcError(
            "compile_trained: the layers have devices of different formats; export them one by one"
        )
    cells = formats.pop()
    for name, layer in crossbar_layers(model):
        if np.abs(layer.array.codes).max(initial=0) != cells.code_range()[1]:
            raise XbcError(
                f"compile_trained: no weight of layer {name!r} uses the highest level of its devices"
            )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{Path(output).stem}.onnx"
        export_onnx(model, sample, file)
        pipeline = (
            f"quantize{{bits={cells.bits},grid=magnitude}},encode-signs{{encoding={cells.encoding}}},{passes}"
        )
        return compile_model(file, output, target=target, pipeline=pipeline)


def device_codes(model: torch.nn.Module) -> dict[str, Array]:
    """Layer name -> ``[outputs, inputs]`` int32 codes that a read of the devices gives."""
    from xbc.training.layers import crossbar_layers

    return {name: layer.array.codes.copy() for name, layer in crossbar_layers(model)}
