"""``DeformConv``: a convolution whose taps are sampled elsewhere.

``DeformConv(x, W, offset, b, mask)`` is ``DeformConv(x, E, offset, -, mask)`` with one group per channel, which
gives every tap of every channel as a channel; ``ConvTranspose(., E)`` lays the taps of a window side by side in
the image; ``Conv(., W, b)`` in steps of its kernel multiplies them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ir.module import Layer
from xbc.operators.conv import image_weights
from xbc.operators.definition import Operator


def _expand(node: onnx.NodeProto, layer: Layer) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    kernel, groups = layer.origin.kernel, layer.origin.groups
    taps = int(np.prod(kernel))
    channels = layer.body.shape[1] // taps * groups
    one_hot = np.zeros((channels, taps, 1, taps), np.float32)
    one_hot[:, np.arange(taps), 0, np.arange(taps)] = 1
    weights, sampled, image = (f"{node.name}/{part}" for part in ("taps", "sampled", "image"))
    rest = onnx.NodeProto()
    rest.CopyFrom(node)
    rest.name, rest.output[0] = f"{node.name}/sampling", sampled
    rest.input[1] = weights
    bias = list(node.input[3:4])
    if bias:
        rest.input[3] = ""
    kept = [a for a in rest.attribute if a.name != "group"]
    del rest.attribute[:]
    rest.attribute.extend([*kept, helper.make_attribute("group", channels)])
    return [
        rest,
        helper.make_node(
            "ConvTranspose", [sampled, weights], [image], name=image, group=channels, strides=kernel
        ),
        helper.make_node(
            "Conv", [image, node.input[1], *bias], list(node.output), name=node.name, group=groups,
            strides=kernel,
        ),
    ], [numpy_helper.from_array(one_hot.reshape(channels * taps, 1, *kernel), weights)]  # fmt: skip


OPERATORS: Final = (Operator("DeformConv", weights=image_weights(1), expand=_expand),)
