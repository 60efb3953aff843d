"""Picture files and their classes → one uint8 tensor; what cannot be read is named and left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fer_nas.data.pictures import UnreadablePicture, read_picture, resize, to_grey
from fer_nas.data.split import Split
from fer_nas.data.tree import Tree
from fer_nas.errors import InputError

LISTED = 50
"""How many skipped files or lines the notes name before they only count."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A picture: its path in the tree, class, split (where the source says it), whose face it is."""

    file: str
    label: int
    split: str = ""
    subject: str | None = None


def listed(notes: list[str], lines: Sequence[str], what: str) -> None:
    """Notes for `lines`, the first LISTED of them by name."""
    notes.extend(lines[:LISTED])
    if len(lines) > LISTED:
        notes.append(f"… and {len(lines) - LISTED} more {what}")


def read_items(
    tree: Tree,
    items: Sequence[Item],
    *,
    grey: bool | None,
    image_size: int | None,
    notes: list[str],
    prepare: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[Tensor, list[Item]]:
    """images uint8 (N, C, H, W) and the items they belong to, without those that cannot be read.

    grey: one channel; None: one channel where every picture has R=G=B. prepare: first, to each RGB picture.
    InputError where nothing can be read, or sizes differ or are not square and no image_size is given.
    """
    pictures: list[np.ndarray] = []
    kept: list[Item] = []
    unreadable: list[str] = []
    for item in items:
        try:
            picture = read_picture(tree.read(item.file))
        except (UnreadablePicture, OSError) as error:
            unreadable.append(f"unreadable picture left out: {tree.where(item.file)} ({error})")
            continue
        if prepare is not None:
            picture = prepare(picture)
        if image_size is not None:
            picture = resize(picture, image_size)
        pictures.append(to_grey(picture) if grey else picture)
        kept.append(item)
    listed(notes, unreadable, "unreadable pictures")
    if not pictures:
        raise InputError(f"{tree.source}: none of its {len(items)} pictures can be read")
    _check_sizes(tree, pictures, kept)
    if grey is None and all(_is_grey(picture) for picture in pictures):
        pictures = [picture[:, :, 0] for picture in pictures]
    stack = torch.from_numpy(np.stack(pictures))
    images = stack.unsqueeze(1) if stack.ndim == 3 else stack.permute(0, 3, 1, 2).contiguous()
    return images, kept


def _is_grey(picture: np.ndarray) -> bool:
    return bool((picture[..., 0] == picture[..., 1]).all() and (picture[..., 1] == picture[..., 2]).all())


def _check_sizes(tree: Tree, pictures: list[np.ndarray], items: list[Item]) -> None:
    sizes = Counter(picture.shape[:2] for picture in pictures)
    if len(sizes) > 1:
        found = ", ".join(f"{width}×{height} ({count})" for (height, width), count in sizes.most_common(4))
        usual = sizes.most_common(1)[0][0]
        odd = next(item.file for item, picture in zip(items, pictures, strict=True) if picture.shape[:2] != usual)
        raise InputError(
            f"{tree.source}: pictures of {len(sizes)} sizes: {found}; the first odd one is {odd}; "
            "give --image-size to resize them"
        )
    height, width = pictures[0].shape[:2]
    if height != width:
        raise InputError(f"{tree.source}: pictures are {width}×{height}, not square; give --image-size to resize them")


def make_split(images: Tensor, items: Sequence[Item], rows: Tensor, targets: Tensor | None = None) -> Split:
    """The Split of `rows` (int64 into images and items). targets: one a row; None: the items' classes."""
    chosen = [items[row] for row in rows.tolist()]
    subjects = tuple(item.subject or "" for item in chosen) if any(item.subject for item in chosen) else None
    return Split(
        images=images[rows],
        targets=torch.tensor([item.label for item in chosen]) if targets is None else targets,
        names=tuple(item.file for item in chosen),
        subjects=subjects,
    )
