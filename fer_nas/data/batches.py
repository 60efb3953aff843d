"""Batches of a split in memory: shuffled for training, in order for evaluation; no worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from fer_nas.config import AugmentConfig
from fer_nas.data.augment import augment as augmented
from fer_nas.data.split import Split


def bounds(count: int, batch_size: int, drop_last: bool = False) -> list[tuple[int, int]]:
    """(start, end) of every batch of `count` images; one batch where there are fewer than `batch_size`.

    A last batch of one image joins the batch before it, since BatchNorm needs two. `drop_last` leaves out a
    last batch that is not full, unless it is the only one.
    """
    full, rest = divmod(count, batch_size)
    if full == 0:
        return [(0, count)] if count else []
    edges = [batch * batch_size for batch in range(full + 1)]
    if rest > 1 and not drop_last:
        edges.append(count)
    elif rest == 1 and not drop_last:
        edges[-1] = count
    return list(pairwise(edges))


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
        images, targets = split.images[index], split.targets[index]
        yield (images.float() if augment is None else augmented(images, augment, generator)), targets


def ordered(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The images as they are, in order: (float32 in 0..255, targets); the last batch may be smaller."""
    for start in range(0, len(split), batch_size):
        end = start + batch_size
        yield split.images[start:end].float(), split.targets[start:end]


def halves(split: Split, generator: torch.Generator) -> tuple[Split, Split]:
    """Two random halves for search: disjoint, covering; equal to one image, in all and in each class."""
    order = torch.randperm(len(split), generator=generator)
    by_class = order[split.labels().cpu()[order].argsort(stable=True)]
    first, second = by_class[::2].sort().values, by_class[1::2].sort().values
    return split.take(first.to(split.images.device)), split.take(second.to(split.images.device))
