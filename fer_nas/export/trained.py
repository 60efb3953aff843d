"""A training run's folder as export and evaluation need it: config.json, test.json and the network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

import fer_nas
from fer_nas.artifacts import Genotype, ModelMetadata, RunFolder, read_json
from fer_nas.config import DataConfig, TrainConfig, from_dict
from fer_nas.errors import InputError

CHECKPOINTS = ("best", "last")


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A finished or interrupted training run; `data` reads its images at the size that the network takes."""

    folder: RunFolder
    checkpoint: str
    network: nn.Module
    data: DataConfig
    seed: int
    metadata: ModelMetadata


def open_trained(run: Path, checkpoint: str = "best") -> TrainedRun:
    """The run with its network in eval mode; a search, or a run without that checkpoint, is an InputError."""
    if checkpoint not in CHECKPOINTS:
        raise InputError(f"--checkpoint is {checkpoint!r}; choose from {', '.join(CHECKPOINTS)}")
    folder = RunFolder.open(run)
    where = folder / "config.json"
    value = read_json(where, "run configuration")
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind == "search":
        raise InputError(f"{run} is a search; train what it found first: fer-nas train {run}")
    if kind != "train":
        raise InputError(f"{where}: not the configuration of a training run (kind is {kind!r})")
    if not (folder / f"{checkpoint}.safetensors").is_file():
        raise InputError(f"no {checkpoint}.safetensors in {run}; this run has not finished an epoch yet")
    try:
        config = from_dict(TrainConfig, value["config"], str(where))
        metadata = ModelMetadata(
            classes=tuple(map(str, value["classes"])),
            input_size=int(value["input_size"]),
            channels=int(value["channels"]),
            dataset=str(value["dataset"]),
            labels=value["labels"],
            genotype=Genotype.from_dict(value["genotype"], str(where)),
            test_accuracy=None,
            test_count=None,
            fer_nas_version=fer_nas.__version__,
            opset=0,
            extra={"checkpoint": checkpoint},
        )
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not the configuration of a training run ({error!r})") from None
    from fer_nas.train.run import load_network

    return TrainedRun(
        folder=folder,
        checkpoint=checkpoint,
        network=load_network(folder, checkpoint).eval(),
        data=replace(config.data, image_size=metadata.input_size),
        seed=config.run.seed,
        metadata=_with_test(metadata, folder, checkpoint),
    )


def _with_test(metadata: ModelMetadata, folder: RunFolder, checkpoint: str) -> ModelMetadata:
    """test.json scores the best epoch, once training is done; nothing else may carry its figure."""
    if checkpoint != "best" or not (folder / "test.json").exists():
        return metadata
    test = read_json(folder / "test.json", "test result")
    try:
        return replace(metadata, test_accuracy=float(test["accuracy"]), test_count=int(test["n"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'test.json'}: not a test result ({error!r})") from None
