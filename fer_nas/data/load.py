"""One way to every data set: recognize what a path is, read it, resize and thin it out as the configuration says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fer_nas.config import DataConfig
from fer_nas.data.images import FER_PREFIX, find_items, read_fer2013_images, read_images
from fer_nas.data.sampling import subset
from fer_nas.data.split import DataSet
from fer_nas.data.tree import Tree, close_tree, open_tree
from fer_nas.errors import InputError

Reader = Callable[[Tree, DataConfig, int, bool], DataSet]


@dataclass(frozen=True, kw_only=True)
class DatasetKind:
    """A row of DATASETS: how it is read and what it is."""

    read: Reader
    about: str
    has_votes: bool = False


DATASETS: dict[str, DatasetKind] = {
    "fer2013-images": DatasetKind(
        read=read_fer2013_images,
        about="FER2013 as class folders or their zip, official split by file-name prefix",
        has_votes=True,
    ),
    "images": DatasetKind(
        read=read_images, about="class folders or their zip, with or without train/val/test"
    ),
}


def recognize(path: Path) -> str:
    """The name in DATASETS of what lies at `path`; an InputError where it is nothing that can be read."""
    tree = open_tree(_existing(path))
    try:
        return _recognize(tree)
    finally:
        close_tree(tree)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"--data {path}: no such file or folder")
    return path


def _recognize(tree: Tree) -> str:
    found = find_items(tree)
    if any(FER_PREFIX.match(item.file.rsplit("/", 1)[-1]) for item in found.items):
        return "fer2013-images"
    return "images"


def load(config: DataConfig, *, seed: int = 0, report: bool = False) -> DataSet:
    """The data set of `config`; random choices (missing splits, folds, limit) are drawn by the seed.

    report: for looking at data rather than training: a source without labels gives one split `unlabelled` (targets
    are zeros, classes empty) instead of an InputError, and subjects too few for the folds give one split `all`.
    """
    if "drawn" in (config.data, config.dataset):
        return _limited(_drawn(config, seed), config.limit, seed)
    path = _existing(Path(config.data))
    tree = open_tree(path)
    try:
        kind = DATASETS[config.dataset or _recognize(tree)]
        data = kind.read(tree, config, seed, report)
    finally:
        close_tree(tree)
    return _limited(data, config.limit, seed)


def _limited(data: DataSet, limit: int | None, seed: int) -> DataSet:
    if limit is None or "train" not in data.splits or limit >= len(data.train):
        return data
    train = data.train.take(subset(data.train.labels(), limit, seed))
    note = f"--limit: {len(train)} of {len(data.train)} training images"
    return replace(data, splits={**data.splits, "train": train}, notes=(*data.notes, note))


def _drawn(config: DataConfig, seed: int) -> DataSet:
    from fer_nas.data.drawn import drawn_faces

    return drawn_faces(2100, 700, 700, seed=seed, size=config.image_size or 48)
