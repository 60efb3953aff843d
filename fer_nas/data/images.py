"""Class folders of pictures, or their zip: any data set, and FER2013 in the layout of its Kaggle archive."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fer_nas.classes import FACE_CLASSES, canonical_class, in_face_order
from fer_nas.config import DataConfig
from fer_nas.data.collect import Item, make_split, read_items
from fer_nas.data.ferplus import ferplus_splits
from fer_nas.data.sampling import stratified
from fer_nas.data.split import DataSet
from fer_nas.data.tree import Tree, is_picture
from fer_nas.data.votes import find_votes, name_keys, read_votes
from fer_nas.errors import InputError

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
FER_PREFIX = re.compile(r"^(training|publictest|privatetest)_", re.IGNORECASE)
FER_USAGES = {"training": "train", "publictest": "val", "privatetest": "test"}
FER2013_CLASSES = FACE_CLASSES[:7]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Pictures in class folders: items (label = index into classes), and what was odd about the tree."""

    classes: tuple[str, ...]
    items: tuple[Item, ...]
    notes: tuple[str, ...]


def find_items(tree: Tree) -> Found:
    """The pictures of `[wrapper/](train|val|test)/<class>/**` or `[wrapper/]<class>/**`.

    Classes: expressions in the canonical order where every folder is one, the sorted names where none is;
    a mixture is an InputError that lists what is known.
    """
    pictures = [(name, tuple(name.split("/"))) for name in tree.files if is_picture(name)]
    folders = {parts[:-1] for _, parts in pictures}
    base = _base(folders)
    splits = {folder.lower() for folder in _below(folders, base)} & set(SPLIT_FOLDERS)
    depth = len(base) + (1 if splits else 0)
    notes: list[str] = []
    stray = [name for name, parts in pictures if not _fits(parts, base, depth, bool(splits))]
    if stray:
        notes.append(f"{len(stray)} pictures outside class folders left out, the first is {tree.where(stray[0])}")
    chosen = [(name, parts) for name, parts in pictures if _fits(parts, base, depth, bool(splits))]
    if not chosen:
        what = "pictures lie outside class folders" if pictures else "no pictures in it"
        raise InputError(f"{tree.source}: {what}; expected train/<class>/*.jpg or <class>/*.jpg")
    classes, index = _classes(tree, {parts[depth] for _, parts in chosen})
    filled = {parts[: depth + 1] for _, parts in chosen}
    for folder in tree.folders:
        parts = tuple(folder.split("/"))
        if len(parts) == depth + 1 and _fits((*parts, ""), base, depth, bool(splits)) and parts not in filled:
            notes.append(f"class folder without pictures left out: {tree.where(folder)}")
    items = tuple(
        Item(
            file=name,
            label=index[parts[depth]],
            split=SPLIT_FOLDERS[parts[depth - 1].lower()] if splits else "",
        )
        for name, parts in chosen
    )
    return Found(classes=classes, items=items, notes=tuple(notes))


def _below(folders: set[tuple[str, ...]], base: tuple[str, ...]) -> set[str]:
    """Names of the folders in `base` on the way to pictures; folders: those that pictures lie in."""
    return {parts[len(base)] for parts in folders if len(parts) > len(base) and parts[: len(base)] == base}


def _base(folders: set[tuple[str, ...]]) -> tuple[str, ...]:
    """The folders that archives wrap around the splits: only ones of their level, neither split nor class."""
    base: tuple[str, ...] = ()
    while True:
        below = _below(folders, base)
        if len(below) != 1:
            return base
        (only,) = below
        inner = _below(folders, (*base, only))
        if only.lower() in SPLIT_FOLDERS or canonical_class(only) or not inner:
            return base
        base = (*base, only)


def _fits(parts: tuple[str, ...], base: tuple[str, ...], depth: int, in_splits: bool) -> bool:
    if len(parts) < depth + 2 or parts[: len(base)] != base:
        return False
    return not in_splits or parts[depth - 1].lower() in SPLIT_FOLDERS


def _classes(tree: Tree, names: set[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes in their order, and folder name → index."""
    expressions = {name: canonical for name in names if (canonical := canonical_class(name))}
    if not expressions:
        order = tuple(sorted(names))
        return order, {name: order.index(name) for name in names}
    unknown = sorted(names - set(expressions))
    if unknown:
        raise InputError(
            f"{tree.source}: unknown expression class {', '.join(map(repr, unknown))} beside "
            f"{', '.join(sorted(expressions))}; known: {', '.join(FACE_CLASSES)}"
        )
    order = in_face_order(set(expressions.values()))
    return order, {name: order.index(canonical) for name, canonical in expressions.items()}


def fill_splits(split_of: list[str], labels: Tensor, seed: int, notes: list[str]) -> dict[str, Tensor]:
    """Rows of each split, from what the source says of each row ('' = nothing).

    Neither val nor test: all rows 80/10/10, by class and seed. No val: a tenth of train. The notes say so.
    """
    rows = {
        name: torch.tensor([i for i, split in enumerate(split_of) if split == name], dtype=torch.int64)
        for name in ("train", "val", "test", "")
    }
    loose = rows.pop("")
    if not len(rows["val"]) and not len(rows["test"]):
        every = torch.cat([rows["train"], loose]).sort().values
        parts = [every[part] for part in stratified(labels[every], (0.8, 0.1, 0.1), seed)]
        sizes = "/".join(str(len(part)) for part in parts)
        notes.append(f"no split in the source: train/val/test 80/10/10 by class with seed {seed}: {sizes}")
        rows = dict(zip(rows, parts, strict=True))
    elif not len(rows["train"]):
        raise InputError(f"no training images: the source has {' and '.join(n for n in rows if len(rows[n]))} only")
    elif not len(rows["val"]):
        train = rows["train"]
        rows["train"], rows["val"] = (train[part] for part in stratified(labels[train], (0.9, 0.1), seed))
        notes.append(f"no validation split in the source: {len(rows['val'])} of {len(train)} train, seed {seed}")
    elif not len(rows["test"]):
        notes.append("no test split in the source")
    return {name: part for name, part in rows.items() if len(part)}


def read_images(tree: Tree, config: DataConfig, seed: int, report: bool) -> DataSet:
    """Any class folders; see `find_items` for the classes and `fill_splits` for the splits."""
    found = find_items(tree)
    notes = list(found.notes)
    images, items = read_items(tree, found.items, grey=None, image_size=config.image_size, notes=notes)
    rows = fill_splits([item.split for item in items], torch.tensor([item.label for item in items]), seed, notes)
    splits = {name: make_split(images, items, part) for name, part in rows.items()}
    return DataSet(name=tree.source.stem, classes=found.classes, splits=splits, notes=tuple(notes))


def read_fer2013_images(tree: Tree, config: DataConfig, seed: int, report: bool) -> DataSet:
    """FER2013 as pictures; the file-name prefix is the official split, whatever folder the file lies in."""
    found = find_items(tree)
    notes = list(found.notes)
    classes = FER2013_CLASSES + tuple(name for name in found.classes if name not in FER2013_CLASSES)
    if not set(found.classes) <= set(FACE_CLASSES):
        raise InputError(f"{tree.source}: not FER2013, its classes are {', '.join(found.classes[:10])}")
    plain = 0
    placed: list[Item] = []
    for item in found.items:
        prefix = FER_PREFIX.match(item.file.rpartition("/")[2])
        plain += prefix is None
        split = FER_USAGES[prefix[1].lower()] if prefix else item.split
        placed.append(replace(item, split=split, label=classes.index(found.classes[item.label])))
    if plain:
        notes.append(f"{plain} pictures without the prefix Training_, PublicTest_, PrivateTest_: split by their folder")
    images, items = read_items(tree, placed, grey=True, image_size=config.image_size, notes=notes)
    split_of = [item.split for item in items]
    labels = torch.tensor([item.label for item in items])
    if config.labels == "ferplus":
        votes = read_votes(find_votes(tree.source, config.votes))
        row_of = votes.by_name()
        vote_rows = [next((row_of[key] for key in name_keys(item.file) if key in row_of), -1) for item in items]
        if max(vote_rows) < 0:
            raise InputError(f"{votes.path} names none of the pictures of {tree.source}, such as {items[0].file}")
        rows = fill_splits(split_of, labels, seed, notes)
        return ferplus_splits(images, items, rows, votes, vote_rows, notes)
    rows = fill_splits(split_of, labels, seed, notes)
    splits = {name: make_split(images, items, part) for name, part in rows.items()}
    return DataSet(name="fer2013", classes=classes, splits=splits, labels="fer2013", notes=tuple(notes))
