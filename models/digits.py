"""What the digits models share: the data split, the training loop, the export and the scoring.

The data are the 1,797 8 x 8 images bundled with scikit-learn (`load_digits`), split once into 1,200 training
and 597 test images, stratified by class. 300 of the training images are also shipped as calibration data; a
training run with `--validate` leaves them out and scores on them, so that choices are made without the test
images.

torch is imported only inside the functions that train or export: the split and the scoring do without it.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

if TYPE_CHECKING:
    import torch

HERE = Path(__file__).resolve().parent
SPLIT_SEED = 0
TEST_IMAGES = 597
CALIBRATION_IMAGES = 300
OPSET = 17


@dataclass(frozen=True)
class Images:
    """`image`: float32 [n, 1, 8, 8] in 0..1; `labels`: int64 [n]."""

    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """How many images."""
        return len(self.labels)

    def save(self, path: Path) -> None:
        """Write the two arrays under their names to an .npz file."""
        np.savez_compressed(path, image=self.image, labels=self.labels)

    @classmethod
    def load(cls, path: Path) -> Images:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["image"], arrays["labels"])


@dataclass(frozen=True)
class Split:
    """`train` holds all 1,200 training images, `calibration` (300) and `rest` (900) are its two parts."""

    train: Images
    rest: Images
    calibration: Images
    test: Images


def split_digits() -> Split:
    """The one split every file in this folder is made from."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, classes = load_digits(return_X_y=True)
    image = (pixels / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = classes.astype(np.int64)

    def pick(index: npt.NDArray[np.int64]) -> Images:
        return Images(image[index], labels[index])

    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_IMAGES, stratify=labels, random_state=SPLIT_SEED
    )
    rest, calibration = train_test_split(
        train, test_size=CALIBRATION_IMAGES, stratify=labels[train], random_state=SPLIT_SEED
    )
    return Split(pick(train), pick(rest), pick(calibration), pick(test))


def correct_answers(model: Path | onnx.ModelProto, images: Images) -> int:
    """How many of the images onnxruntime classifies correctly with this model."""
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images.image})
    return int((np.asarray(logits).argmax(axis=1) == images.labels).sum())


def static_weights(model: onnx.ModelProto) -> int:
    """Elements of the constant matrices and kernels of Conv, Gemm, MatMul and LSTM.

    Biases and norms do not count. A weight behind a DequantizeLinear counts like any other.
    """
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    producer = {name: node for node in model.graph.node for name in node.output}
    total = 0
    for node in model.graph.node:
        operands = {"Conv": [1], "Gemm": [1], "MatMul": [0, 1], "LSTM": [1, 2]}.get(node.op_type, [])
        for operand in operands:
            name = node.input[operand]
            if name in producer and producer[name].op_type == "DequantizeLinear":
                name = producer[name].input[0]
            total += sizes.get(name, 0)
    return total


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what exporters leave behind (source lines, folders, unused domains), give weights readable names.

    Names such as `/blocks.0/query/MatMul` lose their slashes; a weight that the exporter transposed and left
    as `onnx::MatMul_211` is called after its node, `blocks.0.query.weight`.
    """
    graph = model.graph
    renamed: dict[str, str] = {}
    for node in graph.node:
        for name in node.input:
            if name.startswith("onnx::"):
                kind = "weight" if name.startswith("onnx::MatMul") else name.removeprefix("onnx::")
                renamed[name] = f"{node.name.rpartition('/')[0]}/{kind}"

    def plain(name: str) -> str:
        return re.sub(r"/+", ".", renamed.get(name, name).strip("/"))

    model.doc_string = ""
    del model.metadata_props[:]
    graph.doc_string = ""
    del graph.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        node.name = plain(node.name)
        node.input[:] = [plain(name) for name in node.input]
        node.output[:] = [plain(name) for name in node.output]
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
        value.name = plain(value.name)
    used = {node.domain for node in graph.node}
    versions = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(versions)
    onnx.checker.check_model(model, full_check=True)
    return model


def _shifted(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image rotated by up to 10 degrees, scaled by up to 10 % and moved by up to 0.8 pixel."""
    import torch

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(len(image), generator=generator) * 2 - 1) * limit

    angle, size = uniform(np.pi / 18), 1 + uniform(0.1)
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    # affine_grid measures in half widths: 1 pixel of 8 is 0.25
    matrix = torch.stack([cos, -sin, uniform(0.2), sin, cos, uniform(0.2)], 1).view(-1, 2, 3)
    grid = torch.nn.functional.affine_grid(matrix, list(image.shape), align_corners=False)
    return torch.nn.functional.grid_sample(image, grid, align_corners=False)


def fit(
    model: torch.nn.Module,
    images: Images,
    *,
    epochs: int,
    rate: float,
    decay: float,
    seed: int,
    writer: str | None = None,
) -> None:
    """AdamW with a one-cycle learning rate, batches of 50, label smoothing 0.1, augmented images.

    With a `writer` (of xbc.training.optimizer) every step goes through the accumulators of the model's devices.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    image, labels = torch.from_numpy(images.image), torch.from_numpy(images.labels)
    batches = len(images) // 50
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rate, total_steps=epochs * batches)
    stepper: Any = optimiser
    if writer:
        from xbc.training.optimizer import CrossbarOptimizer

        stepper = CrossbarOptimizer(optimiser, model, writer=writer, seed=seed)  # type: ignore[arg-type]
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(images), generator=generator)[: batches * 50].view(batches, 50):
            loss = loss_of(model(_shifted(image[index], generator)), labels[index])
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            schedule.step()
            total += loss.item()
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1:4d} of {epochs}: training loss {total / batches:.4f}", flush=True)
    model.eval()


def export(model: torch.nn.Module, name: str, *, keep_batch_norm: bool) -> onnx.ModelProto:
    """The trained model as ONNX: input `image` [batch, 1, 8, 8], output `logits` [batch, 10]."""
    import tempfile
    import warnings

    import torch

    mode = torch.onnx.TrainingMode
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        # this exporter (not the newer one) because it writes a smaller, plainer graph of standard operators
        warnings.simplefilter("ignore", DeprecationWarning)
        # an LSTM warns that the batch size may be frozen: scoring 597 images at once shows that it is not
        warnings.filterwarnings("ignore", "Exporting a model to ONNX with a batch_size other than 1")
        torch.onnx.export(
            model,
            (torch.zeros(2, 1, 8, 8),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            training=mode.PRESERVE if keep_batch_norm else mode.EVAL,
            do_constant_folding=not keep_batch_norm,
        )
        proto = onnx.load(path)
    proto.graph.name = name
    return tidy(proto)


def main(
    name: str,
    build: Callable[[], torch.nn.Module],
    *,
    epochs: int,
    rate: float,
    decay: float,
    keep_batch_norm: bool,
    description: str | None,
    on_devices: bool = False,
) -> None:
    """Command line of a training script: train, export, score with onnxruntime, write model and data.

    `on_devices`: the model has crossbar layers; what is exported are the levels that their devices hold.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: this one)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument(
        "--validate",
        action="store_true",
        help="train without the calibration images, score on them, write nothing",
    )
    if on_devices:
        writers = ("threshold", "every-batch", "every-batch-stochastic")
        parser.add_argument(
            "--writer", choices=writers, default=writers[0], help="what reaches the devices when"
        )
    options = parser.parse_args()

    import torch

    # one thread: the order of additions, and so the result, must not depend on the number of cores
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)

    split = split_digits()
    train, held_out = (split.rest, split.calibration) if options.validate else (split.train, split.test)
    model = build()
    start = time.perf_counter()
    writer = options.writer if on_devices else None
    fit(model, train, epochs=options.epochs, rate=rate, decay=decay, seed=options.seed, writer=writer)
    seconds = time.perf_counter() - start
    held = model
    if on_devices:
        from xbc.training.export import plain_model

        held = plain_model(model)
    proto = export(held, name, keep_batch_norm=keep_batch_norm)

    correct = correct_answers(proto, held_out)
    facts: dict[str, Any] = {
        "weights": f"{static_weights(proto):,}",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "accuracy": f"{100 * correct / len(held_out):.2f} % ({correct} of {len(held_out)} images)",
        "training images": f"{correct_answers(proto, train)} of {len(train)}",
        "training": f"{seconds:.0f} s",
    }
    if on_devices:
        from xbc.training.layers import device_report

        facts |= {key: value for key, value in device_report(model).items() if "histogram" not in key}
    for key, value in facts.items():
        print(f"{key}: {value}")
    if not options.validate:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{name}.onnx").write_bytes(proto.SerializeToString(deterministic=True))
        split.test.save(options.out / "digits_eval.npz")
        split.calibration.save(options.out / "digits_calib.npz")


def nearest_neighbour(train: Images, test: Images) -> int:
    """The baseline: how many test images have the label of the training image with the nearest pixels."""
    known, asked = train.image.reshape(len(train), -1), test.image.reshape(len(test), -1)
    # |a - b|^2 = |a|^2 - 2 ab + |b|^2, and |a|^2 is the same for all b
    distance = (known**2).sum(axis=1) - 2 * asked @ known.T
    return int((train.labels[distance.argmin(axis=1)] == test.labels).sum())


if __name__ == "__main__":
    digits = split_digits()
    correct = nearest_neighbour(digits.train, digits.test)
    n = len(digits.test)
    print(f"nearest neighbour: {100 * correct / n:.2f} % ({correct} of {n} images)")
