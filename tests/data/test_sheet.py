"""Contact sheets: one row a class, whatever the images' size and colour; the file is whole or not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fer_nas.data.drawn import drawn_faces
from fer_nas.data.sheet import contact_sheet
from fer_nas.data.split import DataSet, Split
from fer_nas.errors import InputError


def plain(size: int = 8, channels: int = 1, labels: tuple[int, ...] = (0, 0, 2)) -> DataSet:
    """Images filled with 10 + 100 × class; class 1 has none."""
    values = torch.tensor([10 + 100 * label for label in labels], dtype=torch.uint8)
    images = values.view(-1, 1, 1, 1).expand(-1, channels, size, size).contiguous()
    part = Split(images=images, targets=torch.tensor(labels), names=tuple(map(str, range(len(labels)))))
    return DataSet(name="plain", classes=("a", "b", "c"), splits={"train": part})


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


@pytest.mark.parametrize(("size", "side"), [(8, 64), (28, 84), (48, 96), (100, 100), (300, 128)])
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_hold_their_classes(tmp_path: Path, size: int, side: int, channels: int) -> None:
    contact_sheet(plain(size, channels), tmp_path / "x.png", per_class=4)
    sheet = read(tmp_path / "x.png")
    assert sheet.shape[0] == 3 * (side + 2) + 2
    width = 4 * (side + 2)
    rows = [sheet[2 + n * (side + 2) :][:side, -width:] for n in range(3)]
    assert [int((row == 10).all(2).sum()) for row in rows] == [2 * side * side, 0, 0]
    assert [int((row == 210).all(2).sum()) for row in rows] == [0, 0, side * side]
    label = sheet[2 : 2 + side, : sheet.shape[1] - width]
    assert (label < 100).any()  # the row's name


def test_same_seed_same_sheet(tmp_path: Path) -> None:
    faces = drawn_faces(140, 0, 0)
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        contact_sheet(faces, tmp_path / f"{name}.png", per_class=5, seed=seed)
    assert np.array_equal(read(tmp_path / "a.png"), read(tmp_path / "b.png"))
    assert not np.array_equal(read(tmp_path / "a.png"), read(tmp_path / "c.png"))


def test_images_without_labels_have_one_row(tmp_path: Path) -> None:
    labelled = plain(labels=(0, 0, 0))
    contact_sheet(DataSet(name="x", classes=(), splits=labelled.splits), tmp_path / "x.png", per_class=3)
    sheet = read(tmp_path / "x.png")
    assert sheet.shape[0] == 68 and int((sheet == 10).all(2).sum()) == 3 * 64 * 64


def test_unwritable_place_and_wrong_ending(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        contact_sheet(plain(), tmp_path / "file" / "x.png")
    with pytest.raises(InputError, match="PNG"):
        contact_sheet(plain(), tmp_path / "x.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
