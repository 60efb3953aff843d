"""CIFAR-10, MNIST and Fashion-MNIST from the files that torchvision keeps; nothing is downloaded."""

from __future__ import annotations

import gzip
import struct
import zlib

import numpy as np
import torch
from torch import Tensor

from fer_nas.config import DataConfig
from fer_nas.data.collect import Item, make_split
from fer_nas.data.images import fill_splits, read_images
from fer_nas.data.pictures import resize
from fer_nas.data.split import DataSet
from fer_nas.data.tree import Tree
from fer_nas.errors import InputError

CIFAR_FOLDER = "cifar-10-batches-py"
DIGITS = tuple("0123456789")
FASHION = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_IDX = tuple(f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))


def idx_files(tree: Tree) -> dict[str, dict[str, str]]:
    """Folder → the four idx files of MNIST's format in it (plain or .gz), where all four are there."""
    found: dict[str, dict[str, str]] = {}
    for file in tree.files:
        folder, _, base = file.rpartition("/")
        stem = base.removesuffix(".gz").replace(".idx", "-idx")
        if stem in _IDX:
            found.setdefault(folder, {}).setdefault(stem, file)
    return {folder: files for folder, files in found.items() if len(files) == len(_IDX)}


def idx_kind(tree: Tree, folder: str) -> str | None:
    """'mnist' or 'fashion-mnist', by the names of the folder and those above it."""
    parts = [*tree.source.resolve().parts[-2:], *folder.split("/")]
    for part in reversed(parts):
        if "fashion" in part.lower():
            return "fashion-mnist"
        if "mnist" in part.lower():
            return "mnist"
    return None


def _read_idx(tree: Tree, file: str) -> np.ndarray:
    """uint8 array of an idx file: two zero bytes, type 8, dimensions, sizes as big-endian int32, values."""
    try:
        content = tree.read(file)
        if file.endswith(".gz"):
            content = gzip.decompress(content)
        zero, kind, dimensions = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dimensions}I", content, 4)
        if (zero, kind) != (0, 8):
            raise ValueError("wrong first bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise InputError(f"{tree.where(file)}: damaged, or not an idx file ({error}); get it again") from None


def read_idx(
    tree: Tree, config: DataConfig, seed: int, report: bool, *, name: str, classes: tuple[str, ...]
) -> DataSet:
    """MNIST or Fashion-MNIST; a tenth of train, by class and seed, validates."""
    folders = idx_files(tree)
    fitting = [folder for folder in folders if idx_kind(tree, folder) == name] or list(folders)
    if len(fitting) != 1:
        what = "no" if not fitting else "several folders of"
        raise InputError(f"{tree.source}: {what} idx files (train-images-idx3-ubyte.gz, …) for --dataset {name}")
    files = folders[fitting[0]]
    images, labels, split_of = [], [], []
    for part, split in (("train", "train"), ("t10k", "test")):
        pictures = _read_idx(tree, files[f"{part}-images-idx3-ubyte"])
        targets = _read_idx(tree, files[f"{part}-labels-idx1-ubyte"])
        if pictures.ndim != 3 or targets.shape != pictures.shape[:1] or targets.max(initial=0) >= len(classes):
            raise InputError(f"{tree.where(fitting[0])}: images and labels of {part} do not fit together")
        images.append(pictures)
        labels.append(targets)
        split_of += [split] * len(pictures)
    return _assemble(name, np.concatenate(images), np.concatenate(labels), split_of, classes, config, seed)


def read_cifar10(tree: Tree, config: DataConfig, seed: int, report: bool) -> DataSet:
    """CIFAR-10 from cifar-10-batches-py or class folders; a tenth of train, by class and seed, validates."""
    root = tree.root.parent if tree.root.resolve().name == CIFAR_FOLDER else tree.root
    if tree.archive is not None and CIFAR_FOLDER in tree.folders:
        raise InputError(f"{tree.source}: unpack it first and give the folder that holds {CIFAR_FOLDER}")
    if not (root / CIFAR_FOLDER).is_dir():
        return read_images(tree, config, seed, report)
    from torchvision.datasets import CIFAR10  # here: its import takes seconds

    try:
        parts = {split: CIFAR10(str(root), train=split == "train", download=False) for split in ("train", "test")}
    except (RuntimeError, OSError) as error:
        raise InputError(f"{root / CIFAR_FOLDER}: incomplete or damaged ({error}); get it again") from None
    images = np.concatenate([part.data for part in parts.values()])
    labels = np.concatenate([np.array(part.targets, np.uint8) for part in parts.values()])
    split_of = [split for split, part in parts.items() for _ in part.targets]
    return _assemble("cifar10", images, labels, split_of, tuple(parts["train"].classes), config, seed)


def _assemble(
    name: str,
    pictures: np.ndarray,
    labels: np.ndarray,
    split_of: list[str],
    classes: tuple[str, ...],
    config: DataConfig,
    seed: int,
) -> DataSet:
    """pictures: uint8 (N, H, W) or (N, H, W, 3)."""
    if config.image_size is not None:
        pictures = np.stack([resize(picture, config.image_size) for picture in pictures])
    images: Tensor = torch.from_numpy(pictures)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    items = [
        Item(file=f"{split}:{row}", label=label, split=split)
        for row, (split, label) in enumerate(zip(split_of, labels.tolist(), strict=True))
    ]
    notes: list[str] = []
    rows = fill_splits(split_of, torch.from_numpy(labels).long(), seed, notes)
    splits = {split: make_split(images, items, part) for split, part in rows.items()}
    return DataSet(name=name, classes=classes, splits=splits, notes=tuple(notes))
