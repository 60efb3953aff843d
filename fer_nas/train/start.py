"""A training in a new folder, or on from its last checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

import fer_nas
from fer_nas.artifacts import GenotypeFile, RunFolder, write_json
from fer_nas.config import TrainConfig
from fer_nas.data.split import DataSet
from fer_nas.errors import InputError
from fer_nas.loop import NOT_MADE, new_folder, prepare, prepare_again, with_threads
from fer_nas.progress import say
from fer_nas.runtime import enough_memory
from fer_nas.settings import to_dict
from fer_nas.train.run import Training
from fer_nas.train.spec import NetworkSpec, read_run


def train(
    config: TrainConfig, genotype: GenotypeFile, out: Path | None, console: Console
) -> tuple[RunFolder, dict[str, Any]]:
    """A new training in a new folder; returns the folder and what test.json holds."""
    if config.recipe.initialize_from is not None:
        RunFolder.open(Path(config.recipe.initialize_from))
    dataset = prepare(config.run, config.data, out, console)
    config = with_threads("train", config, dataset, console, genotype.genotype)
    return begin(config, genotype, dataset, lambda: new_folder(out, f"train-{genotype.name}"), console)


def begin(
    config: TrainConfig, genotype: GenotypeFile, dataset: DataSet, make: Callable[[], RunFolder], console: Console
) -> tuple[RunFolder, dict[str, Any]]:
    """A new training of these images: its folder, which is made once all else stands, so that a stop before leaves none
    behind, and what test.json holds. Without a test split none is read."""
    spec = NetworkSpec.of(genotype.genotype, genotype.name, dataset)
    with enough_memory():
        training = Training(config, spec, NOT_MADE, dataset, console)
    training.folder = folder = make()
    if training.first:
        genotype.save(folder / "genotype.json")
        head = {"kind": "train", "fer_nas_version": fer_nas.__version__, "config": to_dict(config)}
        write_json(folder / "config.json", head | spec.to_dict())
    say(console, f"run folder: {folder.path}")
    return folder, training.run()


def resume(path: Path, console: Console) -> tuple[RunFolder, dict[str, Any]]:
    """Go on with a training from its last checkpoint; a finished one only reports again."""
    folder = RunFolder.open(path)
    config, _ = read_run(folder)
    return folder, go_on(folder, prepare_again(path, config.run, config.data), console)


def go_on(folder: RunFolder, dataset: DataSet, console: Console) -> dict[str, Any]:
    """From the folder's last checkpoint to the end, with these images; what test.json holds."""
    config, spec = read_run(folder)
    if (dataset.classes, dataset.image_size, dataset.channels) != (spec.classes, spec.input_size, spec.channels):
        raise InputError(
            f"{folder.path} cannot go on: {config.data.data} has other classes or another image size than before"
        )
    with enough_memory():
        training = Training(config, spec, folder, dataset, console)
        training.restore()
    return training.run()
