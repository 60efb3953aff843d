"""Batches of a split that lies in memory: shuffled for training, in order for evaluation; no worker processes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fer_nas.config import AugmentConfig
from fer_nas.data.augment import augment as augmented
from fer_nas.data.split import Split


def bounds(count: int, batch_size: int, drop_last: bool = False) -> list[tuple[int, int]]:
    """(start, end) of every batch of `count` images.

    A last batch of one image joins the batch before it, since BatchNorm needs two. `drop_last` leaves out a last
    batch that is not full, unless it is the only one.
    """
    assert batch_size >= 1
    starts = list(range(0, count, batch_size))
    rest = count % batch_size
    if len(starts) > 1 and rest and (drop_last or rest == 1):
        starts.pop()
    ends = [*starts[1:], len(starts) * batch_size if drop_last else count]
    return [(start, min(end, count)) for start, end in zip(starts, ends, strict=True)] if starts else []


def steps(count: int, batch_size: int, drop_last: bool = False) -> int:
    """How many batches `epoch` makes of `count` images."""
    return len(bounds(count, batch_size, drop_last))


def epoch(
    split: Split,
    batch_size: int,
    *,
    generator: torch.Generator,
    augment: AugmentConfig | None = None,
    drop_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once, shuffled: (float32 images (N, C, H, W) in 0..255, targets), on the split's device.

    The order and the changes come from `generator` (on the CPU). For the sizes of the batches see `bounds`.
    """
    order = torch.randperm(len(split), generator=generator).to(split.images.device)
    for start, end in bounds(len(split), batch_size, drop_last):
        index = order[start:end]
        images = split.images[index]
        yield (
            (images.float() if augment is None else augmented(images, augment, generator)),
            split.targets[index],
        )


def ordered(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The images as they are, in order: (float32 images in 0..255, targets); the last batch may be smaller."""
    for images, targets in zip(split.images.split(batch_size), split.targets.split(batch_size), strict=True):
        yield images.float(), targets


def halves(split: Split, generator: torch.Generator) -> tuple[Split, Split]:
    """Two random halves for search: disjoint, covering, and equal to within one image in total and in each class."""
    order = torch.randperm(len(split), generator=generator)
    by_class = order[split.labels().cpu()[order].argsort(stable=True)]
    first, second = by_class[::2].sort().values, by_class[1::2].sort().values
    return split.take(first.to(split.images.device)), split.take(second.to(split.images.device))
