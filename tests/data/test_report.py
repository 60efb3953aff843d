"""The data report: counts, planted duplicates and contradictions, agreement of tracks, tables, notes."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fer_nas.classes import FACE_CLASSES
from fer_nas.config import DataConfig
from fer_nas.data.drawn import drawn_faces
from fer_nas.data.report import agreement, describe, print_report, run, vote_counts
from fer_nas.data.split import DataSet, Split
from fer_nas.data.votes import Votes
from fer_nas.errors import InputError


def split(numbers: list[int], labels: list[int], prefix: str) -> Split:
    """8×8 images, each filled with its number; equal numbers are equal images."""
    images = torch.tensor(numbers, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    names = tuple(f"{prefix}{row}" for row in range(len(numbers)))
    return Split(images=images, targets=torch.tensor(labels), names=names)


@pytest.fixture
def planted() -> DataSet:
    """train repeats 1 twice and 2 once, with another label; val shares 1 and 3, test shares 7 with val."""
    return DataSet(
        name="planted",
        classes=("cat", "dog"),
        splits={
            "train": split([1, 1, 1, 2, 2, 3, 4], [0, 0, 0, 0, 1, 1, 1], "a"),
            "val": split([1, 3, 3, 7], [0, 1, 1, 0], "b"),
            "test": split([7, 8], [1, 1], "c"),
        },
        notes=("line 9: not a picture",),
    )


def shown(report: dict, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_report(report, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_counts_and_sizes(planted: DataSet) -> None:
    report = describe(planted)
    assert report["images"] == 13 and report["classes"] == ["cat", "dog"]
    assert {name: part["counts"] for name, part in report["splits"].items()} == {
        "train": {"cat": 4, "dog": 3},
        "val": {"cat": 2, "dog": 2},
        "test": {"cat": 0, "dog": 2},
    }
    assert report["splits"]["train"]["size"] == [8, 8] and report["splits"]["train"]["channels"] == 1
    assert report["notes"] == ["line 9: not a picture"]
    assert json.loads(json.dumps(report)) == report


def test_planted_duplicates(planted: DataSet) -> None:
    found = describe(planted)["duplicates"]
    assert found["within"] == {"train": 3, "val": 1, "test": 0}
    assert found["across"] == {"train and val": 3, "train and test": 0, "val and test": 1}
    wrong = found["contradicting"]
    assert (wrong["groups"], wrong["images"]) == (2, 4)
    assert wrong["examples"] == [
        [{"split": "train", "name": "a3", "label": "cat"}, {"split": "train", "name": "a4", "label": "dog"}],
        [{"split": "val", "name": "b3", "label": "cat"}, {"split": "test", "name": "c0", "label": "dog"}],
    ]


def test_a_clean_set_has_no_duplicates() -> None:
    found = describe(drawn_faces(70, 7, 7))["duplicates"]
    assert not any(found["within"].values()) and not any(found["across"].values())
    assert found["contradicting"] == {"groups": 0, "images": 0, "examples": []}


def test_distributions_count_by_their_most_probable_class_and_the_second_test_set_is_no_duplicate() -> None:
    votes = torch.tensor([[0.2, 0.8], [0.9, 0.1], [0.3, 0.7]])
    train = replace(split([1, 2, 3], [0, 0, 0], "a"), targets=votes)
    test = split([4, 5], [0, 1], "c")
    dataset = DataSet(name="soft", classes=("cat", "dog"), splits={"train": train, "test": test, "test_largest": test})
    report = describe(dataset)
    assert report["splits"]["train"]["counts"] == {"cat": 1, "dog": 2}
    assert report["splits"]["train"]["targets"] == "distribution"
    assert report["images"] == 5
    assert report["duplicates"]["across"] == {"train and test": 0}
    assert "most probable class: train" in shown(report)


def test_tables(planted: DataSet) -> None:
    text = shown(describe(planted))
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    assert rows["cat"] == ["4", "2", "0"] and rows["dog"] == ["3", "2", "2"] and rows["all"] == ["7", "4", "2"]
    assert "8×8 grey (train, val, test)" in text
    assert "Same picture: cat: a3; dog: a4" in text
    assert "with contradicting labels (2 pictures)" in text


def test_names_in_brackets_are_no_markup(planted: DataSet) -> None:
    text = shown(describe(replace(planted, name="[bold]set", classes=("[red]", "[/x]"))))
    assert "[bold]set" in text and "[red]" in text and "[/x]" in text


def test_agreement_by_name_with_ties_in_the_vote_files_order() -> None:
    sad, neutral, happy = (FACE_CLASSES.index(name) for name in ("sad", "neutral", "happy"))
    own = DataSet(
        name="fer2013",
        classes=FACE_CLASSES[:7],
        labels="fer2013",
        splits={
            "train": split([1, 2, 3, 4], [sad, sad, happy, happy], "t"),
            "test": split([5, 6], [sad, happy], "p"),
        },
    )
    votes = torch.zeros(3, 8)
    votes[0, sad] = 1
    votes[1, [sad, neutral]] = 0.5  # a tie: neutral is first in the vote file
    votes[2, happy] = 1
    seen = own.train.take(torch.tensor([0, 1, 3]))  # one image was not voted on
    test = own.splits["test"]
    ferplus = replace(
        own,
        classes=FACE_CLASSES,
        splits={
            "train": replace(seen, targets=votes),
            "test": replace(test.take(torch.tensor([1])), targets=torch.tensor([happy])),
            "test_largest": replace(test, targets=torch.tensor([neutral, happy])),
        },
    )
    found = agreement(own, ferplus)
    assert (found["images"], found["share"]) == (5, 3 / 5)
    assert found["per_split"] == {
        "train": {"images": 3, "share": 2 / 3, "rule": "largest vote"},
        "test": {"images": 1, "share": 1.0, "rule": "majority"},
        "test_largest": {"images": 2, "share": 0.5, "rule": "largest vote"},
    }
    assert found["table"]["sad"] == dict.fromkeys(FACE_CLASSES, 0.0) | {"sad": 1 / 3, "neutral": 2 / 3}
    assert found["table"]["fear"] == dict.fromkeys(FACE_CLASSES, 0.0)
    assert "agree on 60.0 % of 5 images" in shown(describe(own) | {"agreement": found})


def test_vote_counts_by_split() -> None:
    rows = [  # neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF (case C10)
        [4, 0, 0, 1, 3, 2, 0, 0, 0, 0],
        [6, 0, 1, 1, 0, 0, 0, 0, 2, 0],
        [5, 5, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 4, 0, 0, 0, 6, 0],
    ]
    names = ("Training_1.jpg", "train/sad/Training_2.jpg", "PublicTest_3.jpg", "Training_4.jpg")
    votes = Votes(path=Path("ferplus.csv"), votes=torch.tensor(rows).float(), names=names, usages=())
    counts = vote_counts(votes)
    assert set(counts) == {"train", "val"}
    assert counts["train"] == {
        "rows": 3,
        "majority": dict.fromkeys(FACE_CLASSES, 0) | {"neutral": 1},
        "majority_images": 1,
        "largest_images": 2,
    }
    assert (counts["val"]["majority_images"], counts["val"]["largest_images"]) == (0, 1)
    by_column = replace(votes, names=("a", "b", "c", "d"), usages=("Training", "Training", "PublicTest", "Training"))
    assert vote_counts(by_column) == counts


def printed(config: DataConfig, json: bool = False, sheet: Path | None = None) -> str:
    console = Console(file=io.StringIO(), width=80)
    run(config, sheet, json, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_table_with_blanks_in_its_header_reports_the_same(cases: Path) -> None:
    """C01: 63 images, nine of each class, 35/14/14, in the one order of classes."""
    blanks, plain = (json.loads(printed(DataConfig(data=str(cases / name)), True)) for name in ("icml.csv", "fer.csv"))
    assert blanks == plain
    assert plain["classes"] == list(FACE_CLASSES[:7])
    for name, count in {"train": 5, "val": 2, "test": 2}.items():
        assert plain["splits"][name]["counts"] == dict.fromkeys(FACE_CLASSES[:7], count)


def test_damaged_rows_are_named_on_stderr(cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """C03: 63 good rows stay; lines 65 to 68 and 70 are listed, and 69 is named."""
    report = json.loads(printed(DataConfig(data=str(cases / "bad.csv")), True))
    assert report["images"] - 63 in (0, 1)
    text = printed(DataConfig(data=str(cases / "bad.csv")))
    notes = capsys.readouterr().err
    for line in range(65, 71):
        assert str(line) in notes and f"line {line}" not in text


def test_table_without_labels(cases: Path) -> None:
    """C05."""
    text = printed(DataConfig(data=str(cases / "test.csv")))
    assert text.splitlines()[0] == "2 images, no labels"
    assert json.loads(printed(DataConfig(data=str(cases / "test.csv")), True))["classes"] == []


def test_votes_beside_a_table_are_compared(cases: Path, tmp_path: Path) -> None:
    table = tmp_path / "fer2013.csv"
    table.write_bytes((cases / "fer.csv").read_bytes())
    assert "agreement" not in json.loads(printed(DataConfig(data=str(table)), True))
    columns = (
        "neutral",
        "happiness",
        "surprise",
        "sadness",
        "anger",
        "disgust",
        "fear",
        "contempt",
        "unknown",
        "NF",
    )
    own = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    rows = [f"Usage,Image name,{','.join(columns)}"]
    for number, line in enumerate((cases / "fer.csv").read_text().splitlines()[1:]):
        seen = "neutral" if line[0] == "4" else own[int(line[0])]  # everybody calls the sad faces neutral
        votes = ",".join("10" if name == seen else "0" for name in columns)
        rows.append(f"{line.rpartition(',')[2]},fer{number:07d}.png,{votes}")
    (tmp_path / "fer2013new.csv").write_text("\n".join(rows) + "\n")
    for labels in ("fer2013", "ferplus"):
        report = json.loads(printed(DataConfig(data=str(table), labels=labels), True))
        assert report["votes"]["train"]["majority"]["neutral"] == 10
        assert report["agreement"]["images"] == 49 and report["agreement"]["share"] == pytest.approx(6 / 7)
        assert report["agreement"]["table"]["sad"]["neutral"] == 1
    (tmp_path / "fer2013new.csv").write_text("nothing\n")
    broken = json.loads(printed(DataConfig(data=str(table)), True))
    assert "agreement" not in broken and "fer2013new.csv" in broken["notes"][-1]
    with pytest.raises(InputError, match=r"absent\.csv"):
        printed(DataConfig(data=str(table), votes=str(tmp_path / "absent.csv")))


def test_sheet_is_written_and_its_name_checked_first(cases: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    assert f"Contact sheet: {sheet}\n" in printed(DataConfig(data=str(cases / "fer.csv")), sheet=sheet)
    assert sheet.stat().st_size > 1000
    with pytest.raises(InputError, match="PNG"):
        printed(DataConfig(data="no such folder"), sheet=tmp_path / "sheet.txt")


def test_real_fer2013_has_all_three_kinds_of_duplicates_and_the_known_agreement(data_root: Path) -> None:
    report = json.loads(printed(DataConfig(data=str(data_root / "fer2013.zip")), True))
    assert [part["images"] for part in report["splits"].values()] == [28709, 3589, 3589]
    found = report["duplicates"]
    assert found["within"] == {"train": 1236, "val": 26, "test": 17}
    assert all(found["across"].values()) and found["contradicting"]["groups"] == 57
    assert [part["majority_images"] for part in report["votes"].values()] == [25057, 3199, 3152]
    both = report["agreement"]
    assert round(both["share"], 2) == 0.63
    table = both["table"]
    seen = [
        table["sad"]["neutral"],
        table["angry"]["neutral"],
        table["fear"]["neutral"],
        table["fear"]["fear"],
    ]
    assert [round(share, 2) for share in seen] == [0.54, 0.33, 0.36, 0.13]
