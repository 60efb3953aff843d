"""CK+, CK+48 and JAFFE: labels from the right place, subjects, folds that share nobody."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fer_nas.classes import FACE_CLASSES
from fer_nas.config import DataConfig
from fer_nas.data.labs import FaceCutter
from fer_nas.data.load import load, recognize
from fer_nas.data.split import DataSet
from fer_nas.errors import InputError


def read(path: Path, report: bool = False, **fields: object) -> DataSet:
    return load(DataConfig(data=str(path), **fields), report=report)  # type: ignore[arg-type]


def counts(data: DataSet) -> dict[str, int]:
    labels = torch.cat([split.targets for split in data.splits.values()])
    return {name: int((labels == index).sum()) for index, name in enumerate(data.classes)}


def people(data: DataSet) -> dict[str, set[str]]:
    return {name: set(split.subjects or ()) for name, split in data.splits.items()}


def test_ckplus_for_the_report(cases: Path) -> None:  # C11
    data = read(cases / "ck", report=True)
    assert list(data.splits) == ["all"] and data.name == "ckplus" and data.classes == FACE_CLASSES[:7]
    assert data.notes[0] == (
        "3 labelled sequences (disgust 1, surprise 1, contempt 1); 1 without an emotion file left out"
    )
    assert counts(data) == dict.fromkeys(FACE_CLASSES[:7], 0) | {"disgust": 3, "surprise": 3, "neutral": 2}


def test_ckplus_with_contempt(cases: Path) -> None:
    data = read(cases / "ck", contempt="keep", folds=3)
    assert data.classes == FACE_CLASSES
    expected = dict.fromkeys(FACE_CLASSES, 0) | {"disgust": 3, "surprise": 3, "contempt": 3, "neutral": 3}
    assert counts(data) == expected
    assert [len(subjects) for subjects in people(data).values()] == [1, 1, 1]
    split = next(split for split in data.splits.values() if "S005" in (split.subjects or ()))
    frames = [(name[-6:-4], data.classes[target]) for name, target in zip(split.names, split.targets, strict=True)]
    assert frames == [("01", "neutral"), ("03", "disgust"), ("04", "disgust"), ("05", "disgust")]


def test_too_few_subjects_for_the_folds(cases: Path) -> None:
    with pytest.raises(InputError, match="--folds is 10 but there are 3 subjects; choose at most 3"):
        read(cases / "ck", contempt="keep")
    with pytest.raises(InputError, match="--folds is 10 but there are 2 subjects; folds need at least 3"):
        read(cases / "ck")


def test_images_out_is_asked_for_by_name_and_says_so(cases: Path) -> None:
    data = read(cases / "ck", dataset="ckplus-images-out", contempt="keep", folds=4)
    assert any("the same people are in train and test" in note for note in data.notes)
    assert people(data)["train"] & people(data)["test"]
    assert recognize(cases / "ck") == "ckplus"


def test_ckplus_without_its_labels_says_what_is_missing(cases: Path) -> None:
    with pytest.raises(InputError, match=r"no Emotion/S###/###/\*_emotion\.txt in it"):
        read(cases / "ck" / "cohn-kanade-images")
    with pytest.raises(InputError, match=r"no cohn-kanade-images/S###/###/\*\.png in it"):
        read(cases / "ck" / "Emotion", dataset="ckplus")


def test_unreadable_emotion_file_is_named(cases: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(cases / "ck", tmp_path / "ck")
    file = next((copy / "Emotion" / "S005").rglob("*.txt"))
    for text in ("", "anger", "8.0", "2.5"):
        file.write_text(text)
        notes = read(copy, report=True, contempt="keep").notes
        assert any("its label cannot be read" in note and file.name in note for note in notes)
        assert notes[0].startswith("2 labelled sequences") and "; 1 without" in notes[0]


def test_faces_are_cut_out_of_whole_frames(cases: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(cases / "ck", tmp_path / "ck")
    photo = cv2.resize(cv2.imread(str(cases / "face.png")), (640, 490))
    for file in (copy / "cohn-kanade-images").rglob("*.png"):
        cv2.imwrite(str(file), np.full_like(photo, 90) if file.name.endswith("1.png") else photo)
    data = read(copy, contempt="keep", folds=3)
    assert data.image_size == 48 and data.channels == 1
    assert any("faces cut out of 9 of 12 frames" in note for note in data.notes)
    assert read(copy, contempt="keep", folds=3, image_size=64).image_size == 64
    cut = FaceCutter()(cv2.imread(str(cases / "face.png"))[:, :, ::-1].copy())
    assert cut.shape[0] == cut.shape[1] and 80 < cut.shape[0] < 260


def test_ck48(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, folder in enumerate(("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")):
        (tmp_path / "CK+48" / folder).mkdir(parents=True)
        for subject in range(10):
            picture = rng.integers(0, 256, (48, 48), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "CK+48" / folder / f"S{subject:03d}_00{label}_{11 + label:08d}.png"), picture)
    assert recognize(tmp_path) == "ck48"
    data = read(tmp_path)
    assert data.classes == FACE_CLASSES[:6] and set(counts(data).values()) == {10}
    assert any("contempt: 10 images left out" in note for note in data.notes)
    kept = read(tmp_path / "CK+48", contempt="keep")
    assert kept.classes == (*FACE_CLASSES[:6], "contempt") and sum(counts(kept).values()) == 70
    parts = people(kept)
    assert len(parts["train"]) == 8 and not parts["train"] & (parts["val"] | parts["test"])


JAFFE = {"angry": 30, "disgust": 29, "fear": 32, "happy": 31, "sad": 31, "surprise": 30, "neutral": 30}


def test_jaffe(cases: Path) -> None:  # C14
    data = read(cases / "jaffe")
    assert data.name == "jaffe" and counts(data) == JAFFE and sum(JAFFE.values()) == 213
    parts = people(data)
    assert len(set.union(*parts.values())) == 10 and [len(part) for part in parts.values()] == [8, 1, 1]
    subjects = [subject for split in data.splits.values() for subject in split.subjects or ()]
    assert subjects.count("NA") == 21


def test_jaffe_with_mac_files_and_capital_endings(cases: Path, tmp_path: Path) -> None:  # C14
    copy = shutil.copytree(cases / "jaffe", tmp_path / "jaffe")
    (copy / "._KA.AN1.1.tiff").touch()
    for file in sorted(copy.glob("KA.*.tiff")):
        file.rename(file.with_suffix(".TIFF"))
    assert counts(read(copy)) == JAFFE


def test_every_subject_is_tested_in_one_fold(cases: Path) -> None:
    tested = [people(read(cases / "jaffe", folds=5, fold=fold))["test"] for fold in range(5)]
    assert [len(part) for part in tested] == [2] * 5 and len(set.union(*tested)) == 10


@pytest.mark.parametrize("name", ["jaffe", "ckplus", "ck48"])
def test_other_pictures_are_refused(cases: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"not JAFFE|not CK\+48|no cohn-kanade-images"):
        read(cases / "folder", dataset=name)
