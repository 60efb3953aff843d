"""Drawn faces: balanced, the same for a seed, hard for a linear classifier, learnable for a small network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fer_nas.classes import FACE_CLASSES
from fer_nas.config import AugmentConfig
from fer_nas.data.batches import epoch, ordered, steps
from fer_nas.data.drawn import drawn_faces
from fer_nas.data.split import DataSet, Split


@pytest.fixture(scope="module")
def faces() -> DataSet:
    return drawn_faces()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small layers gain nothing from a second thread, and wait for it where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_shapes_classes_and_balance(faces: DataSet) -> None:
    assert faces.name == "drawn" and faces.classes == FACE_CLASSES[:7]
    assert {name: len(split) for name, split in faces.splits.items()} == {
        "train": 2100,
        "val": 700,
        "test": 700,
    }
    for split in faces.splits.values():
        assert split.images.shape[1:] == (1, 48, 48)
        assert torch.bincount(split.targets).tolist() == [len(split) // 7] * 7
        assert len(set(split.names)) == len(split)
        assert split.images.float().std((1, 2, 3)).min() > 5


def test_no_face_twice(faces: DataSet) -> None:
    images = torch.cat([split.images.flatten(1) for split in faces.splits.values()])
    assert len(images.unique(dim=0)) == 3500


def test_same_seed_same_faces_and_a_smaller_set_is_the_start_of_a_larger() -> None:
    small, larger, other = (
        drawn_faces(14, 7, 7, seed=4),
        drawn_faces(21, 7, 7, seed=4),
        drawn_faces(14, 7, 7, seed=5),
    )
    assert torch.equal(small.splits["test"].images, larger.splits["test"].images)
    assert torch.equal(small.train.targets, larger.train.targets[:14])
    assert not torch.equal(small.train.images, other.train.images)
    assert torch.equal(small.train.images, drawn_faces(14, 7, 7, seed=4).train.images)


@pytest.mark.parametrize("size", [8, 28, 64, 224])
def test_other_sizes(size: int) -> None:
    images = drawn_faces(7, 0, 0, size=size).train.images
    assert images.shape == (7, 1, size, size)
    assert images.float().std((1, 2, 3)).min() > 5


def test_linear_classifier_stays_under_80_percent(faces: DataSet, one_thread: None) -> None:
    """Multinomial logistic regression on standardized pixels, at its minimum."""
    train, test = faces.train, faces.splits["test"]
    pixels = train.images.flatten(1).float()
    mean, deviation = pixels.mean(0), pixels.std(0)
    inputs = (pixels - mean) / deviation
    weight, bias = torch.zeros(7, 48 * 48, requires_grad=True), torch.zeros(7, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-4)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(inputs @ weight.T + bias, train.targets) + 0.01 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    loss()
    assert weight.grad is not None and weight.grad.abs().max() < 2e-3  # converged
    with torch.no_grad():
        scores = (test.images.flatten(1).float() - mean) / deviation @ weight.T + bias
    accuracy = (scores.argmax(1) == test.targets).float().mean().item()
    assert 0.4 < accuracy < 0.8


def block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


def accuracy_of(network: nn.Module, split: Split) -> float:
    network.eval()
    with torch.no_grad():
        right = sum(int((network((x - 128) / 64).argmax(1) == y).sum()) for x, y in ordered(split, 250))
    return right / len(split)


def test_small_network_passes_95_percent(faces: DataSet, one_thread: None) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(*block(1, 6), *block(6, 16), *block(16, 32), nn.Flatten(), nn.Linear(32 * 36, 7))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    epochs, batch_size = 6, 50
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    total = epochs * steps(len(faces.train), batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total)
    light = AugmentConfig(shift=0.06, rotate=0, scale=0, brightness=0, contrast=0)
    for _ in range(epochs):
        network.train()
        for x, y in epoch(faces.train, batch_size, generator=generator, augment=light):
            optimizer.zero_grad()
            F.cross_entropy(network((x - 128) / 64), y).backward()
            optimizer.step()
            schedule.step()
    accuracy = accuracy_of(network, faces.splits["test"])
    assert accuracy > 0.95


def test_faces_need_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drawn_faces(7, 7, 7)
    assert list(tmp_path.iterdir()) == []
