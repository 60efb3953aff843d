"""FER2013 with both label tracks, and the other real sets: the published counts, the same from every form."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from fer_nas.classes import FACE_CLASSES
from fer_nas.config import DataConfig
from fer_nas.data.images import find_items
from fer_nas.data.load import load, recognize
from fer_nas.data.split import DataSet
from fer_nas.data.tree import open_tree
from fer_nas.data.votes import FILE_ORDER, majority, read_votes

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STEP = 24
"""Every how many of FER2013's images are written again in the other forms."""


@pytest.fixture(scope="module")
def official(data_root: Path) -> DataSet:
    return load(DataConfig(data=str(data_root / "fer2013.zip")))


@pytest.fixture(scope="module")
def ferplus(data_root: Path) -> DataSet:
    return load(DataConfig(data=str(data_root / "fer2013.zip"), labels="ferplus"))


def by_class(data: DataSet, split: str) -> list[int]:
    return data.splits[split].labels().bincount(minlength=len(data.classes)).tolist()


def test_official_counts(official: DataSet, data_root: Path) -> None:
    assert recognize(data_root / "fer2013.zip") == "fer2013-images"
    assert official.classes == FACE_CLASSES[:7] and official.notes == ()
    assert by_class(official, "train") == [3995, 436, 4097, 7215, 4830, 3171, 4965]
    assert by_class(official, "val") == [467, 56, 496, 895, 653, 415, 607]
    assert by_class(official, "test") == [491, 55, 528, 879, 594, 416, 626]
    assert official.train.images.shape == (28709, 1, 48, 48)


def test_ferplus_counts(ferplus: DataSet) -> None:
    assert ferplus.classes == FACE_CLASSES
    assert {name: len(split) for name, split in ferplus.splits.items()} == {
        "train": 28386,
        "val": 3199,
        "test": 3152,
        "test_largest": 3545,
    }
    test = dict(zip(FACE_CLASSES, by_class(ferplus, "test"), strict=True))
    assert test == {
        "neutral": 1089,
        "happy": 893,
        "surprise": 396,
        "sad": 384,
        "angry": 273,
        "fear": 83,
        "disgust": 18,
        "contempt": 16,
    }
    assert ferplus.train.targets.dtype == torch.float32 and ferplus.train.targets.shape == (28386, 8)
    assert torch.allclose(ferplus.train.targets.sum(1), torch.ones(28386), atol=1e-6)
    assert ferplus.splits["test"].targets.dtype == torch.int64
    assert ferplus.notes[0] == "images left out for want of votes in ferplus.csv: 177"


def test_majority_counts_of_training(data_root: Path) -> None:
    votes = read_votes(data_root / "ferplus.csv")
    rows = torch.tensor(["/Training_" in name for name in votes.names])
    winners = majority(votes.votes[rows])
    assert len(winners) == 28558
    counts = {name: int((winners == FACE_CLASSES.index(name)).sum()) for name in FILE_ORDER}
    assert sum(counts.values()) == 25057
    assert list(counts.values()) == [8739, 7287, 3149, 3013, 2099, 119, 532, 119]


def test_both_tracks_see_the_same_pictures(official: DataSet, ferplus: DataSet) -> None:
    for name in ("train", "val", "test"):
        row_of = {file: row for row, file in enumerate(official.splits[name].names)}
        rows = torch.tensor([row_of[file] for file in ferplus.splits[name].names])
        assert torch.equal(official.splits[name].images[rows], ferplus.splits[name].images)


Sample = dict[str, list[tuple[str, torch.Tensor, int]]]


@pytest.fixture(scope="module")
def sample(official: DataSet) -> Sample:
    """split → every STEP-th (file name, image, class)."""
    return {
        name: list(zip(split.names, split.images, split.targets.tolist(), strict=True))[::STEP]
        for name, split in official.splits.items()
    }


@pytest.fixture(scope="module")
def other_forms(sample: Sample, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample as folder/ with ferplus.csv beside it, and as fer2013.csv with fer2013new.csv."""
    root = tmp_path_factory.mktemp("forms")
    usages = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
    lines = (data_root / "ferplus.csv").read_text().splitlines()
    votes_of = dict(line.split(",", 1) for line in lines[1:])
    table, votes = ["emotion,pixels,Usage"], ["Usage,Image name," + lines[0].split(",", 1)[1]]
    with zipfile.ZipFile(data_root / "fer2013.zip") as archive:
        for split, rows in sample.items():
            for name, image, label in rows:
                path = root / "folder" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))
                pixels = " ".join(map(str, image.flatten().tolist()))
                table.append(f"{label},{pixels},{usages[split]}")
                known = votes_of.get(name)
                place = f"fer{len(votes) - 1:07d}.png" if known else ""
                votes.append(f"{usages[split]},{place},{known or '0,0,0,0,0,0,0,0,0,10'}")
    (root / "fer2013.csv").write_text("\n".join(table))
    (root / "fer2013new.csv").write_text("\n".join(votes))
    (root / "ferplus.csv").write_text("\n".join(lines))
    return root


def test_folder_and_table_hold_the_same_as_the_zip(sample: Sample, other_forms: Path) -> None:
    folder = load(DataConfig(data=str(other_forms / "folder")))
    table = load(DataConfig(data=str(other_forms / "fer2013.csv")))
    for split, rows in sample.items():
        images, labels = torch.stack([row[1] for row in rows]), torch.tensor([row[2] for row in rows])
        assert folder.splits[split].names == tuple(row[0] for row in rows)
        for data in (folder, table):
            assert torch.equal(data.splits[split].images, images)
            assert torch.equal(data.splits[split].targets, labels)


def test_votes_are_the_same_from_both_files(ferplus: DataSet, sample: Sample, other_forms: Path) -> None:
    folder = load(DataConfig(data=str(other_forms / "folder"), labels="ferplus"))
    table = load(DataConfig(data=str(other_forms / "fer2013.csv"), labels="ferplus"))
    source = {"train": "train", "val": "val", "test": "test", "test_largest": "test"}
    for split, drawn_from in source.items():
        row_of = {name: row for row, name in enumerate(ferplus.splits[split].names)}
        rows = torch.tensor([row_of[name] for name, _, _ in sample[drawn_from] if name in row_of])
        assert len(rows) > 100
        for data in (folder, table):
            assert torch.equal(data.splits[split].images, ferplus.splits[split].images[rows])
            assert torch.equal(data.splits[split].targets, ferplus.splits[split].targets[rows])


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnists(data_root: Path, name: str) -> None:
    data = load(DataConfig(data=str(data_root), dataset=name))
    assert {split: len(part) for split, part in data.splits.items()} == {
        "train": 54000,
        "val": 6000,
        "test": 10000,
    }
    assert data.train.images.shape[1:] == (1, 28, 28) and len(data.classes) == 10
    if name == "mnist":
        assert by_class(data, "test") == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_cifar10_zip(data_root: Path, tmp_path: Path) -> None:
    found = find_items(open_tree(data_root / "cifar10.zip"))
    assert len(found.items) == 60000
    assert found.classes == CIFAR10
    with (
        zipfile.ZipFile(data_root / "cifar10.zip") as source,
        zipfile.ZipFile(tmp_path / "c.zip", "w") as part,
    ):
        for item in found.items[::100]:
            part.writestr(item.file, source.read(item.file))
    data = load(DataConfig(data=str(tmp_path / "c.zip")))
    assert data.train.images.shape == (450, 3, 32, 32) and by_class(data, "test") == [10] * 10
    assert by_class(data, "val") == [5] * 10 and recognize(tmp_path / "c.zip") == "images"
