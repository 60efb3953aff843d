"""A training run's folder as export and evaluation need it: config.json, test.json and the network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

import fer_nas
from fer_nas.artifacts import ModelMetadata, RunFolder, read_json
from fer_nas.config import DataConfig
from fer_nas.errors import InputError
from fer_nas.train.spec import load_network, read_run

CHECKPOINTS = ("best", "last")
TEST_FIGURES = ("best_epoch", "val_accuracy", "val_count", "macro_f1", "parameters", "flops")


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A finished or interrupted training; `data` reads its images at the size that the network takes."""

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
        need = "finished an epoch" if checkpoint == "best" else "finished its last epoch"
        raise InputError(f"no {checkpoint}.safetensors in {run}; this run has not {need} yet")
    config, spec = read_run(folder)
    test = _test_result(folder) if checkpoint == "best" else {}
    metadata = ModelMetadata(
        classes=spec.classes,
        input_size=spec.input_size,
        channels=spec.channels,
        dataset=spec.dataset,
        labels=spec.labels,
        genotype=spec.genotype,
        test_accuracy=test.get("accuracy"),
        test_count=test.get("n"),
        fer_nas_version=fer_nas.__version__,
        opset=0,  # the exporter's
        extra={"checkpoint": checkpoint, "genotype_name": spec.genotype_name, "seed": config.run.seed} | _extra(test),
    )
    return TrainedRun(
        network=load_network(folder, checkpoint).eval(),
        data=replace(config.data, image_size=spec.input_size),
        seed=config.run.seed,
        metadata=metadata,
    )


def _test_result(folder: RunFolder) -> dict[str, Any]:
    """test.json, which scores the best epoch once training is done; empty before."""
    if not (folder / "test.json").exists():
        return {}
    value = read_json(folder / "test.json", "test result")
    if not isinstance(value, dict):
        raise InputError(f"{folder / 'test.json'}: not a test result; train again, or delete it")
    return value


def _extra(test: dict[str, Any]) -> dict[str, Any]:
    """Figures of test.json for the metadata; FER+ also has those of the largest vote."""
    found = {name: test[name] for name in TEST_FIGURES if name in test}
    if "test_largest" in test:
        found["test_largest"] = {name: test["test_largest"][name] for name in ("accuracy", "n")}
    return found
