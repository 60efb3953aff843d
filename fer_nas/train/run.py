"""Training a derived network: genotype + data → best.safetensors, a record of every epoch, and the test figures.

The validation split chooses the epoch; the test split is read once, at the end, with the weights so chosen.
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.func import functional_call

from fer_nas import parallel
from fer_nas.artifacts import RunFolder, read_json
from fer_nas.config import TrainConfig
from fer_nas.data import batches
from fer_nas.data.split import DataSet, title
from fer_nas.errors import InputError
from fer_nas.loop import EpochLoop
from fer_nas.progress import Columns, number, percent, seconds
from fer_nas.runtime import (
    Interrupted,
    choose_device,
    cosine,
    describe_device,
    fits_checkpoint,
    generator,
    global_random_state,
    load_checkpoint,
    peak_memory_mib,
    require_finite,
    restore_random_state,
    save_checkpoint,
)
from fer_nas.space.network import Network
from fer_nas.train.average import MovingAverage
from fer_nas.train.metrics import soft_cross_entropy
from fer_nas.train.result import predict, write_result
from fer_nas.train.spec import NetworkSpec, save_weights, start_from

PROGRESSIVE_UNTIL = 0.8  # share of the epochs after which images have their full size
COLUMNS: Columns = {
    "epoch": ("epoch", str),
    "train_loss": ("train loss", number),
    "val_loss": ("val loss", number),
    "val_accuracy": ("val accuracy", percent),
    "best_accuracy": ("best", percent),
    "learning_rate": ("rate", number),
    "seconds": ("time", seconds),
}


class Training(EpochLoop):
    """One training."""

    command = "train"
    columns = COLUMNS

    def __init__(
        self, config: TrainConfig, spec: NetworkSpec, folder: RunFolder, dataset: DataSet, console: Console
    ) -> None:
        if "val" not in dataset.splits:
            raise InputError(f"{config.data.data}: no validation images; training needs them to choose the epoch")
        if config.run.batch_size < 2:
            raise InputError("--batch-size is 1; BatchNorm needs at least 2 images a batch")
        if len(dataset.train) < 2:
            raise InputError(f"{config.data.data}: {len(dataset.train)} training image; at least 2 are needed")
        if config.nesterov and not config.momentum:
            raise InputError("--momentum is 0; Nesterov momentum needs some, or leave it off with --no-nesterov")
        self.config, self.spec, self.dataset = config, spec, dataset
        device = choose_device(config.run.device)
        self.train_split = dataset.train.to(device)
        self.val_split = dataset.splits["val"].to(device)
        parallel.refuse_small_batches(batches.bounds(len(self.train_split), config.run.batch_size))
        super().__init__(
            config.run, folder, console, device, batches.steps(len(self.train_split), config.run.batch_size)
        )
        torch.manual_seed(config.run.seed)
        self.network = spec.build(config)
        if config.recipe.initialize_from and not (folder / "checkpoint.pt").exists():
            start_from(self.network, Path(config.recipe.initialize_from), self.spec)
        self.network = self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = MovingAverage(self.network, config.recipe.ema) if config.recipe.ema else None
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
            foreach=True,
        )
        self.half = self.device.type == "cuda" and config.recipe.mixed_precision
        self.best_epoch, self.best_accuracy = 0, -1.0

    @property
    def evaluated(self) -> Network:
        """The network whose figures count: the moving average where there is one."""
        return self.average.network if self.average else self.network  # type: ignore[return-value]

    def save(self) -> None:
        save_checkpoint(
            self.folder / "checkpoint.pt",
            {
                "kind": "train",
                "network": self.network.state_dict(),
                "average": self.average.network.state_dict() if self.average else {},
                "average_steps": self.average.steps if self.average else 0,
                "optimizer": self.optimizer.state_dict(),
                "random": global_random_state(self.device),
                "progress": [*self.progress(), self.best_epoch, self.best_accuracy],
            },
        )

    def restore(self) -> None:
        """The state of the last checkpoint; before the first one a run starts over."""
        file = self.folder / "checkpoint.pt"
        if file.exists():
            saved = load_checkpoint(file)
            if saved.get("kind") != "train":
                raise InputError(f"{file} is not the checkpoint of a training run")
            with fits_checkpoint(file):
                self.network.load_state_dict(saved["network"])
                if self.average:
                    self.average.network.load_state_dict(saved["average"])
                    self.average.steps = saved["average_steps"]
                self.optimizer.load_state_dict(saved["optimizer"])
                restore_random_state(saved["random"], self.device)
                *progress, self.best_epoch, self.best_accuracy = saved["progress"]
                self.set_progress(*progress)
        else:
            self.start_over()
        if self.first:
            self.folder.keep_epochs(self.epoch - 1)

    def learning_rate(self) -> float:
        """Linear warm-up, then cosine, by step."""
        recipe, done = self.config.recipe, (self.epoch - 1) * self.steps + self.step
        warm, total = recipe.warmup_epochs * self.steps, self.config.run.epochs * self.steps
        if done < warm:
            return self.config.learning_rate * (done + 1) / warm
        return cosine(self.config.learning_rate, recipe.learning_rate_min, (done - warm) / max(1, total - warm))

    def training_size(self) -> int:
        """Side in pixels of this epoch's images: an even number that rises to the full size (--progressive)."""
        start, full = self.config.recipe.progressive, self.spec.input_size
        rise = min(1.0, (self.epoch - 1) / max(1.0, PROGRESSIVE_UNTIL * self.config.run.epochs))
        share = min(1.0, start + (1 - start) * rise)
        return full if share == 1.0 else max(2, 2 * round(share * full / 2))

    def one_step(self, batch: Any) -> Tensor:
        (images, targets), recipe = batch, self.config.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        size = self.training_size()
        if size != images.shape[-1]:
            images = nn.functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
        images = images.contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            logits = self.logits(images)
            loss = soft_cross_entropy(logits.float(), targets, recipe.label_smoothing)
            if self.network.auxiliary_logits is not None:
                extra = soft_cross_entropy(self.network.auxiliary_logits.float(), targets, recipe.label_smoothing)
                loss = loss + recipe.auxiliary_weight * extra
            loss = parallel.shared_mean(loss, len(images))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        if self.average:
            self.average.update(self.network)
        return loss.detach()

    def trial(self) -> None:
        """A pass over a batch, forward and backward, of which nothing is kept."""
        few, network = slice(0, self.config.run.batch_size), copy.deepcopy(self.network).train()
        images = self.train_split.images[few].float().contiguous(memory_format=torch.channels_last)
        with torch.random.fork_rng(devices=[]):
            loss = soft_cross_entropy(network(images), self.train_split.targets[few], 0.0)
        torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)

    def logits(self, images: Tensor) -> Tensor:
        if parallel.count() == 1:
            return self.network(images)
        weights, _ = parallel.replicated(dict(self.network.named_parameters()))
        return functional_call(self.network, weights, (images,))

    @property
    def title(self) -> str:
        data = title(self.spec.dataset, self.spec.labels)
        return f"{self.spec.genotype_name} on {data}, {describe_device(self.device)}"

    def start_epoch(self) -> Iterator[Any]:
        run = self.config.run
        self.network.train()
        self.network.drop_path_probability = self.config.recipe.drop_path * (self.epoch - 1) / run.epochs
        if self.step == 0:
            others = [parallel.number()] if parallel.number() else []
            torch.manual_seed(generator(run.seed, self.epoch, "dropout", *others).initial_seed())
        whole = batches.epoch(
            self.train_split,
            run.batch_size,
            generator=generator(run.seed, self.epoch, "train"),
            augment=self.config.augment,
        )
        return map(parallel.rows, whole)

    def row(self) -> dict[str, Any]:
        logits = predict(self.evaluated, self.val_split)
        loss = soft_cross_entropy(logits, self.val_split.targets).item()
        require_finite(loss, f"epoch {self.epoch}, validation")
        accuracy = (logits.argmax(1) == self.val_split.labels()).float().mean().item()
        if accuracy > self.best_accuracy:
            self.best_epoch, self.best_accuracy = self.epoch, accuracy
            if self.first:
                save_weights(self.evaluated, self.folder / "best.safetensors")
        if self.first and self.epoch == self.config.run.epochs:
            save_weights(self.evaluated, self.folder / "last.safetensors")
        return {
            "val_loss": loss,
            "val_accuracy": accuracy,
            "best_accuracy": self.best_accuracy,
            "best_epoch": self.best_epoch,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "peak_memory_mib": peak_memory_mib(self.device),
        }

    def run(self) -> dict[str, Any]:
        self.run_epochs()
        if not self.first:
            return {}
        if (self.folder / "test.json").exists():  # a finished run that was resumed
            return read_json(self.folder / "test.json", "test result")
        chosen = {
            "best_epoch": self.best_epoch,
            "val_accuracy": self.best_accuracy,
            "val_count": len(self.val_split),
            "device": describe_device(self.device),
        }
        try:
            return write_result(self.folder, self.spec, self.dataset, chosen)
        except KeyboardInterrupt:
            raise Interrupted(signal.SIGINT, self.going_on) from None
