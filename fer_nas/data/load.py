"""One way to every data set: recognize what a path is, read it, resize and thin it out as configured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fer_nas.config import DataConfig
from fer_nas.data.classic import CIFAR_FOLDER, DIGITS, FASHION, idx_files, idx_kind, read_cifar10, read_idx
from fer_nas.data.drawn import drawn_faces
from fer_nas.data.fer2013_csv import find_tables, read_fer2013_csv
from fer_nas.data.images import FER_PREFIX, find_items, read_fer2013_images, read_images
from fer_nas.data.labs import CK48_FILE, CK_FRAME, JAFFE_FILE, read_ck48, read_ckplus, read_jaffe
from fer_nas.data.sampling import subset
from fer_nas.data.split import DataSet
from fer_nas.data.tree import Tree, close_tree, open_tree
from fer_nas.data.votes import BESIDE, VOTES_OF_ROWS, find_votes
from fer_nas.errors import InputError

Reader = Callable[[Tree, DataConfig, int, bool], DataSet]


@dataclass(frozen=True, kw_only=True)
class DatasetKind:
    """A row of DATASETS. read: (tree, config, seed, report) → DataSet. has_votes: takes --labels ferplus."""

    read: Reader
    about: str
    has_votes: bool = False


def _read_drawn(tree: Tree, config: DataConfig, seed: int, report: bool) -> DataSet:
    return drawn_faces(2100, 700, 700, seed=seed, size=config.image_size or 48)


DATASETS: dict[str, DatasetKind] = {
    "drawn": DatasetKind(read=_read_drawn, about="generated 48×48 faces with seven expressions; needs no path"),
    "fer2013-csv": DatasetKind(
        read=read_fer2013_csv,
        about="FER2013 as fer2013.csv, icml_face_data.csv, or train.csv with test.csv",
        has_votes=True,
    ),
    "fer2013-images": DatasetKind(
        read=read_fer2013_images,
        about="FER2013 as class folders or their zip; file-name prefixes are the official split",
        has_votes=True,
    ),
    "images": DatasetKind(read=read_images, about="class folders or their zip, with or without train, val, test"),
    "cifar10": DatasetKind(read=read_cifar10, about="CIFAR-10: cifar-10-batches-py, or class folders"),
    "mnist": DatasetKind(read=partial(read_idx, name="mnist", classes=DIGITS), about="MNIST's four idx files"),
    "fashion-mnist": DatasetKind(
        read=partial(read_idx, name="fashion-mnist", classes=FASHION), about="Fashion-MNIST's four idx files"
    ),
    "ckplus": DatasetKind(read=read_ckplus, about="CK+: cohn-kanade-images and Emotion; folds over subjects"),
    "ckplus-images-out": DatasetKind(
        read=partial(read_ckplus, by_subject=False),
        about="CK+ with folds over images: people are in train and test",
    ),
    "ck48": DatasetKind(read=read_ck48, about="CK+48, the crops of CK+; folds over subjects"),
    "ck48-images-out": DatasetKind(
        read=partial(read_ck48, by_subject=False),
        about="CK+48 with folds over images: people are in train and test",
    ),
    "jaffe": DatasetKind(read=read_jaffe, about="JAFFE's tiff files; folds over subjects"),
    "jaffe-images-out": DatasetKind(
        read=partial(read_jaffe, by_subject=False),
        about="JAFFE with folds over images: people are in train and test",
    ),
}


def recognize(path: Path | str) -> str:
    """The name in DATASETS of what lies at `path`; an InputError where it is nothing that can be read."""
    if str(path) == "drawn":
        return "drawn"
    tree = _open(Path(path))
    try:
        return _recognize(tree)
    finally:
        close_tree(tree)


def load(config: DataConfig, *, seed: int = 0, report: bool = False) -> DataSet:
    """The data set of `config`; what is drawn (missing splits, folds, limit) is drawn by the seed.

    report: for looking at data, not training: a table without labels gives the split `unlabelled` (zeros as
    targets, no classes) instead of an InputError, and subjects too few for the folds one split `all`.
    """
    name = config.dataset
    if name is not None and name not in DATASETS:
        raise InputError(f"--dataset is {name!r}; known: {', '.join(DATASETS)}")
    if config.data == "drawn" or name == "drawn":
        if name not in (None, "drawn"):
            raise InputError(f"--dataset {name} needs a path: give it with --data")
        if config.data != "drawn":
            raise InputError(f"--dataset drawn generates its faces; leave out --data {config.data}")
        tree = Tree(source=Path("drawn"), root=Path("drawn"), files=(), folders=())
        name = "drawn"
    else:
        tree = _open(Path(config.data))
    try:
        name = name or _recognize(tree)
        refuse_votes(config, name)
        data = DATASETS[name].read(tree, config, seed, report)
    finally:
        close_tree(tree)
    if not report:
        _check_trainable(data, config.data)
    return _limited(data, config.limit, seed)


def require(config: DataConfig) -> None:
    """InputError where --data is not there, or FER+ votes are asked for and not; the cheap part of `load`."""
    if config.dataset is not None and config.dataset not in DATASETS:
        raise InputError(f"--dataset is {config.dataset!r}; known: {', '.join(DATASETS)}")
    drawn = "drawn" in (config.data, config.dataset)
    if not drawn and not Path(config.data).exists():
        raise InputError(f"--data {config.data}: no such file or folder")
    if config.labels == "ferplus":
        name = "drawn" if drawn else config.dataset or recognize(config.data)
        refuse_votes(config, name)
        find_votes(Path(config.data), config.votes, VOTES_OF_ROWS if name == "fer2013-csv" else BESIDE)


def refuse_votes(config: DataConfig, name: str) -> None:
    """InputError where FER+ votes are asked for of what has none."""
    if config.labels == "ferplus" and not DATASETS[name].has_votes:
        raise InputError(f"--labels ferplus: FER+ votes are for FER2013, and {config.data} is {name}")


def _open(path: Path) -> Tree:
    require(DataConfig(data=str(path)))
    return open_tree(path)


def _recognize(tree: Tree) -> str:
    if not tree.files:
        raise InputError(f"{tree.source}: no files in it; expected pictures in class folders, or a csv with pixels")
    if tree.source.is_file() and tree.archive is None:  # a csv, whatever its columns: the reader says what is wrong
        return "fer2013-csv"
    candidates = _candidates(tree)
    if len(candidates) > 1:
        raise InputError(
            f"{tree.source}: holds several data sets ({', '.join(candidates)}); "
            "give the path of one of them, or choose with --dataset"
        )
    if candidates:
        return candidates[0]
    pictures = tree.pictures()
    archives = [name for name in tree.files if name.lower().endswith(".zip")]
    if not pictures and archives:
        raise InputError(f"{tree.source}: no pictures in it; give a zip itself: {', '.join(archives[:5])}")
    if sum(JAFFE_FILE.search(name) is not None for name in pictures) * 2 > len(pictures):
        return "jaffe"
    if any(CK_FRAME.search(name) for name in pictures) or any("cohn-kanade-images/" in name for name in pictures):
        return "ckplus"
    if sum(CK48_FILE.search(name) is not None for name in pictures) * 2 > len(pictures):
        return "ck48"
    if any(FER_PREFIX.match(item.file.rpartition("/")[2]) for item in find_items(tree).items):
        return "fer2013-images"
    return "images"


def _candidates(tree: Tree) -> list[str]:
    """The data sets that are known by their files alone: tables, idx files, CIFAR's batches."""
    found = ["fer2013-csv"] if find_tables(tree) else []
    found += [kind for folder in idx_files(tree) if (kind := idx_kind(tree, folder)) is not None]
    if CIFAR_FOLDER in tree.folders or tree.root.resolve().name == CIFAR_FOLDER:
        found.append("cifar10")
    return list(dict.fromkeys(found))


def _check_trainable(data: DataSet, where: str) -> None:
    if len(data.classes) < 2:
        raise InputError(f"{where}: one class only ({', '.join(data.classes)}); at least two are needed")
    for name in ("train", "val"):
        if name not in data.splits or not len(data.splits[name]):
            raise InputError(f"{where}: too few images, none is left for the split {name!r}")


def _limited(data: DataSet, limit: int | None, seed: int) -> DataSet:
    if limit is None or "train" not in data.splits or limit >= len(data.train):
        return data
    train = data.train.take(subset(data.train.labels(), limit, seed))
    note = f"--limit: {len(train)} of {len(data.train)} training images"
    return replace(data, splits={**data.splits, "train": train}, notes=(*data.notes, note))
