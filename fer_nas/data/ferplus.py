"""FER2013's images with the FER+ votes as targets; rules and counts in `votes`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fer_nas.classes import FACE_CLASSES
from fer_nas.data.collect import Item, make_split
from fer_nas.data.split import DataSet
from fer_nas.data.votes import Votes, distribution, largest, majority


def ferplus_splits(
    images: Tensor,
    items: Sequence[Item],
    rows: dict[str, Tensor],
    votes: Votes,
    vote_rows: Sequence[int],
    notes: list[str],
) -> DataSet:
    """train: vote distributions of all images whose first class is an expression. val and test: classes by
    the majority rule. test_largest: the test images again, by the largest vote.

    rows: the images of each split; vote_rows: the row in `votes` of each image, -1 where it has none.
    """
    row_of = torch.tensor(vote_rows)
    missing = int((row_of < 0).sum())
    if missing:
        notes.append(f"images left out for want of votes in {votes.path.name}: {missing}")
    splits = {}
    for name, part in rows.items():
        voted = part[row_of[part] >= 0]
        ballots = votes.votes[row_of[voted]]
        if name == "train":
            counts = largest(ballots) >= 0
            splits[name] = make_split(images, items, voted[counts], distribution(ballots[counts]))
            rule = "first class is an expression"
        else:
            winners = majority(ballots)
            counts = winners >= 0
            splits[name] = make_split(images, items, voted[counts], winners[counts])
            rule = "majority rule"
        notes.append(f"FER+ {name}: {int(counts.sum())} of {len(part)} images count ({rule})")
        if name == "test":
            winners = largest(ballots)
            counts = winners >= 0
            splits["test_largest"] = make_split(images, items, voted[counts], winners[counts])
            notes.append(f"FER+ test_largest: {int(counts.sum())} of {len(part)} images count (largest vote)")
    return DataSet(name="fer2013", classes=FACE_CLASSES, splits=splits, labels="ferplus", notes=tuple(notes))
