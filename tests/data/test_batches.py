"""Batches: every image once, no last batch of one (case C28), reproducible order, fair halves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fer_nas.config import AugmentConfig
from fer_nas.data.batches import bounds, epoch, halves, ordered, steps
from fer_nas.data.split import Split


def numbered(count: int, classes: int = 7, distributions: bool = False) -> Split:
    """Images whose pixels are their number."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    labels = torch.arange(count) % classes
    targets = torch.nn.functional.one_hot(labels, classes).float() if distributions else labels
    return Split(images=images, targets=targets, names=tuple(f"image {n}" for n in range(count)))


def sizes(split: Split, batch_size: int, **options: bool) -> list[int]:
    return [len(x) for x, _ in epoch(split, batch_size, generator=torch.Generator(), **options)]


@pytest.mark.parametrize(
    ("count", "batch_size", "wanted"),
    [
        (35, 34, [35]),  # C28: a last batch of one joins the one before
        (35, 64, [35]),  # C28: a batch larger than the set
        (17, 16, [17]),  # C28: the halves of 35
        (18, 16, [16, 2]),
        (33, 16, [16, 17]),
        (32, 16, [16, 16]),
        (1, 16, [1]),
        (3, 1, [1, 1, 1]),  # asked for
        (0, 16, []),
    ],
)
def test_sizes_of_batches(count: int, batch_size: int, wanted: list[int]) -> None:
    assert sizes(numbered(count), batch_size) == wanted
    assert steps(count, batch_size) == len(wanted)


@pytest.mark.parametrize(
    ("count", "batch_size", "wanted"),
    [(35, 16, [16, 16]), (33, 16, [16, 16]), (5, 16, [5]), (32, 16, [16, 16])],
)
def test_drop_last_keeps_full_batches(count: int, batch_size: int, wanted: list[int]) -> None:
    assert sizes(numbered(count), batch_size, drop_last=True) == wanted
    assert steps(count, batch_size, drop_last=True) == len(wanted)


@given(count=st.integers(2, 300), batch_size=st.integers(2, 100))
def test_bounds_cover_without_gap_and_never_end_in_one(count: int, batch_size: int) -> None:
    found = bounds(count, batch_size)
    assert [row for start, end in found for row in range(start, end)] == list(range(count))
    assert all(2 <= end - start <= batch_size + 1 for start, end in found)
    assert all(end - start == batch_size for start, end in bounds(count, batch_size, drop_last=True)[:-1])


def test_epoch_gives_every_image_once_with_its_target_and_in_another_order_each_time() -> None:
    split, generator = numbered(50), torch.Generator().manual_seed(3)
    orders = []
    for _ in range(2):
        batches = list(epoch(split, 16, generator=generator))
        images, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        assert images.dtype == torch.float32
        orders.append(images[:, 0, 0, 0].long())
        assert torch.equal(targets, split.targets[orders[-1]])
        assert sorted(orders[-1].tolist()) == list(range(50))
    assert not torch.equal(*orders)
    again = torch.cat([x for x, _ in epoch(split, 16, generator=torch.Generator().manual_seed(3))])
    assert torch.equal(again[:, 0, 0, 0].long(), orders[0])


def test_epoch_augments_and_a_restored_generator_goes_on_the_same() -> None:
    split, generator = numbered(40), torch.Generator().manual_seed(0)
    for _ in epoch(split, 16, generator=generator, augment=AugmentConfig()):
        pass
    state = generator.get_state()
    first = [x for x, _ in epoch(split, 16, generator=generator, augment=AugmentConfig())]
    resumed = torch.Generator()
    resumed.set_state(state)
    second = [x for x, _ in epoch(split, 16, generator=resumed, augment=AugmentConfig())]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert any((x % 1 != 0).any() for x in first)


def test_ordered_keeps_order_and_a_last_batch_of_one() -> None:
    split = numbered(33, distributions=True)
    batches = list(ordered(split, 16))
    assert [len(x) for x, _ in batches] == [16, 16, 1]
    assert torch.equal(torch.cat([x for x, _ in batches]), split.images.float())
    assert torch.equal(torch.cat([y for _, y in batches]), split.targets)
    assert list(ordered(split.take(torch.arange(0)), 16)) == []


@pytest.mark.parametrize("distributions", [False, True])
def test_halves_are_disjoint_covering_and_stratified(distributions: bool) -> None:
    split = numbered(35, distributions=distributions)
    first, second = halves(split, torch.Generator().manual_seed(0))
    assert set(first.names).isdisjoint(second.names)
    assert sorted([*first.names, *second.names]) == sorted(split.names)
    assert (len(first), len(second)) == (18, 17)
    for label in range(7):
        assert abs(int((first.labels() == label).sum()) - int((second.labels() == label).sum())) <= 1
    assert first.names == tuple(f"image {int(image[0, 0, 0])}" for image in first.images)
    assert halves(split, torch.Generator().manual_seed(0))[0].names == first.names
    assert halves(split, torch.Generator().manual_seed(1))[0].names != first.names
