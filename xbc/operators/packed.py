"""onnxruntime's operators whose weights cannot be a layer, and those whose static operands sum nothing."""

from __future__ import annotations

from typing import Final

from xbc.operators.definition import MICROSOFT, Operator

_BLOCKS = "packed codes with a scale per block of inputs, which one section cannot sum"
_PACKED = (
    "weights lie in onnxruntime's packed layout: compile the model before it was optimised for one machine"
)
_LSTM = "recurrent weights quantised per direction inside a fused operator: export a plain LSTM"
_ATTENTION = "quantised projection inside a fused operator: export plain MatMulInteger"
_NOTHING_SUMMED = (
    "BiasAdd", "BiasDropout", "BiasGelu", "BiasSoftmax", "BiasSplitGelu", "DequantizeLinear", "FastGelu",
    "GatedRelativePositionBias", "GroupNorm", "GroupQueryAttention", "MultiHeadAttention", "QLinearAdd",
    "QLinearConcat", "QLinearMul", "QLinearWhere", "QuantizeLinear", "RotaryEmbedding", "SkipGroupNorm",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
)  # fmt: skip
"""Their static operands are biases, scales and position tables."""

OPERATORS: Final = (
    Operator("MatMulNBits", MICROSOFT, refused=_BLOCKS),
    Operator("MatMulBnb4", MICROSOFT, refused=_BLOCKS),
    Operator("MatMulFpQ4", MICROSOFT, refused=_BLOCKS),
    Operator("DynamicQuantizeLSTM", MICROSOFT, refused=_LSTM),
    Operator("QAttention", MICROSOFT, refused=_ATTENTION),
    Operator("Conv", "com.microsoft.nchwc", refused=_PACKED),
    Operator("NhwcFusedConv", MICROSOFT, refused=_PACKED),
    *(Operator(name, MICROSOFT) for name in _NOTHING_SUMMED),
)
