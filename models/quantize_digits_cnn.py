"""Make digits_cnn_qdq.onnx: the CNN in int8 QuantizeLinear/DequantizeLinear form, weights per output channel.

Post-training quantisation by onnxruntime, ranges from digits_calib.npz. Batch norms are folded before, by
onnxruntime too. Needs neither torch nor scikit-learn.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
from digits import HERE, Images, correct_answers, static_weights, tidy
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Calibration(CalibrationDataReader):
    """All calibration images as one batch."""

    def __init__(self, images: Images) -> None:
        """Queue the one batch."""
        self.batches = iter([{"image": images.image}])

    def get_next(self) -> dict[str, Any] | None:
        """The batch, then None."""
        return next(self.batches, None)


def quantize(source: Path, images: Images) -> onnx.ModelProto:
    """The model at `source` with int8 weights (symmetric, per channel) and int8 activations (min-max)."""
    with tempfile.TemporaryDirectory() as folder:
        folded, quantised = Path(folder) / "folded.onnx", Path(folder) / "quantised.onnx"
        quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
        quantize_static(
            str(folded),
            str(quantised),
            Calibration(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
        proto = onnx.load(quantised)
    proto.graph.name = "digits_cnn_qdq"
    return tidy(proto)


if __name__ == "__main__":
    model = quantize(HERE / "digits_cnn.onnx", Images.load(HERE / "digits_calib.npz"))
    test = Images.load(HERE / "digits_eval.npz")
    correct = correct_answers(model, test)
    print(f"weights: {static_weights(model):,}")
    print(f"accuracy: {100 * correct / len(test):.2f} % ({correct} of {len(test)} images)")
    (HERE / "digits_cnn_qdq.onnx").write_bytes(model.SerializeToString(deterministic=True))
