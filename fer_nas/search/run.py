"""The search: data + supernet + method → genotype.json, a record of every epoch, and a checkpoint.

Random numbers of an epoch come from generators seeded by (seed, epoch, purpose), so a resumed run replays the order
of images and continues bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from fer_nas import parallel
from fer_nas.artifacts import GenotypeFile, RunFolder
from fer_nas.bilevel.delta_stn import DeltaSTN
from fer_nas.config import SearchConfig
from fer_nas.data import batches
from fer_nas.data.split import DataSet, title
from fer_nas.errors import InputError
from fer_nas.loop import EpochLoop
from fer_nas.progress import Columns, number, say
from fer_nas.report.pictures import draw_cells, draw_curves
from fer_nas.runtime import (
    choose_device,
    describe_device,
    fits_checkpoint,
    generator,
    load_checkpoint,
    peak_memory_mib,
    require_finite,
    save_checkpoint,
)
from fer_nas.search.checks import Checks
from fer_nas.search.found import genotype_file
from fer_nas.search.guards import COLLAPSED, StableRanking, collapse_note
from fer_nas.search.methods import needs_plain_form
from fer_nas.search.record import COLUMNS, ResponseRecord, columns, rounded
from fer_nas.search.stages import Stage, max_skips, plan, strongest, warmup_notes
from fer_nas.search.state import State, build, validate
from fer_nas.space.decode import count_skips, decode
from fer_nas.space.relax import entropy


class Search(EpochLoop):
    """One search."""

    command = "search"
    columns = COLUMNS

    def __init__(self, config: SearchConfig, folder: RunFolder, dataset: DataSet, console: Console) -> None:
        self.config, self.dataset = config, dataset
        if not config.arch.recompute and not needs_plain_form(config):
            self.memory_saver = ", or give --recompute"
        device = choose_device(config.run.device)
        halves = batches.halves(dataset.train, generator(config.run.seed, "halves"))
        self.weights_split, self.arch_split = (half.to(device) for half in halves)
        self.val_split = dataset.splits.get("val", halves[1]).to(device)
        if min(len(self.weights_split), len(self.arch_split)) < 2:
            raise InputError(
                f"{config.data.data}: {len(dataset.train)} training images are too few; search needs at least 4"
            )
        for name in ("batch_size", "response_batch", "solve_batch"):
            size = getattr(config.run if name == "batch_size" else config.response, name)
            if size is not None and size > len(self.weights_split):
                there = f"batches have the {len(self.weights_split)} images of w, half of the training images"
                say(console, f"note: --{name.replace('_', '-')} {size}: {there}")
        if config.run.batch_size < 2:
            raise InputError("--batch-size is 1; BatchNorm needs at least 2 images a batch")
        size = config.run.batch_size
        for half in (self.weights_split, self.arch_split):
            parallel.refuse_small_batches(batches.bounds(len(half), size))
        steps = min(batches.steps(len(half), size) for half in (self.weights_split, self.arch_split))
        super().__init__(config.run, folder, console, device, steps)
        self.stages = plan(config)
        self.stable = StableRanking(config.arch.stable_epochs)
        self.warned = False  # of skip connections
        self.seconds_before = 0.0  # spent in the epochs before this one
        self.state = self.stage_state(None)
        self.response = ResponseRecord(device)
        self.checks = Checks(config, self.weights_split, self.arch_split)
        tuned: Columns = {f"tuned.{name}": (name, number) for name in self.state.task.values(self.state.arch)}
        self.columns = columns(self.checks.columns | tuned)

    @property
    def title(self) -> str:
        arch, data = self.config.arch, title(self.dataset.name, self.dataset.labels)
        operations = f" (operations of {arch.operations})" if arch.operations not in (None, arch.space) else ""
        return f"{arch.method} in {arch.space}{operations} on {data}, {describe_device(self.device)}"

    def restore(self) -> None:
        """The state of the last checkpoint; before the first one a run starts over."""
        file = self.folder / "checkpoint.pt"
        if file.exists():
            saved = load_checkpoint(file)
            with fits_checkpoint(file):
                *progress, self.seconds_before = saved["progress"]
                self.set_progress(*progress)
                if self.number:
                    self.state = self.stage_state(saved["kept"])
            self.state.restore(saved, file)
            with fits_checkpoint(file):
                self.response.sums.copy_(saved["response"])
                self.stable.load_state(saved["stable"])
                self.checks.trust = saved["trust"]
            self.ended = self.stable.reached
        else:
            self.start_over()
        if self.first:
            self.folder.keep_epochs(self.epoch - 1)

    @property
    def number(self) -> int:
        """Which stage the current epoch belongs to, from 0."""
        return sum(stage.last < self.epoch for stage in self.stages[:-1])

    @property
    def stage(self) -> Stage:
        return self.stages[self.number]

    def stage_state(self, kept: dict[str, Tensor] | None) -> State:
        """The start of the stage that the current epoch belongs to."""
        state = build(self.config, self.dataset, self.device, number=self.number, kept=kept)
        size = self.config.response.response_batch
        if size is not None and isinstance(state.method, DeltaSTN):
            state.method.images = partial(self.more_images, "response", size)
        return state

    def next_epoch(self) -> None:
        """With a stage's last epoch the next stage starts, over the operations that were strongest."""
        number = self.number
        super().next_epoch()
        if self.number == number:
            return
        task, stage = self.state.task, self.stage
        mixtures = task.mixtures(self.state.arch.detach())
        kept = strongest(mixtures, task.supernet.kept, stage.operations)
        ended, self.state = self.state, self.stage_state(kept)
        self.state.go_on_from(ended)
        say(self.console, f"stage {self.number + 1} of {len(self.stages)}: {stage}")

    def save(self) -> None:
        progress = [*self.progress(), self.seconds_before]
        more = {"progress": progress, "response": self.response.sums, "stable": self.stable.state()}
        saved = self.state.checkpoint() | more | {"trust": self.checks.trust}
        save_checkpoint(self.folder / "checkpoint.pt", saved)

    def start_epoch(self) -> Iterator[Any]:
        """Pairs of batches: images for w, images for λ."""
        run, w, arch, stage, task = self.config.run, self.config.weights, self.config.arch, self.stage, self.state.task
        self.state.set_learning_rate(stage.learning_rate(self.epoch, w.learning_rate, w.learning_rate_min))
        passed = stage.passed(self.epoch)
        task.temperature = arch.temperature + passed * (arch.temperature_min - arch.temperature)
        task.auxiliary = arch.auxiliary_skip * (1 - passed)
        task.skip_dropout = stage.dropout(self.epoch)
        return zip(
            *(
                map(
                    parallel.rows,
                    batches.epoch(
                        split,
                        run.batch_size,
                        generator=generator(run.seed, self.epoch, name),
                        augment=None if task.tuned else self.config.augment,
                    ),
                )
                for name, split in (("weights", self.weights_split), ("arch", self.arch_split))
            ),
            strict=False,
        )

    def one_step(self, batch: Any) -> Tensor:
        """λ one step along the hypergradient, then w one step; the training loss."""
        (train, val), state, w = batch, self.state, self.config.weights
        state.task.sample(generator(self.config.run.seed, self.epoch, self.step, "gumbel"))
        weights = state.task.weights()
        if self.stage.learns(self.epoch) and self.step % self.config.response.arch_every == 0:
            step = state.inner_step(w.momentum, w.weight_decay)
            solving = self.config.response.solve_batch
            solved = train if solving is None else self.more_images("solve", solving)
            found = state.method.hypergradient(state.task, weights, state.arch, solved, val, step)  # type: ignore[arg-type]
            found = self.checks.trusted(found, state.task.architecture)
            self.response.add(found, state.task.architecture)
            state.move(found.total)
        if state.method.needs_response:
            step = state.inner_step(w.momentum, w.weight_decay)
            fitted = state.method.fit(state.task, weights, state.arch.detach(), [train], step)  # type: ignore[arg-type]
            state.accept(*fitted)
            return state.method.loss  # type: ignore[attr-defined]
        return state.descend(train, w.gradient_clip)

    def trial(self) -> None:
        """A pass over images of w, forward and backward, of which nothing is kept."""
        state, few = self.state, slice(0, self.config.run.batch_size)
        state.task.sample(generator("trial"))
        weights, split = state.task.weights(), self.weights_split
        loss = state.task.inner_loss(weights, state.arch.detach(), (split.images[few].float(), split.targets[few]))
        torch.autograd.grad(loss, list(weights.values()), allow_unused=True)

    def more_images(self, purpose: str, size: int) -> tuple[Tensor, ...]:
        """So many images of w's half beside this step's own, changed as these are: a process's rows of them."""
        draw = generator(self.config.run.seed, self.epoch, self.step, purpose)
        augment = None if self.state.task.tuned else self.config.augment
        return parallel.rows(next(batches.epoch(self.weights_split, size, generator=draw, augment=augment)))

    def row(self) -> dict[str, Any]:
        state = self.state
        val_loss, val_accuracy = validate(state, self.val_split, self.config.run.batch_size)
        require_finite(val_loss, f"epoch {self.epoch}, validation")
        mixtures = state.task.mixtures(state.arch.detach())
        if self.stage is self.stages[-1] and self.stage.learns(self.epoch):
            self.stable.look(mixtures, state.task.space)
            self.ended = parallel.any_of(self.stable.reached, self.device)
        genotype = decode(mixtures, state.task.space)
        skips = count_skips(genotype.normal)
        if skips >= COLLAPSED and not self.warned:
            self.warned = True
            say(self.console, collapse_note(self.epoch, skips, len(genotype.normal), max_skips(self.config)))
        return {
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "learning_rate": state.learning_rate,
            "arch_entropy": sum(entropy(part).item() for part in mixtures.values()) / len(mixtures),
            **self.response.row(),
            **self.checks.row(state),
            "skips_normal": skips,
            "skips_reduce": count_skips(genotype.reduce),
            "peak_memory_mib": peak_memory_mib(self.device),
            "mixtures": rounded(mixtures),
            **self.tuned(),
        }

    def tuned(self) -> dict[str, dict[str, float]]:
        """Training hyperparameters in λ, where there are any."""
        values = self.state.task.values(self.state.arch)
        return {"tuned": {name: round(value, 6) for name, value in values.items()}} if values else {}

    def wrap_up(self, row: dict[str, Any]) -> None:
        """The genotype so far, and the time since the run began."""
        self.seconds_before += row["seconds"]
        row["gpu_days"] = self.seconds_before / 86400 if self.device.type == "cuda" else 0.0
        task = self.state.task
        found = decode(task.mixtures(self.state.arch.detach()), task.space, max_skips(self.config))
        source = {
            "epochs": self.epoch,
            "val_accuracy": row["val_accuracy"],
            "val_count": len(self.val_split),
            "seconds": self.seconds_before,
            "device": describe_device(self.device),
            "image_size": self.dataset.image_size,
        }
        made = genotype_file(self.config, self.dataset, found, source)
        replace(made, recipe=self.tuned().get("tuned", {})).save(self.folder / "genotype.json")

    def run(self) -> None:
        for note in warmup_notes(self.config):
            say(self.console, note)
        self.run_epochs()
        if self.ended:
            say(self.console, self.stable.note(self.epoch - 1, self.config.run.epochs))
        if not self.first:
            return
        found = GenotypeFile.load(self.folder / "genotype.json")
        if not (self.folder / "curves.png").exists():
            draw_cells(found.genotype, self.folder / "cells.png")
            draw_curves(self.folder.metrics(), self.folder / "curves.png")
