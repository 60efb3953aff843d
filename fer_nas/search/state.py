"""What a search learns, and what is read off it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fer_nas.config import SearchConfig
from fer_nas.data import batches
from fer_nas.data.split import DataSet, Split
from fer_nas.errors import InputError
from fer_nas.runtime import fits_checkpoint, generator
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import find_space
from fer_nas.tasks.cells import CellSearch

FIRST_DERIVATIVES = ("darts-1st", "darts-2nd")
"""Methods that differentiate the losses once, which is what the fast form allows."""
ARCH_BETAS = (0.5, 0.999)  # Liu et al. 2019


@dataclass
class State:
    """What a search learns; `checkpoint` and `restore` are each other's inverse."""

    task: CellSearch
    arch: Tensor
    weights_optimizer: torch.optim.SGD
    arch_optimizer: torch.optim.Adam

    @property
    def learning_rate(self) -> float:
        """Of the weights, now."""
        return self.weights_optimizer.param_groups[0]["lr"]

    def set_learning_rate(self, value: float) -> None:
        for group in self.weights_optimizer.param_groups:
            group["lr"] = value

    def checkpoint(self) -> dict[str, Any]:
        return {
            "kind": "search",
            "supernet": self.task.supernet.state_dict(),
            "arch": self.arch.detach(),
            "weights_optimizer": self.weights_optimizer.state_dict(),
            "arch_optimizer": self.arch_optimizer.state_dict(),
        }

    def restore(self, saved: dict[str, Any], where: Path) -> None:
        if saved.get("kind") != "search":
            raise InputError(f"{where} is not the checkpoint of a search")
        with fits_checkpoint(where):
            self.task.supernet.load_state_dict(saved["supernet"])
            with torch.no_grad():
                self.arch.copy_(saved["arch"])
            self.weights_optimizer.load_state_dict(saved["weights_optimizer"])
            self.arch_optimizer.load_state_dict(saved["arch_optimizer"])


def build(config: SearchConfig, dataset: DataSet, device: torch.device) -> State:
    torch.manual_seed(config.run.seed)
    space = find_space(config.arch.space)
    mean, std = dataset.train.channel_statistics()
    supernet = Supernet(
        space,
        classes=len(dataset.classes),
        c_in=dataset.channels,
        image_size=dataset.image_size,
        channels=config.network.channels,
        layers=config.network.layers,
        stem=config.network.stem,
        mean=mean,
        std=std,
    )
    form = config.arch.form
    if form == "auto" and config.arch.method not in FIRST_DERIVATIVES:
        form = "plain"
    task = CellSearch(supernet.to(device).to(memory_format=torch.channels_last), space, form)
    arch = task.initial_hyper(generator(config.run.seed, "arch")).to(device).requires_grad_()
    w, a = config.weights, config.arch
    return State(
        task=task,
        arch=arch,
        weights_optimizer=torch.optim.SGD(
            supernet.parameters(), w.learning_rate, momentum=w.momentum, weight_decay=w.weight_decay
        ),
        arch_optimizer=torch.optim.Adam(
            [arch], a.arch_learning_rate, betas=ARCH_BETAS, weight_decay=a.arch_weight_decay
        ),
    )


def velocity(optimizer: torch.optim.SGD, names: list[str]) -> dict[str, Tensor]:
    """The momentum buffers by weight name; empty before the first step."""
    found = {}
    for name, parameter in zip(names, optimizer.param_groups[0]["params"], strict=True):
        buffer = optimizer.state[parameter].get("momentum_buffer") if parameter in optimizer.state else None
        if buffer is not None:
            found[name] = buffer
    return found


@torch.no_grad()
def validate(task: CellSearch, arch: Tensor, split: Split, batch_size: int) -> tuple[float, float]:
    """Loss and accuracy of the supernet at λ on a split, in batches whose own statistics normalize them.

    The batches are mixed, always in the same way: data sets come sorted by class, and a batch of one class, normalized
    by its own statistics, looks like none that the supernet has learned from.
    """
    weights = task.weights()
    order = torch.randperm(len(split), generator=generator("validation")).to(split.images.device)
    loss, correct = 0.0, 0
    for start, end in batches.bounds(len(split), batch_size):
        index = order[start:end]
        images, targets = split.images[index].float(), split.targets[index]
        logits = task.logits(weights, arch, images)
        loss += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        correct += int((logits.argmax(1) == labels).sum())
    return loss / len(split), correct / len(split)
