"""What a path is recognized as, and one line for everything that is no data set."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from fer_nas.config import DataConfig
from fer_nas.data.drawn import drawn_faces
from fer_nas.data.load import DATASETS, load, recognize
from fer_nas.data.split import DataSet
from fer_nas.errors import InputError


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("fer.csv", "fer2013-csv"),
        ("icml.csv", "fer2013-csv"),
        ("test.csv", "fer2013-csv"),
        ("folder", "fer2013-images"),
        ("folder/train", "fer2013-images"),
        ("ck", "ckplus"),
        ("jaffe", "jaffe"),
    ],
)
def test_recognized_by_content(cases: Path, name: str, kind: str) -> None:
    assert recognize(cases / name) == kind


def test_drawn_faces_need_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []

    def few(train: int, val: int, test: int, *, seed: int, size: int) -> DataSet:
        asked.append((train, val, test))
        return drawn_faces(train // 20, val // 20, test // 20, seed=seed, size=size)

    monkeypatch.setattr("fer_nas.data.load.drawn_faces", few)
    assert recognize("drawn") == "drawn"
    data = load(DataConfig(limit=70, image_size=32), seed=3)
    assert asked == [(2100, 700, 700)] and data.image_size == 32
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 70, "val": 35, "test": 35}


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"drawn"}))
def test_every_kind_refuses_what_it_cannot_read_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(InputError) as error:
        load(DataConfig(data=str(tmp_path), dataset=name))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
    assert DATASETS[name].about and "\n" not in DATASETS[name].about


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "nope"}, "--dataset is 'nope'; known: drawn, fer2013-csv"),
        ({"dataset": "mnist"}, "--dataset mnist needs a path"),
        ({"data": "x.zip", "dataset": "drawn"}, "leave out --data x.zip"),
        ({"labels": "ferplus"}, "FER\\+ votes are for FER2013, and drawn is drawn"),
        ({"data": "no/such/place"}, "no/such/place: no such file or folder"),
    ],
)
def test_impossible_configurations(fields: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(DataConfig(**fields))


@pytest.mark.parametrize("name", ["face.png", "trunc.jpg", "ok.mp4", "odd.mjpeg"])
def test_other_files_are_no_data_set(cases: Path, name: str) -> None:
    with pytest.raises(InputError, match="not a data set; give a folder, a zip or a csv"):
        load(DataConfig(data=str(cases / name)))


def test_damaged_zips(cases: Path, tmp_path: Path) -> None:
    whole = Path(shutil.make_archive(str(tmp_path / "whole"), "zip", cases / "folder"))
    content = whole.read_bytes()
    cut = tmp_path / "cut.zip"
    for data in (content[: len(content) // 2], b"", b"<html>log in first</html>"):
        cut.write_bytes(data)
        with pytest.raises(InputError, match=r"cut\.zip: not a zip, or one that was cut short"):
            load(DataConfig(data=str(cut)))
    name = "train/happy/" + next((cases / "folder/train/happy").iterdir()).name
    with zipfile.ZipFile(whole) as archive:
        info = archive.getinfo(name)
    broken = bytearray(content)
    middle = info.header_offset + 30 + len(name) + info.compress_size // 2
    broken[middle : middle + 40] = bytes(40)
    cut.write_bytes(broken)
    data_set = load(DataConfig(data=str(cut)))
    assert len(data_set.train) == 34
    assert any("unreadable" in note and f"cut.zip:{name}" in note for note in data_set.notes)


def test_zip_with_backslashes_and_a_password(cases: Path, tmp_path: Path) -> None:
    path = tmp_path / "windows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in (cases / "folder").rglob("*.png"):
            info = zipfile.ZipInfo("x")
            info.filename = str(file.relative_to(cases / "folder")).replace("/", "\\")
            archive.writestr(info, file.read_bytes())
    assert len(load(DataConfig(data=str(path))).train) == 35
    locked = bytearray(path.read_bytes())
    for signature, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # set "encrypted" on every member
        at = locked.find(signature)
        while at >= 0:
            locked[at + flag] |= 1
            at = locked.find(signature, at + 4)
    path.write_bytes(locked)
    with pytest.raises(InputError, match="none of its 63 pictures can be read"):
        load(DataConfig(data=str(path)))


def test_empty_and_ambiguous_folders(cases: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no files in it"):
        load(DataConfig(data=str(tmp_path)))
    with pytest.raises(InputError, match=r"several tables with pixels: bad\.csv, fer\.csv, icml\.csv, test\.csv"):
        load(DataConfig(data=str(cases)))
    (tmp_path / "fer2013.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"give a zip itself: fer2013\.zip"):
        load(DataConfig(data=str(tmp_path)))
    (tmp_path / "fer2013.zip").unlink()
    (tmp_path / "one").mkdir()
    shutil.copy(cases / "face.png", tmp_path / "one")
    with pytest.raises(InputError, match=r"one class only \(one\)"):
        load(DataConfig(data=str(tmp_path)))
    with pytest.raises(InputError, match="pictures lie outside class folders"):
        load(DataConfig(data=str(tmp_path / "one")))


def test_the_same_seed_reads_the_same(cases: Path) -> None:
    one, other = (load(DataConfig(data=str(cases / "jaffe"), limit=50), seed=4) for _ in range(2))
    assert one.train.names == other.train.names and torch.equal(one.train.images, other.train.images)
