"""Which operand of which operator is a weight matrix, and how the matrix lies in it.

A **static-weight node** is a node that contracts an activation with a static tensor (convolutions, matrix
products, recurrent cells, attention projections, linear classifiers) or looks up its rows (embeddings).
Each is either mapped or listed with a reason.  Elementwise operators and normalisations with static operands
(bias, scale, position embedding, mask) hold one weight per output and sum nothing: they are no static-weight
nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from ir.layout import Layout
from xbc.frontend.statics import attributes

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """One operand that becomes a layer.

    Fields:
        operand: its index among the node's inputs.
        layout: where the matrix lies.
        groups, kernel: as in ``ir.Origin``.
        suffix: distinguishes several layers of one node.
        integer: the operand is an integer tensor whose scale and zero point are operands too.
        scale, zero_point: their indices (-1: none).
        side: for a per-output scale given as a vector: the operand axis it runs along.
    """

    operand: int
    layout: Layout
    groups: int = 1
    kernel: Shape = ()
    suffix: str = ""
    integer: bool = False
    scale: int = -1
    zero_point: int = -1
    side: int = 0


@dataclass(frozen=True)
class Refusal:
    """A static operand that stays in the host graph, and why."""

    operand: int
    reason: str


Found = list[Weight | Refusal]
Shapes = Sequence[Shape | None]
"""Shapes of a node's static operands; None for a dynamic or absent one."""


class MisshapenError(Exception):
    """A weight whose shape does not suit its operator (the message says how)."""


def find_weights(node: onnx.NodeProto, shapes: Shapes) -> Found:
    """The static weights of a node.

    Raises: MisshapenError.
    """
    rule = _RULES.get((node.domain, node.op_type))
    if rule is not None:
        return rule(attributes(node), shapes)
    reason = _LISTED.get((node.domain, node.op_type))
    tables = [i for i, shape in enumerate(shapes) if shape is not None and len(shape) >= 2]
    if reason is not None:
        return [Refusal(i, reason) for i in tables[:1]]
    if node.domain and node.op_type not in _ELEMENTWISE:
        return [
            Refusal(i, f"no rule for the weights of operator {node.domain}.{node.op_type}")
            for i in tables
            if sum(d > 1 for d in shapes[i] or ()) >= 2
        ]
    return []


def _rank(shape: Shape, least: int, what: str) -> None:
    if len(shape) < least:
        raise MisshapenError(f"{what} of shape {list(shape)} must have at least {least} dimensions")


def _conv(operand: int, **integer: Any) -> Callable[[dict[str, Any], Shapes], Found]:
    """Weights ``[M, C / groups, *kernel]``: an output channel per row."""

    def rule(attrs: dict[str, Any], shapes: Shapes) -> Found:
        shape = shapes[operand]
        if shape is None:
            return []
        _rank(shape, 3, "a convolution weight")
        groups = attrs.get("group", 1)
        if groups < 1 or shape[0] % groups:
            raise MisshapenError(f"{shape[0]} output channels cannot be split into {groups} groups")
        perm = tuple(range(len(shape)))
        return [Weight(operand, Layout(shape, shape, perm, 1), groups, shape[2:], **integer)]

    return rule


def _conv_transpose(operand: int) -> Callable[[dict[str, Any], Shapes], Found]:
    """Weights ``[C, M / groups, *kernel]``: one product spreads an input pixel over kernel x channels."""

    def rule(attrs: dict[str, Any], shapes: Shapes) -> Found:
        shape = shapes[operand]
        if shape is None:
            return []
        _rank(shape, 3, "a transposed convolution weight")
        groups = attrs.get("group", 1)
        if groups < 1 or shape[0] % groups:
            raise MisshapenError(f"{shape[0]} input channels cannot be split into {groups} groups")
        split = (groups, shape[0] // groups, *shape[1:])
        perm = (0, *range(2, len(split)), 1)
        return [Weight(operand, Layout(shape, split, perm, len(split) - 1), groups, shape[2:])]

    return rule


def _matrix(operand: int, shape: Shape, *, right: bool, transposed: bool, **integer: Any) -> Weight:
    """Right factor ``[..., K, N]`` or left factor ``[..., M, K]`` of a product; leading dims are groups."""
    if not shape:
        raise MisshapenError("a matrix operand is a scalar")
    side = -1
    if len(shape) == 1:
        return Weight(operand, Layout(shape, (1, shape[0]), (0, 1), 1), **integer)
    rank = len(shape)
    outputs_last = right != transposed
    lead = tuple(range(rank - 2))
    perm = (*lead, rank - 1, rank - 2) if outputs_last else (*lead, rank - 2, rank - 1)
    if not outputs_last:
        side = -2
    groups = 1
    for dim in shape[:-2]:
        groups *= dim
    return Weight(operand, Layout(shape, shape, perm, rank - 1), groups, side=side, **integer)


def _product(
    left: int, right: int, *, gemm: bool = False, integers: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
) -> Callable[[dict[str, Any], Shapes], Found]:
    """A matrix product; ``integers`` are scale and zero-point operands of the left and right factor."""

    def rule(attrs: dict[str, Any], shapes: Shapes) -> Found:
        sides = [i for i in (left, right) if i >= 0 and i < len(shapes) and shapes[i] is not None]
        if not sides:
            return []
        if len(sides) == 2 and left >= 0:
            return [Refusal(right, "both factors are static: a constant, not a product with an activation")]
        operand = sides[0]
        shape = shapes[operand]
        assert shape is not None
        if gemm:
            _rank(shape, 2, "a matrix of Gemm")
        is_right = operand == right
        if attrs.get("transBatchA") or attrs.get("transBatchB"):
            return [Refusal(operand, "transBatchA / transBatchB reorder stacked matrices")]
        transposed = bool(attrs.get("transB" if is_right else "transA", 0)) and len(shape) > 1
        extra = integers[1 if is_right else 0]
        return [_matrix(operand, shape, right=is_right, transposed=transposed, **extra)]

    return rule


def _recurrent(attrs: dict[str, Any], shapes: Shapes) -> Found:
    """``W [directions, gates * hidden, inputs]`` and ``R [directions, gates * hidden, hidden]``."""
    found: Found = []
    for operand, suffix in ((1, "W"), (2, "R")):
        shape = shapes[operand] if operand < len(shapes) else None
        if shape is not None:
            if len(shape) != 3:
                raise MisshapenError(f"{suffix} of shape {list(shape)} must have 3 dimensions")
            found.append(Weight(operand, Layout(shape, shape, (0, 1, 2), 2), shape[0], suffix=suffix))
    return found


def _attention(attrs: dict[str, Any], shapes: Shapes) -> Found:
    """The joint projection ``[inputs, 3 * hidden]`` of com.microsoft.Attention."""
    if len(shapes) < 2 or shapes[1] is None:
        return []
    return [_matrix(1, shapes[1], right=True, transposed=False)]


def _integer(scale: int, zero_point: int) -> dict[str, Any]:
    return {"integer": True, "scale": scale, "zero_point": zero_point}


_MS = "com.microsoft"
_RULES: dict[tuple[str, str], Callable[[dict[str, Any], Shapes], Found]] = {
    ("", "Conv"): _conv(1),
    ("", "DeformConv"): _conv(1),
    (_MS, "FusedConv"): _conv(1),
    ("", "ConvTranspose"): _conv_transpose(1),
    (_MS, "ConvTransposeWithDynamicPads"): _conv_transpose(1),
    ("", "Gemm"): _product(0, 1, gemm=True),
    (_MS, "FusedGemm"): _product(0, 1, gemm=True),
    (_MS, "GemmFastGelu"): _product(-1, 1),
    ("", "MatMul"): _product(0, 1),
    (_MS, "FusedMatMul"): _product(0, 1),
    (_MS, "FusedMatMulActivation"): _product(0, 1),
    (_MS, "TransposeMatMul"): _product(0, 1),
    (_MS, "Attention"): _attention,
    ("", "LSTM"): _recurrent,
    ("", "GRU"): _recurrent,
    ("", "RNN"): _recurrent,
    ("", "QLinearConv"): _conv(3, **_integer(4, 5)),
    ("", "ConvInteger"): _conv(1, **_integer(-1, 3)),
    ("", "QLinearMatMul"): _product(0, 3, integers=(_integer(1, 2), _integer(4, 5))),
    ("", "MatMulInteger"): _product(0, 1, integers=(_integer(-1, 2), _integer(-1, 3))),
    (_MS, "MatMulInteger16"): _product(0, 1, integers=(_integer(-1, -1), _integer(-1, -1))),
    (_MS, "MatMulIntegerToFloat"): _product(0, 1, integers=(_integer(2, 4), _integer(3, 5))),
    (_MS, "DynamicQuantizeMatMul"): _product(-1, 1, integers=({}, _integer(2, 3))),
    (_MS, "QGemm"): _product(0, 3, integers=(_integer(1, 2), _integer(4, 5))),
}

_TABLE = "embedding table: rows are looked up, nothing is summed"
_BLOCKS = "packed codes with a scale per block of inputs, which one section cannot sum"
_PACKED = (
    "weights lie in onnxruntime's packed layout: compile the model before it was optimised for one machine"
)
_LISTED: dict[tuple[str, str], str] = {
    ("", "Gather"): _TABLE,
    ("", "GatherND"): _TABLE,
    ("", "GatherElements"): _TABLE,
    (_MS, "EmbedLayerNormalization"): _TABLE,
    (_MS, "QEmbedLayerNormalization"): _TABLE,
    (_MS, "GatherBlockQuantized"): _TABLE,
    (_MS, "WordConvEmbedding"): _TABLE,
    ("", "Einsum"): "Einsum with a static operand: write it as MatMul",
    (_MS, "MatMulNBits"): _BLOCKS,
    (_MS, "MatMulBnb4"): _BLOCKS,
    (_MS, "MatMulFpQ4"): _BLOCKS,
    (
        _MS,
        "DynamicQuantizeLSTM",
    ): "recurrent weights quantised per direction inside a fused operator: export a plain LSTM",
    (_MS, "QAttention"): "quantised projection inside a fused operator: export plain MatMulInteger",
    ("com.microsoft.nchwc", "Conv"): _PACKED,
    (_MS, "NhwcFusedConv"): _PACKED,
}
"""Static-weight operators that are not mapped, and why."""

_ELEMENTWISE = frozenset(
    {
        "BiasAdd", "BiasDropout", "BiasGelu", "BiasSoftmax", "BiasSplitGelu", "DequantizeLinear", "FastGelu",
        "GatedRelativePositionBias", "GroupNorm", "GroupQueryAttention", "MultiHeadAttention", "QLinearAdd",
        "QLinearConcat", "QLinearMul", "QLinearWhere", "QuantizeLinear", "RotaryEmbedding", "SkipGroupNorm",
        "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
    }
)  # fmt: skip
"""onnxruntime's operators whose static operands (biases, scales, position tables) sum nothing."""

COEFFICIENTS = (
    "coefficients are attributes of an ai.onnx.ml operator, which the host graph cannot take as an input"
)


def coefficients(node: onnx.NodeProto) -> int:
    """Weights of a classical linear model or support vector machine that keeps them in attributes."""
    if node.domain != "ai.onnx.ml":
        return 0
    return max(
        (len(a.floats) for a in node.attribute if a.name in ("coefficients", "support_vectors")), default=0
    )


def products(
    node: onnx.NodeProto, weight: Weight, shape_of: Callable[[str], Sequence[int | None] | None]
) -> int | None:
    """Matrix-vector products with the whole matrix in one run of the model, None when shapes are dynamic.

    All groups count together: a product delivers every output once.
    """
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return _count(shape_of(node.input[0]), 2)
    if node.op_type in ("ConvTranspose", "ConvTransposeWithDynamicPads"):
        pixels = _count(shape_of(node.input[0]))
        return None if pixels is None else pixels // weight.layout.shape[0]
    results = _count(shape_of(node.output[0]))
    return None if results is None else results // weight.layout.matrix_shape[0]


def _count(shape: Sequence[int | None] | None, first: int | None = None) -> int | None:
    if shape is None:
        return None
    total = 1
    for dim in shape[:first]:
        if dim is None:
            return None
        total *= dim
    return total
