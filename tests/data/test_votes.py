"""FER+: the authors' rules from votes to targets, and the files the votes come in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fer_nas.classes import FACE_CLASSES
from fer_nas.data.votes import distribution, find_votes, largest, majority, name_keys, read_votes
from fer_nas.errors import InputError

HEADER = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def names(labels: torch.Tensor) -> list[str | None]:
    return [FACE_CLASSES[label] if label >= 0 else None for label in labels.tolist()]


@pytest.mark.parametrize(
    ("votes", "expected"),
    [  # C10, then: half is not more than half; unknown or no face wins; single votes count for nobody
        ((4, 0, 0, 1, 3, 2, 0, 0, 0, 0), None),
        ((6, 0, 1, 1, 0, 0, 0, 0, 2, 0), "neutral"),
        ((5, 5, 0, 0, 0, 0, 0, 0, 0, 0), None),
        ((0, 0, 0, 0, 4, 0, 0, 0, 6, 0), None),
        ((0, 4, 2, 2, 0, 0, 0, 0, 0, 0), None),
        ((0, 0, 0, 0, 0, 0, 0, 0, 0, 10), None),
        ((2, 1, 1, 1, 1, 1, 1, 1, 1, 0), "neutral"),
        ((1, 1, 1, 1, 1, 1, 1, 1, 1, 1), None),
        ((0, 0, 0, 0, 0, 0, 0, 6, 4, 0), "contempt"),
        ((0, 0, 0, 0, 0, 0, 6, 0, 0, 4), "fear"),
    ],
)
def test_majority_rule(votes: tuple[int, ...], expected: str | None) -> None:
    assert names(majority(torch.tensor([votes], dtype=torch.float32))) == [expected]


def test_largest_vote_takes_the_first_of_equals() -> None:
    rows = [(5, 5) + (0,) * 8, (0, 0, 0, 0, 4, 0, 0, 0, 6, 0), (0, 0, 3, 0, 3, 0, 0, 0, 3, 1)]
    assert names(largest(torch.tensor(rows, dtype=torch.float32))) == ["neutral", None, "surprise"]


def test_distribution_is_over_expressions_in_canonical_order() -> None:
    rows = torch.tensor([[4.0, 0, 0, 1, 3, 0, 0, 0, 2, 0]])
    expected = dict.fromkeys(FACE_CLASSES, 0.0) | {"neutral": 0.5, "sad": 0.125, "angry": 0.375}
    assert dict(zip(FACE_CLASSES, distribution(rows)[0].tolist(), strict=True)) == expected


def test_both_files_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "ferplus.csv").write_text(f"\ufefffile,{HEADER}\r\ntrain/Angry/a.1.jpg,1,2,0,0,0,0,0,0,3,4\r\n")
    (tmp_path / "fer2013new.csv").write_text(
        f"Usage,Image name,{HEADER}\nTraining,fer0000000.png,1,2,0,0,0,0,0,0,3,4\nTraining,,0,0,0,0,0,0,0,0,0,10\n"
    )
    files, rows = read_votes(tmp_path / "ferplus.csv"), read_votes(tmp_path / "fer2013new.csv")
    assert files.votes.tolist() == rows.votes[:1].tolist() == [[1, 2, 0, 0, 0, 0, 0, 0, 3, 4]]
    assert files.usages == () and rows.usages == ("Training", "Training")
    assert files.by_name() == {"angry/a.1": 0}
    assert rows.by_name() == {"fer0000000": 0}


def test_columns_are_found_by_name_not_place(tmp_path: Path) -> None:
    turned = ",".join(reversed(HEADER.split(",")))
    (tmp_path / "v.csv").write_text(f"{turned},file\n0,1,2,3,4,5,6,7,8,9,x.jpg\n")
    assert read_votes(tmp_path / "v.csv").votes.tolist() == [[9, 8, 7, 6, 5, 4, 3, 2, 1, 0]]


def test_name_keys() -> None:
    assert name_keys("train/Happiness/x.1.png") == ("happy/x.1", "x.1")
    assert name_keys("x.png") == ("x",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("emotion,pixels\n0,1", "not a FER\\+ vote file; columns found: emotion, pixels"),
        ("", "not a FER\\+ vote file; columns found: none"),
        (f"file,{HEADER}\n", "no votes in it"),
        (f"file,{HEADER}\na.jpg,1,2\n", "line 2: not a row of votes"),
        (f"file,{HEADER}\na.jpg,1,2,3,4,5,6,7,8,9,x\n", "line 2: not a row of votes"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "votes.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_votes(path)


def test_votes_are_found_beside_or_inside(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"needs ferplus\.csv or fer2013new\.csv.*--votes"):
        find_votes(tmp_path / "images", None)
    (tmp_path / "ferplus.csv").touch()
    assert (
        find_votes(tmp_path / "images", None) == find_votes(tmp_path / "fer2013.zip", None) == tmp_path / "ferplus.csv"
    )
    (tmp_path / "images" / "ferplus.csv").touch()
    assert find_votes(tmp_path / "images", None) == tmp_path / "images" / "ferplus.csv"
    with pytest.raises(InputError, match="no such file"):
        find_votes(tmp_path, str(tmp_path / "none.csv"))
