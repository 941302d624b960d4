"""Which rule holds for which operator, and what a node makes of the samples."""

from __future__ import annotations

from collections.abc import Mapping

from xbc.simulate import axis_rules as rules
from xbc.simulate.axes import Along, Fixed, Lost, MixedError, Site, State, UntoldError

MS = "com.microsoft"


def _table() -> dict[tuple[str, str], rules.Rule]:
    groups: Mapping[rules.Rule, str] = {
        rules.elementwise: "Add Sub Mul Div Pow Mod Where Max Min Sum Mean And Or Xor Not Equal Greater Less "
        "GreaterOrEqual LessOrEqual BitShift BitwiseAnd BitwiseOr BitwiseXor PRelu "
        "ms.BiasGelu ms.FastGelu ms.BiasSplitGelu ms.BiasAdd",
        rules.unary: "Abs Acos Acosh Asin Asinh Atan Atanh Cast CastLike Ceil Celu Clip Cos Cosh Elu Erf Exp Floor "
        "Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg QuantizeLinear DequantizeLinear "
        "Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu "
        "BitwiseNot DynamicQuantizeLinear ms.Gelu ms.QuickGelu ms.QuantizeLinear ms.DequantizeLinear "
        "ms.QLinearSigmoid ms.QLinearLeakyRelu",
        rules.trilu: "Trilu",
        rules.dropout: "Dropout",
        rules.max_pool: "MaxPool ms.MaxpoolWithMask",
        rules.image(0): "Conv ConvTranspose ConvInteger QLinearConv AveragePool LpPool GlobalAveragePool GlobalMaxPool "
        "GlobalLpPool InstanceNormalization GroupNormalization LRN DepthToSpace SpaceToDepth "
        "ms.QLinearConv ms.QLinearGlobalAveragePool ms.QLinearAveragePool ms.ConvTransposeWithDynamicPads",
        rules.image(0, 3): "ms.FusedConv",
        rules.image(0, 2, 4): "DeformConv",
        rules.image(0, 3, 4, 5, 6): "ms.Attention",
        rules.image(0, 5, 8): "ms.QAttention",
        rules.image(0, 1, 7, 8): "ms.EmbedLayerNormalization",
        rules.first_axis: "GridSample Attention RotaryEmbedding ms.MultiHeadAttention ms.RotaryEmbedding",
        rules.resized: "Resize Upsample",
        rules.matmul(0, 1): "MatMul MatMulInteger ms.MatMulNBits ms.MatMulBnb4 ms.MatMulIntegerToFloat "
        "ms.MatMulInteger16 ms.DynamicQuantizeMatMul",
        rules.matmul(0, 3): "QLinearMatMul",
        rules.fused_matmul: "ms.FusedMatMul ms.TransposeMatMul",
        rules.gemm(0, 1, 2): "Gemm ms.FusedGemm",
        rules.gemm(0, 3): "ms.QGemm",
        rules.reshape: "Reshape Flatten Squeeze Unsqueeze",
        rules.reduce: "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum "
        "ReduceLogSumExp ReduceSumSquare",
        rules.arg_reduce: "ArgMax ArgMin",
        rules.one_axis(-1): "LpNormalization TopK",
        rules.one_axis(0, 1): "CumSum",
        rules.softmax: "Softmax LogSoftmax Hardmax",
        rules.normalised(): "LayerNormalization RMSNormalization SimplifiedLayerNormalization "
        "ms.SkipLayerNormalization ms.SkipSimplifiedLayerNormalization",
        rules.mean_variance: "MeanVarianceNormalization",
        rules.batch_norm: "BatchNormalization",
        rules.transpose: "Transpose",
        rules.concat: "Concat",
        rules.split: "Split",
        rules.slice_: "Slice",
        rules.gather: "Gather",
        rules.pad: "Pad",
        rules.widened: "Expand Tile",
        rules.one_hot: "OneHot",
        rules.recurrent: "RNN GRU LSTM ms.DynamicQuantizeLSTM",
        rules.einsum: "Einsum",
        rules.mixed: "NonZero Unique Compress NonMaxSuppression",
    }  # fmt: skip
    table = {}
    for rule, names in groups.items():
        for name in names.split():
            domain, _, op = name.rpartition(".")
            table[(MS if domain else "", op)] = rule
    return table


RULES = _table()
COUPLED = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
"""Operators that take a scale over all samples of a run."""


def outputs(site: Site, name: str) -> list[State]:
    """States of a node's outputs; ``name``: of the node, for the sentences."""
    if site.node.op_type.startswith("Random") or site.node.op_type in ("Multinomial", "Bernoulli"):
        return [Lost(f"{name} draws numbers", known=False) for _ in site.node.output]
    present = [s for s in site.states if s is not None]
    lost = next((s for s in present if isinstance(s, Lost)), None)
    if lost is not None:
        return [lost for _ in site.node.output]
    if not site.along():
        fixed = [s for s in present if isinstance(s, Fixed)]
        state = Fixed(any(s.shared for s in fixed), any(s.counts for s in fixed))
        return [state for _ in site.node.output]
    rule = RULES.get((site.node.domain, site.node.op_type))
    try:
        if rule is None:
            raise UntoldError
        found = rule(site)
    except MixedError:
        return [Lost(f"{name} combines them") for _ in site.node.output]
    except UntoldError:
        return [Lost(f"what {name} does with them is not known", known=False) for _ in site.node.output]
    if site.node.op_type == "DynamicQuantizeLinear":
        found = [found[0], Fixed(shared=True), Fixed(shared=True)]
    elif site.node.op_type == "CastLike":
        found = found[:1]
    return [_checked(state, site, index, name) for index, state in enumerate(found)]


def _checked(state: State, site: Site, index: int, name: str) -> State:
    """The state, if the shapes of all runs bear it out."""
    if not isinstance(state, Along) or not site.node.output[index]:
        return state
    shapes = [made[index] for made in site.made]
    for samples, shape in zip(site.samples, shapes, strict=True):
        if len(shape) <= state.axis or shape[state.axis] != state.outer * samples * state.inner:
            return Lost(f"what {name} does with them is not known", known=False)
    if len({(*shape[: state.axis], *shape[state.axis + 1 :]) for shape in shapes}) != 1:
        return Lost(f"the shape of what {name} makes depends on their number")
    return state
