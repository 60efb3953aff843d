"""Checkpoint → one self-contained ONNX file, checked against PyTorch before it gets its name.

Shapes: N images, C channels, S side in pixels, K classes. The graph takes `image` float32 (N, C, S, S),
0 to 255, and gives `probabilities` float32 (N, K); normalization and softmax are inside, N is free.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from fer_nas.artifacts import ModelMetadata, atomic_path
from fer_nas.data.load import load
from fer_nas.errors import FerNasError, InputError
from fer_nas.export.images import gather_check_images, match_channels
from fer_nas.export.runtime import INPUT, OUTPUT, open_model, run_model
from fer_nas.export.trained import open_trained

OPSET = 18
MIN_CHECK_IMAGES = 256
TOLERANCE = 1e-4  # largest difference of a probability between onnxruntime and PyTorch
TIE = 1e-6  # two classes this close in PyTorch are a tie: either may come first


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """An ONNX file as written: metadata, bytes, largest difference from PyTorch on how many images."""

    path: Path
    metadata: ModelMetadata
    size: int
    max_difference: float
    checked: int
    source: str = ""  # where the images came from, such as "3589 val"


class WithSoftmax(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image).softmax(1)


def export(run: Path, out: Path | None = None, *, checkpoint: str = "best") -> ExportResult:
    """The network of a training run as an ONNX file, default model.onnx in the run's folder.

    It is checked on the run's validation images, at least 256 (see `gather_check_images`). A run whose images
    are no longer where it read them is an InputError.
    """
    trained = open_trained(run, checkpoint)
    path = Path(run) / "model.onnx" if out is None else Path(out)
    if path.suffix.lower() != ".onnx":
        raise InputError(f"--out {path}: the file's name must end with .onnx")
    try:
        data = load(trained.data, seed=trained.seed)
    except InputError as error:
        raise InputError(f"the export is checked on the images of {run}, which cannot be read: {error}") from None
    images, source = gather_check_images(data, MIN_CHECK_IMAGES)
    images = match_channels(images, trained.metadata.channels)
    return replace(to_onnx(trained.network, trained.metadata, images, path), source=source)


def to_onnx(
    network: nn.Module, metadata: ModelMetadata, check_images: Tensor, path: Path, opset: int = OPSET
) -> ExportResult:
    """Write `network` (float 0–255 images → logits) to `path`; FerNasError where the file and PyTorch differ.

    check_images: uint8 (N ≥ 256, C, S, S). Every probability must be within 1e-4 and every label the same;
    between two classes within 1e-6 of each other either label is right.
    """
    side = metadata.input_size
    assert check_images.dtype == torch.uint8 and check_images.shape[1:] == (metadata.channels, side, side)
    assert len(check_images) >= MIN_CHECK_IMAGES, f"{len(check_images)} images to check; {MIN_CHECK_IMAGES} are needed"
    reference = WithSoftmax(copy.deepcopy(network)).cpu().float().eval()
    expected_NK = predict(reference, check_images)
    if expected_NK.shape[1] != len(metadata.classes):
        raise FerNasError(f"the network has {expected_NK.shape[1]} outputs for {len(metadata.classes)} class names")
    with atomic_path(path) as temporary:
        model = _trace(reference, (2, metadata.channels, side, side), opset)
        metadata = replace(metadata, opset=next(item.version for item in model.opset_import if not item.domain))
        strip(model)
        onnx.helper.set_model_props(model, metadata.to_strings())
        _validate(model)
        temporary.write_bytes(model.SerializeToString())
        difference = check(temporary, expected_NK, check_images, path)
        size = temporary.stat().st_size
    return ExportResult(
        path=Path(path), metadata=metadata, size=size, max_difference=difference, checked=len(check_images)
    )


def _validate(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise FerNasError(f"the exported graph is not valid ONNX: {str(error).splitlines()[0]}") from error


@torch.no_grad()
def predict(network: nn.Module, images_NCSS: Tensor, batch_size: int = 64) -> Tensor:
    return torch.cat([network(chunk.float()) for chunk in images_NCSS.split(batch_size)])


def check(file: Path, expected_NK: Tensor, images_NCSS: Tensor, name: Path) -> float:
    """Largest difference between the file's probabilities and PyTorch's; FerNasError over the limits.

    The first image goes alone and the rest in batches, so a batch axis that is not free is found as well.
    """
    session, _ = open_model(file)
    found_NK = torch.cat([run_model(session, images_NCSS[:1]), run_model(session, images_NCSS[1:])])
    return compare(found_NK, expected_NK, name)


def compare(found_NK: Tensor, expected_NK: Tensor, name: Path) -> float:
    """Largest difference of two tables of probabilities; FerNasError over TOLERANCE or for another label."""
    difference = (found_NK - expected_NK).abs().max().item()
    if not difference <= TOLERANCE:  # also where it is not a number
        raise FerNasError(
            f"{name} not written: on {len(found_NK)} images the ONNX file differs from PyTorch by up to "
            f"{difference:.3g}; at most {TOLERANCE:g} is accepted"
        )
    gap_N = expected_NK.amax(1) - expected_NK.gather(1, found_NK.argmax(1, keepdim=True)).squeeze(1)
    changed = int((gap_N > TIE).sum())
    if changed:
        raise FerNasError(
            f"{name} not written: {changed} of {len(found_NK)} images get another label from the ONNX file "
            f"than from PyTorch (largest difference {difference:.3g})"
        )
    return difference


def _trace(network: nn.Module, shape: tuple[int, ...], opset: int) -> onnx.ModelProto:
    """The graph of `network`, with BatchNorm folded into the convolutions by torch's own optimizer."""
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (torch.zeros(shape),),
                dynamo=True,
                external_data=False,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
                optimize=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise FerNasError(f"torch cannot export this network: {str(error).strip().splitlines()[0]}") from error
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's own deprecation warnings and log lines, which a user can do nothing about."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):
                warnings.filterwarnings("ignore", category=category, module=r"(torch|onnxscript|onnx_ir|copyreg)\b")
            yield
    finally:
        logger.setLevel(level)


def strip(model: onnx.ModelProto) -> None:
    """Take out what the exporter notes about the Python code it came from, and the shapes of inner values.

    Every reader infers those shapes; the notes name source files of the machine that exported.
    """
    graph = model.graph
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
