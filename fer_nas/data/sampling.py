"""Seeded choices of rows: stratified parts, a stratified subset, folds of subjects or of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fer_nas.errors import InputError


def stratified(labels: Tensor, shares: Sequence[float], seed: int) -> list[Tensor]:
    """Rows dealt into len(shares) parts (int64, ascending), in every class by the shares (they sum to 1).

    Rounding is carried from part to part, so that each class is dealt out completely.
    """
    assert abs(sum(shares) - 1) < 1e-9
    generator = torch.Generator().manual_seed(seed)
    parts: list[list[Tensor]] = [[] for _ in shares]
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        start, total = 0, 0.0
        for part, share in zip(parts, shares, strict=True):
            total += share
            end = round(total * len(rows))
            part.append(rows[start:end])
            start = end
    return [torch.cat(part).sort().values if part else torch.empty(0, dtype=torch.int64) for part in parts]


def subset(labels: Tensor, count: int, seed: int) -> Tensor:
    """`count` rows (int64, ascending), each class by its share (largest remainders); at most all rows."""
    if count >= len(labels):
        return torch.arange(len(labels))
    generator = torch.Generator().manual_seed(seed)
    classes, sizes = labels.unique(return_counts=True)
    exact = sizes.double() * count / len(labels)
    quota = exact.floor().long()
    for index in (exact - quota).argsort(descending=True, stable=True)[: count - int(quota.sum())].tolist():
        quota[index] += 1
    chosen = []
    for label, wanted in zip(classes.tolist(), quota.tolist(), strict=True):
        rows = (labels == label).nonzero().flatten()
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[:wanted]])
    return torch.cat(chosen).sort().values


def subject_folds(subjects: Sequence[str], folds: int, fold: int, seed: int) -> dict[str, Tensor]:
    """Rows of a k-fold over subjects: `fold` is test, the next one val, the rest train.

    Subjects are shuffled by the seed and dealt to the folds in turn, so no subject is in two of them.
    """
    distinct = sorted(set(subjects))
    _check_fold(folds, fold)
    if folds > len(distinct):
        raise InputError(f"--folds is {folds} but there are {len(distinct)} subjects; {_at_most(len(distinct))}")
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed)).tolist()
    fold_of = {distinct[subject]: position % folds for position, subject in enumerate(order)}
    return _by_fold(torch.tensor([fold_of[subject] for subject in subjects]), folds, fold)


def image_folds(labels: Tensor, folds: int, fold: int, seed: int) -> dict[str, Tensor]:
    """As `subject_folds`, but over images, stratified by class: the same person can be in train and test."""
    _check_fold(folds, fold)
    if folds > len(labels):
        raise InputError(f"--folds is {folds} but there are {len(labels)} images; {_at_most(len(labels))}")
    order = torch.empty(0, dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        order = torch.cat([order, rows[torch.randperm(len(rows), generator=generator)]])
    fold_of = torch.empty_like(order)
    fold_of[order] = torch.arange(len(order)) % folds
    return _by_fold(fold_of, folds, fold)


def _at_most(count: int) -> str:
    return f"choose at most {count}" if count >= 3 else "folds need at least 3"


def _check_fold(folds: int, fold: int) -> None:
    if folds < 3:
        raise InputError(f"--folds is {folds}; at least 3 are needed: one tests, the next validates, the rest train")
    if not 0 <= fold < folds:
        raise InputError(f"--fold is {fold}; with --folds {folds} it goes from 0 to {folds - 1}")


def _by_fold(fold_of: Tensor, folds: int, fold: int) -> dict[str, Tensor]:
    test, val = fold_of == fold, fold_of == (fold + 1) % folds
    masks = {"train": ~(test | val), "val": val, "test": test}
    return {name: mask.nonzero().flatten() for name, mask in masks.items()}
