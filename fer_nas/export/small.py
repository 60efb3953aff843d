"""Smaller files of an exported model: int8 and float16, each checked on the validation split before it gets its name.

int8: static quantization, QDQ form, weights symmetric per channel, activations unsigned with ranges from calibration on
training images (onnxruntime.quantization). Operations that lose too much stay in float: each is quantized alone, and
those that move the probabilities most are left out until the accuracy holds. Weights use 7 bits, since processors
without VNNI add pairs of products in 16 bits, which would overflow.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor

from fer_nas.artifacts import ModelMetadata, atomic_path
from fer_nas.config import DataConfig
from fer_nas.data.split import DataSet
from fer_nas.errors import FerNasError, InputError
from fer_nas.export.images import load_for, match_channels
from fer_nas.export.runtime import INPUT, open_model, run_model
from fer_nas.export.trained import open_trained

MOST_LOST = 0.005
"""Accuracy on the validation split that a smaller file may lose, as a share."""
CALIBRATION, PROBE = 512, 200
"""Training images from which ranges are taken, and of these, on which single operations are judged."""
QUANTIZED = ("Conv", "Gemm", "MatMul", "Add", "Concat", "MaxPool", "AveragePool", "Relu", "Pad", "Slice")
KEPT_STEPS = (0, 2, 4, 8, 16, 32)
"""How many of the most harmful operations are left in float, tried in this order."""


@dataclass(frozen=True, kw_only=True)
class SmallModel:
    """A smaller file as written; accuracies are on the `count` validation images, `kept` operations are in float.

    `metadata` has the accuracy on the test split, where there is one: it was read once, after validation had chosen.
    """

    path: Path
    metadata: ModelMetadata
    size: int
    float_size: int
    accuracy: float
    float_accuracy: float
    count: int
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Original:
    """The float32 file, its images, and its accuracy on the validation split."""

    path: Path
    proto: onnx.ModelProto
    metadata: ModelMetadata
    data: DataSet
    accuracy: float

    def images(self, split: str) -> Tensor:
        return match_channels(self.data.splits[split].images, self.metadata.channels).cpu()


def int8(model: Path, config: DataConfig, out: Path, *, seed: int = 0) -> SmallModel:
    """`model` as an int8 file, calibrated on training images of `config` drawn by `seed`.

    FerNasError where even with the most operations in float it loses more than MOST_LOST.
    """
    original = _open(model, config, seed)
    train = original.images("train")
    calibration = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:CALIBRATION]]
    proto = onnx.ModelProto()
    proto.CopyFrom(original.proto)
    _name_nodes(proto)
    wanted = [node.name for node in proto.graph.node if node.op_type in QUANTIZED]
    heavy = [node.name for node in proto.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    ranked: list[str] = []
    lost = 0.0
    with _quiet():
        ranges = _ranges(proto, calibration)
        for kept in KEPT_STEPS:
            if kept and kept >= len(heavy):
                break
            if kept and not ranked:
                ranked = _by_harm(proto, ranges, heavy, calibration)
            small = _quantized(proto, ranges, [name for name in wanted if name not in ranked[:kept]])
            accuracy = _accuracy(small, original, "val")
            if (lost := original.accuracy - accuracy) <= MOST_LOST:
                return _write(small, original, out, "int8", accuracy, tuple(ranked[:kept]))
    raise _not_written(out, "int8", original, lost)


def float16(model: Path, config: DataConfig, out: Path, *, seed: int = 0) -> SmallModel:
    """`model` with float16 weights and arithmetic; input and output stay float32. FerNasError as for int8."""
    original = _open(model, config, seed)
    with _quiet():
        half = convert_float_to_float16(original.proto, keep_io_types=True)
    accuracy = _accuracy(half, original, "val")
    if original.accuracy - accuracy > MOST_LOST:
        raise _not_written(out, "float16", original, original.accuracy - accuracy)
    return _write(half, original, out, "float16", accuracy, ())


def _open(model: Path, config: DataConfig, seed: int) -> _Original:
    """The model and its images; InputError for one that is small already, and for a data set without validation."""
    _, metadata = open_model(model)
    if metadata.precision != "float32":
        raise InputError(f"{model} is {metadata.precision} already; give the float32 file")
    data = load_for(model, metadata, config, seed)
    if "val" not in data.splits:
        raise InputError(f"{config.data} has no validation split, on which the smaller file is checked")
    original = _Original(path=model, proto=onnx.load(str(model)), metadata=metadata, data=data, accuracy=float("nan"))
    return replace(original, accuracy=_accuracy(original.proto, original, "val"))


def _accuracy(proto: onnx.ModelProto, original: _Original, split: str) -> float:
    found_NK = _run(proto, original.images(split))
    return (found_NK.argmax(1) == original.data.splits[split].labels().cpu().numpy()).mean().item()


def _not_written(out: Path, precision: str, original: _Original, lost: float) -> FerNasError:
    return FerNasError(
        f"{out} not written: {precision} loses {100 * lost:.2f} points of {100 * original.accuracy:.2f} % on "
        f"{len(original.data.splits['val'])} validation images; at most {100 * MOST_LOST:g} are accepted"
    )


def _write(
    proto: onnx.ModelProto, original: _Original, out: Path, precision: str, accuracy: float, kept: tuple[str, ...]
) -> SmallModel:
    """Write the file that validation accepted, with its accuracy on the test split in its metadata."""
    splits = original.data.splits
    test = "test" in splits
    metadata = replace(
        original.metadata,
        precision=precision,
        test_accuracy=_accuracy(proto, original, "test") if test else None,
        test_count=len(splits["test"]) if test else None,
        extra={
            name: value for name, value in original.metadata.extra.items() if name not in ("test_largest", "macro_f1")
        }
        | {
            "val_accuracy": accuracy,
            "val_count": len(splits["val"]),
            "float_val_accuracy": original.accuracy,
            "kept_float": len(kept),
        },
    )
    _short_names(proto)
    onnx.helper.set_model_props(proto, metadata.to_strings())
    data = proto.SerializeToString()
    with atomic_path(out) as temporary:
        temporary.write_bytes(data)
        open_model(temporary)
    return SmallModel(
        path=out,
        metadata=metadata,
        size=len(data),
        float_size=original.path.stat().st_size,
        accuracy=accuracy,
        float_accuracy=original.accuracy,
        count=len(splits["val"]),
        kept=kept,
    )


class _Reader(CalibrationDataReader):
    """Batches of uint8 images as onnxruntime's calibrator asks for them."""

    def __init__(self, images_NCSS: Tensor) -> None:
        self.parts: Iterator[Tensor] = iter(images_NCSS.split(32))

    def get_next(self) -> dict[str, Any] | None:  # type: ignore[override]
        part = next(self.parts, None)
        return None if part is None else {INPUT: part.numpy().astype(np.float32)}


def _ranges(proto: onnx.ModelProto, images: Tensor) -> Any:
    """Smallest and largest value of every activation over `images`."""
    with tempfile.TemporaryDirectory() as folder:
        plain, augmented = Path(folder) / "plain.onnx", Path(folder) / "augmented.onnx"
        onnx.save(proto, str(plain))
        calibrator = create_calibrator(str(plain), QUANTIZED, str(augmented), calibrate_method=CalibrationMethod.MinMax)
        calibrator.collect_data(_Reader(images))
        return calibrator.compute_data()


def _quantized(proto: onnx.ModelProto, ranges: Any, nodes: list[str]) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=list(QUANTIZED),
        extra_options={"WeightSymmetric": True},
    )
    quantizer.quantize_model()
    return quantizer.model.model


def _by_harm(proto: onnx.ModelProto, ranges: Any, nodes: list[str], images: Tensor) -> list[str]:
    """The nodes, first the one whose quantization alone moves the probabilities most (mean absolute change)."""
    some = images[:PROBE]
    reference = _run(proto, some)
    harm = {name: float(np.abs(_run(_quantized(proto, ranges, [name]), some) - reference).mean()) for name in nodes}
    return sorted(nodes, key=lambda name: -harm[name])


def _run(proto: onnx.ModelProto, images: Tensor) -> np.ndarray:
    """(N, K) probabilities of uint8 images."""
    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return run_model(session, images).numpy()


def _name_nodes(proto: onnx.ModelProto) -> None:
    """A name of its own for every node: operations are told apart by it."""
    for number, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{number}"


def _short_names(proto: onnx.ModelProto) -> None:
    """Every inner tensor gets a short name and nodes none: in a small file names are a good part of the bytes."""
    fixed = {value.name for value in (*proto.graph.input, *proto.graph.output)} | {""}
    short: dict[str, str] = {}

    def name(old: str) -> str:
        return old if old in fixed else short.setdefault(old, np.base_repr(len(short), 36).lower())

    for part in proto.graph.initializer:
        part.name = name(part.name)
        part.doc_string = ""
    for node in proto.graph.node:
        node.input[:] = [name(old) for old in node.input]
        node.output[:] = [name(old) for old in node.output]
        node.name, node.doc_string = "", ""
    del proto.graph.value_info[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the quantizer's own advice, which a user can do nothing about."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)


MAKERS: dict[str, Callable[..., SmallModel]] = {"int8": int8, "fp16": float16}
"""Option of `fer-nas export` → what makes the file."""


def run(name: str, model: Path, given: Path, calibrate: str | None, out: Path) -> str:
    """Make the small file `name` of the float file `model` beside `out`; what to tell of it.

    given: the run folder or file that the user named; its own images are used unless `calibrate` names others.
    """
    _, metadata = open_model(model)
    config, seed = DataConfig(labels=metadata.labels or "fer2013"), int(metadata.extra.get("seed", 0))
    if given.is_dir():
        config = open_trained(given).data
    elif calibrate is None and metadata.dataset != "drawn":
        raise InputError(f"give the images with --calibrate; {model} was trained on {metadata.dataset}")
    if calibrate is not None:
        config = replace(config, data=calibrate, dataset=None, votes=None)
    path = out.with_name(f"{out.stem}.{name}.onnx")
    made = MAKERS[name](model, config, path, seed=seed)
    return (
        f"{made.path}  {made.size / 1000:.0f} kB, {100 * made.size / made.float_size:.1f} % of the float file; "
        f"validation accuracy {100 * made.accuracy:.2f} %, float {100 * made.float_accuracy:.2f} % (n = {made.count}); "
        f"{len(made.kept)} operations left in float"
    )
