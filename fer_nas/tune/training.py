"""What every rival is measured by: the same batches in the same order, one clock, one way of scoring."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from fer_nas.bilevel.protocol import InnerStep, Params
from fer_nas.config import TuneConfig
from fer_nas.data.batches import bounds
from fer_nas.data.split import Split
from fer_nas.runtime import generator
from fer_nas.tasks.tuning import Batch, Tuning

SCORED_AT_ONCE = 500


class Clock:
    """Seconds since it was made: of this process on the CPU, or on the wall."""

    def __init__(self, kind: str) -> None:
        self.read = {"cpu": time.process_time, "wall": time.monotonic}[kind]
        self.start = self.read()

    def seconds(self) -> float:
        return self.read() - self.start


@dataclass(frozen=True, kw_only=True)
class Point:
    """A network and its λ (n,) as they are scored: the weights at `response`, and what they give on validation."""

    task: Tuning
    weights: Params
    hyper: Tensor
    response: Tensor | None
    loss: float
    accuracy: float
    epochs: float
    trial: int = 0


class Stream:
    """Endless batches of a split, shuffled anew each epoch by (seed, epoch, purpose)."""

    def __init__(self, split: Split, batch_size: int, seed: int, purpose: str) -> None:
        self.split, self.seed, self.purpose = split, seed, purpose
        self.bounds = bounds(len(split), batch_size)
        self.taken = 0
        self._batches = self._endless()

    @property
    def epochs(self) -> float:
        return self.taken / len(self.bounds)

    def _endless(self) -> Iterator[Batch]:
        for epoch in count(1):
            order = torch.randperm(len(self.split), generator=generator(self.seed, epoch, self.purpose))
            order = order.to(self.split.images.device)
            for start, end in self.bounds:
                rows = order[start:end]
                self.taken += 1
                yield Batch(self.split.images[rows].float(), self.split.targets[rows], rows)

    def take(self, number: int) -> list[Batch]:
        return [next(self._batches) for _ in range(number)]


def first_step(config: TuneConfig) -> InnerStep:
    return InnerStep(learning_rate=config.learning_rate, momentum=config.momentum)


@torch.no_grad()
def score(
    task: Tuning, weights: Params, hyper: Tensor, split: Split, response: Tensor | None = None
) -> tuple[float, float]:
    """(cross-entropy in nats, accuracy) of the undisturbed network on a split."""
    loss, correct = 0.0, 0
    for start in range(0, len(split), SCORED_AT_ONCE):
        part = slice(start, start + SCORED_AT_ONCE)
        logits = task.predict(weights, hyper, split.images[part].float(), response)
        targets = split.targets[part]
        loss += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        correct += int((logits.argmax(1) == labels).sum())
    return loss / len(split), correct / len(split)
