"""Which images an export is checked on, and how they are made to fit a model's channels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from fer_nas.data.split import DataSet, Split
from fer_nas.export.images import gather_check_images, match_channels


def data(**counts: int) -> DataSet:
    """Splits whose images are all of one value: val 10, train 100, test 200."""
    value = {"val": 10, "train": 100, "test": 200}
    splits = {
        name: Split(
            images=torch.full((n, 1, 8, 8), value[name], dtype=torch.uint8),
            targets=torch.zeros(n, dtype=torch.int64),
            names=tuple(map(str, range(n))),
        )
        for name, n in counts.items()
    }
    return DataSet(name="x", classes=("a",), splits=splits)


def counted(images: Tensor) -> dict[int, int]:
    return dict(zip(*(part.tolist() for part in images[:, 0, 0, 0].unique(return_counts=True)), strict=True))


def test_all_validation_images_and_no_others_where_they_are_enough() -> None:
    images, source = gather_check_images(data(train=500, val=300, test=9), 256)
    assert (counted(images), source) == ({10: 300}, "300 val")


def test_training_images_fill_up() -> None:
    images, source = gather_check_images(data(train=500, val=14, test=400), 256)
    assert (counted(images), source) == ({10: 14, 100: 242}, "14 val, 242 train")


def test_small_sets_are_filled_with_blends_the_same_each_time() -> None:
    images, source = gather_check_images(data(train=35, val=14, test=14), 256)
    assert source == "14 val, 35 train, 207 blended" and len(images) == 256
    blends = images[49:]
    assert blends.min() >= 10 and blends.max() <= 100 and len(counted(blends)) > 20
    assert torch.equal(images, gather_check_images(data(train=35, val=14, test=14), 256)[0])


def test_no_validation_split() -> None:
    images, source = gather_check_images(data(train=300), 256)
    assert (counted(images), source) == ({100: 256}, "256 train")


def test_rgb_is_greyed_as_opencv_does() -> None:
    rgb = torch.randint(0, 256, (3, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = [cv2.cvtColor(np.ascontiguousarray(i.permute(1, 2, 0)), cv2.COLOR_RGB2GRAY) for i in rgb]
    grey = match_channels(rgb, 1)
    assert grey.shape == (3, 1, 9, 7) and grey.dtype == torch.uint8
    assert np.abs(grey[:, 0].numpy().astype(int) - np.stack(expected)).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_stays_or_is_repeated(channels: int) -> None:
    grey = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    assert torch.equal(match_channels(grey, channels), grey.repeat(1, channels, 1, 1))
