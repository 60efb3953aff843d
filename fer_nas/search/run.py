"""The search: data + supernet + method → genotype.json, a record of every epoch, and a checkpoint.

Random numbers of an epoch come from generators seeded by (seed, epoch, purpose), so a resumed run replays the order
of images and continues bit for bit.
"""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

import fer_nas
from fer_nas.artifacts import GenotypeFile, RunFolder, read_json, write_json
from fer_nas.bilevel.methods import find_method
from fer_nas.bilevel.protocol import InnerStep
from fer_nas.config import SearchConfig, from_dict, to_dict
from fer_nas.data import batches
from fer_nas.data.load import load
from fer_nas.data.split import DataSet
from fer_nas.errors import FerNasError, InputError
from fer_nas.progress import Columns, EpochTable, number, percent, say, seconds
from fer_nas.report.pictures import draw_cells, draw_curves
from fer_nas.runtime import (
    Interrupted,
    StopFlag,
    choose_device,
    cosine,
    describe_device,
    enough_memory,
    generator,
    load_checkpoint,
    peak_memory_mib,
    require_finite,
    save_checkpoint,
)
from fer_nas.search.state import build, validate, velocity
from fer_nas.space.decode import count_skips, decode
from fer_nas.space.relax import entropy

COLUMNS: Columns = {
    "epoch": ("epoch", str),
    "train_loss": ("train loss", number),
    "val_loss": ("val loss", number),
    "val_accuracy": ("val accuracy", percent),
    "arch_entropy": ("λ entropy", number),
    "skips_normal": ("skips n", str),
    "skips_reduce": ("skips r", str),
    "seconds": ("time", seconds),
}


class Search:
    """One run in its folder."""

    def __init__(self, config: SearchConfig, folder: RunFolder, dataset: DataSet, console: Console) -> None:
        self.config, self.folder, self.dataset, self.console = config, folder, dataset, console
        self.device = choose_device(config.run.device)
        self.method = find_method(config.arch.method).make()
        halves = batches.halves(dataset.train, generator(config.run.seed, "halves"))
        self.weights_split, self.arch_split = (half.to(self.device) for half in halves)
        self.val_split = dataset.splits.get("val", halves[1]).to(self.device)
        if min(len(self.weights_split), len(self.arch_split)) < 2:
            raise InputError(
                f"{config.data.data}: {len(dataset.train)} training images are too few; search needs at least 4"
            )
        if config.run.batch_size < 2:
            raise InputError("--batch-size is 1; BatchNorm needs at least 2 images a batch")
        # A preset's warm-up must not swallow a search of fewer epochs: λ would stay at its random start.
        self.warmup = min(config.arch.warmup_epochs, config.run.epochs - 1)
        size = config.run.batch_size
        self.steps = min(batches.steps(len(half), size) for half in (self.weights_split, self.arch_split))
        self.state = build(config, dataset, self.device)

    def restore(self) -> None:
        """The state of the last checkpoint; before the first one a run starts over."""
        file = self.folder / "checkpoint.pt"
        if file.exists():
            self.state.restore(load_checkpoint(file), file)
        self.folder.keep_epochs(self.state.epoch - 1)

    def save(self) -> None:
        save_checkpoint(self.folder / "checkpoint.pt", self.state.checkpoint())

    def one_step(self, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], learning_rate: float) -> Tensor:
        """λ one step along the hypergradient, then w one step; returns the training loss."""
        state, w = self.state, self.config.weights
        weights = state.task.weights()
        if state.epoch > self.warmup:
            step = InnerStep(
                learning_rate=learning_rate,
                momentum=w.momentum,
                weight_decay=w.weight_decay,
                velocity=velocity(state.weights_optimizer, list(weights)),
            )
            found = self.method.hypergradient(state.task, weights, state.arch, train, val, step)  # type: ignore[arg-type]
            state.arch.grad = found.total
            state.arch_optimizer.step()
        state.weights_optimizer.zero_grad()
        loss = state.task.inner_loss(weights, state.arch.detach(), train)  # type: ignore[arg-type]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), w.gradient_clip)
        state.weights_optimizer.step()
        return loss.detach()

    def one_epoch(self, table: EpochTable, stop: StopFlag) -> None:
        """The steps that are left of the current epoch."""
        state, run, w = self.state, self.config.run, self.config.weights
        learning_rate = cosine(w.learning_rate, w.learning_rate_min, (state.epoch - 1) / run.epochs)
        for group in state.weights_optimizer.param_groups:
            group["lr"] = learning_rate
        pairs = zip(
            *(
                batches.epoch(
                    split,
                    run.batch_size,
                    generator=generator(run.seed, state.epoch, name),
                    augment=self.config.augment,
                )
                for name, split in (("weights", self.weights_split), ("arch", self.arch_split))
            ),
            strict=False,
        )
        started, before = time.monotonic(), state.seconds
        for train, val in islice(pairs, state.step, self.steps):
            loss = self.one_step(train, val, learning_rate)
            state.loss_sum += loss.item()
            require_finite(state.loss_sum, f"epoch {state.epoch}, step {state.step + 1}")
            state.step += 1
            state.seconds = before + time.monotonic() - started
            table.step(state.epoch, state.step)
            if stop.signal is not None and state.step < self.steps:
                self.interrupt(stop.signal)

    def interrupt(self, signal_number: int) -> None:
        self.save()
        raise Interrupted(signal_number, f'stopped; go on with: fer-nas search --resume "{self.folder.path}"')

    def finish_epoch(self, table: EpochTable) -> None:
        """Record the epoch, write the genotype so far, move on, checkpoint."""
        state, run = self.state, self.config.run
        started = time.monotonic()
        val_loss, val_accuracy = validate(state.task, state.arch.detach(), self.val_split, run.batch_size)
        require_finite(val_loss, f"epoch {state.epoch}, validation")
        spent = state.seconds + time.monotonic() - started
        mixtures = state.task.mixtures(state.arch.detach())
        genotype = decode(mixtures, state.task.space)
        total = state.seconds_before + spent
        row = {
            "epoch": state.epoch,
            "train_loss": state.loss_sum / self.steps,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "learning_rate": state.weights_optimizer.param_groups[0]["lr"],
            "arch_entropy": sum(entropy(part).item() for part in mixtures.values()) / len(mixtures),
            "skips_normal": count_skips(genotype.normal),
            "skips_reduce": count_skips(genotype.reduce),
            "seconds": spent,
            "gpu_days": total / 86400 if self.device.type == "cuda" else 0.0,
            "peak_memory_mib": peak_memory_mib(self.device),
        }
        self.folder.append_metrics(row)
        table.add(row)
        GenotypeFile(
            genotype=genotype,
            name=f"{self.config.arch.method}-{self.dataset.name}",
            space=self.config.arch.space,
            method=self.config.arch.method,
            dataset=self.dataset.name,
            labels=self.dataset.labels,
            seed=run.seed,
            source={
                "epochs": state.epoch,
                "val_accuracy": val_accuracy,
                "val_count": len(self.val_split),
                "seconds": total,
                "device": describe_device(self.device),
                "image_size": self.dataset.image_size,
            },
        ).save(self.folder / "genotype.json")
        state.epoch, state.step, state.loss_sum, state.seconds = state.epoch + 1, 0, 0.0, 0.0
        state.seconds_before = total
        self.save()

    def run(self) -> None:
        config, state = self.config, self.state
        title = f"{config.arch.method} on {self.dataset.name}, {describe_device(self.device)}"
        if self.warmup < config.arch.warmup_epochs:
            say(
                self.console,
                f"note: λ is frozen for {self.warmup} of {config.run.epochs} epochs; a warm-up of "
                f"{config.arch.warmup_epochs} would leave it none to move in",
            )
        with (
            enough_memory(),
            StopFlag.watch() as stop,
            EpochTable(title, COLUMNS, config.run.epochs, self.steps, self.console) as table,
        ):
            table.rows.extend(self.folder.metrics())
            while state.epoch <= config.run.epochs:
                self.one_epoch(table, stop)
                self.finish_epoch(table)
                if stop.signal is not None and state.epoch <= config.run.epochs:
                    self.interrupt(stop.signal)
        found = GenotypeFile.load(self.folder / "genotype.json")
        if not (self.folder / "curves.png").exists():
            draw_cells(found.genotype, self.folder / "cells.png")
            draw_curves(self.folder.metrics(), self.folder / "curves.png")


def search(config: SearchConfig, out: Path | None, console: Console) -> RunFolder:
    """A new search in a new folder."""
    choose_device(config.run.device)
    RunFolder.refuse_used(out)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    say(console, f"reading {config.data.data}")
    dataset = load(config.data, seed=config.run.seed)
    for note in dataset.notes:
        say(console, f"note: {note}")
    folder = RunFolder.create(out, config.arch.method)
    try:
        with enough_memory():
            run = Search(config, folder, dataset, console)
    except FerNasError:
        folder.discard_empty()
        raise
    write_json(
        folder / "config.json",
        {"kind": "search", "fer_nas_version": fer_nas.__version__, "config": to_dict(config)},
    )
    say(console, f"run folder: {folder.path}")
    run.run()
    return folder


def resume(path: Path, console: Console) -> RunFolder:
    """Go on with a search from its last checkpoint; one that is finished is left as it is."""
    folder = RunFolder.open(path)
    saved = read_json(folder / "config.json", "run configuration")
    if not isinstance(saved, dict) or "config" not in saved:
        raise InputError(f"{folder / 'config.json'} is not the configuration of a run")
    if saved.get("kind") != "search":
        raise InputError(
            f"{path} is a {saved.get('kind')} run; resume it with `fer-nas {saved.get('kind')} --resume {path}`"
        )
    config = from_dict(SearchConfig, saved["config"], str(folder / "config.json"))
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    try:
        dataset = load(config.data, seed=config.run.seed)
    except InputError as error:
        raise InputError(f"{path} cannot go on without the images it was started with: {error}") from None
    with enough_memory():
        run = Search(config, folder, dataset, console)
        run.restore()
    run.run()
    return folder
