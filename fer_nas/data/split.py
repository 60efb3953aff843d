"""What every data source yields: images as uint8, and for each a class or a distribution over classes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images and targets of one part of a data set.

    images: uint8 (N, C, H, W), C = 1 grey or 3 RGB. targets: int64 (N,) classes, or float32 (N, K) rows that sum
    to 1. names: one a row, for messages (file name or line). subjects: whose face it is, where that is known.
    """

    images: Tensor
    targets: Tensor
    names: tuple[str, ...]
    subjects: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        assert self.images.dtype == torch.uint8 and self.images.ndim == 4
        assert len(self.images) == len(self.targets) == len(self.names)
        assert self.subjects is None or len(self.subjects) == len(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def take(self, index: Tensor) -> Split:
        """The rows of `index` (int64), in its order."""
        rows = index.tolist()
        return replace(
            self,
            images=self.images[index],
            targets=self.targets[index],
            names=tuple(self.names[i] for i in rows),
            subjects=None if self.subjects is None else tuple(self.subjects[i] for i in rows),
        )

    def to(self, device: torch.device | str) -> Split:
        return replace(self, images=self.images.to(device), targets=self.targets.to(device))

    def labels(self) -> Tensor:
        """int64 (N,): the class, or the most probable class of a distribution."""
        return self.targets if self.targets.ndim == 1 else self.targets.argmax(1)

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the images per channel, in 0 to 255; the deviation is at least 1."""
        values = self.images.float()
        mean, std = values.mean((0, 2, 3)), values.std((0, 2, 3))
        return tuple(mean.tolist()), tuple(std.clamp_min(1.0).tolist())


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set as it was read. splits has `train` and, where the source has them, `val` and `test`.

    FER+ also has `test_largest`: the test images labelled by the largest vote instead of the majority.
    notes: one line each about what was skipped or is unusual; the commands print them to stderr.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    labels: str | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @property
    def channels(self) -> int:
        return next(iter(self.splits.values())).images.shape[1]

    @property
    def image_size(self) -> int:
        return next(iter(self.splits.values())).images.shape[-1]


def noise(count: int, classes: int, channels: int, size: int) -> DataSet:
    """Images of noise, always the same, for what is timed."""
    draw = torch.Generator().manual_seed(0)
    split = Split(
        images=torch.randint(256, (count, channels, size, size), generator=draw, dtype=torch.uint8),
        targets=torch.arange(count) % classes,
        names=("noise",) * count,
    )
    return DataSet(name="noise", classes=tuple(map(str, range(classes))), splits={"train": split})


def title(name: str, labels: str | None) -> str:
    """A data set as people are told of it."""
    return f"{name} with FER+ votes" if labels == "ferplus" else name
