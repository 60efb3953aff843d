"""What a search and a training share: epochs of steps, their table and checkpoints, and a stop that loses nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from rich.console import Console
from torch import Tensor

from fer_nas import parallel
from fer_nas.artifacts import Genotype, RunFolder
from fer_nas.config import DataConfig, RunConfig, SearchConfig, TrainConfig
from fer_nas.data.load import load, require
from fer_nas.data.split import DataSet
from fer_nas.errors import InputError
from fer_nas.progress import Columns, EpochTable, say
from fer_nas.runtime import (
    Interrupted,
    StopFlag,
    choose_device,
    enough_memory,
    fastest_threads,
    many_steps,
    require_finite,
    threads_are_open,
)
from fer_nas.settings import to_dict

CHECK_EVERY = 50  # steps between two looks at the loss on a GPU, where each look waits for all work before it


def prepare(run: RunConfig, data: DataConfig, out: Path | None, console: Console) -> DataSet:
    """What a new run needs before it can have its folder; whatever is wrong is said before anything slow is done."""
    choose_device(run.device)
    if parallel.number() == 0:
        RunFolder.refuse_used(out)
    if run.threads:
        torch.set_num_threads(run.threads)
    require(data)
    say(console, f"reading {data.data}")
    dataset = load(data, seed=run.seed)
    for note in dataset.notes:
        say(console, f"note: {note}")
    return dataset


Config = TypeVar("Config", SearchConfig, TrainConfig)


def with_threads(
    kind: str, config: Config, dataset: DataSet, console: Console, genotype: Genotype | None = None
) -> Config:
    """The settings of a new run with the number of CPU threads that it takes, so that it goes on with the same.

    kind: search or train. Another process makes the trial (`trial.py`); where it fails, torch's own number stays.
    """
    device, few = choose_device(config.run.device), len(dataset.train) // 2
    if config.run.threads or device.type != "cpu" or parallel.count() > 1 or not threads_are_open():
        return config
    about = {
        "kind": kind,
        "config": to_dict(replace(config, run=replace(config.run, batch_size=min(config.run.batch_size, few)))),
        "count": 2 * min(config.run.batch_size, few),
        "classes": len(dataset.classes),
        "channels": dataset.channels,
        "image_size": dataset.image_size,
        "genotype": genotype and genotype.to_dict(),
    }
    child = subprocess.run(
        [sys.executable, "-m", "fer_nas.trial"], input=json.dumps(about), capture_output=True, text=True, check=False
    )
    if child.returncode:
        why = (child.stderr.strip().splitlines() or ["it was killed"])[-1]
        say(console, f"CPU threads: {torch.get_num_threads()}; the trial of fewer ended with: {why}")
        return config
    seconds = {int(count): took for count, took in json.loads(child.stdout).items()}
    chosen = fastest_threads(seconds)
    torch.set_num_threads(chosen)
    tried = ", ".join(f"{count}: {took:.2g} s" for count, took in seconds.items())
    say(console, f"CPU threads: {chosen}; a pass with {tried} (--threads {chosen} takes them without a trial)")
    return replace(config, run=replace(config.run, threads=chosen))


NOT_MADE = RunFolder(Path("a run that has no folder yet"))
"""Of a run that is being set up."""


def new_folder(out: Path | None, kind: str) -> RunFolder:
    """The folder of a new run, the same for all processes."""
    made = RunFolder.create(out, kind).path if parallel.number() == 0 else None
    return RunFolder(Path(parallel.agreed(made) or ""))


def prepare_again(path: Path, run: RunConfig, data: DataConfig) -> DataSet:
    """The same for a run that goes on."""
    if run.threads:
        torch.set_num_threads(run.threads)
    try:
        return load(data, seed=run.seed)
    except InputError as error:
        raise InputError(f"{path} cannot go on without the images it was started with: {error}") from None


class EpochLoop(ABC):
    """A run in its folder; a kind of run is a subclass.

    `progress` holds what is put into a checkpoint beside weights and optimizers: a resumed run starts at `epoch`, after
    its first `step` steps, and its batches come from generators seeded by (seed, epoch, purpose).
    """

    command: ClassVar[str]
    columns: Columns
    memory_saver = ""  # what to do where memory is short, beside lower settings

    def __init__(self, run: RunConfig, folder: RunFolder, console: Console, device: torch.device, steps: int) -> None:
        self.settings, self.folder, self.console, self.device, self.steps = run, folder, console, device, steps
        self.first = parallel.number() == 0  # the process that writes
        self.epoch, self.step, self.seconds = 1, 0, 0.0
        self.ended = False  # before its last epoch, by its own decision
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)

    @property
    @abstractmethod
    def title(self) -> str:
        """Stands over the table of epochs."""

    @abstractmethod
    def start_epoch(self) -> Iterator[Any]:
        """The epoch's batches, from its first one."""

    @abstractmethod
    def one_step(self, batch: Any) -> Tensor:
        """The training loss of one step, a scalar on the device."""

    @abstractmethod
    def row(self) -> dict[str, Any]:
        """The epoch's figures for metrics.jsonl, but for those that every kind of run has."""

    @abstractmethod
    def save(self) -> None:
        """Write the checkpoint."""

    def start_over(self) -> None:
        """Said of a run that goes on and has no checkpoint."""
        say(self.console, f"note: {self.folder.path} has no checkpoint.pt; it starts with the first epoch")

    def progress(self) -> list[Any]:
        return [self.epoch, self.step, self.loss_sum.item(), self.seconds]

    def set_progress(self, epoch: int, step: int, loss_sum: float, seconds: float) -> None:
        self.epoch, self.step, self.seconds = epoch, step, seconds
        self.loss_sum.fill_(loss_sum)

    def one_epoch(self, table: EpochTable, stop: StopFlag) -> None:
        """The steps that are left of the current epoch."""
        batches = self.start_epoch()
        started, before = time.monotonic(), self.seconds
        for batch in islice(batches, self.step, self.steps):
            self.loss_sum += self.one_step(batch)
            self.step += 1
            if self.device.type == "cpu" or self.step % CHECK_EVERY == 0:
                self.require_finite_loss()
            self.seconds = before + time.monotonic() - started
            table.step(self.epoch, self.step)
            if self.step < self.steps:
                self.look_for(stop)

    def require_finite_loss(self) -> float:
        total = self.loss_sum.item()
        require_finite(total, f"epoch {self.epoch}, step {self.step}")
        return total

    def look_for(self, stop: StopFlag) -> None:
        """Stop here where a signal came to any process; on a GPU several processes ask each other now and then only."""
        if parallel.count() > 1 and self.device.type != "cpu" and self.step % CHECK_EVERY:
            return
        if not parallel.any_of(stop.signal is not None, self.device):
            return
        if self.first:
            self.save()
        raise Interrupted(stop.signal or signal.SIGINT, self.going_on)

    @property
    def going_on(self) -> str:
        """What a run that was stopped ends with."""
        return f'stopped; go on with: fer-nas {self.command} --resume "{self.folder.path}"'

    def finish_epoch(self, table: EpochTable) -> None:
        """Record the epoch, move on, checkpoint."""
        started = time.monotonic()
        loss = self.require_finite_loss() / self.steps
        row = {"epoch": self.epoch, "train_loss": loss} | self.row()
        row["seconds"] = self.seconds + time.monotonic() - started
        if self.first:
            self.wrap_up(row)
            self.folder.append_metrics(row)
        table.add(row)
        self.next_epoch()
        if self.first:
            self.save()

    def wrap_up(self, row: dict[str, Any]) -> None:  # noqa: B027
        """Write what else the epoch leaves behind; its row may be added to."""

    def next_epoch(self) -> None:
        """Between the record of an epoch and its checkpoint."""
        self.set_progress(self.epoch + 1, 0, 0.0, 0.0)

    def run_epochs(self) -> None:
        """From where the run stands to its last epoch."""
        epochs = self.settings.epochs
        with (
            StopFlag.watch() as stop,  # first: a Ctrl-C before the first step is honoured behind it
            enough_memory(self.memory_saver),
            many_steps(),
            EpochTable(self.title, self.columns, epochs, self.steps, self.console) as table,
        ):
            table.rows.extend(self.folder.metrics())
            while self.epoch <= epochs and not self.ended:
                self.one_epoch(table, stop)
                self.finish_epoch(table)
                if self.epoch <= epochs and not self.ended:
                    self.look_for(stop)
