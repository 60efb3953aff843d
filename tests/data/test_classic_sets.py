"""CIFAR-10, MNIST and Fashion-MNIST from small files of their formats, as torchvision reads them."""

from __future__ import annotations

import gzip
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, MNIST

from fer_nas.config import DataConfig
from fer_nas.data.load import load, recognize
from fer_nas.data.split import DataSet
from fer_nas.errors import InputError


def read(path: Path, **fields: object) -> DataSet:
    return load(DataConfig(data=str(path), **fields))  # type: ignore[arg-type]


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_mnist(folder: Path, *, packed: bool, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 200), ("t10k", 50)):
        for kind, values in (
            ("images-idx3", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)),
            ("labels-idx1", (np.arange(count) % 10).astype(np.uint8)),
        ):
            content = idx(values)
            name = f"{part}-{kind}-ubyte" + (".gz" if packed else "")
            (folder / name).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_as_torchvision_reads_it(tmp_path: Path, packed: bool) -> None:
    write_mnist(tmp_path / "a" / "MNIST" / "raw", packed=packed)
    data = read(tmp_path / "a")
    assert data.name == "mnist" and data.classes == tuple("0123456789")
    assert {name: tuple(split.images.shape) for name, split in data.splits.items()} == {
        "train": (180, 1, 28, 28),
        "val": (20, 1, 28, 28),
        "test": (50, 1, 28, 28),
    }
    assert data.splits["val"].targets.bincount().tolist() == [2] * 10
    write_mnist(tmp_path / "b" / "MNIST" / "raw", packed=False)
    reference = MNIST(str(tmp_path / "b"), train=True, download=False)
    rows = [int(name.partition(":")[2]) for name in data.train.names]
    assert torch.equal(data.train.images[:, 0], reference.data[rows])
    assert torch.equal(data.train.targets, reference.targets[rows])


def test_both_mnists_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw", packed=True)
    write_mnist(tmp_path / "FashionMNIST" / "raw", packed=True, seed=1)
    with pytest.raises(InputError, match=r"several data sets \(fashion-mnist, mnist\).*--dataset"):
        recognize(tmp_path)
    assert recognize(tmp_path / "MNIST") == "mnist" and recognize(tmp_path / "FashionMNIST" / "raw") == "fashion-mnist"
    mnist, fashion = read(tmp_path, dataset="mnist"), read(tmp_path, dataset="fashion-mnist")
    assert fashion.classes[9] == "ankle boot" and not torch.equal(mnist.train.images, fashion.train.images)
    assert read(tmp_path, dataset="mnist", image_size=32).image_size == 32


def test_damaged_idx_file_is_named(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw, packed=True)
    file = raw / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz: damaged"):
        read(tmp_path)
    file.write_bytes(gzip.compress(b"<html>not here</html>"))
    with pytest.raises(InputError, match="damaged, or not an idx file"):
        read(tmp_path)
    file.write_bytes(gzip.compress(idx(np.zeros((3, 28, 28), np.uint8))))
    with pytest.raises(InputError, match="do not fit together"):
        read(tmp_path)
    file.unlink()
    with pytest.raises(InputError, match="no idx files"):
        read(tmp_path, dataset="mnist")


def write_cifar(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name in (
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
    ):
        batch = {
            "data": rng.integers(0, 256, (20, 3072), dtype=np.uint8),
            "labels": [i % 10 for i in range(20)],
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    names = ["airplane", *(f"class {number}" for number in range(1, 9)), "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))


def test_cifar10_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "cifar-10-batches-py")
    with pytest.raises(InputError, match="incomplete or damaged"):  # these are not the published files
        read(tmp_path)
    packed = shutil.make_archive(str(tmp_path.parent / "packed"), "zip", tmp_path)
    with pytest.raises(InputError, match="unpack it first"):
        read(Path(packed))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    for path in (tmp_path, tmp_path / "cifar-10-batches-py"):
        assert recognize(path) == "cifar10"
        data = read(path)
        assert data.name == "cifar10" and len(data.classes) == 10 and data.classes[9] == "truck"
        assert {name: tuple(split.images.shape) for name, split in data.splits.items()} == {
            "train": (90, 3, 32, 32),
            "val": (10, 3, 32, 32),
            "test": (20, 3, 32, 32),
        }
    planes = pickle.loads((tmp_path / "cifar-10-batches-py" / "test_batch").read_bytes())["data"]
    assert np.array_equal(data.splits["test"].images.numpy(), planes.reshape(-1, 3, 32, 32))
