"""The two label tracks of the same faces: FER2013's own label, and what ten people saw (FER+)."""

from __future__ import annotations

from typing import Any

import torch

from fer_nas.classes import FACE_CLASSES
from fer_nas.data.duplicates import REPEATED
from fer_nas.data.split import DataSet, Split
from fer_nas.data.votes import FILE_ORDER, Votes, largest, majority

_PARTS = {"training": "train", "publictest": "val", "privatetest": "test"}


def agreement(fer2013: DataSet, ferplus: DataSet) -> dict[str, Any]:
    """How often people's largest vote is FER2013's own label, for the images that have both, matched by name.

    per_split: images, share that agrees, and the rule of the FER+ label: `largest vote` where the votes are
    at hand, else `majority`. images, share and table: all splits by largest vote together. table: for each
    FER2013 class the shares of the FER+ classes, summing to 1 (all 0 where the class has no image). A share
    of no images is None.
    """
    own = {
        name: fer2013.classes[label]
        for split in fer2013.splits.values()
        for name, label in zip(split.names, split.labels().tolist(), strict=True)
    }
    counts = {a: dict.fromkeys(ferplus.classes, 0) for a in fer2013.classes}
    per_split: dict[str, dict[str, Any]] = {}
    for split_name, split in ferplus.splits.items():
        by_votes = split.targets.ndim == 2 or split_name == REPEATED
        seen = [(own[name], label) for name, label in _named(split, ferplus.classes) if name in own]
        per_split[split_name] = {
            "images": len(seen),
            "share": sum(a == b for a, b in seen) / len(seen) if seen else None,
            "rule": "largest vote" if by_votes else "majority",
        }
        for a, b in seen if by_votes else ():
            counts[a][b] += 1
    total = sum(sum(row.values()) for row in counts.values())
    same = sum(row.get(name, 0) for name, row in counts.items())
    return {
        "images": total,
        "share": same / total if total else None,
        "per_split": per_split,
        "table": {
            name: {b: count / max(sum(row.values()), 1) for b, count in row.items()} for name, row in counts.items()
        },
    }


def _named(split: Split, classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """(image name, class with the largest vote); ties go to the first class in the order of the vote file."""
    if split.targets.ndim == 1:
        labels = split.targets.tolist()
    else:
        order = sorted(range(len(classes)), key=lambda label: FILE_ORDER.index(classes[label]))
        firsts = split.targets[:, order].cpu().numpy().argmax(1)  # numpy's argmax is the first of equals
        labels = [order[first] for first in firsts]
    return [(name, classes[label]) for name, label in zip(split.names, labels, strict=True)]


def vote_counts(votes: Votes) -> dict[str, dict[str, Any]]:
    """For each split of a vote file: rows, images of each class by the majority rule, and totals."""
    splits = [_PARTS.get(part.lower(), "") for part in _usages(votes)]
    by_majority, by_largest = majority(votes.votes), largest(votes.votes)
    result = {}
    for name in _PARTS.values():
        rows = torch.tensor([split == name for split in splits])
        if not rows.any():
            continue
        labels = by_majority[rows]
        classes = torch.bincount(labels[labels >= 0], minlength=len(FACE_CLASSES)).tolist()
        result[name] = {
            "rows": int(rows.sum()),
            "majority": dict(zip(FACE_CLASSES, classes, strict=True)),
            "majority_images": sum(classes),
            "largest_images": int((by_largest[rows] >= 0).sum()),
        }
    return result


def _usages(votes: Votes) -> list[str]:
    """Training, PublicTest or PrivateTest of each row, from its column or from the start of the file name."""
    if votes.usages:
        return list(votes.usages)
    return [name.rpartition("/")[2].partition("_")[0] for name in votes.names]
