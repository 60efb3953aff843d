"""Splits, subsets and folds: complete, disjoint, seeded, and by class or by person as they say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_nas.data.sampling import image_folds, stratified, subject_folds, subset
from fer_nas.errors import InputError

LABELS = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)


def test_parts_hold_every_row_once_and_each_class_by_its_share() -> None:
    parts = stratified(LABELS, (0.8, 0.1, 0.1), seed=0)
    assert torch.cat(parts).sort().values.tolist() == list(range(100))
    assert [LABELS[part].bincount().tolist() for part in parts] == [[40, 24, 16], [5, 3, 2], [5, 3, 2]]


def test_parts_depend_on_the_seed_alone() -> None:
    first, again, other = (stratified(LABELS, (0.9, 0.1), seed)[1].tolist() for seed in (3, 3, 4))
    assert first == again != other


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 5))
def test_subset_has_the_size_and_the_shares(values: list[int], count: int, seed: int) -> None:
    labels = torch.tensor(values)
    rows = subset(labels, count, seed)
    assert len(rows) == min(count, len(labels))
    assert len(set(rows.tolist())) == len(rows)
    got, whole = labels[rows].bincount(minlength=5), labels.bincount(minlength=5)
    assert (got - whole * len(rows) / len(labels)).abs().max() < 1


@pytest.mark.parametrize("fold", range(4))
def test_no_person_is_in_two_splits(fold: int) -> None:
    subjects = [f"S{row % 9}" for row in range(60)]
    rows = subject_folds(subjects, 4, fold, seed=1)
    people = {name: {subjects[row] for row in part.tolist()} for name, part in rows.items()}
    assert all(people.values())
    assert not people["train"] & people["val"] | people["train"] & people["test"] | people["val"] & people["test"]
    assert sorted(torch.cat(list(rows.values())).tolist()) == list(range(60))


def test_every_person_is_tested_once_and_the_next_fold_validates() -> None:
    subjects = [f"S{row % 9}" for row in range(60)]
    folds = [subject_folds(subjects, 4, fold, seed=1) for fold in range(4)]
    assert sorted(torch.cat([rows["test"] for rows in folds]).tolist()) == list(range(60))
    assert all(torch.equal(folds[k]["val"], folds[(k + 1) % 4]["test"]) for k in range(4))


def test_image_folds_are_even_in_every_class() -> None:
    tests = [image_folds(LABELS, 5, fold, seed=0)["test"] for fold in range(5)]
    assert sorted(torch.cat(tests).tolist()) == list(range(100))
    assert [LABELS[part].bincount().tolist() for part in tests] == [[10, 6, 4]] * 5


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [(10, 0, "there are 3 subjects; choose at most 3"), (2, 0, "at least 3"), (3, 3, "from 0 to 2")],
)
def test_impossible_folds_are_refused(folds: int, fold: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        subject_folds(["A", "B", "C", "A"], folds, fold, seed=0)
