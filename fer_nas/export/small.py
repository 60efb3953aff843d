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
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor

from fer_nas.artifacts import ModelMetadata, atomic_path
from fer_nas.config import DataConfig
from fer_nas.data.load import load
from fer_nas.data.split import Split
from fer_nas.errors import FerNasError, InputError
from fer_nas.export.images import match_channels
from fer_nas.export.runtime import INPUT, OUTPUT, open_model, run_model

MOST_LOST = 0.005
"""Accuracy on the validation split that a smaller file may lose, as a share."""
CALIBRATION, PROBE = 512, 200
"""Training images from which ranges are taken, and of these, on which single operations are judged."""
QUANTIZED = ("Conv", "Gemm", "MatMul", "Add", "Concat", "MaxPool", "AveragePool", "Relu", "Pad", "Slice")
KEPT_STEPS = (0, 2, 4, 8, 16, 32)
"""How many of the most harmful operations are left in float, tried in this order."""


@dataclass(frozen=True, kw_only=True)
class SmallModel:
    """A smaller file as written; accuracies are on the `count` validation images, `kept` operations are in float."""

    path: Path
    metadata: ModelMetadata
    size: int
    float_size: int
    accuracy: float
    float_accuracy: float
    count: int
    kept: tuple[str, ...] = ()


def int8(model: Path, config: DataConfig, out: Path, *, seed: int = 0) -> SmallModel:
    """`model` as an int8 file, calibrated on training images of `config` drawn by `seed`.

    FerNasError where even with the most operations in float it loses more than MOST_LOST.
    """
    _, metadata = open_model(model)
    train, val = _images(model, metadata, config, seed)
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:CALIBRATION]
    calibration = train.images[chosen]
    proto = onnx.load(str(model))
    _name_nodes(proto)
    with _quiet():
        ranges = _ranges(proto, calibration)
        wanted = [node.name for node in proto.graph.node if node.op_type in QUANTIZED]
        harm = _harm(proto, ranges, [n.name for n in proto.graph.node if n.op_type in ("Conv", "Gemm")], calibration)
        ranked = sorted(harm, key=lambda name: -harm[name])

        def attempt(kept: int) -> onnx.ModelProto:
            return _quantized(proto, ranges, [name for name in wanted if name not in ranked[:kept]])

        tried: SmallModel | None = None
        for kept in KEPT_STEPS:
            if kept >= len(ranked) and kept:
                break
            tried = _written(model, attempt(kept), metadata, val, out, "int8", tuple(ranked[:kept]))
            if tried.path == out:
                return tried
    assert tried is not None
    raise FerNasError(
        f"{out} not written: int8 has {100 * tried.accuracy:.2f} % on {tried.count} validation images, float32 "
        f"{100 * tried.float_accuracy:.2f} %, with {len(tried.kept)} operations left in float"
    )


def float16(model: Path, config: DataConfig, out: Path, *, seed: int = 0) -> SmallModel:
    """`model` with float16 weights and arithmetic; input and output stay float32. FerNasError as for int8."""
    _, metadata = open_model(model)
    _, val = _images(model, metadata, config, seed)
    with _quiet():
        half = convert_float_to_float16(onnx.load(str(model)), keep_io_types=True)
    made = _written(model, half, metadata, val, out, "float16", ())
    if made.path == out:
        return made
    raise FerNasError(
        f"{out} not written: float16 has {100 * made.accuracy:.2f} % on {made.count} validation images, float32 "
        f"{100 * made.float_accuracy:.2f} %"
    )


def _images(model: Path, metadata: ModelMetadata, config: DataConfig, seed: int) -> tuple[Split, Split]:
    """Training and validation split as the model takes them."""
    if metadata.precision != "float32":
        raise InputError(f"{model} is {metadata.precision} already; give the float32 file")
    data = load(replace(config, image_size=metadata.input_size), seed=seed)
    if data.classes != metadata.classes:
        raise InputError(
            f"{model} knows {', '.join(metadata.classes)}; {config.data} has {', '.join(data.classes)}: "
            "give the data set, and the --labels, that it was trained on"
        )
    if "val" not in data.splits:
        raise InputError(f"{config.data} has no validation split, on which the smaller file is checked")
    return tuple(  # type: ignore[return-value]
        replace(part, images=match_channels(part.images, metadata.channels).cpu())
        for part in (data.train, data.splits["val"])
    )


def _written(
    model: Path,
    proto: onnx.ModelProto,
    metadata: ModelMetadata,
    val: Split,
    out: Path,
    precision: str,
    kept: tuple[str, ...],
) -> SmallModel:
    """Write the file and score it; it gets the name `out` only where it holds, else `path` is None's stand-in."""
    metadata = replace(metadata, precision=precision, test_accuracy=None, test_count=None)
    labels = val.labels().cpu()

    def accuracy(file: Path) -> float:
        session, _ = open_model(file)
        return (run_model(session, val.images).argmax(1) == labels).double().mean().item()

    before = accuracy(model)
    metadata = replace(metadata, extra=metadata.extra | {"float_val_accuracy": before, "kept_float": len(kept)})
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft.onnx"
        _short_names(proto)
        onnx.helper.set_model_props(proto, metadata.to_strings())
        draft.write_bytes(proto.SerializeToString())
        after = accuracy(draft)
        metadata = replace(metadata, extra=metadata.extra | {"val_accuracy": after, "val_count": len(val)})
        onnx.helper.set_model_props(proto, metadata.to_strings())
        data = proto.SerializeToString()
    holds = after >= before - MOST_LOST
    if holds:
        with atomic_path(out) as temporary:
            temporary.write_bytes(data)
    return SmallModel(
        path=out if holds else Path(),
        metadata=metadata,
        size=len(data),
        float_size=model.stat().st_size,
        accuracy=after,
        float_accuracy=before,
        count=len(val),
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


def _harm(proto: onnx.ModelProto, ranges: Any, nodes: list[str], images: Tensor) -> dict[str, float]:
    """Node → mean absolute change of the probabilities when it alone is quantized."""
    some = images[:PROBE]
    reference = _run(proto, some)
    return {name: float(np.abs(_run(_quantized(proto, ranges, [name]), some) - reference).mean()) for name in nodes}


def _run(proto: onnx.ModelProto, images: Tensor) -> np.ndarray:
    from onnxruntime import InferenceSession

    session = InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([OUTPUT], {INPUT: images.numpy().astype(np.float32)})[0]


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
