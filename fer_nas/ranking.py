"""Searches that differ in nothing but their seed, ranked by a short training of what each has found.

All genotypes are trained alike, with one seed; validation chooses the epoch and ranks. The test split is never read.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import fer_nas
from fer_nas import parallel
from fer_nas.artifacts import GenotypeFile, RunFolder, read_json, write_json
from fer_nas.config import RecipeConfig, SearchConfig, TrainConfig
from fer_nas.data.load import require
from fer_nas.data.split import DataSet
from fer_nas.errors import InputError
from fer_nas.loop import prepare_again
from fer_nas.progress import percent, say
from fer_nas.runtime import Interrupted, choose_device
from fer_nas.search.form import wanted_form
from fer_nas.search.methods import METHODS
from fer_nas.search.stages import plan
from fer_nas.search.start import resume as resume_search
from fer_nas.search.start import search
from fer_nas.settings import from_dict, override, to_dict
from fer_nas.space.decode import count_skips
from fer_nas.train.start import begin, go_on

KIND = "seeds"
RANK_EPOCHS = 5


def is_ranking(path: Path) -> bool:
    """Whether the folder holds several searches of `rank`."""
    saved = read_json(RunFolder.open(path) / "config.json", "run configuration")
    return isinstance(saved, dict) and saved.get("kind") == KIND


def recipe(config: SearchConfig, seed: int, epochs: int) -> TrainConfig:
    """The training that ranks: the search's own images, batches, augmentation, channels and cells; SGD with Nesterov
    momentum from 0.1 by a cosine, without auxiliary head, drop-path and average, which need long trainings."""
    return TrainConfig(
        run=replace(config.run, seed=seed, epochs=epochs),
        data=config.data,
        network=replace(config.network, layers=plan(config)[-1].layers),
        augment=config.augment,
        learning_rate=0.1,
        nesterov=True,
        weight_decay=5e-4,
        recipe=RecipeConfig(drop_path=0.0, warmup_epochs=min(1, epochs - 1)),
    )


def rank(config: SearchConfig, seeds: Sequence[int], epochs: int, out: Path | None, console: Console) -> RunFolder:
    """A new folder with the searches in `seed-N` and their trainings in `train` there, ranking.json and the best
    genotype.json."""
    _refuse_processes()
    RunFolder.refuse_used(out)
    if METHODS[config.arch.method].make is not None:
        wanted_form(config)
    choose_device(config.run.device)
    require(config.data)
    folder = RunFolder.create(out, f"{config.arch.method}-seeds")
    head = {"kind": KIND, "fer_nas_version": fer_nas.__version__, "seeds": list(seeds), "rank_epochs": epochs}
    write_json(folder / "config.json", head | {"config": to_dict(config)})
    say(console, f"run folder: {folder.path}")
    _run(folder, config, seeds, epochs, console)
    return folder


def resume(path: Path, console: Console) -> RunFolder:
    """Go on where searches or trainings were stopped; what is finished is left as it is."""
    _refuse_processes()
    folder = RunFolder.open(path)
    where = folder / "config.json"
    saved = read_json(where, "run configuration")
    try:
        config, seeds, epochs = saved["config"], tuple(saved["seeds"]), int(saved["rank_epochs"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{where} is not the configuration of `fer-nas search --seeds`") from None
    _run(folder, from_dict(SearchConfig, config, str(where)), seeds, epochs, console)
    return folder


def _refuse_processes() -> None:
    if parallel.count() > 1:
        raise InputError("--seeds runs its searches in one process; leave out torchrun, or give it one --seed")


def _run(folder: RunFolder, config: SearchConfig, seeds: Sequence[int], epochs: int, console: Console) -> None:
    try:
        for seed in seeds:
            _search(folder / f"seed-{seed}", override(config, {"seed": seed}), console)
            config = _with_threads_of(folder / f"seed-{seed}", config)
        chosen = recipe(config, seeds[0], epochs)
        unread: DataSet | None = None
        for seed in seeds:
            place = folder / f"seed-{seed}"
            if not (place / "train" / "test.json").exists():
                unread = unread or _without_test(chosen, folder.path, console)
                console.rule(f"short training of seed {seed}'s cell")
                _train(chosen, GenotypeFile.load(place / "genotype.json"), unread, place / "train", console)
    except (Interrupted, KeyboardInterrupt) as stop:
        number = stop.exit_code - 128 if isinstance(stop, Interrupted) else signal.SIGINT
        raise Interrupted(number, f'stopped; go on with: fer-nas search --resume "{folder.path}"') from None
    rows = sorted((_row(folder, seed) for seed in seeds), key=lambda row: -row["val_accuracy"])
    write_json(folder / "ranking.json", {"rank_epochs": epochs, "recipe": to_dict(chosen), "rows": rows})
    GenotypeFile.load(folder / rows[0]["folder"] / "genotype.json").save(folder / "genotype.json")


def _with_threads_of(place: Path, config: SearchConfig) -> SearchConfig:
    """What the first search has found for itself, the others and the trainings take over."""
    return override(
        config, {"threads": read_json(place / "config.json", "run configuration")["config"]["run"]["threads"]}
    )


def _search(place: Path, config: SearchConfig, console: Console) -> None:
    last = "cells.png" if METHODS[config.arch.method].make is None else "curves.png"
    if (place / last).exists():
        return
    console.rule(f"search with seed {config.run.seed}")
    if (place / "config.json").exists():
        resume_search(place, console)
    else:
        search(config, place, console)


def _without_test(chosen: TrainConfig, path: Path, console: Console) -> DataSet:
    dataset = prepare_again(path, chosen.run, chosen.data)
    return replace(dataset, splits={name: dataset.splits[name] for name in ("train", "val") if name in dataset.splits})


def _train(chosen: TrainConfig, genotype: GenotypeFile, dataset: DataSet, place: Path, console: Console) -> None:
    if (place / "config.json").exists():
        go_on(RunFolder.open(place), dataset, console)
    else:
        begin(chosen, genotype, dataset, lambda: RunFolder(place), console)


def _row(folder: RunFolder, seed: int) -> dict[str, Any]:
    place = RunFolder(folder / f"seed-{seed}")
    found, figures = GenotypeFile.load(place / "genotype.json"), read_json(place / "train" / "test.json")
    accuracy, count = figures["val_accuracy"], figures["val_count"]
    rows = place.metrics()
    return {
        "seed": seed,
        "folder": place.path.name,
        "val_accuracy": accuracy,
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / count),
        "val_count": count,
        "best_epoch": figures["best_epoch"],
        "parameters": figures["parameters"],
        "flops": figures["flops"],
        "supernet_val_accuracy": rows[-1]["val_accuracy"] if rows else None,
        "skips_normal": count_skips(found.genotype.normal),
        "skips_reduce": count_skips(found.genotype.reduce),
    }


def show(folder: RunFolder) -> None:
    """The ranking to stdout; where that is no terminal, wide enough for every column."""
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table(folder))
    print(f"genotype {folder / 'genotype.json'}")


def table(folder: RunFolder) -> Table:
    """The ranking, best first."""
    found = read_json(folder / "ranking.json", "ranking")
    made = Table(
        "rank", "seed", "val accuracy", "± s.e.", "n", "supernet", "parameters", "MFLOPs", "skips n", "skips r",
        title=f"Short trainings of {found['rank_epochs']} epochs; the test split was not read",
    )  # fmt: skip
    for number, row in enumerate(found["rows"], 1):
        made.add_row(
            str(number),
            str(row["seed"]),
            percent(row["val_accuracy"]),
            percent(row["standard_error"]),
            str(row["val_count"]),
            percent(row["supernet_val_accuracy"]),
            f"{row['parameters']:,}",
            f"{row['flops'] / 1e6:.1f}",
            str(row["skips_normal"]),
            str(row["skips_reduce"]),
        )
    return made
