"""The images that an export is checked on and a model is scored on.

Shapes: N images, C channels, S side in pixels; uint8.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fer_nas.artifacts import ModelMetadata
from fer_nas.config import DataConfig
from fer_nas.data.load import load
from fer_nas.data.split import DataSet, Split
from fer_nas.errors import InputError

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: what OpenCV and Pillow use for RGB → grey


def match_channels(images_NCSS: Tensor, channels: int) -> Tensor:
    """uint8 images with 1 or 3 channels as a model with `channels` takes them: RGB greyed, grey repeated."""
    have = images_NCSS.shape[1]
    if have == channels:
        return images_NCSS
    if (have, channels) == (1, 3):
        return images_NCSS.expand(-1, 3, -1, -1)
    assert (have, channels) == (3, 1), f"{have} channels cannot become {channels}"
    weights = torch.tensor(LUMA).view(1, 3, 1, 1)
    parts = [(chunk.cpu().float() * weights).sum(1, keepdim=True).round() for chunk in images_NCSS.split(1024)]
    return torch.cat(parts).to(torch.uint8)


def load_for(model: Path, metadata: ModelMetadata, config: DataConfig, seed: int) -> DataSet:
    """The data set of `config` at the model's image size; InputError where its classes are not the model's."""
    data = load(replace(config, image_size=metadata.input_size), seed=seed)
    if data.classes != metadata.classes:
        raise InputError(
            f"{model} knows {', '.join(metadata.classes)}; {config.data} has {', '.join(data.classes)}: "
            "give the data set, and the --labels, that it was trained on"
        )
    return data


def part_of(data: DataSet, split: str, where: str) -> Split:
    """A split by its name; InputError where it is not there or is empty."""
    if split not in data.splits or not len(data.splits[split]):
        raise InputError(f"{where} has no images in split {split!r}; it has {', '.join(data.splits)}")
    return data.splits[split]


def gather_check_images(data: DataSet, count: int, seed: int = 0) -> tuple[Tensor, str]:
    """At least `count` uint8 images and where they come from, such as '3589 val'.

    All validation images; where those are fewer, training images drawn by `seed` fill up, and where the data
    set is smaller than that, random blends of two of its images do.
    """
    parts: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(seed)
    for name in ("val", "train"):
        have = sum(map(len, parts.values()))
        if name not in data.splits or have >= count:
            continue
        images = data.splits[name].images.cpu()
        if name != "val":
            images = images[torch.randperm(len(images), generator=generator)[: count - have]]
        parts[name] = images
    found = torch.cat(list(parts.values()))
    missing = count - len(found)
    if missing > 0:
        one, other = torch.randint(len(found), (2, missing), generator=generator)
        share = torch.rand(missing, 1, 1, 1, generator=generator)
        parts["blended"] = (share * found[one] + (1 - share) * found[other]).round().to(torch.uint8)
        found = torch.cat([found, parts["blended"]])
    return found, ", ".join(f"{len(images)} {name}" for name, images in parts.items() if len(images))
