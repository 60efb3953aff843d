"""Class folders and zips: splits, class order, hidden and empty folders, damaged pictures, sizes, colours."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fer_nas.classes import FACE_CLASSES
from fer_nas.config import DataConfig
from fer_nas.data.load import load
from fer_nas.data.split import DataSet
from fer_nas.errors import InputError


def read(path: Path, seed: int = 0, **fields: object) -> DataSet:
    return load(DataConfig(data=str(path), **fields), seed=seed)  # type: ignore[arg-type]


def sizes(data: DataSet) -> dict[str, int]:
    return {name: len(split) for name, split in data.splits.items()}


def add(root: Path, folder: str, count: int, *, colour: bool = False, size: int = 16, ending: str = ".png") -> None:
    rng = np.random.default_rng(len(folder) + count)
    (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture = rng.integers(0, 256, (size, size, 3) if colour else (size, size), dtype=np.uint8)
        content = cv2.imencode(ending.lower(), picture)[1].tobytes()
        (root / folder / f"{number:03d}{ending}").write_bytes(content)


def zipped(folder: Path, path: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, inside + file.relative_to(folder).as_posix())
    return path


@pytest.fixture
def folder(cases: Path, tmp_path: Path) -> Path:
    return shutil.copytree(cases / "folder", tmp_path / "folder")


def rows(data: DataSet) -> dict[str, set[tuple[bytes, str]]]:
    return {
        name: {(i.numpy().tobytes(), data.classes[t]) for i, t in zip(s.images, s.targets.tolist(), strict=True)}
        for name, s in data.splits.items()
    }


def test_folder_zip_and_table_hold_the_same(cases: Path, tmp_path: Path) -> None:  # C08: neutral is 6 in each
    table, folder = read(cases / "fer.csv"), read(cases / "folder")
    assert rows(table) == rows(folder)
    assert folder.classes == table.classes == FACE_CLASSES[:7] and folder.classes[6] == "neutral"
    neutral = [
        name for name, t in zip(folder.splits["test"].names, folder.splits["test"].targets, strict=True) if t == 6
    ]
    assert neutral and all(name.startswith("test/neutral/") for name in neutral)
    for inside in ("", "archive/fer2013/"):
        assert rows(read(zipped(cases / "folder", tmp_path / "a.zip", inside))) == rows(table)


def test_hidden_and_empty_class_folders(folder: Path) -> None:  # C15
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "train" / ".ipynb_checkpoints" / "Training_1.png").write_bytes(b"x")
    (folder / "train" / "contempt").mkdir()
    (folder / "train" / ".DS_Store").touch()
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._x.png").touch()
    data = read(folder)
    assert data.classes == FACE_CLASSES[:7] and len(data.train) == 35
    assert len(data.notes) == 1 and "without pictures" in data.notes[0] and "contempt" in data.notes[0]


@pytest.mark.parametrize("kind", ["fer2013-images", "images"])
def test_truncated_picture_is_named_and_left_out(folder: Path, cases: Path, kind: str) -> None:  # C18
    shutil.copy(cases / "trunc.jpg", folder / "train" / "happy")
    data = read(folder, dataset=kind)
    assert len(data.train) + (len(data.splits["val"]) if kind == "images" else 0) == 35
    [note] = [note for note in data.notes if "unreadable" in note]
    assert str(folder / "train" / "happy" / "trunc.jpg") in note and "truncated" in note


def test_non_ascii_and_percent_paths(cases: Path, tmp_path: Path) -> None:  # C22
    copy = shutil.copytree(cases / "folder", tmp_path / "Übung 表情 50%d" / "f")
    assert rows(read(copy)) == rows(read(cases / "folder"))
    add(tmp_path / "generic", "Äpfel %s", 12)
    add(tmp_path / "generic", "表", 12)
    for path in (tmp_path / "generic", zipped(tmp_path / "generic", tmp_path / "ö ü.zip")):
        assert read(path).classes == ("Äpfel %s", "表")


def test_names_in_any_way_map_to_one_order(tmp_path: Path) -> None:
    for name in ("Suprise", "ANGER", "happiness", "Neutral"):
        add(tmp_path, f"train/{name}", 10)
    add(tmp_path, "test/surprise", 2)
    data = read(tmp_path)
    assert data.classes == ("angry", "happy", "surprise", "neutral")
    assert data.splits["test"].targets.tolist() == [2, 2]


def test_unknown_expression_among_known_ones_lists_what_is_known(tmp_path: Path) -> None:
    for name in ("angry", "happy", "sleepy"):
        add(tmp_path, name, 2)
    with pytest.raises(InputError, match=r"unknown expression class 'sleepy'.*known: angry, disgust, fear"):
        read(tmp_path)


def test_generic_names_stay_as_they_are(tmp_path: Path) -> None:
    for name in ("zebra", "Cat", "dog"):
        add(tmp_path / "animals", f"images/{name}", 20, colour=True, ending=".JPG")
    (tmp_path / "animals" / "README.txt").write_text("x")
    data = read(tmp_path / "animals")
    assert data.classes == ("Cat", "dog", "zebra") and data.name == "animals" and data.labels is None
    assert data.channels == 3 and sizes(data) == {"train": 48, "val": 6, "test": 6}
    assert all("README" not in note for note in data.notes) and "80/10/10" in data.notes[0]
    assert read(tmp_path / "animals").splits["test"].names == data.splits["test"].names
    assert read(tmp_path / "animals", seed=1).splits["test"].names != data.splits["test"].names


def test_a_tenth_of_train_validates_where_only_test_is_given(tmp_path: Path) -> None:
    for name in ("a", "b"):
        add(tmp_path, f"training/{name}", 30)
        add(tmp_path, f"Testing/{name}", 4)
    data = read(tmp_path)
    assert sizes(data) == {"train": 54, "val": 6, "test": 8}
    assert data.splits["val"].targets.bincount().tolist() == [3, 3] and "no validation split" in data.notes[0]


@pytest.mark.parametrize("word", ["val", "Valid", "validation"])
def test_given_splits_are_kept(tmp_path: Path, word: str) -> None:
    for name in ("a", "b"):
        add(tmp_path, f"train/{name}", 3)
        add(tmp_path, f"{word}/{name}", 2)
    data = read(tmp_path)
    assert sizes(data) == {"train": 6, "val": 4} and data.notes == ("no test split in the source",)
    add(tmp_path, "test/a", 1)
    assert sizes(read(tmp_path)) == {"train": 6, "val": 4, "test": 1}


def test_grey_where_every_picture_is_grey(tmp_path: Path) -> None:
    add(tmp_path, "a", 10)
    add(tmp_path, "b", 10)
    assert read(tmp_path).channels == 1
    add(tmp_path, "b", 1, colour=True)
    assert read(tmp_path).channels == 3


def test_facial_data_set_is_always_grey(folder: Path) -> None:
    path = next((folder / "train" / "happy").iterdir())
    path.write_bytes(cv2.imencode(".png", np.full((48, 48, 3), (255, 0, 0), np.uint8))[1].tobytes())
    data = read(folder)
    assert data.channels == 1
    row = data.train.names.index(f"train/happy/{path.name}")
    assert data.train.images[row].unique().tolist() == [29]  # 0.114 · 255, blue's share of the luma


def test_mixed_sizes_need_an_image_size(tmp_path: Path) -> None:
    add(tmp_path, "a", 10)
    add(tmp_path, "b", 10, size=24)
    with pytest.raises(InputError, match=r"2 sizes: 16×16 \(10\), 24×24 \(10\).*--image-size"):
        read(tmp_path)
    data = read(tmp_path, image_size=20)
    assert data.image_size == 20 and sum(sizes(data).values()) == 20


def test_oblong_pictures_need_an_image_size(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(10):
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), np.full((12, 20), number, np.uint8))
    with pytest.raises(InputError, match=r"20×12, not square; give --image-size"):
        read(tmp_path)
    assert read(tmp_path, image_size=16).train.images.shape == (16, 1, 16, 16)


def test_limit_takes_each_class_by_its_share(tmp_path: Path) -> None:
    add(tmp_path, "train/a", 60)
    add(tmp_path, "train/b", 30)
    add(tmp_path, "val/a", 2)
    data = read(tmp_path, limit=9)
    assert data.train.targets.bincount().tolist() == [6, 3] and len(data.splits["val"]) == 2
    assert data.notes[-1] == "--limit: 9 of 90 training images"
    assert read(tmp_path, limit=9).train.names == data.train.names != read(tmp_path, limit=9, seed=1).train.names
    assert len(read(tmp_path, limit=90).train) == 90


def test_pictures_outside_class_folders_are_counted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        add(tmp_path, f"train/{name}", 10)
    add(tmp_path, "train", 1)
    add(tmp_path, "docs", 2)
    assert "3 pictures outside class folders" in read(tmp_path).notes[0]


def test_a_link_that_leads_back_is_not_followed_for_ever(tmp_path: Path) -> None:
    add(tmp_path / "real", "a", 10)
    add(tmp_path / "set", "b", 10)
    (tmp_path / "set" / "a").symlink_to(tmp_path / "real" / "a")
    (tmp_path / "set" / "b" / "loop").symlink_to(tmp_path / "set")
    data = read(tmp_path / "set")
    assert data.classes == ("a", "b") and sum(sizes(data).values()) == 20


VOTES = (  # neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF
    ("10,0,0,0,0,0,0,0,0,0", "neutral", "neutral"),  # votes, largest, majority
    ("5,5,0,0,0,0,0,0,0,0", "neutral", None),
    ("0,0,0,0,0,0,0,3,4,3", None, None),
    ("2,0,0,0,0,0,2,6,0,0", "contempt", "contempt"),
    ("1,0,4,0,0,0,4,1,0,0", "surprise", None),
)


def test_votes_for_named_pictures(folder: Path) -> None:
    header = "file,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    rule = {name: VOTES[number % 5] for number, name in enumerate(names)}
    lines = [f"{name},{votes}" for name, (votes, _, _) in rule.items()]
    file = folder.parent / "ferplus.csv"
    file.write_text("\n".join([header, *lines[:-1]]))
    data = read(folder, labels="ferplus")
    assert data.classes == FACE_CLASSES and data.labels == "ferplus"
    prefix = {"train": "Training", "val": "PublicTest", "test": "PrivateTest", "test_largest": "PrivateTest"}
    for split, usage in prefix.items():
        which = 2 if split in ("val", "test") else 1
        expected = [name for name in names[:-1] if f"/{usage}_" in name and rule[name][which]]
        assert list(data.splits[split].names) == expected
        labels = [data.classes[label] for label in data.splits[split].labels().tolist()]
        clear = [row for row, name in enumerate(expected) if split != "train" or rule[name][2]]  # without ties
        assert [labels[row] for row in clear] == [rule[expected[row]][which] for row in clear]
        assert data.splits[split].targets.dtype == (torch.float32 if split == "train" else torch.int64)
    row = [rule[name] for name in data.train.names].index(VOTES[3])
    shares = dict(zip(FACE_CLASSES, data.train.targets[row].tolist(), strict=True))
    assert shares == pytest.approx(dict.fromkeys(FACE_CLASSES, 0) | {"neutral": 0.2, "fear": 0.2, "contempt": 0.6})
    assert "images left out for want of votes in ferplus.csv: 1" in data.notes
    file.write_text(f"{header}\nother.png,{VOTES[0][0]}\n")
    with pytest.raises(InputError, match="names none of the pictures"):
        read(folder, labels="ferplus")
