"""How much of a split a model gets right: an ONNX file through onnxruntime, a run through PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fer_nas.artifacts import ModelMetadata
from fer_nas.config import DataConfig
from fer_nas.errors import InputError
from fer_nas.export.images import load_for, match_channels, part_of
from fer_nas.export.runtime import open_model, run_model
from fer_nas.export.trained import open_trained
from fer_nas.settings import override
from fer_nas.train.metrics import summary

Predict = Callable[[Tensor], Tensor]  # uint8 (B, C, S, S) → scores (B, K) on the CPU


def evaluate(
    model: Path,
    config: DataConfig,
    split: str = "test",
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    *,
    checkpoint: str = "best",
    seed: int = 0,
) -> dict[str, Any]:
    """metrics.summary of `model` on a split of `config`, beside model, runtime, dataset, labels, split.

    model: an .onnx file (onnxruntime on the CPU) or a training run's folder (PyTorch on `device`). Images are
    resized and greyed to its input. seed: draws the splits where the data set has none of its own. InputError
    where the model's classes are not the data set's, in its order, or the split is not there.
    """
    predict, metadata, runtime = _open(Path(model), torch.device(device), checkpoint)
    data = load_for(model, metadata, config, seed)
    part = part_of(data, split, config.data)
    images = match_channels(part.images, metadata.channels)
    scores_NK = torch.cat([predict(chunk) for chunk in images.split(batch_size)])
    return {
        "model": str(model),
        "runtime": runtime,
        "dataset": data.name,
        "labels": data.labels,
        "split": split,
        **summary(part.labels().cpu(), scores_NK.argmax(1), data.classes),
    }


def images_for(model: Path, settings: dict[str, Any]) -> tuple[DataConfig, int]:
    """What `fer-nas evaluate` scores a model on, and the seed of its splits: `settings` over the run's own images.

    An ONNX file knows its seed but not where its images lie: without --data it is an InputError, but for drawn faces.
    """
    if model.is_dir():
        trained = open_trained(model)
        return override(DataConfig() if "data" in settings else trained.data, settings), trained.seed
    _, metadata = open_model(model)
    config = override(DataConfig(), settings)
    if "drawn" == config.data != metadata.dataset and config.dataset != "drawn":
        raise InputError(f"give the images with --data; {model} was trained on {metadata.dataset}")
    return config, int(metadata.extra.get("seed", 0))


def _open(model: Path, device: torch.device, checkpoint: str) -> tuple[Predict, ModelMetadata, str]:
    if model.is_dir():
        trained = open_trained(model, checkpoint)
        network = trained.network.to(device)

        @torch.inference_mode()
        def predict(images: Tensor) -> Tensor:
            return network(images.to(device).float()).float().cpu()

        return predict, trained.metadata, f"torch {device.type}"
    session, metadata = open_model(model)
    return lambda images: run_model(session, images), metadata, "onnxruntime cpu"
