"""FER2013 as csv: every header people have, damaged rows named by line, tables without labels."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_nas.classes import FACE_CLASSES
from fer_nas.config import DataConfig
from fer_nas.data.load import load
from fer_nas.data.split import DataSet
from fer_nas.errors import InputError


def read(path: Path, **fields: object) -> DataSet:
    return load(DataConfig(data=str(path), **fields))  # type: ignore[arg-type]


def assert_same(one: DataSet, other: DataSet) -> None:
    assert one.classes == other.classes and set(one.splits) == set(other.splits)
    for name, split in one.splits.items():
        assert torch.equal(split.images, other.splits[name].images)
        assert torch.equal(split.targets, other.splits[name].targets)


@pytest.fixture(scope="module")
def lines(cases: Path) -> list[str]:
    return (cases / "fer.csv").read_text().splitlines()


def test_official_table(cases: Path) -> None:
    data = read(cases / "fer.csv")
    assert data.name == "fer2013" and data.labels == "fer2013" and data.classes == FACE_CLASSES[:7]
    assert {name: split.targets.bincount().tolist() for name, split in data.splits.items()} == {
        "train": [5] * 7,
        "val": [2] * 7,
        "test": [2] * 7,
    }
    assert data.train.images.shape == (35, 1, 48, 48) and data.train.targets.dtype == torch.int64
    bright = data.train.images.float().mean((1, 2))  # the bright column tells the class
    assert torch.equal(bright.argmax(1) // 6, data.train.targets)
    assert data.notes == () and data.train.names[0] == "fer.csv:2"


def test_blanks_and_another_order_in_the_header(cases: Path) -> None:  # C01
    assert_same(read(cases / "fer.csv"), read(cases / "icml.csv"))


def test_damaged_rows_are_named_and_the_others_kept(cases: Path) -> None:  # C03
    data = read(cases / "bad.csv")
    assert_same(data, read(cases / "fer.csv"))
    assert len(data.notes) == 6
    for note, (line, reason) in zip(
        data.notes,
        [
            (65, "2256 pixels"),
            (66, "'256'"),
            (67, "label '9'"),
            (68, "no pixels"),
            (69, "6 fields"),
            (70, "2 fields"),
        ],
        strict=True,
    ):
        assert note.startswith(f"bad.csv, line {line}: ") and reason in note


def test_many_damaged_rows_are_counted(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "fer.csv").write_text("\n".join([*lines, *["9,1 2,x"] * 80]))
    notes = read(tmp_path / "fer.csv").notes
    assert len(notes) == 51 and notes[-1] == "… and 30 more damaged lines"


@pytest.mark.parametrize("variant", ["bom", "crlf", "quoted", "semicolon", "utf16", "blank lines", "names"])
def test_other_ways_to_write_the_table(tmp_path: Path, cases: Path, lines: list[str], variant: str) -> None:
    text = "\n".join(lines) + "\n"
    path = tmp_path / "Ünï 表 50%.csv"  # C22
    content = {
        "bom": ("\ufeff" + text).encode(),
        "crlf": text.replace("\n", "\r\n").encode(),
        "quoted": "\n".join('"' + line.replace(",", '","') + '"' for line in lines).encode(),
        "semicolon": text.replace(",", ";").encode(),
        "utf16": text.encode("utf-16"),
        "blank lines": text.replace("\n", "\n\n").encode(),
        "names": "\n".join([lines[0], *(FACE_CLASSES[int(line[0])].title() + line[1:] for line in lines[1:])]).encode(),
    }[variant]
    path.write_bytes(content)
    data = read(path)
    assert_same(data, read(cases / "fer.csv"))
    assert data.notes == ()


def test_table_in_a_zip_or_folder(tmp_path: Path, cases: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(cases / "fer.csv", "fer2013/fer2013.csv")
        archive.write(cases / "test.csv", "fer2013/test.csv")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "icml_face_data.csv").write_bytes((cases / "icml.csv").read_bytes())
    assert_same(read(tmp_path / "a.zip"), read(cases / "fer.csv"))
    assert_same(read(tmp_path / "folder"), read(cases / "fer.csv"))


def test_no_labels(cases: Path) -> None:  # C05
    with pytest.raises(InputError, match=r"test\.csv: no column 'emotion'.*columns found: pixels$"):
        read(cases / "test.csv")
    data = load(DataConfig(data=str(cases / "test.csv")), report=True)
    assert list(data.splits) == ["unlabelled"] and len(data.splits["unlabelled"]) == 2
    assert data.classes == () and "2 images, no labels" in data.notes[-1]


def test_train_and_test_tables(tmp_path: Path, cases: Path, lines: list[str]) -> None:
    rows = [line.rpartition(",")[0] for line in lines[1:]]
    (tmp_path / "train.csv").write_text("\n".join(["emotion,pixels", *rows]))
    (tmp_path / "test.csv").write_bytes((cases / "test.csv").read_bytes())
    data = read(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 49, "val": 7, "test": 7}
    assert any("test.csv: 2 images, no labels" in note for note in data.notes)
    assert any("80/10/10" in note for note in data.notes)
    (tmp_path / "test.csv").write_text("\n".join(["emotion,pixels", *rows[::9]]))
    labelled = read(tmp_path)
    assert {name: len(split) for name, split in labelled.splits.items()} == {"train": 56, "val": 7, "test": 7}
    assert labelled.splits["test"].names[0] == "test.csv:2"


def test_image_size(cases: Path) -> None:
    assert read(cases / "fer.csv", image_size=32).train.images.shape == (35, 1, 32, 32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "no csv with a column 'pixels' in it; x.csv: columns found: a, b"),
        ("", "no csv with a column 'pixels'"),
        ("emotion,pixels\n", "no usable row; it is empty"),
        ("emotion,pixels\n0,1 2 3\n", "no usable row; 3 pixels, not a square in line 2"),
        ("emotion,pixels\n0,1 2 3 4\n", "too few images, none is left for the split 'val'"),
        ("emotion,pixels\n0,1 2 3 x\n", "no usable row; pixel value 'x'"),
    ],
)
def test_unusable_tables_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "x.csv")


def test_unknown_usage_is_named(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "x.csv").write_text("\n".join([*lines, lines[1].replace("Training", "Holdout")]))
    assert "line 65: Usage 'Holdout'" in read(tmp_path / "x.csv").notes[0]


def votes_table(usages: list[str], seed: int = 0) -> str:
    header = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    rng = np.random.default_rng(seed)
    rows = [f"{u},fer{i:07d}.png," + ",".join(map(str, rng.multinomial(10, [0.1] * 10))) for i, u in enumerate(usages)]
    return "\n".join([header, *rows])


def test_votes_follow_the_rows(tmp_path: Path, lines: list[str], cases: Path) -> None:
    usages = [line.rpartition(",")[2] for line in lines[1:]]
    (tmp_path / "fer2013new.csv").write_text(votes_table(usages))
    (tmp_path / "fer2013.csv").write_text("\n".join(lines))
    whole = read(tmp_path / "fer2013.csv", labels="ferplus")
    assert whole.classes == FACE_CLASSES and whole.train.targets.shape[1] == 8
    lines = [*lines]
    first = int(whole.train.names[0].rpartition(":")[2])
    lines[first - 1] = lines[first - 1].replace(" ", " x", 1)  # a damaged row moves no other row's votes
    (tmp_path / "fer2013.csv").write_text("\n".join([*lines, "9,,"][:64]))
    damaged = read(tmp_path / "fer2013.csv", labels="ferplus")
    assert damaged.train.names == whole.train.names[1:]
    assert torch.equal(damaged.train.targets, whole.train.targets[1:])


@pytest.mark.parametrize(
    ("usages", "message"),
    [
        (["Training"] * 62, "has 62 rows"),
        (["PublicTest"] * 63, "do not belong together"),
        (None, "needs fer2013new.csv"),
    ],
)
def test_votes_of_other_rows_are_refused(tmp_path: Path, cases: Path, usages: list[str] | None, message: str) -> None:
    (tmp_path / "fer2013.csv").write_bytes((cases / "fer.csv").read_bytes())
    if usages:
        (tmp_path / "fer2013new.csv").write_text(votes_table(usages))
    with pytest.raises(InputError, match=message):
        read(tmp_path / "fer2013.csv", labels="ferplus")
